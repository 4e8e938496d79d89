"""Alert rules: when they fire, and who hears of it."""
