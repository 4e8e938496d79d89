"""Runs of reports in PostgreSQL: what they had stays as it was."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from trueup.domain.message import Message
from trueup.domain.report import Asked, Look, ReportRun, Result
from trueup.ports import Outbox
from trueup.postgres import Pool
from trueup.reports.store import no_outbox, no_run

_NUMBER = "SELECT nextval('ledger.report_runs_run_id_seq')"
_ADD = """
    INSERT INTO ledger.report_runs (run_id, name, title, file_digest, query_digests, parameters, as_known_at, known_by,
                                    asked_by, due_at, started_at, duration_ms, row_counts, is_cut, error, body)
    OVERRIDING SYSTEM VALUE
    VALUES (%(run_id)s, %(name)s, %(title)s, %(file_digest)s, %(query_digests)s, %(parameters)s, %(as_known_at)s,
            %(known_by)s, %(asked_by)s, %(due_at)s, %(started_at)s, %(duration_ms)s, %(row_counts)s, %(is_cut)s,
            %(error)s, %(body)s)
    ON CONFLICT (name, due_at) WHERE due_at IS NOT NULL AND error IS NULL DO NOTHING
"""
_ONE = """
    SELECT run_id, name, title, file_digest, parameters, as_known_at, known_by, asked_by, due_at, started_at,
           duration_ms, error, body
    FROM ledger.report_runs WHERE run_id = %s
"""
_DONE = "SELECT 1 FROM ledger.report_runs WHERE name = %s AND due_at = %s AND error IS NULL"


@dataclass(frozen=True, slots=True)
class _Body:
    """What is kept of a run beside its row."""

    look: Look
    results: tuple[Result, ...]
    parameters: dict[str, Any]  # in the file's order, which a column of jsonb does not keep


_DECODER = msgspec.json.Decoder(_Body)


class PostgresRuns:
    """A RunStore of rows; messages of a run are committed with it."""

    def __init__(self, writer: Pool, outbox: Outbox | None = None) -> None:
        self._writer = writer
        self._outbox = outbox

    def next_id(self) -> int:
        """As in RunStore."""
        with self._writer.transaction() as connection:
            (row,) = connection.execute(_NUMBER).fetchall()
        return int(row[0])

    def add(self, run: ReportRun, messages: Sequence[Message] = ()) -> bool:
        """As in RunStore."""
        if messages and self._outbox is None:
            raise no_outbox()
        with self._writer.transaction() as connection:
            if connection.execute(_ADD, _row(run)).rowcount == 0:
                return False
            if messages and self._outbox is not None:
                self._outbox.add(messages, connection)
        return True

    def is_done(self, name: str, due_at: datetime) -> bool:
        """As in RunStore."""
        with self._writer.transaction() as connection:
            return connection.execute(_DONE, (name, due_at)).fetchone() is not None

    def run(self, run_id: int) -> ReportRun:
        """As in RunStore."""
        with self._writer.transaction() as connection:
            found = connection.execute(_ONE, (run_id,)).fetchone() if 0 < run_id < 2**63 else None
        if found is None:
            raise no_run()
        return _run(found)


def _row(run: ReportRun) -> dict[str, Any]:
    asked = run.asked
    body = zlib.compress(msgspec.json.encode(_Body(run.look, run.results, dict(asked.parameters))), level=6)
    return {
        "run_id": run.run_id,
        "name": asked.name,
        "title": run.look.title,
        "file_digest": run.file_digest,
        "query_digests": Jsonb({result.query: result.digest for result in run.results}),
        "parameters": Jsonb(dict(asked.parameters)),
        "as_known_at": asked.as_known_at,
        "known_by": asked.known_by,
        "asked_by": asked.by,
        "due_at": asked.due_at,
        "started_at": run.started_at,
        "duration_ms": run.duration_ms,
        "row_counts": Jsonb(run.row_counts),
        "is_cut": run.is_cut,
        "error": run.error or None,
        "body": None if run.error else body,
    }


def _run(row: Sequence[Any]) -> ReportRun:
    run_id, name, title, file_digest, parameters, as_known_at, known_by, by, due_at, started_at, took, error, body = row
    kept = _Body(Look(title), (), parameters) if body is None else _DECODER.decode(zlib.decompress(body))
    asked = Asked(name, kept.parameters, _utc(as_known_at), known_by, by, None if due_at is None else _utc(due_at))
    return ReportRun(run_id, asked, kept.look, file_digest, _utc(started_at), took, kept.results, error or "")


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)
