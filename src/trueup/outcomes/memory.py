"""The outcome store's fake; it and the real one pass ``tests/contract/test_outcomes_contract.py``."""

from __future__ import annotations

import threading
from datetime import date
from typing import Any

import numpy as np

from trueup.domain.batch import OutcomeBatch, OutcomeReceipt

_Item = tuple[str, str, str, date]


class MemoryOutcomes:
    """Every revision of every outcome in a dictionary."""

    def __init__(self) -> None:
        self._revisions: dict[_Item, list[Any]] = {}
        self._lock = threading.Lock()

    def record(self, outcomes: OutcomeBatch, within: Any = None) -> OutcomeReceipt:
        """Adds what is new or changed; within a batch the latest observation of an item counts."""
        values = outcomes.numbers if outcomes.numbers is not None else outcomes.texts
        assert values is not None
        latest: dict[_Item, Any] = {}
        for place in np.argsort(outcomes.observed_at, kind="stable").tolist():
            day = outcomes.event_days[place].astype("datetime64[D]").item()
            item = (outcomes.contract_name, outcomes.label, outcomes.business_keys[place], day)
            latest[item] = values[place]
        with self._lock:
            changed = {i: v for i, v in latest.items() if i not in self._revisions or self._revisions[i][-1] != v}
            first = sum(item not in self._revisions for item in changed)
            for item, value in changed.items():
                self._revisions.setdefault(item, []).append(value)
        return OutcomeReceipt(first, len(changed) - first, len(outcomes) - len(changed))

    def revisions(self, contract_name: str, label: str, business_key: str, day: date) -> list[Any]:
        """All values of one outcome, first to latest."""
        return list(self._revisions.get((contract_name, label, business_key, day), []))
