"""Arithmetic that stands for models, where a test is about something else."""

from __future__ import annotations

import time

import numpy as np

from trueup.domain.batch import Columns


def share_of_a_million(columns: Columns) -> np.ndarray:
    """Probability that grows with the amount: amount / 1,000,000, at most 1."""
    return np.clip(columns.numeric("amount") / 1e6, 0, 1)


def always_half(columns: Columns) -> np.ndarray:
    """0.5 for everything."""
    return np.full(len(columns), 0.5)


def broken(columns: Columns) -> np.ndarray:
    """Passes the check at deployment and then fails, with a value in its message."""
    if str(columns.texts[0, 0]).startswith("sample"):
        return always_half(columns)
    raise ValueError(f"secret {columns.floats[0, 0]}")


def wrong_shape(columns: Columns) -> np.ndarray:
    """Passes the check at deployment and then answers for one row too many."""
    if str(columns.texts[0, 0]).startswith("sample"):
        return always_half(columns)
    return np.zeros(len(columns) + 1)


def depends_on_batch(columns: Columns) -> np.ndarray:
    """Differs in the last bits between one row and many, as linear algebra libraries do."""
    return np.full(len(columns), 0.5 if len(columns) > 1 else 0.5 + 1e-12)


def slow_share_of_a_million(columns: Columns) -> np.ndarray:
    """As above, after a while."""
    time.sleep(0.2)
    return share_of_a_million(columns)


def fails_on_13(columns: Columns) -> np.ndarray:
    """Fails on a batch that holds an amount of 13."""
    if (columns.numeric("amount") == 13).any():
        raise ValueError("13")
    return always_half(columns)


def never_twice(columns: Columns) -> np.ndarray:
    """Another score each time: whoever is answered twice with one score was given the first answer."""
    return np.random.default_rng().random(len(columns))
