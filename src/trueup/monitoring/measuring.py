"""The figures of a window: from counts (drift, quality) and from truth (performance)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from trueup.domain.batch import Floats, Role
from trueup.domain.contract import Contract, OutputKind
from trueup.domain.measuring import DriftMetric, DriftScore, Estimate, Floor, Verdict
from trueup.domain.monitoring import Measurement, Monitoring, Ranking
from trueup.domain.profiling import ROWS, SCORE, Counted, References
from trueup.monitoring import performance
from trueup.monitoring.evidence import FLOORS, drift_scores, judge
from trueup.monitoring.figures import number_figures, probability_figures, ranking_figures
from trueup.monitoring.intervals import Resampling, bounds, share_interval
from trueup.monitoring.truths import Truth

Totals = Mapping[tuple[str, str], Counted]
"""What was counted in a window, by (field, slice)."""

_PROBABILITY_BOUNDS: Mapping[str, Callable[[Floats, Floats], float | None]] = {
    "auc": performance.auc,
    "average_precision": performance.average_precision,
    "brier": performance.brier,
    "log_loss": performance.log_loss,
    "ece": performance.ece,
}


@dataclass(frozen=True, slots=True)
class Of:
    """Whose figures: a version in a role."""

    model_version_id: int
    role: str


def drift(of: Of, references: References, totals: Totals, declared: Monitoring) -> list[Measurement]:
    """Distances of all features and of the score from the reference; of slices PSI alone.

    A challenger or shadow is given the champion's instances, so of it the score alone is looked at. One metric of all
    features is judged together, so that many features do not make a false alarm likelier; the score is by itself;
    slices are judged together over all of them, apart from the figures of all rows.
    """
    floors = _floors(declared)
    families: dict[tuple[DriftMetric, bool, bool], list[tuple[str, DriftScore]]] = {}
    for (field, slice_), profile in sorted(references.profiles.items()):
        counted = totals.get((field, slice_))
        if counted is None or (slice_ and counted.n < declared.smallest_slice) or not _looks_at(of, field):
            continue
        if field in declared.unjudged:
            continue
        wanted = [m for m in ([DriftMetric.PSI] if slice_ else DriftMetric) if declared.keeps(m)]
        found = drift_scores(profile, counted.counts, wanted, floors=floors, alpha=declared.alpha, subject=field)
        for score in found:
            if score.value is not None:
                families.setdefault((score.metric, field == SCORE, slice_ != ""), []).append((slice_, score))
    return [
        Measurement(
            *(of.model_version_id, of.role, str(one.score.metric), one.score.value, one.score.n, one.score.subject),
            slice=slice_,
            reference_n=one.score.reference_n,
            critical=one.score.critical,
            p_value=one.score.p_value,
            q_value=one.q_value,
            floor=one.score.floor,
            verdict=one.verdict,
        )
        for family in families.values()
        for (slice_, _), one in zip(
            family,
            judge([score for _, score in family], alpha=declared.alpha, minimum=min(100, declared.smallest_slice)),
            strict=True,
        )
    ]


def quality(of: Of, totals: Totals, declared: Monitoring) -> list[Measurement]:
    """Rows, and shares of them that are late, missing, out of the reference's range, or not seen in it."""
    found = []
    for (field, slice_), counted in sorted(totals.items()):
        if (slice_ and counted.n < declared.smallest_slice) or not (field == ROWS or _looks_at(of, field)):
            continue
        if field == ROWS:
            found.append(Measurement(of.model_version_id, of.role, "rows", float(counted.n), counted.n, slice=slice_))
            shares = {"late_share": counted.late}
        else:
            shares = {
                "missing_share": counted.missing,
                "out_of_range_share": counted.out_of_range,
                "unseen_share": counted.unseen,
            }
            constant = float(counted.is_constant)
            found.append(Measurement(of.model_version_id, of.role, "constant", constant, counted.n, field, slice_))
        for metric, rows in shares.items():
            share = share_interval(rows, counted.n)
            found.append(_measured(of, metric, share, field, slice_))
    return [judged(one, declared) for one in found if declared.keeps(one.metric)]


def realised(of: Of, contract: Contract, truth: Truth, declared: Monitoring, draws: int) -> list[Measurement]:
    """How good the predictions were whose outcome is known, over all rows and by slice, each with its maturity."""
    found = _realised(of, contract, truth, declared, draws, "")
    for name, mask in truth.slices.items():
        part = truth.where(mask)
        if int(part.known.sum()) >= declared.smallest_slice:
            found += _realised(of, contract, part, declared, draws, name)
    return found


def _realised(
    of: Of, contract: Contract, truth: Truth, declared: Monitoring, draws: int, slice_: str
) -> list[Measurement]:
    maturity = truth.maturity
    rows = int((truth.due & (truth.known | ~truth.closed)).sum())
    found = [Measurement(of.model_version_id, of.role, "maturity", maturity, rows, slice=slice_, maturity=maturity)]
    expected = truth.where(truth.expected)
    for metric, estimate in figures_of(contract, expected, declared, draws).items():
        one = _measured(of, metric, estimate, "", slice_)
        one = replace(one, maturity=maturity)
        if estimate.value is None or maturity is None:
            found.append(replace(one, verdict=Verdict.INSUFFICIENT))
        elif maturity < declared.maturity_floor:
            low, high = _bounds(contract, metric, expected)
            found.append(replace(one, low=low, high=high, verdict=Verdict.PROVISIONAL))
        else:
            found.append(one)
    return [judged(one, declared) for one in found if declared.keeps(one.metric)]


def figures_of(contract: Contract, truth: Truth, declared: Monitoring, draws: int) -> dict[str, Estimate]:
    """All figures that the contract's output has, of the rows whose outcome is known."""
    if contract.output.kind is OutputKind.VALUE:
        return number_figures(truth.scores, truth.outcomes)
    if contract.output.kind is not OutputKind.PROBABILITY or contract.label is None or contract.label.event is None:
        return {}
    resampling = Resampling(draws=draws)
    found = probability_figures(truth.scores, truth.events, resampling)
    if truth.share < 1:  # a part of the rows has no top of its own
        return found
    ranks = truth.scores if ranking_of(contract, declared) is Ranking.SCORE else truth.costs
    values = None
    if contract.expected_cost:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.where(truth.scores > 0, truth.costs / truth.scores, np.nan)  # the amount at stake
    ranked = ranking_figures(ranks, truth.events, truth.days, truth.keys, declared.top_k, values, resampling)
    return found | ranked


def ranking_of(contract: Contract, declared: Monitoring) -> Ranking:
    """What the work queue is ordered by."""
    if declared.rank_by is not None:
        return declared.rank_by
    return Ranking.EXPECTED_COST if contract.expected_cost else Ranking.SCORE


def judged(one: Measurement, declared: Monitoring) -> Measurement:
    """The figure with its verdict, where it has none yet and the deployment says what would be a breach.

    A breach needs a figure beyond its bound, and an interval that lies beyond it too: one that chance explains is none.
    """
    breach = declared.breaches.get(one.metric)
    if one.verdict is not None or one.value is None or breach is None:
        return one
    beyond = [one.value, *(v for v in (one.low, one.high) if v is not None)]
    is_breach = all(breach.holds(v) for v in beyond)
    return replace(one, floor=breach.bound, verdict=Verdict.BREACH if is_breach else Verdict.OK)


def total(counted: Iterable[tuple[tuple[str, str], Counted]]) -> dict[tuple[str, str], Counted]:
    """Counts of several days together."""
    found: dict[tuple[str, str], Counted] = {}
    for key, one in counted:
        if key in found:
            found[key].add(one)
        else:
            found[key] = replace(one)
    return found


def _bounds(contract: Contract, metric: str, truth: Truth) -> tuple[float | None, float | None]:
    """What missing outcomes leave of a figure of probabilities: none of them the event, or all."""
    statistic = _PROBABILITY_BOUNDS.get(metric)
    if metric == "base_rate":
        return bounds(performance.base_rate, truth.events)
    if statistic is None or contract.output.kind is not OutputKind.PROBABILITY:
        return None, None
    scored = truth.where(~np.isnan(truth.scores))
    return bounds(lambda events: statistic(scored.scores, events), scored.events)


def _looks_at(of: Of, field: str) -> bool:
    return of.role == Role.CHAMPION or field == SCORE


def _floors(declared: Monitoring) -> dict[DriftMetric, Floor]:
    """The floors of the house, with those that the deployment says otherwise."""
    found = {}
    for metric, floor in FLOORS.items():
        breach = declared.breaches.get(metric)
        severe = floor.severe if breach is None else breach.above
        effect = declared.floors.get(metric, floor.effect)
        found[metric] = Floor(effect, None if severe is None else max(severe, effect))
    return found


def _measured(of: Of, metric: str, estimate: Estimate, field: str, slice_: str) -> Measurement:
    return Measurement(
        *(of.model_version_id, of.role, metric, _finite(estimate.value), estimate.n, field, slice_),
        low=_finite(estimate.low),
        high=_finite(estimate.high),
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
