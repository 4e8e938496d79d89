"""What performance will be, before outcomes are in; and afterwards, whether it was as foreseen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trueup.domain.contract import NUMBERS, Contract, OutputKind, Storage
from trueup.domain.measuring import Estimate, Verdict
from trueup.domain.monitoring import Measurement, Monitoring
from trueup.monitoring.calibration import AS_SCORED, Calibration, calibrated
from trueup.monitoring.estimates import (
    estimated_number_figures,
    estimated_probability_figures,
    fitted_loss_model,
    foresight,
)
from trueup.monitoring.intervals import Resampling
from trueup.monitoring.measuring import Of, judged
from trueup.monitoring.truths import Truth


@dataclass(frozen=True, slots=True)
class Expecting:
    """What a version's reference taught of figures to come: how to estimate them of rows, and of how many it is known.

    ``features`` are fields that the rows need beside the truth, of at most ``most_rows`` rows.
    """

    estimates: Callable[[Truth], dict[str, Estimate]]
    known: int
    features: tuple[str, ...] = ()
    most_rows: int | None = None


def can_foresee(contract: Contract) -> bool:
    """Whether the output is a probability of the label's event, which CBPE is about, or a number that the label is too,
    which direct loss estimation (DLE) is about."""
    label, kind = contract.label, contract.output.kind
    if label is None:
        return False
    if kind is OutputKind.VALUE:
        return label.type in NUMBERS
    return kind is OutputKind.PROBABILITY and label.event is not None


def needed(contract: Contract) -> tuple[str, ...]:
    """The features that errors are learned from: all that are numbers. Texts and categories are left out."""
    if contract.output.kind is not OutputKind.VALUE:
        return ()
    return tuple(f.name for f in contract.features if f.storage in (Storage.FLOATS, Storage.INTS))


def expecting(
    contract: Contract, reference: Truth | None, declared: Monitoring, draws: int, most_rows: int
) -> Expecting:
    """Learns from the reference's rows whose outcome is known; ``most_rows`` bounds those of which errors are."""
    known = 0 if reference is None else int(reference.known.sum())
    if contract.output.kind is not OutputKind.VALUE:
        calibration, resampling = calibration_of(reference), Resampling(draws=draws)
        return Expecting(
            lambda truth: estimated_probability_figures(truth.scores, calibration, resampling=resampling), known
        )
    model = None
    if reference is not None and any(declared.keeps(metric) for metric in ("mae", "rmse")):
        model = fitted_loss_model(reference.features, reference.scores, reference.outcomes)
    if model is None:
        return Expecting(lambda truth: {}, known)
    return Expecting(
        lambda truth: estimated_number_figures(model, truth.features, truth.scores), known, needed(contract), most_rows
    )


def calibration_of(reference: Truth | None) -> Calibration:
    """The map from scores to probabilities, of the reference's rows whose outcome is known."""
    if reference is None or not (reference.known & ~np.isnan(reference.scores)).any():
        return AS_SCORED
    return calibrated(reference.scores, reference.events)


def foreseen(
    of: Of,
    estimates: Mapping[str, Estimate],
    maturity: float | None,
    realised: Sequence[Measurement],
    declared: Monitoring,
    reference_n: int,
) -> list[Measurement]:
    """Estimates over all rows of the window, known or not.

    They are provisional until the window is mature. Then each says *ok* where the realised figure lies in the interval
    in which it was expected, and *drift* where it does not: what a score means has changed, or is not what it says.
    """
    came = {m.metric: m for m in realised if not m.slice}
    found = []
    for metric, estimate in estimates.items():
        if not declared.keeps(metric) or estimate.value is None:
            continue
        one = Measurement(
            *(of.model_version_id, of.role, metric, estimate.value, estimate.n),
            low=estimate.low,
            high=estimate.high,
            reference_n=reference_n,
            maturity=maturity,
        )
        found.append(_with_verdict(one, estimate, came.get(metric.removeprefix("estimated_")), declared))
    return found


def _with_verdict(one: Measurement, estimate: Estimate, came: Measurement | None, declared: Monitoring) -> Measurement:
    judged_one = judged(one, declared)
    if judged_one.verdict is Verdict.BREACH:
        return judged_one
    if came is None or came.value is None or came.verdict in (Verdict.PROVISIONAL, Verdict.INSUFFICIENT):
        return replace(one, verdict=Verdict.PROVISIONAL)
    holds = foresight(estimate, Estimate(came.value, came.low, came.high, came.n)).holds
    return replace(one, verdict=None if holds is None else Verdict.OK if holds else Verdict.DRIFT)
