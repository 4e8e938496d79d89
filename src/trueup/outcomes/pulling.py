"""Pulling outcomes from source databases on a schedule.

1. look    where the pull stands: its turn, and the moment up to which its source was read
2. read    rows from that moment on, less the overlap, oldest first, batch by batch
3. sort    rows that are outcomes from those that are not
4. commit  outcomes, refused rows and the next turn, in one transaction

Killed after any step, the next run starts where the last commit was. What is read again says the same of the same
moment and changes nothing. Of two at once the slower one is fenced off by the turn. The moment moves to the newest one
that was read *in full*: rows of the same moment may follow in the next batch.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import numpy as np
import psycopg

from trueup.contracts.decoding import Decoder
from trueup.domain.batch import Decoded, OutcomeBatch
from trueup.domain.contract import Contract
from trueup.domain.job import Job, Missed
from trueup.errors import Fenced, InvalidInput, NotFound, TimedOut
from trueup.outcomes.decoding import fitting, outcome_batches, outcome_contract, without
from trueup.outcomes.postgres import PostgresOutcomes
from trueup.postgres import Pool
from trueup.settings import Limits, Pulling

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_STANDS = "SELECT turn, since FROM ledger.outcome_pulls WHERE name = %s"
_MOVE = "SELECT ledger.move_pull(%s, %s, %s, %s, %s)"
_REFUSE = """
    INSERT INTO ledger.outcome_refusals (contract_name, source, detail, content_digest)
    VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING
"""


@dataclass
class Pulled:
    """What one run did, so far."""

    rows: int = 0
    first: int = 0
    revised: int = 0
    refused: int = 0

    def __str__(self) -> str:
        return f"{self.rows} rows: {self.first} first outcomes, {self.revised} revised, {self.refused} refused"


@dataclass(frozen=True, slots=True)
class _Stand:
    turn: int
    since: datetime | None


class Pulls:
    """The pulls that the settings declare."""

    def __init__(
        self,
        declared: Mapping[str, Pulling],
        writer: Pool,
        store: PostgresOutcomes,
        contract: Callable[[str], Contract],
        limits: Limits,
    ) -> None:
        self._declared = declared
        self._writer = writer
        self._store = store
        self._contract = contract
        self._limits = limits

    def jobs(self) -> list[Job]:
        """Every pull as scheduled work; a missed run needs no second one, because the next reads on from the last."""
        return [
            Job("pull", name, pull.schedule, partial(self._due, name), Missed.LATEST)
            for name, pull in sorted(self._declared.items())
        ]

    def run(self, name: str) -> Pulled:
        """Reads what is new and records it.

        Raises NotFound, InvalidFile, Unavailable, TimedOut, LedgerUnavailable, and Fenced where another puller was
        faster. What was committed before stays.
        """
        from trueup.outcomes.sqlalchemy import outcome_rows, query_of  # which takes a while to load

        pull = self._declared.get(name)
        if pull is None:
            raise NotFound("no such pull", next_step="TRUEUP_PULLS declares them")
        contract = self._contract(pull.contract)
        shape = outcome_contract(contract, pull.label)
        decoder, query = Decoder(shape, self._limits), query_of(pull.query)
        stand, done, ends = self._stand(name), Pulled(), time.monotonic() + pull.timeout_s
        began, reached = stand.since, Reached()
        is_cut = False
        since = _BEGINNING if began is None else max(began - timedelta(seconds=pull.overlap_s), _BEGINNING)
        for rows, is_last in _with_last(outcome_rows(pull, query, shape, since)):
            sorted_ = _dated(fitting(decoder.each(rows), contract, pull.label))
            reached.add(sorted_)
            is_cut = done.rows + len(rows) >= pull.most_rows and not is_last
            until = reached.newest if is_last else reached.in_full
            batches = _batches(contract, pull, name, sorted_)
            stand = self._commit(name, pull, stand, until, batches, _refusals(rows, sorted_), done, len(rows))
            if is_cut:
                break
            if time.monotonic() > ends and not is_last:
                raise TimedOut("a pull took too long; the next goes on from here", next_step="raise its timeout_s")
        if is_cut and stand.since == began:
            raise InvalidInput("a pull cannot move on: too many rows of one moment", next_step="raise its most_rows")
        return done

    def _due(self, name: str, _: datetime) -> str:
        return str(self.run(name))

    def _stand(self, name: str) -> _Stand:
        with self._writer.connection() as connection:
            row = connection.execute(_STANDS, (name,)).fetchone()
        return _Stand(0, None) if row is None else _Stand(*row)

    def _commit(
        self,
        name: str,
        pull: Pulling,
        stand: _Stand,
        until: datetime | None,
        batches: Sequence[OutcomeBatch],
        refused: Sequence[tuple[str, bytes]],
        done: Pulled,
        rows: int,
    ) -> _Stand:
        """Step 4, and adds what it did to ``done``."""
        with self._writer.transaction() as connection:
            try:
                connection.execute(_MOVE, (name, stand.turn, until, rows, len(refused)))
            except psycopg.errors.ObjectNotInPrerequisiteState:
                raise Fenced("another puller has moved on") from None
            receipt = self._store.record_all(batches, connection)
            if refused:
                with connection.cursor() as cursor:
                    cursor.executemany(_REFUSE, [(pull.contract, f"pull:{name}", *one) for one in refused])
        done.rows, done.refused = done.rows + rows, done.refused + len(refused)
        done.first, done.revised = done.first + receipt.first, done.revised + receipt.revised
        moments = [moment for moment in (stand.since, until) if moment is not None]
        return _Stand(stand.turn + 1, max(moments, default=None))


class Reached:
    """How far the moments of the rows have come; they must not go back."""

    def __init__(self) -> None:
        self.newest: datetime | None = None
        self.in_full: datetime | None = None  # the newest moment behind which another one was read

    def add(self, decoded: Decoded) -> None:
        """Raises InvalidInput where the source does not give its rows in the order of their moments."""
        found = np.unique(decoded.columns.column("observed_at")).astype("datetime64[us]").tolist()
        moments = [moment.replace(tzinfo=UTC) for moment in found]
        if moments and self.newest is not None and moments[0] < self.newest:
            raise InvalidInput(
                "the source of a pull orders moments otherwise than time does",
                next_step="give observed_at as a timestamp, or as text of one ISO form",
            )
        for moment in moments[-2:]:
            if self.newest is None or moment > self.newest:
                self.in_full, self.newest = self.newest, moment


def _with_last(batches: Iterator[Sequence[Any]]) -> Iterator[tuple[Sequence[Any], bool]]:
    """Each batch, and whether it is the last one."""
    held = next(batches, None)
    while held is not None:
        following = next(batches, None)
        yield held, following is None
        held = following


def _dated(decoded: Decoded) -> Decoded:
    """Without rows that have no moment: nothing would tell whether they are read again."""
    return without(decoded, [(decoded.columns.nulls("observed_at"), "observed_at", "null", "a moment")])


def _batches(contract: Contract, pull: Pulling, name: str, decoded: Decoded) -> list[OutcomeBatch]:
    return outcome_batches(contract, decoded.columns, source=f"pull:{name}", now=datetime.now(UTC), label=pull.label)


def _refusals(rows: Sequence[Mapping[str, Any]], decoded: Decoded) -> list[tuple[str, bytes]]:
    """What was wrong (fields and codes), and a digest of each row that is no outcome."""
    faults: dict[int, list[str]] = {}
    for error in decoded.errors:
        faults.setdefault(error.row, []).append(f"{error.field}: {error.code}")
    return [(", ".join(told)[:500], _digest(rows[row])) for row, told in sorted(faults.items())]


def _digest(row: Mapping[str, Any]) -> bytes:
    content = msgspec.json.encode(sorted((name, str(value)) for name, value in row.items()))
    return hashlib.blake2b(content, digest_size=16).digest()
