"""Scheduled work: `trueup work`."""
