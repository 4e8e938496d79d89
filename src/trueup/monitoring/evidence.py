"""Whether a distance is more than chance, and whether it matters.

A distance between samples is never 0, and how large chance makes it depends on how many rows there are. So a verdict
of drift needs both: evidence, by a p-value that knows the sizes and is corrected for how many fields were looked at,
and an effect above a floor that does not know the sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from trueup.domain.batch import Floats, Ints
from trueup.domain.measuring import ORDERED, DriftMetric, DriftScore, Floor, Judged, Profile, ProfileKind, Verdict
from trueup.monitoring import distances
from trueup.monitoring.chance import by_chance

FLOORS: Mapping[DriftMetric, Floor] = {
    DriftMetric.PSI: Floor(0.10, 0.25),  # the field's convention
    DriftMetric.JS_DISTANCE: Floor(0.10, 0.20),
    DriftMetric.CHI_SQUARE: Floor(0.10, 0.30),  # of Cramér's V: Cohen's small and medium
    DriftMetric.L_INFINITY: Floor(0.05, 0.15),
    DriftMetric.KS: Floor(0.10, 0.25),
    DriftMetric.WASSERSTEIN: Floor(0.10, 0.50),  # of the reference's standard deviation
}


def drift_scores(
    profile: Profile,
    current: Ints,
    metrics: Sequence[DriftMetric] | None = None,
    *,
    floors: Mapping[DriftMetric, Floor] = FLOORS,
    alpha: float = 0.05,
    seed: int = 0,
    subject: str = "",
) -> tuple[DriftScore, ...]:
    """The distances of a window's counts (bins,) from its profile, with what chance makes of each.

    Without ``metrics``: all that the profile's kind has (KS and Wasserstein are of numeric fields only). PSI,
    chi-square, JS and L-infinity are of all rows by groups, missing ones too; KS and Wasserstein are of the rows that
    have a value.
    """
    asked = tuple(DriftMetric) if metrics is None else tuple(metrics)
    by_group = [m for m in asked if m not in ORDERED]
    by_order = [m for m in asked if m in ORDERED and profile.kind is ProfileKind.NUMERIC]
    found: dict[DriftMetric, DriftScore] = {}
    for chosen, a, b in (
        (by_group, profile.grouped(profile.counts), profile.grouped(current)),
        (by_order, profile.ordered(profile.counts), profile.ordered(current)),
    ):
        n, m = int(a.sum()), int(b.sum())
        for metric, (value, critical, p_value) in by_chance(profile, chosen, a, b, alpha, seed).items():
            chi = metric is DriftMetric.CHI_SQUARE and value is not None
            effect = float(distances.cramer_v(value or 0.0, n, m)) if chi else value
            floor = floors[metric]
            found[metric] = DriftScore(
                metric, value, effect, critical, p_value, floor.effect, m, n, floor.severe, subject
            )
    return tuple(found[metric] for metric in asked if metric in found)


def judge(scores: Sequence[DriftScore], *, alpha: float = 0.05, minimum: int = 100) -> tuple[Judged, ...]:
    """The verdicts of distances that are looked at together, such as one metric of all fields of a window.

    *Drift* needs q < ``alpha`` after Benjamini and Hochberg's correction over all of them, and an effect of at least
    the floor; *breach* one of at least ``severe``. Fewer than ``minimum`` rows on either side are *insufficient*, and
    count for nothing in the correction.
    """
    tested = [i for i, s in enumerate(scores) if s.p_value is not None and min(s.n, s.reference_n) >= minimum]
    corrected = dict(zip(tested, benjamini_hochberg([scores[i].p_value or 0.0 for i in tested]), strict=True))
    return tuple(
        Judged(score, float(corrected[i]), _verdict(score, float(corrected[i]), alpha))
        if i in corrected
        else Judged(score, None, Verdict.INSUFFICIENT)
        for i, score in enumerate(scores)
    )


def benjamini_hochberg(p_values: ArrayLike) -> Floats:
    """q-values (n,): the least rate of false discoveries at which each would be one. They keep the order of p.

    q of the i-th smallest p is min over j >= i of p_j n / j. Holds for independent and positively dependent tests.
    (Benjamini & Hochberg 1995, "Controlling the false discovery rate", JRSS B 57; Benjamini & Yekutieli 2001.)
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty_like(p)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q


def _verdict(score: DriftScore, q_value: float, alpha: float) -> Verdict:
    effect = score.effect or 0.0
    if q_value >= alpha or effect < score.floor:
        return Verdict.OK
    return Verdict.BREACH if score.severe is not None and effect >= score.severe else Verdict.DRIFT
