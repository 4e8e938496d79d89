"""Scores made probabilities, by isotonic regression on the reference, where that helps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from trueup.domain.batch import Bools, Floats
from trueup.monitoring.intervals import known_rows
from trueup.monitoring.performance import ece
from trueup.monitoring.scipy import scipy

SPLITS, HELD_OUT = 3, 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A rising map from scores to probabilities, straight between ``scores`` (k,). Without any: scores as they are."""

    scores: Floats
    probabilities: Floats

    def of(self, scores: ArrayLike) -> Floats:
        """The probabilities (n,) of scores (n,); beyond the reference's scores those at its ends."""
        given = np.asarray(scores, np.float64)
        return np.interp(given, self.scores, self.probabilities) if len(self.scores) else given


AS_SCORED = Calibration(np.zeros(0), np.zeros(0))


def isotonic(scores: ArrayLike, labels: ArrayLike) -> Calibration:
    """The rising map of least squared error to labels (n,), equal scores taken together.

    (Barlow, Bartholomew, Bremner & Brunk 1972, "Statistical Inference under Order Restrictions"; Zadrozny & Elkan
    2002, "Transforming classifier scores into accurate multiclass probability estimates", KDD.)
    """
    s, y = known_rows(scores, labels)
    if not len(s):
        return AS_SCORED
    points, place, rows = np.unique(s, return_inverse=True, return_counts=True)
    shares = np.bincount(place, y) / rows
    fitted = np.asarray(scipy("optimize").isotonic_regression(shares, weights=rows).x, np.float64)
    turns = np.r_[True, (fitted[1:-1] != fitted[:-2]) | (fitted[1:-1] != fitted[2:]), True][: len(points)]
    return Calibration(points[turns], fitted[turns])


def calibrated(
    scores: ArrayLike, labels: ArrayLike, *, splits: int = SPLITS, bins: int = 10, seed: int = 0
) -> Calibration:
    """The isotonic map of the reference, if it lowers the calibration error of rows it was not fitted on.

    Of ``splits`` stratified splits, each holding out a tenth, the mean expected calibration error (equal mass) must
    fall; otherwise, and where the reference has one class only, scores are taken as they are.
    """
    s, y = known_rows(scores, labels)
    before: list[float] = []
    after: list[float] = []
    for split in range(splits):
        held = _held_out(y, seed + split)
        fitted = isotonic(s[~held], y[~held])
        errors = ece(s[held], y[held], bins=bins), ece(fitted.of(s[held]), y[held], bins=bins)
        if errors[0] is not None and errors[1] is not None:
            before.append(errors[0])
            after.append(errors[1])
    helps = len(np.unique(y)) == 2 and bool(before) and np.mean(after) < np.mean(before)
    return isotonic(s, y) if helps else AS_SCORED


def _held_out(labels: Floats, seed: int) -> Bools:
    """Mask (n,) of a tenth of each class."""
    random = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held[random.permutation(rows)[: round(HELD_OUT * len(rows))]] = True
    return held
