"""Reason codes: the features that moved a score most (TreeSHAP of the native library)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trueup.domain.batch import Answers, Bools, Columns, Floats, Reasons
from trueup.domain.contract import Contract
from trueup.ports import Scorer


def explained(scorer: Scorer, columns: Columns, answers: Answers, keep: int, *, want_reasons: bool) -> Answers:
    """The answers with the reasons of those rows that are explained."""
    present = rows_to_explain(columns.contract, answers.score, wanted=want_reasons)
    return replace(answers, reasons=reasons_of(scorer, columns, present, keep))


def rows_to_explain(contract: Contract, score: Floats, *, wanted: bool) -> Bools:
    """All rows when asked for, else those at or above the decision threshold."""
    if wanted:
        return np.ones(score.shape, bool)
    if contract.decision is None:
        return np.zeros(score.shape, bool)
    return score >= contract.decision.threshold


def reasons_of(scorer: Scorer, columns: Columns, present: Bools, keep: int) -> Reasons | None:
    """The ``keep`` largest contributions by absolute value; None where the model has none."""
    features = len(columns.contract.features)
    k = min(keep, features)
    if not k or not present.any():
        return None
    contributions = scorer.contributions(columns.take(present))
    if contributions is None:
        return None
    order = np.argsort(-np.abs(contributions), axis=1, kind="stable")[:, :k]
    fields = np.zeros((len(columns), k), np.int16)
    values = np.zeros((len(columns), k), np.float32)
    fields[present] = order
    values[present] = np.take_along_axis(contributions, order, axis=1)
    return Reasons(fields, values, present)
