"""Contracts: reading, comparing, inferring them; decoding instances into arrays."""
