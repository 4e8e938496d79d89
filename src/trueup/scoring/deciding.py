"""From raw scores to answers: decision, abstention, expected cost, fallback. Pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trueup.domain.batch import Answers, Bools, Columns, Floats, Objects, Status
from trueup.domain.contract import Contract, DecisionRule, OutputKind
from trueup.domain.deployment import Fallback, Serving, Untreated
from trueup.errors import ScoringError

UNTREATED = "untreated"  # the decision about an item that is left alone


def answers_of(contract: Contract, raw: Floats, columns: Columns) -> Answers:
    """Answers to raw scores (n, k). Raises ScoringError when their shape or values cannot be answers."""
    n = len(columns)
    if raw.ndim != 2 or raw.shape[0] != n or not raw.shape[1]:
        raise ScoringError("the model answered in another shape than its contract says")
    if not np.isfinite(raw).all():
        raise ScoringError("the model answered with a number that is not finite")
    kind = contract.output.kind
    if kind is OutputKind.PROBABILITY and n and not (raw.min() >= 0 and raw.max() <= 1):
        raise ScoringError("the model answered with a probability outside 0 to 1")
    status = _all(n, Status.SCORED)
    if kind is OutputKind.VECTOR:
        return Answers(status, np.full(n, np.nan), outputs=raw)
    if kind is OutputKind.CLASS:
        if raw.shape[1] != len(contract.output.classes):
            raise ScoringError("the model answered with another number of classes than its contract says")
        best = raw.argmax(axis=1)
        classes = np.array(contract.output.classes, object)[best]
        return Answers(status, raw[np.arange(n), best], outputs=raw, classes=classes, decision=classes)
    if raw.shape[1] != 1:
        raise ScoringError("the model answered with several numbers where its contract says one")
    return _decided(contract, status, np.ascontiguousarray(raw[:, 0]), columns)


def _decided(contract: Contract, status: Objects, score: Floats, columns: Columns) -> Answers:
    decision = None
    rule = contract.decision
    if rule is not None:
        decision = _sides(rule, score)
        unsure = abstained(rule, score)
        if unsure is not None:
            status[unsure] = str(Status.ABSTAINED)
            decision[unsure] = None
    return Answers(status, score, decision=decision, expected_cost=expected_cost(contract, score, columns))


def _sides(rule: DecisionRule, score: Floats) -> Objects:
    """The decision (n,) by the threshold alone."""
    sides: Objects = np.array([rule.below, rule.at_or_above], object)[(score >= rule.threshold).view(np.int8)]
    return sides


def _all(n: int, status: Status) -> Objects:
    """The status as plain text, n times. ``np.full`` looks first whether a text is a sequence."""
    found: Objects = np.empty(n, object)
    found.fill(str(status))
    return found


def abstained(rule: DecisionRule, score: Floats) -> Bools | None:
    """Mask (n,) of scores inside the abstention zone [low, high); None where the rule has none."""
    if rule.abstain_low is None or rule.abstain_high is None:
        return None
    return (score >= rule.abstain_low) & (score < rule.abstain_high)


def expected_cost(contract: Contract, score: Floats, columns: Columns) -> Floats | None:
    """Probability x amount (n,), NaN where the amount is null; None when the contract asks for none."""
    if not contract.expected_cost:
        return None
    return score * columns.numeric(contract.expected_cost)


def needs_fallback(serving: Serving, columns: Columns) -> Bools:
    """Mask (n,) of instances in which a feature that the deployment requires is null."""
    mask = np.zeros(len(columns), bool)
    for name in serving.required:
        mask |= columns.nulls(name)
    return mask


def fallback_answers(contract: Contract, rule: Fallback, columns: Columns) -> Answers:
    """The declared rule's answers: ``high`` at or above the threshold, ``low`` below it or where null."""
    values = columns.numeric(rule.field)
    with np.errstate(invalid="ignore"):
        score = np.where(values >= rule.threshold, rule.high, rule.low)
    answers = _decided(contract, _all(len(columns), Status.SCORED), score, columns)
    decision = answers.decision
    if decision is not None and contract.decision is not None:
        # A rule does not abstain: it is the last resort.
        decision = _sides(contract.decision, score)
    return Answers(_all(len(columns), Status.FALLBACK), score, decision=decision, expected_cost=answers.expected_cost)


def left_alone(answers: Answers, slice_: Untreated, items: Sequence[str]) -> Answers:
    """The answers with the decision ``untreated`` for the items (business keys, one a row) of the slice.

    The slice is drawn before anyone looks at a score, so a row of it is decided also where its score would abstain.
    """
    drawn = in_slice(slice_, items)
    if not drawn.any():
        return answers
    decision = np.full(len(answers), None, object) if answers.decision is None else answers.decision.copy()
    decision[drawn] = UNTREATED
    status = answers.status.copy()
    status[drawn & (status == Status.ABSTAINED)] = str(Status.SCORED)
    return replace(answers, status=status, decision=decision)


def in_slice(slice_: Untreated, items: Sequence[str]) -> Bools:
    """Mask (n,) of the items (business keys): BLAKE2b of the key, keyed with the salt, as a share of 2**64."""
    salt, below = slice_.salt.encode(), int(slice_.share * 2**64)
    hashed = (hashlib.blake2b(item.encode(), key=salt, digest_size=8).digest() for item in items)
    return np.fromiter((int.from_bytes(one, "big") < below for one in hashed), bool, len(items))


def merged(answers: Answers, others: Answers, mask: Bools) -> Answers:
    """``answers`` with ``others`` in the masked rows (both for all rows)."""

    both_cost = answers.expected_cost is not None and others.expected_cost is not None
    both_decided = answers.decision is not None and others.decision is not None
    return Answers(
        status=np.where(mask, others.status, answers.status),
        score=np.where(mask, others.score, answers.score),
        decision=np.where(mask, others.decision, answers.decision) if both_decided else None,  # type: ignore[arg-type]
        expected_cost=np.where(mask, others.expected_cost, answers.expected_cost) if both_cost else None,  # type: ignore[arg-type]
        reasons=answers.reasons,
    )
