"""trueup: serve models, book every prediction once, true it up with the outcome."""
