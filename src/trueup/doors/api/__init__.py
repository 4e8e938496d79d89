"""The HTTP management door."""
