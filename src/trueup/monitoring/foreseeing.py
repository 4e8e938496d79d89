"""What performance will be, before outcomes are in; and afterwards, whether it was as foreseen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trueup.domain.contract import Contract, OutputKind
from trueup.domain.measuring import Estimate, Verdict
from trueup.domain.monitoring import Measurement, Monitoring
from trueup.monitoring.calibration import AS_SCORED, Calibration, calibrated
from trueup.monitoring.estimates import estimated_probability_figures, foresight
from trueup.monitoring.intervals import Resampling
from trueup.monitoring.measuring import Of, judged
from trueup.monitoring.truths import Truth


def can_foresee(contract: Contract) -> bool:
    """Whether the output is a probability of the label's event, which is what CBPE is about."""
    return (
        contract.output.kind is OutputKind.PROBABILITY
        and contract.label is not None
        and contract.label.event is not None
    )


def calibration_of(reference: Truth | None) -> Calibration:
    """The map from scores to probabilities, of the reference's rows whose outcome is known."""
    if reference is None or not (reference.known & ~np.isnan(reference.scores)).any():
        return AS_SCORED
    return calibrated(reference.scores, reference.events)


def foreseen(
    of: Of,
    truth: Truth,
    calibration: Calibration,
    realised: Sequence[Measurement],
    declared: Monitoring,
    draws: int,
    reference_n: int,
) -> list[Measurement]:
    """Estimates over all rows of the window, known or not.

    They are provisional until the window is mature. Then each says *ok* where the realised figure lies in the interval
    in which it was expected, and *drift* where it does not: what a score means has changed, or is not what it says.
    """
    came = {m.metric: m for m in realised if not m.slice}
    maturity = truth.maturity
    found = []
    for metric, estimate in estimated_probability_figures(
        truth.scores, calibration, resampling=Resampling(draws=draws)
    ).items():
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
