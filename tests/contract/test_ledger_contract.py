"""What every ledger must do; the fake is held to it so that unit tests may trust it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date
from uuid import uuid4

import numpy as np
import pytest

from rooms import Desk, trade
from trueup.domain.batch import Booked, Channel, RefusalReason, Source
from trueup.domain.deployment import ModelVersion
from trueup.errors import InvalidQuery, NotFound
from trueup.ports import PredictionFilter


class TestEveryLedger:
    def test_the_same_batch_again_gives_the_first_answers(self, desk: Desk):
        desk.deploy()
        first, again = (desk.score([trade(i) for i in range(12)]) for _ in range(2))
        assert set(first.receipt.booked) == {Booked.NEW}
        assert set(again.receipt.booked) == {Booked.REPEATED}
        assert first.ids() == again.ids()
        assert np.array_equal(first.receipt.answers.score, again.receipt.answers.score)
        assert first.receipt.answers.decision is not None
        assert again.receipt.answers.decision is not None
        assert first.receipt.answers.decision.tolist() == again.receipt.answers.decision.tolist()
        assert first.receipt.answers.status.tolist() == again.receipt.answers.status.tolist()
        assert again.receipt.batch_id is None
        assert len(desk.ledger.predictions(PredictionFilter())) == 12

    def test_a_promotion_does_not_change_an_answer(self, desk: Desk):
        desk.deploy()
        first = desk.score([trade(3)])
        desk.deploy("2")
        again = desk.score([trade(3)])
        assert first.ids() == again.ids()
        assert again.receipt.booked.tolist() == [Booked.REPEATED]

    def test_other_content_is_a_conflict_and_a_refusal(self, desk: Desk):
        desk.deploy()
        desk.score([trade(1), trade(2)])
        response = desk.score([trade(1), trade(2, amount=7.0)])
        assert response.receipt.booked.tolist() == [Booked.REPEATED, Booked.CONFLICT]
        assert [(r.row, r.reason) for r in response.refused] == [(1, RefusalReason.CONFLICT)]
        assert response.ids()[1] is None

    def test_a_group_with_a_conflict_is_withheld_whole_and_others_are_booked(self, desk: Desk):
        desk.deploy()
        desk.score([trade(1), trade(2)], keys=["a/0", "a/1"])
        rows = [trade(1), trade(2, amount=7.0), trade(3), trade(4), trade(5)]
        response = desk.score(rows, keys=["a/0", "a/1", "a/2", "b/0", "b/1"], groups=[0, 0, 0, 1, 1])
        assert response.receipt.booked.tolist() == [
            *(Booked.REPEATED, Booked.CONFLICT, Booked.WITHHELD),
            *(Booked.NEW, Booked.NEW),
        ]
        assert [(r.row, r.reason) for r in response.refused] == [
            (1, RefusalReason.CONFLICT),
            (2, RefusalReason.REQUEST),
        ]
        assert response.ids()[2] is None
        assert len(desk.ledger.predictions(PredictionFilter())) == 4

    def test_of_one_identity_in_a_batch_the_first_counts(self, desk: Desk):
        desk.deploy()
        response = desk.score([trade(1), trade(1), trade(1, amount=7.0)], keys=["a", "a", "a"])
        assert response.receipt.booked.tolist() == [Booked.NEW, Booked.REPEATED, Booked.CONFLICT]

    def test_writers_at_once_leave_one_row_an_identity(self, desk: Desk):
        desk.deploy()
        rows = [trade(i) for i in range(60)]
        with ThreadPoolExecutor(4) as pool:
            responses = list(pool.map(lambda _: desk.score(rows), range(4)))
        assert sum(r.receipt.new for r in responses) == 60
        assert len({tuple(r.ids()) for r in responses}) == 1

    def test_every_role_is_a_row(self, desk: Desk):
        other = desk.registry.add_version(ModelVersion("trades", "2", (), desk.deploy().champion.contract))
        desk.deploy(challengers=(other,))
        desk.score([trade(i) for i in range(3)])
        listed = desk.ledger.predictions(PredictionFilter())
        assert sorted(row["role"] for row in listed) == ["challenger"] * 3 + ["champion"] * 3

    def test_a_prediction_is_found_with_its_fields(self, desk: Desk):
        desk.deploy()
        row = trade(4, history=None, lots=2**60)
        found = desk.ledger.prediction(desk.score([row], want_reasons=True).ids()[0])  # type: ignore[arg-type]
        assert found["fields"] == {**row, "history": None}
        assert (found["deployment"], found["status"], found["business_key"]) == ("trades", "abstained", "T4")
        assert (found["score"], found["decision"], found["expected_cost"]) == (0.4, None, 160.0)
        assert (found["source"], found["source_key"], found["reasons"]) == ("batch:morning", "0", [])

    def test_an_unknown_prediction_is_not_found(self, desk: Desk):
        with pytest.raises(NotFound):
            desk.ledger.prediction(uuid4())

    def test_lists_are_filtered_and_bounded(self, desk: Desk):
        desk.deploy()
        desk.score([trade(i, trade_date=f"2026-11-{10 + i}") for i in range(10)])

        def keys(**where: object) -> list[str]:
            return [row["business_key"] for row in desk.ledger.predictions(PredictionFilter(**where))]  # type: ignore[arg-type]

        assert keys(limit=2) == ["T9", "T8"]
        assert keys(event_from=date(2026, 11, 12), event_until=date(2026, 11, 13)) == ["T3", "T2"]
        assert keys(min_score=0.8) == ["T9", "T8"]
        assert keys(decision="chase") == ["T9", "T8", "T7", "T6", "T5"]
        assert keys(status="abstained") == ["T4"]
        assert keys(business_key="T1", deployment="trades") == ["T1"]
        assert keys(deployment="other") == []
        assert keys(deployments=("other", "trades"), limit=2) == ["T9", "T8"]
        assert keys(deployments=("other",)) == keys(deployments=()) == []
        assert keys(deployments=("other",), deployment="trades") == []
        with pytest.raises(InvalidQuery):
            desk.ledger.predictions(PredictionFilter(limit=10**9))

    def test_the_first_event_time_of_a_key_stays(self, desk: Desk):
        number = desk.deploy().deployment_id
        assert number is not None
        one, two = (np.array([day], "datetime64[us]") for day in ("2026-11-20", "2026-11-21"))
        request = Source(Channel.PYTHON, "request", ["a"])
        assert desk.ledger.claim_event_times(number, request, one) == one
        assert desk.ledger.claim_event_times(number, request, two) == one
        assert desk.ledger.claim_event_times(number, Source(Channel.PYTHON, "request", ["b"]), two) == two
        whole = [Source(Channel.BATCH, "batch:x", [key]) for key in "ab"]
        assert [desk.ledger.claim_event_times(number, s, d) for s, d in zip(whole, (one, two), strict=True)] == [
            one
        ] * 2

    def test_an_event_out_of_bounds_books_nothing(self, desk: Desk):
        desk.deploy()
        with pytest.raises(InvalidQuery):
            desk.score([trade(1), trade(2, trade_date="2126-01-01")])
        assert desk.ledger.predictions(PredictionFilter()) == []


class TestTheScoringPath:
    """Whatever the ledger, the path answers, abstains, falls back and refuses alike."""

    def test_a_contract_violation_refuses_its_row_only(self, desk: Desk):
        desk.deploy()
        response = desk.score([trade(1), trade(2, amount="2"), trade(3)])
        assert response.rows.tolist() == [0, 2]
        assert [(r.row, r.reason, r.detail) for r in response.refused] == [(1, RefusalReason.CONTRACT, "amount: type")]

    def test_without_model_the_fallback_answers(self, desk: Desk):
        desk.deploy(serving=trueup_serving())
        desk.scorers["1"].fails = True
        answers = desk.score([trade(1, history=3.0), trade(2, history=1.0), trade(3)]).receipt.answers
        assert answers.status.tolist() == ["fallback"] * 3
        assert answers.score.tolist() == [0.9, 0.1, 0.1]
        assert answers.decision is not None
        assert answers.decision.tolist() == ["chase", "pass", "pass"]
        assert answers.expected_cost is not None
        assert answers.expected_cost.tolist() == [90.0, 20.0, 30.0]

    def test_without_a_required_feature_the_fallback_answers_for_that_row(self, desk: Desk):
        desk.deploy(serving=trueup_serving(required=("history",)))
        answers = desk.score([trade(1, history=3.0), trade(2)]).receipt.answers
        assert answers.status.tolist() == ["scored", "fallback"]
        assert answers.score.tolist() == [0.1, 0.1]

    def test_without_fallback_a_failing_model_refuses_every_row(self, desk: Desk):
        desk.deploy()
        desk.scorers["1"].fails = True
        response = desk.score([trade(1), trade(2)])
        assert [r.reason for r in response.refused] == [RefusalReason.FAILED] * 2
        assert len(response.receipt.booked) == 0

    def test_a_failing_challenger_does_not_touch_the_answer(self, desk: Desk):
        other = desk.registry.add_version(ModelVersion("trades", "2", (), desk.deploy().champion.contract))
        desk.deploy(challengers=(other,))
        desk.scorers["2"].fails = True
        assert desk.score([trade(5)]).receipt.answers.score.tolist() == [0.5]


def trueup_serving(**changes: object) -> object:
    from trueup.domain.deployment import Fallback, Serving

    return Serving(fallback=Fallback("history", 2.0, low=0.1, high=0.9), **changes)  # type: ignore[arg-type]
