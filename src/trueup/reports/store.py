"""What reports need of whatever keeps their runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from trueup.domain.message import Message
from trueup.domain.report import ReportRun
from trueup.errors import InvalidInput, NotFound


class RunStore(Protocol):
    """Runs, kept as they were. Every method may raise LedgerUnavailable."""

    def next_id(self) -> int:
        """A number that no other run has, and higher than those before it."""
        ...

    def add(self, run: ReportRun, messages: Sequence[Message] = ()) -> bool:
        """Keeps a run and its messages, or neither: False where its due moment has a run with figures already.

        Raises InvalidInput where there is a message and no outbox.
        """
        ...

    def is_done(self, name: str, due_at: datetime) -> bool:
        """Whether a due moment has a run with figures."""
        ...

    def run(self, run_id: int) -> ReportRun:
        """A run as it was; of one that failed the title is all that is kept of its look. Raises NotFound."""
        ...


def no_run() -> NotFound:
    """No run of that number."""
    return NotFound("no such run of a report", next_step="`trueup report list --runs` lists what there is")


def no_outbox() -> InvalidInput:
    """A run has messages and nothing sends them."""
    return InvalidInput("the report has recipients, and nothing is set up that reaches them")
