"""Where the rooms meet: the protocols each side promises the other.

Every adapter behind a port has a fake beside it (``memory.py``), and both pass the
same test class in ``tests/contract``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from trueup.domain.action import ActionReceipt, ActionsOf
from trueup.domain.batch import (
    Booking,
    Columns,
    Floats,
    OutcomeBatch,
    OutcomeReceipt,
    Receipt,
    Refusals,
    Source,
)
from trueup.domain.contract import Contract
from trueup.domain.deployment import Deployment, ModelVersion
from trueup.domain.gauge import Gauge
from trueup.domain.message import Message
from trueup.domain.monitoring import Changed, KnownBy, Measurement, MeasurementFilter, Run, WindowKind
from trueup.domain.stream import Letter, OwedReplies, Place, Read

Days = NDArray[np.datetime64]


class Scorer(Protocol):
    """A loaded model: plain functions on arrays, safe to call from several threads."""

    def score(self, columns: Columns) -> Floats:
        """Scores float64 (n, k): k = 1 for probability (of the positive class) and value,
        one a class for class and vector outputs. Raises ScoringError."""
        ...

    def contributions(self, columns: Columns) -> Floats | None:
        """Additive feature contributions float64 (n, features) in the margin unit, or None
        where the runtime has no exact ones."""
        ...

    def close(self) -> None:
        """Frees what the model holds."""
        ...


class ModelRegistry(Protocol):
    """Which contracts, versions and deployments exist. Everything is only ever added."""

    def add_contract(self, contract: Contract) -> int:
        """Stores a contract and makes its typed view; the same digest again is the same id.
        Raises Conflict when (name, version) exists with another digest."""
        ...

    def contract(self, name: str, version: int | None = None) -> Contract:
        """The named version, or the newest. Raises NotFound."""
        ...

    def add_version(self, version: ModelVersion) -> ModelVersion:
        """Stores a version (and its contract) and returns it with its ids. Identical
        content again changes nothing; other artifacts under the name raise Conflict."""
        ...

    def version(self, name: str, version: str) -> ModelVersion:
        """Raises NotFound."""
        ...

    def deploy(self, deployment: Deployment, *, by: str) -> Deployment:
        """Adds a revision (none if nothing changed) and returns it with its ids."""
        ...

    def deployment(self, name: str) -> Deployment:
        """The newest revision. Raises NotFound."""
        ...

    def revisions(self) -> Mapping[str, int]:
        """The newest revision's number of each deployment: what is cheap to ask often."""
        ...

    def deployments(self) -> Sequence[Deployment]:
        """Newest revision of each, by name."""
        ...


@dataclass(frozen=True, slots=True)
class PredictionFilter:
    """What to list. All given conditions must hold; ``limit`` at most 10,000."""

    deployment: str | None = None
    business_key: str | None = None
    event_from: date | None = None
    event_until: date | None = None
    status: str | None = None
    decision: str | None = None
    min_score: float | None = None
    limit: int = 50
    deployments: Sequence[str] | None = None  # of these alone; None: of all


class UnderWay(Protocol):
    """A booking that was begun.

    ``advance`` when ``fileno`` is ready for ``wanted``, until that is 0; then ``receipt``.
    """

    fileno: int
    wanted: int  # poll events: POLLIN, or POLLIN | POLLOUT; 0 when it has ended

    @property
    def blocks(self) -> bool:
        """Whether ``receipt`` has to ask the database."""
        ...

    def advance(self) -> int:
        """Goes on as far as it can without waiting, and returns the new ``wanted``."""
        ...

    def receipt(self) -> Receipt:
        """What booking did; called once, when nobody waits for ``fileno`` any more. Raises as ``Ledger.book``."""
        ...


class Ledger(Protocol):
    """What happened, durably."""

    def book(self, booking: Booking) -> Receipt:
        """Books all rows in one commit; see the numbered protocol in ``ledger/postgres.py``.
        Raises LedgerUnavailable: then nothing is booked."""
        ...

    def begin(self, booking: Booking) -> UnderWay | None:
        """The same for an event loop, which never waits: None where only ``book`` can do it."""
        ...

    def claim_event_times(self, deployment_id: int, source: Source, moments: Days) -> Days:
        """The first event times datetime64[us] (n,) ever claimed for each key of a ``request``
        source, or for the whole of any other source: ``moments`` where none was claimed before.

        A retry on another day so finds its row. Raises LedgerUnavailable.
        """
        ...

    def refuse(self, refusals: Refusals) -> int:
        """Books refusals in one commit and returns how many rows were added (the same
        identity, reason and content again adds none). Raises LedgerUnavailable."""
        ...

    def prediction(self, prediction_id: UUID) -> dict[str, Any]:
        """One prediction with typed features, reasons and outcome as plain values.
        Raises NotFound."""
        ...

    def predictions(self, where: PredictionFilter) -> list[dict[str, Any]]:
        """Newest events first. Raises InvalidQuery."""
        ...


class StreamLedger(Protocol):
    """The ledger as streams use it: rows and positions move together. All raise LedgerUnavailable."""

    def positions(self, place: Place) -> dict[int, int]:
        """The next offset of each partition that was ever read."""
        ...

    def begin_at(self, place: Place, offsets: Mapping[int, int]) -> None:
        """Gives partitions that were never read the position from which they will be; others keep theirs."""
        ...

    def book_read(self, booking: Booking | None, read: Read) -> Receipt | None:
        """Books rows, refusals and dead letters, and moves the positions, in one commit; None where nothing was to
        be booked. Raises Fenced where a position is not what the read started from: then nothing is booked.

        A replay's letters are marked and its audit is written in the same commit."""
        ...

    def moving(self, read: Read) -> AbstractContextManager[Any]:
        """A transaction in which the positions have moved, for what is recorded with them (see OutcomeStore.record).
        Raises Fenced."""
        ...

    def owed(
        self, place: Place, partitions: Sequence[int], most: int, but: Sequence[int] = ()
    ) -> Sequence[OwedReplies]:
        """Batches ``but`` these whose replies are owed by whoever reads these partitions, oldest first."""
        ...

    def replies(self, place: Place, owed: Sequence[OwedReplies]) -> Iterator[dict[str, Any]]:
        """The champion's answers of these batches, in the order they were booked."""
        ...

    def replies_sent(self, batches: Sequence[int]) -> None:
        """Their delivery was confirmed."""
        ...

    def letters(self, place: Place, partitions: Sequence[int], most: int, but: Sequence[int] = ()) -> Sequence[Letter]:
        """Dead letters ``but`` these that were not sent to their topic yet, oldest first."""
        ...

    def letters_sent(self, letters: Sequence[int]) -> None:
        """Their delivery was confirmed."""
        ...

    def letter(self, letter_id: int) -> tuple[Place, Letter]:
        """One dead letter with its content, and where it was read. Raises NotFound."""
        ...


class OutcomeStore(Protocol):
    """What really happened, as it became known."""

    def record(self, outcomes: OutcomeBatch, within: Any = None) -> OutcomeReceipt:
        """Adds what was not said before in one commit, or ``within`` a transaction of ``StreamLedger.moving``. What is
        true is what was observed last, whatever the order of arrival. Raises LedgerUnavailable."""
        ...

    def record_all(self, batches: Sequence[OutcomeBatch], within: Any = None) -> OutcomeReceipt:
        """The same for several labels, in one commit."""
        ...


class MeasurementStore(Protocol):
    """What was measured, as it was known. Everything is only ever added. All raise LedgerUnavailable."""

    def versions(self, deployment_id: int) -> Sequence[tuple[str, str]]:
        """Name and version of every model version that ever played a part in the deployment."""
        ...

    def counted(self, deployment_id: int) -> Mapping[date, tuple[int, datetime]]:
        """Rows of each event day, over all versions and roles, and when they were last counted."""
        ...

    def changed(
        self, contract: str, first: date, last: date, known_by: KnownBy, at: datetime
    ) -> Mapping[date, Changed]:
        """Of each event day with outcomes, when the last of those known at the instant became known."""
        ...

    def measured(self, deployment_id: int, known_by: KnownBy, at: datetime) -> Mapping[tuple[WindowKind, date], Run]:
        """The last run of each window (kind, first day) that did not fail, with the knowledge of ``at`` or less."""
        ...

    def record(self, run: Run, measurements: Sequence[Measurement]) -> int:
        """Adds a run and its figures in one commit, and returns how many were new: a figure that was measured with
        the same knowledge is there already."""
        ...

    def listed(self, where: MeasurementFilter) -> list[dict[str, Any]]:
        """Measurements, latest windows first. Raises InvalidQuery."""


class ActionStore(Protocol):
    """What was done about items."""

    def record(self, given: ActionsOf) -> ActionReceipt:
        """Adds actions whose key is new, all in one commit. Raises Conflict where a key has another action, NotFound
        for a prediction that the deployment has not, LedgerUnavailable."""
        ...


class QueryRunner(Protocol):
    """Reads views under the read-only role, bounded in time and rows."""

    def rows(
        self,
        sql_text: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        max_rows: int | None = None,
    ) -> list[dict[str, Any]]:
        """Runs one SELECT. Raises InvalidQuery (also beyond ``timeout_s`` or ``max_rows``), LedgerUnavailable."""
        ...

    def stream(self, sql_text: str, parameters: Mapping[str, Any] | None = None) -> Iterator[tuple[Any, ...]]:
        """Rows through a server-side cursor, in bounded memory."""
        ...


class Clock(Protocol):
    """Time as an argument, so that tests and replays can set it."""

    def __call__(self) -> datetime:
        """Now, in UTC with zone."""
        ...


class Outbox(Protocol):
    """Messages that are to be sent, committed together with what they tell of."""

    def add(self, messages: Sequence[Message], within: Any) -> int:
        """Adds those whose key is new, in the transaction of the connection ``within``; returns how many were new."""
        ...


class Notifier(Protocol):
    """One way to reach somebody: an SMTP server, a webhook, a topic."""

    def send(self, message: Message) -> None:
        """Returns when the other side has taken it. Raises Undelivered, which says whether trying again may help."""
        ...


class Gauges(Protocol):
    """Where processes say how they are."""

    def report(self, gauges: Sequence[Gauge]) -> None:
        """Adds them as of now. Raises LedgerUnavailable."""
        ...
