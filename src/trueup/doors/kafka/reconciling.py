"""Whether everything that a stream received has an end in the ledger: received = answered + repeated + refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, timedelta
from typing import Any

from trueup.errors import TrueupError
from trueup.ports import QueryRunner

LOOK_S = 60.0
SHARE = 20  # who looks takes at most the twentieth part of the time for it

_DAY = "SELECT * FROM stream_reconciliation(%(deployment)s::text, %(day)s::date, %(day)s::date)"


def reconciliation(queries: QueryRunner, deployment: str | None, first: date, last: date) -> Iterator[dict[str, Any]]:
    """A line a partition and UTC day of receipt, day by day. Raises InvalidQuery, LedgerUnavailable."""
    day = first
    while day <= last:
        yield from queries.rows(_DAY, {"deployment": deployment, "day": day})
        day += timedelta(days=1)


class Reconciling:
    """A gauge: instances of a deployment without an end, of today and of the day of the last look.

    Whoever asks is told what was found last, and has it looked for anew in a thread where that was long ago.
    """

    def __init__(self, queries: QueryRunner, deployment: str, clock: Callable[[], datetime]) -> None:
        self._queries, self._deployment, self._clock = queries, deployment, clock
        self._found: float | None = None
        self._last_day: date | None = None
        self._look_at = 0.0
        self._looking = threading.Lock()

    def __call__(self) -> Mapping[str, float]:
        """Nothing until the first look has ended."""
        if time.monotonic() >= self._look_at and self._looking.acquire(blocking=False):
            threading.Thread(target=self._look, name="trueup-reconciling", daemon=True).start()
        return {} if self._found is None else {self._deployment: self._found}

    def _look(self) -> None:
        began = time.monotonic()
        try:
            today = self._clock().date()
            lines = reconciliation(self._queries, self._deployment, self._last_day or today, today)
            self._found = float(sum(abs(line["difference"]) for line in lines))
            self._last_day = today
        except TrueupError:  # what was found before stands
            pass
        finally:
            self._look_at = time.monotonic() + max(LOOK_S, SHARE * (time.monotonic() - began))
            self._looking.release()
