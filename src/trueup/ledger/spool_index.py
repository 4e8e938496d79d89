"""What was answered from a spool, by identity: a repeat gets the first answer while the ledger has not got it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Answers, Booking
from trueup.ledger.postgres import First
from trueup.ledger.spool_files import Written


@dataclass(frozen=True, slots=True)
class Held:
    """An identity's content and first answer; ``written`` None where they are known to be on disk."""

    digest: bytes
    contract_id: int
    first: First
    written: Written | None = None

    def same(self, booking: Booking, row: int) -> bool:
        """Whether the row has the same content; contents under two contracts cannot be compared."""
        return self.contract_id != booking.contract_id or self.digest == booking.digests[row]


class Identities:
    """Undrained identities, and the last ``remembered`` drained ones: retries come soon, perhaps without a ledger.

    Whoever calls holds the spool's lock.
    """

    def __init__(self, remembered: int) -> None:
        self._held: dict[bytes, Held] = {}
        self._drained: deque[bytes] = deque()
        self._remembered = remembered

    def __len__(self) -> int:
        return len(self._held)

    def get(self, identity: bytes) -> Held | None:
        """What is known of it."""
        return self._held.get(identity)

    def add(self, booking: Booking, ids: NDArray[np.uint8], written: Written | None) -> None:
        """Every row of the booking with its champion's answer; what is known already stays."""
        firsts = firsts_of(booking.scored[0].answers)
        for row, first in enumerate(firsts):
            held = Held(booking.digests[row], booking.contract_id, first, written)
            self._held.setdefault(ids[row].tobytes(), held)

    def forget(self, ids: NDArray[np.uint8], written: Written) -> None:
        """Rows that did not reach the disk: they were never answered."""
        for row in ids:
            held = self._held.get(row.tobytes())
            if held is not None and held.written is written:
                del self._held[row.tobytes()]

    def drained(self, ids: NDArray[np.uint8], firsts: Sequence[First | None]) -> None:
        """The rows are in the ledger, whose ``firsts`` count from now on; None where it holds other content."""
        for row, first in zip(ids, firsts, strict=True):
            identity = row.tobytes()
            held = self._held.pop(identity, None)
            if held is None or first is None:
                continue
            self._held[identity] = Held(held.digest, held.contract_id, first)
            self._drained.append(identity)
        while len(self._drained) > self._remembered:
            self._held.pop(self._drained.popleft(), None)


def firsts_of(answers: Answers) -> list[First]:
    """Each row's answer as the ledger would give it back."""
    nothing = [None] * len(answers)
    columns = (answers.outputs, answers.classes, answers.decision, answers.expected_cost)
    rows = zip(
        answers.status.tolist(),
        answers.score.tolist(),
        *(nothing if column is None else column.tolist() for column in columns),
        strict=True,
    )
    return [
        First(str(status), _number(score), outputs, class_, decision, _number(cost))
        for status, score, outputs, class_, decision, cost in rows
    ]


def _number(value: float | None) -> float | None:
    """NaN stands for nothing, and equals nothing."""
    return None if value is None or value != value else value
