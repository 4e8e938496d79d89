"""Telling somebody outside, once, however often it has to be tried."""
