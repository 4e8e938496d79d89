"""What every outcome store must do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rooms import CONTRACT, Desk
from trueup.domain.batch import OutcomeBatch, OutcomeReceipt


def outcomes(values: list[float], *, keys: list[str] | None = None, observed: str = "2026-11-21") -> OutcomeBatch:
    n = len(values)
    return OutcomeBatch(
        contract_name="trades",
        label="failed",
        source="test",
        business_keys=keys or [f"T{i}" for i in range(n)],
        event_days=np.full(n, "2026-11-20", "datetime64[D]"),
        observed_at=np.full(n, observed, "datetime64[us]") + np.arange(n),
        numbers=np.array(values),
    )


class TestEveryOutcomeStore:
    def test_what_is_new_is_first_and_what_changed_is_a_revision(self, desk: Desk):
        desk.registry.add_contract(CONTRACT)
        assert desk.outcomes.record(outcomes([0.0, 1.0, 1.0])) == OutcomeReceipt(3, 0, 0)
        assert desk.outcomes.record(outcomes([0.0, 0.0, 1.0, 1.0])) == OutcomeReceipt(1, 1, 2)
        assert desk.outcomes.record(outcomes([0.0, 1.0, 1.0])) == OutcomeReceipt(0, 1, 2)

    def test_of_one_item_in_a_batch_the_latest_observation_counts(self, desk: Desk):
        desk.registry.add_contract(CONTRACT)
        assert desk.outcomes.record(outcomes([0.0, 1.0], keys=["T", "T"])) == OutcomeReceipt(1, 0, 1)
        assert desk.outcomes.record(outcomes([1.0], keys=["T"])) == OutcomeReceipt(0, 0, 1)

    def test_nothing_is_nothing(self, desk: Desk):
        assert desk.outcomes.record(outcomes([])) == OutcomeReceipt(0, 0, 0)

    def test_recorders_at_once_leave_one_first(self, desk: Desk):
        desk.registry.add_contract(CONTRACT)
        with ThreadPoolExecutor(4) as pool:
            receipts = list(pool.map(lambda _: desk.outcomes.record(outcomes([1.0] * 50)), range(4)))
        assert sum(r.first for r in receipts) == 50
        assert sum(r.revised for r in receipts) == 0
