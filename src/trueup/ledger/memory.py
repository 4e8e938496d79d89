"""The ledger's fake: the same promises in a dictionary, for tests without PostgreSQL.

Keeps no outcomes and no partitions. ``tests/contract/test_ledger_contract.py`` holds it
and the real one to the same sentences.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import (
    Answers,
    Booked,
    Booking,
    Receipt,
    Refusal,
    RefusalReason,
    Refusals,
    Role,
    Source,
    claims_each_key,
)
from trueup.domain.contract import Contract, Storage
from trueup.domain.gauge import Gauge
from trueup.domain.stream import Letter, OwedReplies, Place, Read
from trueup.errors import Fenced, InvalidQuery, LedgerUnavailable, no_letter, no_prediction
from trueup.ledger.finding import named_fields
from trueup.ledger.identity import prediction_ids
from trueup.ledger.postgres import at_times, conflicts, withhold
from trueup.ports import ModelRegistry, PredictionFilter
from trueup.settings import Limits


class MemoryLedger:
    """One lock instead of transactions."""

    def __init__(self, registry: ModelRegistry, limits: Limits) -> None:
        self._registry = registry
        self._limits = limits
        self._rows: dict[bytes, dict[str, Any]] = {}
        self._claims: dict[tuple[int, str, str], np.datetime64] = {}
        self._batches = 0
        self._lock = threading.Lock()
        self.refused: list[tuple[str, Refusal]] = []

    def book(self, booking: Booking) -> Receipt:
        """Books all rows, or none when an event lies out of bounds."""
        if booking.claims:
            when = self.claim_event_times(booking.deployment_id, booking.source, booking.event_time)
            booking = at_times(booking, when)
        self._check_days(booking.event_time)
        ids = {s.role: prediction_ids(booking.deployment_id, s.role, booking.source.name, booking.source.keys)
               for s in booking.scored}  # fmt: skip
        booked = np.full(len(booking), Booked.NEW, np.int8)
        answers = booking.scored[0].answers
        with self._lock:
            self._mark(booking, ids[Role.CHAMPION], booked)
            withhold(booking, booked)
            for place in np.flatnonzero(booked == Booked.NEW).tolist():
                self._add(booking, place, {role: of_role[place] for role, of_role in ids.items()})
            for place in np.flatnonzero(booked == Booked.REPEATED).tolist():
                first = self._rows[ids[Role.CHAMPION][place].tobytes()]
                answers = _with(answers, place, first["answers"])
            new = bool((booked == Booked.NEW).any())
            self._batches += new
        first_moment = booking.event_time[0].astype("datetime64[us]").item()
        self.refuse(
            Refusals(booking.deployment_id, booking.source, first_moment, first_moment, conflicts(booking, booked))
        )
        return Receipt(self._batches if new else None, ids[Role.CHAMPION], booked, answers)

    def _mark(self, booking: Booking, ids: NDArray[np.uint8], booked: NDArray[np.int8]) -> None:
        """What is there already, in the ledger or in an earlier row of the batch."""
        first_places: dict[bytes, int] = {}
        for place, one in enumerate(ids):
            held = self._rows.get(one.tobytes())
            before = first_places.setdefault(one.tobytes(), place)
            if held is not None:
                same = held["contract"] != booking.columns.contract or held["digest"] == booking.digests[place]
            elif before != place:
                same = booking.digests[before] == booking.digests[place]
            else:
                continue
            booked[place] = Booked.REPEATED if same else Booked.CONFLICT

    def begin(self, booking: Booking) -> None:
        """There is nothing to wait for."""
        return

    def claim_event_times(
        self, deployment_id: int, source: Source, moments: NDArray[np.datetime64]
    ) -> NDArray[np.datetime64]:
        """The first moment claimed for each key of a request, or for the whole of another source."""
        with self._lock:
            found = [
                self._claims.setdefault(
                    (deployment_id, source.name, key if claims_each_key(source.name) else ""), moment
                )
                for key, moment in zip(source.keys, moments.astype("datetime64[us]"), strict=True)
            ]
        return np.array(found, "datetime64[us]")

    def refuse(self, refusals: Refusals) -> int:
        """Adds refusals; the same again adds nothing."""
        with self._lock:
            added = [r for r in refusals.rows if (refusals.source.name, r) not in self.refused]
            self.refused += [(refusals.source.name, r) for r in added]
        return len(added)

    def prediction(self, prediction_id: UUID) -> dict[str, Any]:
        """One prediction with named features and reasons."""
        row = self._rows.get(prediction_id.bytes)
        if row is None:
            raise no_prediction()
        contract: Contract = row["contract"]
        reasons = row["answers"].reasons
        explained = reasons is not None and reasons.present[0]
        return {
            **self._listed(row),
            "source": row["source"].name,
            "source_key": row["source_key"],
            "fields": named_fields(contract, row["stored"]),
            "reasons": [
                {"field": contract.features[place].name, "contribution": value}
                for place, value in zip(reasons.fields[0].tolist(), reasons.values[0].tolist(), strict=True)
            ]
            if explained
            else [],
        }

    def predictions(self, where: PredictionFilter) -> list[dict[str, Any]]:
        """Predictions, newest events first."""
        if not 1 <= where.limit <= self._limits.listed_rows:
            raise InvalidQuery(f"limit must lie between 1 and {self._limits.listed_rows}")
        listed = [self._listed(row) for row in self._rows.values()]
        chosen = [row for row in listed if _fits(row, where)]
        return sorted(chosen, key=lambda r: (-r["event_time"].astype(np.int64), r["prediction_id"]))[: where.limit]

    def _add(self, booking: Booking, place: int, ids: dict[Role, NDArray[np.uint8]]) -> None:
        columns = booking.columns.take(np.array([place]))
        nulls = {Storage.FLOATS: columns.float_nulls, Storage.INTS: columns.int_nulls, Storage.TEXTS: None}
        stored = {}
        for storage, block in zip(Storage, (columns.floats, columns.ints, columns.texts), strict=True):
            mask = nulls[storage]
            gone = np.zeros(block.shape[1], bool) if mask is None else mask[0]
            stored[storage.value] = [None if g else v for g, v in zip(gone, block[0].tolist(), strict=True)]
        for scored in booking.scored:
            self._rows[ids[scored.role].tobytes()] = {
                "prediction_id": UUID(bytes=ids[scored.role].tobytes()),
                "deployment_id": booking.deployment_id,
                "model_version_id": scored.model_version_id,
                "contract": booking.columns.contract,
                "role": scored.role,
                "source": booking.source,
                "source_key": booking.source.keys[place],
                "business_key": booking.business_keys[place],
                "event_time": booking.event_time[place],
                "digest": booking.digests[place],
                "answers": scored.answers.take(np.array([place])),
                "stored": stored,
            }

    def _listed(self, row: dict[str, Any]) -> dict[str, Any]:
        deployment = next(d for d in self._registry.deployments() if d.deployment_id == row["deployment_id"])
        answers: Answers = row["answers"]
        score = float(answers.score[0])
        cost = None if answers.expected_cost is None else float(answers.expected_cost[0])
        return {
            "prediction_id": row["prediction_id"],
            "deployment": deployment.name,
            "role": str(row["role"]),
            "status": str(answers.status[0]),
            "business_key": row["business_key"],
            "event_time": row["event_time"],
            "score": None if np.isnan(score) else score,
            "class": None if answers.classes is None else answers.classes[0],
            "decision": None if answers.decision is None else answers.decision[0],
            "expected_cost": None if cost is None or np.isnan(cost) else cost,
        }

    def _check_days(self, event_time: NDArray[np.datetime64]) -> None:
        days = (event_time.astype("datetime64[D]") - np.datetime64("now", "D")).astype(int)
        if (days < -self._limits.event_past_days).any() or (days > self._limits.event_future_days).any():
            raise InvalidQuery("an event lies too far in the past or in the future")


def _with(answers: Answers, place: int, first: Answers) -> Answers:
    """The answers with another one's only row in one place; ``first`` has the columns that ``answers`` has."""
    changes = {}
    for name in ("status", "score", "outputs", "classes", "decision", "expected_cost"):
        values, other = getattr(answers, name), getattr(first, name)
        if values is None:
            continue
        same = other is not None and other.shape[1:] == values.shape[1:]
        if same or name == "outputs":
            changes[name] = values.copy()
            changes[name][place] = other[0] if same else np.nan
    return replace(answers, **changes)


class MemoryStreams(MemoryLedger):
    """The same for streams. ``away`` True: nobody answers."""

    def __init__(self, registry: ModelRegistry, limits: Limits) -> None:
        super().__init__(registry, limits)
        self.away = False
        self._moving = threading.Lock()
        self.reads: list[Read] = []
        self._positions: dict[tuple[Place, int], int] = {}
        self._owed: dict[int, tuple[Place, int, list[bytes]]] = {}
        self._letters: dict[int, tuple[Place, Letter]] = {}
        self._sent: set[int] = set()
        self.replayed: set[int] = set()
        self.audit: list[tuple[str, str, tuple[int, ...]]] = []

    def positions(self, place: Place) -> dict[int, int]:
        """The next offset of each partition that was ever read."""
        self._answer()
        return {partition: offset for (of, partition), offset in self._positions.items() if of == place}

    def begin_at(self, place: Place, offsets: Mapping[int, int]) -> None:
        """Those without a position get one."""
        self._answer()
        for partition, offset in offsets.items():
            self._positions.setdefault((place, partition), offset)

    def book_read(self, booking: Booking | None, read: Read) -> Receipt | None:
        """Checks every position before anything else."""
        with self._moving:
            return self._book_read(booking, read)

    def _book_read(self, booking: Booking | None, read: Read) -> Receipt | None:
        self._answer()
        if any(self._positions.get((read.place, p.partition)) != p.expected for p in read.portions):
            raise Fenced("another owner has moved on")
        receipt = None if booking is None else self.book(booking)
        for portion in read.portions:
            self._positions[read.place, portion.partition] = portion.next_offset
        for refusals in read.refused:
            self.refuse(refusals)
        if read.portions:
            self.reads.append(read)
        self._keep(read, booking, receipt)
        return receipt

    @contextmanager
    def moving(self, read: Read) -> Iterator[None]:
        """Moves the positions when the block has ended well."""
        with self._moving:
            yield
            self._book_read(None, read)

    def _keep(self, read: Read, booking: Booking | None, receipt: Receipt | None) -> None:
        unanswered = []
        if receipt is not None:
            for place in np.flatnonzero(receipt.booked >= Booked.CONFLICT).tolist():
                unanswered.append((place, RefusalReason.CONFLICT, "the identity holds other content"))
        known = {(of, letter.partition, letter.offset) for of, letter in self._letters.values()}
        for letter in read.letters(unanswered):
            if (read.place, letter.partition, letter.offset) not in known:
                number = len(self._letters) + 1
                self._letters[number] = (read.place, replace(letter, letter_id=number))
        if receipt is not None and receipt.batch_id is not None and read.owes_replies:
            new = [receipt.ids[place].tobytes() for place in np.flatnonzero(receipt.booked == Booked.NEW).tolist()]
            self._owed[receipt.batch_id] = (read.place, read.owner, new)
        if read.replay is not None:
            self.replayed |= set(read.replay.answered(unanswered))
            self.audit.append((read.replay.by, read.replay.deployment, tuple(sorted(read.replay.letters))))

    def owed(
        self, place: Place, partitions: Sequence[int], most: int, but: Sequence[int] = ()
    ) -> Sequence[OwedReplies]:
        """Oldest first."""
        self._answer()
        found = [n for n, (of, partition, _) in sorted(self._owed.items()) if of == place and partition in partitions]
        wanted = [number for number in found if number not in but]
        return [OwedReplies(number, date.min, date.max) for number in wanted[:most]]

    def replies(self, place: Place, owed: Sequence[OwedReplies]) -> Iterator[dict[str, Any]]:
        """The champion's answers of these batches."""
        self._answer()
        versions = {v.model_version_id: v.version for d in self._registry.deployments() for v in (d.champion,)}
        for one in owed:
            for number in self._owed[one.batch_id][2]:
                row = self._rows[number]
                listed = self._listed(row)
                yield {
                    **listed,
                    "batch_id": one.batch_id,
                    "source": row["source"].name,
                    "source_key": row["source_key"],
                    "outputs": None,
                    "model_version": versions.get(row["model_version_id"], ""),
                }

    def replies_sent(self, batches: Sequence[int]) -> None:
        """They are owed no more."""
        self._answer()
        for number in batches:
            self._owed.pop(number, None)

    def letters(self, place: Place, partitions: Sequence[int], most: int, but: Sequence[int] = ()) -> Sequence[Letter]:
        """Oldest first."""
        self._answer()
        found = [letter for of, letter in self._letters.values() if of == place and letter.partition in partitions]
        return [letter for letter in found if letter.letter_id not in self._sent and letter.letter_id not in but][:most]

    def letters_sent(self, letters: Sequence[int]) -> None:
        """They are sent no more."""
        self._answer()
        self._sent |= set(letters)

    def letter(self, letter_id: int) -> tuple[Place, Letter]:
        """One with its content."""
        self._answer()
        if letter_id not in self._letters:
            raise no_letter()
        return self._letters[letter_id]

    def _answer(self) -> None:
        if self.away:
            raise LedgerUnavailable("the ledger's database does not answer")


def _fits(row: dict[str, Any], where: PredictionFilter) -> bool:
    day = row["event_time"].astype("datetime64[D]").item()
    return (
        all(getattr(where, name) in (None, row[name]) for name in ("deployment", "business_key", "status", "decision"))
        and (where.deployments is None or row["deployment"] in where.deployments)
        and (where.event_from is None or day >= where.event_from)
        and (where.event_until is None or day <= where.event_until)
        and (where.min_score is None or (row["score"] is not None and row["score"] >= where.min_score))
    )


class MemoryGauges:
    """What was reported, in order."""

    def __init__(self) -> None:
        self.reported: list[Gauge] = []

    def report(self, gauges: Sequence[Gauge]) -> None:
        """Adds them."""
        self.reported += gauges
