"""Worked examples, one folder per business problem. Nothing in trueup imports them."""
