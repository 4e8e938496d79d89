"""The outcome store's fake; it and the real one pass ``tests/contract/test_outcomes_contract.py``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np

from trueup.domain.batch import NOTHING_RECORDED, OutcomeBatch, OutcomeReceipt, OutcomeState

_Item = tuple[str, str, str, date]


@dataclass(frozen=True, slots=True)
class Said:
    """One revision: what was said of an outcome; ``value`` is None unless it is known."""

    observed_at: np.datetime64
    state: OutcomeState
    value: Any

    def says_the_same_as(self, other: Said) -> bool:
        """Whether both hold the same to be true."""
        return (self.state, self.value) == (other.state, other.value)


class MemoryOutcomes:
    """Every revision of every outcome in a dictionary."""

    def __init__(self) -> None:
        self._revisions: dict[_Item, list[Said]] = {}
        self._lock = threading.Lock()

    def record(self, outcomes: OutcomeBatch, within: Any = None) -> OutcomeReceipt:
        """Adds what was not said before; see ``PostgresOutcomes`` for the rules."""
        incoming: dict[_Item, dict[np.datetime64, tuple[Said, bool]]] = {}
        for item, said, is_said in (_row(outcomes, place) for place in range(len(outcomes))):
            incoming.setdefault(item, {})[said.observed_at] = (said, is_said)
        first = revised = 0
        with self._lock:
            for item, rows in incoming.items():
                known = self._revisions.get(item, [])
                newest = max(rows)
                before = _latest(known, None)
                first += before is None
                if before is not None and newest >= before.observed_at:
                    revised += not rows[newest][0].says_the_same_as(before)
                added = [said for _, (said, is_said) in sorted(rows.items()) if _is_new(known, said, is_said=is_said)]
                self._revisions[item] = known + added
        return OutcomeReceipt(first, revised, len(outcomes) - first - revised)

    def record_all(self, batches: Sequence[OutcomeBatch], within: Any = None) -> OutcomeReceipt:
        """The same for several labels."""
        return sum((self.record(batch, within) for batch in batches), NOTHING_RECORDED)

    def revisions(self, contract_name: str, label: str, business_key: str, day: date) -> list[Any]:
        """All values of one outcome, in the order of recording; None where it was retracted or censored."""
        return [said.value for said in self._revisions.get((contract_name, label, business_key, day), [])]

    def latest(
        self, contract_name: str, label: str, business_key: str, day: date, by: np.datetime64 | None = None
    ) -> Said | None:
        """What is held to be true, or was by what had been observed ``by`` then."""
        return _latest(self._revisions.get((contract_name, label, business_key, day), []), by)


def _row(outcomes: OutcomeBatch, place: int) -> tuple[_Item, Said, bool]:
    day = outcomes.event_days[place].astype("datetime64[D]").item()
    item = (outcomes.contract_name, outcomes.label, outcomes.business_keys[place], day)
    state = OutcomeState.KNOWN if outcomes.states is None else OutcomeState(outcomes.states[place])
    values = outcomes.numbers if outcomes.numbers is not None else outcomes.texts
    assert values is not None
    value = values[place] if state is OutcomeState.KNOWN else None
    return item, Said(outcomes.observed_at[place], state, value), outcomes.said is None or bool(outcomes.said[place])


def _latest(known: list[Said], by: np.datetime64 | None) -> Said | None:
    within = [(said.observed_at, place) for place, said in enumerate(known) if by is None or said.observed_at <= by]
    return known[max(within)[1]] if within else None


def _is_new(known: list[Said], said: Said, *, is_said: bool) -> bool:
    before = _latest(known, said.observed_at)
    return (
        before is None or not before.says_the_same_as(said) or (is_said and bool(before.observed_at < said.observed_at))
    )
