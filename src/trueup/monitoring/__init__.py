"""Measuring predictions against their reference and their outcomes."""
