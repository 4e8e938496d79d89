"""Runs of reports in memory, for tests."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from trueup.domain.message import Message
from trueup.domain.report import Look, ReportRun
from trueup.ports import Outbox
from trueup.reports.store import no_outbox, no_run


class MemoryRuns:
    """A RunStore without a database."""

    def __init__(self, outbox: Outbox | None = None) -> None:
        self._outbox = outbox
        self._runs: dict[int, ReportRun] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def next_id(self) -> int:
        """As in RunStore."""
        return next(self._numbers)

    def add(self, run: ReportRun, messages: Sequence[Message] = ()) -> bool:
        """As in RunStore."""
        if messages and self._outbox is None:
            raise no_outbox()
        with self._lock:
            due_at = run.asked.due_at
            if not run.error and due_at is not None and self._has(run.asked.name, due_at):
                return False
            if messages and self._outbox is not None:
                self._outbox.add(messages, None)
            self._runs[run.run_id] = replace(run, look=Look(run.look.title)) if run.error else run
        return True

    def is_done(self, name: str, due_at: datetime) -> bool:
        """As in RunStore."""
        with self._lock:
            return self._has(name, due_at)

    def run(self, run_id: int) -> ReportRun:
        """As in RunStore."""
        with self._lock:
            found = self._runs.get(run_id)
        if found is None:
            raise no_run()
        return found

    def _has(self, name: str, due_at: datetime) -> bool:
        return any(
            run.asked.name == name and run.asked.due_at == due_at and not run.error for run in self._runs.values()
        )
