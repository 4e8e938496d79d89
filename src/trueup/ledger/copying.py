"""Some statements and a binary COPY as one message and one transaction: two round trips.

PostgreSQL runs the statements of one simple query as one implicit transaction, so nothing
is sent to begin or to commit it: the commit happens where the COPY ends. psycopg's own
COPY allows no statement beside it, so this speaks to libpq through ``psycopg.pq``.
Reference: PostgreSQL documentation, "Multiple Statements in a Simple Query".
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from select import POLLIN, POLLOUT, poll

import psycopg
from psycopg import pq

_WAIT_MS = 1_000  # looks again after this: a wake-up lost by the system costs no more
_SMALL = 8_192  # bytes that may wait in libpq's buffer for what follows

Statement = tuple[str, tuple[object, ...]]


def copy_rows(
    connection: psycopg.Connection[tuple[object, ...]], before: Iterable[Statement], copy: str, chunks: Iterable[bytes]
) -> None:
    """Runs ``before`` and the COPY of ``chunks`` in one transaction, committed on return.

    ``connection`` must be in autocommit mode and idle. A chunk is sent before the next is
    asked for. Raises psycopg's errors; then nothing is committed, unless the connection
    broke while the answer was on its way.
    """
    compose = psycopg.ClientCursor(connection).mogrify
    text = "; ".join([*(compose(sql, parameters) for sql, parameters in before), copy])
    wire = _Wire(connection.pgconn)
    wire.start(text.encode())
    ready = False
    try:
        for chunk in chunks:  # the first is packed while the server works on the query
            if not ready:
                wire.wait_for_copy()
                ready = True
            wire.send(chunk)
    except BaseException:
        with suppress(psycopg.Error):
            if not ready:
                wire.wait_for_copy()
            wire.finish(b"the sender stopped")
        raise
    wire.finish(None)


class _Wire:
    """One connection's libpq, which never blocks by itself."""

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self._pgconn = pgconn
        self._poll = poll()

    def start(self, query: bytes) -> None:
        """Sends the query."""
        self._pgconn.send_query(query)
        self._flush()

    def wait_for_copy(self) -> None:
        """Waits until the server wants the rows. Raises what it refused."""
        while True:
            result = self._result()
            if result is None:
                raise psycopg.ProgrammingError("the query asked for no rows")
            if result.status == pq.ExecStatus.COPY_IN:
                return
            if result.status == pq.ExecStatus.FATAL_ERROR:
                self._drain()
                raise _error(result)

    def send(self, chunk: bytes) -> None:
        """Hands a chunk to libpq, and a large one to the system."""
        while not self._pgconn.put_copy_data(chunk):
            self._wait(POLLIN | POLLOUT)
        if len(chunk) > _SMALL:
            self._flush()

    def finish(self, error: bytes | None) -> None:
        """Ends the rows and waits for the commit. Raises what the server refused."""
        while not self._pgconn.put_copy_end(error):
            self._wait(POLLIN | POLLOUT)
        self._flush()
        results = self._drain()
        failed = next((r for r in results if r.status == pq.ExecStatus.FATAL_ERROR), None)
        if failed is not None:
            raise _error(failed)
        if not any(r.status == pq.ExecStatus.COMMAND_OK for r in results):
            raise psycopg.OperationalError("the server did not confirm the commit")

    def _flush(self) -> None:
        while self._pgconn.flush():
            self._wait(POLLIN | POLLOUT)

    def _drain(self) -> list[pq.abc.PGresult]:
        """All results that are left of the query."""
        return list(iter(self._result, None))

    def _result(self) -> pq.abc.PGresult | None:
        while self._pgconn.is_busy():
            self._wait(POLLIN)
        return self._pgconn.get_result()

    def _wait(self, wanted: int) -> None:
        self._poll.register(self._pgconn.socket, wanted)
        for _, happened in self._poll.poll(_WAIT_MS):
            if happened != POLLOUT:
                self._pgconn.consume_input()


def _error(result: pq.abc.PGresult) -> psycopg.Error:
    state = result.error_field(pq.DiagnosticField.SQLSTATE)
    message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"the server closed the connection"
    kind = psycopg.errors.lookup(state.decode()) if state else psycopg.OperationalError
    return kind(message.decode("utf-8", "replace"))
