"""The slice that is left alone: random over items, the same for one item, and no look at the score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trueup
from rooms import CONTRACT, Desk, trade
from trueup.domain.batch import Answers, Status
from trueup.ledger.memory import MemoryLedger
from trueup.outcomes.memory import MemoryOutcomes
from trueup.registry.deploying import _check_slice
from trueup.registry.memory import MemoryRegistry
from trueup.scoring.deciding import in_slice, left_alone
from trueup.settings import Limits

HALF = trueup.Untreated(0.5, "2026-11")


@given(st.lists(st.text(max_size=20)), st.floats(1e-6, 0.5))
def test_an_item_is_in_or_out_whatever_stands_beside_it(items: list[str], share: float):
    slice_ = trueup.Untreated(share, "salt")
    assert in_slice(slice_, items).tolist() == [bool(in_slice(slice_, [item])[0]) for item in items]


def test_the_share_is_what_it_says_and_another_salt_draws_another_slice():
    items = [str(i) for i in range(100_000)]
    tenth, other = in_slice(trueup.Untreated(0.1, "a"), items), in_slice(trueup.Untreated(0.1, "b"), items)
    assert abs(tenth.mean() - 0.1) < 0.005  # five standard deviations
    assert abs((tenth & other).mean() - 0.01) < 0.002
    assert (in_slice(trueup.Untreated(0.5, "a"), items) | ~tenth).all(), "a larger slice holds the smaller one"


def test_a_row_of_the_slice_is_decided_also_where_its_score_would_abstain():
    items = [str(i) for i in range(100)]
    answers = Answers(
        np.full(100, str(Status.ABSTAINED), object), np.full(100, 0.45), decision=np.full(100, None, object)
    )
    found, drawn = left_alone(answers, HALF, items), in_slice(HALF, items)
    assert [d == "untreated" for d in found.decision.tolist()] == drawn.tolist()  # type: ignore[union-attr]
    assert [s == Status.SCORED for s in found.status.tolist()] == drawn.tolist()
    assert answers.decision is not None
    assert not any(answers.decision.tolist()), "what was given is left as it was"


def test_every_version_of_a_row_keeps_its_score_and_only_the_champion_leaves_alone():
    registry = MemoryRegistry()
    desk = Desk(registry, MemoryLedger(registry, Limits()), MemoryOutcomes())
    desk.deploy(serving=trueup.Serving(untreated=HALF))
    rows = [trade(i) for i in range(10)]
    response = desk.score(rows)
    drawn = in_slice(HALF, [row["trade_id"] for row in rows])
    assert drawn.any()
    assert not drawn.all()
    answers = response.receipt.answers
    assert [d == "untreated" for d in answers.decision.tolist()] == drawn.tolist()  # type: ignore[union-attr]
    assert answers.score.tolist() == [min(i / 10, 1.0) for i in range(10)]


@pytest.mark.parametrize(("share", "salt"), [(0.0, "s"), (0.6, "s"), (0.1, ""), (0.1, "s" * 65), (float("nan"), "s")])
def test_a_slice_is_small_and_has_a_salt(share: float, salt: str):
    with pytest.raises(ValueError, match="untreated"):
        trueup.Untreated(share, salt)


def test_items_must_be_known_and_the_decision_must_be_told_apart():
    serving = trueup.Serving(untreated=HALF)
    _check_slice(CONTRACT, serving)
    assert CONTRACT.decision is not None
    with pytest.raises(trueup.errors.ContractError, match="called `untreated`"):
        _check_slice(replace(CONTRACT, decision=replace(CONTRACT.decision, below="untreated")), serving)
    without = replace(CONTRACT, labels=(), fields=tuple(f for f in CONTRACT.fields if f.name != "trade_id"))
    with pytest.raises(trueup.errors.ContractError, match="no key field"):
        _check_slice(without, serving)
