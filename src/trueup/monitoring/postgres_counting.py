"""Counting predictions as they are booked: every row once, whoever counts and however often it is stopped.

1. *lock*      one counts a version at a time; another waits, and then finds what is left
2. *snapshot*  everything that follows sees the ledger at one instant
3. *choose*    batches that are booked and not counted: numbers beyond the last one looked at, and numbers before it
               that were absent then (numbers are handed out ahead, so a batch can be committed after a later one)
4. *count*     the rows of these batches, block by block
5. *add*       the counts to those of their days, and the batches to those that are counted, in one commit

A stop before the commit leaves nothing, a stop after it leaves all. A batch is committed together with its rows, so a
number that is seen has all of its rows in the snapshot. Without the lock two counters would still count once: the
second to commit fails, as the snapshot it counted from is not the newest any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from psycopg import IsolationLevel
from psycopg.types.multirange import Int8Multirange, Multirange
from psycopg.types.range import Int8Range

from trueup.domain.batch import Ints
from trueup.domain.contract import Contract
from trueup.domain.profiling import Counted, CountKey, References
from trueup.errors import Unavailable
from trueup.monitoring.bounding import within
from trueup.monitoring.copied import Gathered, gathered
from trueup.monitoring.counting import Tally
from trueup.monitoring.selecting import Selection, selection
from trueup.postgres import Connection, Pool
from trueup.settings import Monitoring

_PAGE = 100_000  # batches looked at in one transaction
_LOCK = "SELECT pg_advisory_lock(hashtextextended(%s, 7238149))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended(%s, 7238149))"
_PROGRESS = "SELECT upto, absent FROM ledger.profile_progress WHERE deployment_id = %s AND model_version_id = %s"
_LATE = """
    SELECT b.batch_id, CASE WHEN b.deployment_id = %(deployment)s THEN b.predictions ELSE 0 END
    FROM unnest(%(absent)s::int8multirange) AS absent(range)
    CROSS JOIN LATERAL (
        SELECT * FROM ledger.batches b
        WHERE b.batch_id >= lower(absent.range) AND b.batch_id < upper(absent.range) ORDER BY b.batch_id OFFSET 0
    ) b
    ORDER BY b.batch_id
"""
_NEW = """
    SELECT batch_id, CASE WHEN deployment_id = %(deployment)s THEN predictions ELSE 0 END
    FROM ledger.batches WHERE batch_id > %(upto)s ORDER BY batch_id LIMIT %(page)s
"""
_ROWS = """
    COPY (SELECT {columns} FROM ledger.predictions p
          WHERE p.deployment_id = %(deployment)s AND p.model_version_id = %(version)s AND p.contract_id = %(contract)s
            AND {batches}) TO STDOUT (FORMAT binary)
"""
_ADD = """
    INSERT INTO ledger.profile_counts AS c
        (deployment_id, model_version_id, role, event_day, field, slice, counts, n, missing, lowest, highest,
         out_of_range, unseen, late, counted_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, now())
    ON CONFLICT (deployment_id, model_version_id, role, event_day, field, slice) DO UPDATE SET
        counts = (SELECT coalesce(array_agg(u.known + u.more ORDER BY u.place), '{}')
                  FROM unnest(c.counts, excluded.counts) WITH ORDINALITY AS u(known, more, place)),
        n = c.n + excluded.n, missing = c.missing + excluded.missing,
        lowest = least(c.lowest, excluded.lowest), highest = greatest(c.highest, excluded.highest),
        out_of_range = c.out_of_range + excluded.out_of_range, unseen = c.unseen + excluded.unseen,
        late = c.late + excluded.late, counted_at = excluded.counted_at
"""
_MOVE = """
    INSERT INTO ledger.profile_progress AS g (deployment_id, model_version_id, upto, absent, rows, counted_at)
    VALUES (%(deployment)s, %(version)s, %(upto)s, %(absent)s, %(rows)s, now())
    ON CONFLICT (deployment_id, model_version_id) DO UPDATE SET
        upto = excluded.upto, absent = excluded.absent, rows = g.rows + excluded.rows, counted_at = excluded.counted_at
"""

Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Counting:
    """What is counted: a version within a deployment, with its frozen reference."""

    deployment_id: int
    model_version_id: int
    contract_id: int
    contract: Contract
    references: References
    late_after_days: int


@dataclass(frozen=True, slots=True, eq=False)
class Portion:
    """Batches counted in one commit: those of ours beyond ``after`` up to ``upto``, and ``late`` ones before it.

    ``absent`` (k, 2) are ranges [first, end) of numbers up to ``upto`` that no batch has yet.
    """

    after: int
    upto: int
    late: Sequence[int]
    absent: Ints
    rows: int


class PostgresCounting:
    """Counts through the writer role."""

    def __init__(self, writer: Pool, settings: Monitoring) -> None:
        self._writer = writer
        self._settings = settings

    def count(self, what: Counting, told: Told = lambda rows: None) -> int:
        """Counts all that is booked and not counted yet, and returns how many rows that were. ``told`` hears how many
        rows were counted as it goes on. Raises Unavailable where another process counts for too long, TimedOut."""
        chosen = selection(what.contract, what.references.fields, what.references.slices, what.late_after_days)
        total = 0
        with self._writer.connection() as connection, self._alone(connection, what):  # 1 lock
            while True:
                with _snapshot(connection), within(connection, self._settings.statement_timeout_s):  # 2 snapshot
                    portion = self._choose(connection, what)  # 3 choose
                    if portion is None:
                        return total
                    tally = self._tally(connection, what, chosen, portion, told)  # 4 count
                    self._add(connection, what, portion, tally)  # 5 add
                total += tally.rows

    @contextmanager
    def _alone(self, connection: Connection, what: Counting) -> Iterator[None]:
        name = f"{what.deployment_id}/{what.model_version_id}"
        connection.execute("SELECT set_config('lock_timeout', %s, false)", (f"{int(self._settings.wait_s * 1000)}ms",))
        try:
            connection.execute(_LOCK, (name,))
        except psycopg.errors.LockNotAvailable:
            raise Unavailable("another process counts the same predictions", next_step="try again later") from None
        finally:
            connection.execute("SET lock_timeout = 0")
        try:
            yield
        finally:
            if not connection.closed:
                connection.execute(_UNLOCK, (name,))

    def _choose(self, connection: Connection, what: Counting) -> Portion | None:
        found = connection.execute(_PROGRESS, (what.deployment_id, what.model_version_id)).fetchone()
        upto, absent = (0, np.zeros((0, 2), np.int64)) if found is None else (found[0], _ranges(found[1]))
        most = self._settings.rows_at_once
        of = {"deployment": what.deployment_id, "upto": upto, "page": _PAGE, "absent": _multirange(absent)}
        late = _within(connection.execute(_LATE, of).fetchall(), most)
        new = _within(connection.execute(_NEW, of).fetchall(), most - int(late[:, 1].sum()))
        if not len(late) and not len(new):
            return None
        last = int(new[-1, 0]) if len(new) else upto
        seen = np.concatenate([late[:, 0], new[:, 0]])
        still = _without(np.concatenate([absent, [[upto + 1, last + 1]]]), seen)
        ours = late[late[:, 1] > 0, 0].tolist()
        return Portion(upto, last, ours, still, int(late[:, 1].sum() + new[:, 1].sum()))

    def _tally(self, connection: Connection, what: Counting, chosen: Selection, portion: Portion, told: Told) -> Tally:
        """The rows are read here and counted by a thread, which the server and the network need not wait for."""
        tally = Tally(what.references, chosen)

        def counted(block: Gathered) -> int:
            rows = chosen.layout.read(block)
            tally.add(rows)
            return len(rows)

        with ThreadPoolExecutor(1, "trueup-counting") as counter:
            under_way: Future[int] | None = None
            for block in self._blocks(connection, what, chosen, portion):
                if under_way is not None:
                    told(under_way.result())
                under_way = counter.submit(counted, block)
            if under_way is not None:
                told(under_way.result())
        return tally

    def _blocks(
        self, connection: Connection, what: Counting, chosen: Selection, portion: Portion
    ) -> Iterator[Gathered]:
        wanted = [] if not portion.rows else ["p.batch_id > %(after)s AND p.batch_id <= %(upto)s"]
        if portion.late:
            wanted.append("p.batch_id = ANY (%(batches)s)")
        for batches in wanted:
            query = _ROWS.format(columns=chosen.text, batches=batches)
            values = {
                **chosen.parameters,
                "deployment": what.deployment_id,
                "version": what.model_version_id,
                "contract": what.contract_id,
                "after": portion.after,
                "upto": portion.upto,
                "batches": portion.late,
            }
            with connection.cursor().copy(query.encode(), values) as copy:
                yield from gathered(copy, chosen.layout, self._settings.block_rows)

    def _add(self, connection: Connection, what: Counting, portion: Portion, tally: Tally) -> None:
        of = (what.deployment_id, what.model_version_id)
        if tally.counted:
            rows = [
                _row(of, key, counted)
                for key, counted in sorted(tally.counted.items(), key=lambda item: _order(item[0]))
            ]
            connection.cursor().executemany(_ADD, rows)
        connection.execute(
            _MOVE,
            {
                "deployment": of[0],
                "version": of[1],
                "upto": portion.upto,
                "absent": _multirange(portion.absent),
                "rows": tally.rows,
            },
        )


@contextmanager
def _snapshot(connection: Connection) -> Iterator[None]:
    """One transaction that sees one instant. It fails where somebody else has moved what it is about to move."""
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    try:
        with connection.transaction():
            yield
    finally:
        connection.isolation_level = None


def _order(key: CountKey) -> tuple[Any, ...]:
    return key.event_day, key.role, key.field, key.slice


def _row(of: tuple[int, int], key: CountKey, counted: Counted) -> tuple[Any, ...]:
    has_values = counted.lowest <= counted.highest
    return (
        *(*of, key.role, key.event_day, key.field, key.slice, counted.counts.tolist(), counted.n, counted.missing),
        *((counted.lowest, counted.highest) if has_values else (None, None)),
        *(counted.out_of_range, counted.unseen, counted.late),
    )


def _within(batches: Sequence[tuple[Any, ...]], most: int) -> Ints:
    """Batches (n, 2) of number and rows, as many of the first as have ``most`` rows together; the first in any case."""
    found = np.array(batches, np.int64).reshape(-1, 2)
    before = np.cumsum(found[:, 1]) - found[:, 1]
    return found[before < max(most, 0)] if len(found) else found


def _without(ranges: Ints, numbers: Ints) -> Ints:
    """Ranges (n, 2) of [first, end) with these numbers cut out of them."""
    ranges = ranges[ranges[:, 0] < ranges[:, 1]]
    numbers = np.unique(numbers)
    of = np.searchsorted(ranges[:, 0], numbers, "right") - 1  # each number lies in one of the ranges
    bounds = np.concatenate([ranges[:, 0], numbers + 1]), np.concatenate([ranges[:, 1], numbers])
    assert not len(numbers) or bool((numbers < ranges[of, 1]).all())
    pieces = np.stack([np.sort(bounds[0]), np.sort(bounds[1])], axis=1)
    return np.asarray(pieces[pieces[:, 0] < pieces[:, 1]], np.int64)


def _ranges(absent: Multirange[int]) -> Ints:
    return np.array([(one.lower, one.upper) for one in absent], np.int64).reshape(-1, 2)


def _multirange(ranges: Ints) -> Multirange[int]:
    return Int8Multirange([Int8Range(first, end) for first, end in ranges.tolist()])
