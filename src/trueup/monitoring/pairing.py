"""Champion against challenger over the instances that both scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trueup.domain.batch import Floats
from trueup.domain.contract import Contract, OutputKind
from trueup.domain.measuring import Difference, Verdict
from trueup.domain.monitoring import Measurement, Monitoring
from trueup.monitoring import performance
from trueup.monitoring.comparing import accuracy_difference, auc_difference, loss_difference
from trueup.monitoring.intervals import Resampling
from trueup.monitoring.measuring import Of


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Scores (n,) of champion and challenger for the same instances, and what came: see ``Truth``."""

    champion: Floats
    challenger: Floats
    outcomes: Floats
    events: Floats


def compared(
    of: Of, contract: Contract, pairs: Pairs, declared: Monitoring, draws: int, maturity: float | None
) -> list[Measurement]:
    """The challenger's figures less the champion's, with the p-value of a test that knows they are of the same rows."""
    verdict = None
    if maturity is None or maturity < declared.maturity_floor:
        verdict = Verdict.PROVISIONAL
    return [
        Measurement(
            *(of.model_version_id, of.role, f"challenger_{d.metric}_difference", d.value, d.n),
            low=d.low,
            high=d.high,
            p_value=d.p_value,
            verdict=Verdict.INSUFFICIENT if d.value is None else verdict,
            maturity=maturity,
        )
        for d in _differences(contract, pairs, Resampling(draws=draws))
        if declared.keeps(f"challenger_{d.metric}_difference")
    ]


def _differences(contract: Contract, pairs: Pairs, resampling: Resampling) -> list[Difference]:
    a, b = pairs.champion, pairs.challenger
    if contract.output.kind is OutputKind.VALUE:
        errors = np.abs(a - pairs.outcomes), np.abs(b - pairs.outcomes)
        return [loss_difference("mae", *errors, resampling=resampling)]
    y = pairs.events
    if contract.output.kind is not OutputKind.PROBABILITY or np.isnan(y).all():
        return []
    found = [auc_difference(a, b, y)]
    for metric, losses in (("brier", performance.brier_losses), ("log_loss", performance.log_losses)):
        found.append(loss_difference(metric, losses(a, y), losses(b, y), resampling=resampling))
    if contract.decision is not None:
        known = ~(np.isnan(y) | np.isnan(a) | np.isnan(b))
        cut, is_event = contract.decision.threshold, y[known] == 1
        found.append(accuracy_difference((a[known] >= cut) == is_event, (b[known] >= cut) == is_event))
    return found
