"""Some statements and a binary COPY as one message and one transaction: two round trips.

PostgreSQL runs the statements of one simple query as one implicit transaction, so nothing
is sent to begin or to commit it: the commit happens where the COPY ends. psycopg's own
COPY allows no statement beside it, so this speaks to libpq through ``psycopg.pq``.
Reference: PostgreSQL documentation, "Multiple Statements in a Simple Query".

The conversation is a generator that never blocks: it yields the poll events it waits for and
is resumed when one came. :func:`run` waits by itself; an event loop waits for many.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import suppress
from select import POLLIN, POLLOUT, poll

import psycopg
from psycopg import pq

_WAIT_MS = 1_000  # looks again after this: a wake-up lost by the system costs no more
_SMALL = 8_192  # bytes that may wait in libpq's buffer for what follows
_EITHER = POLLIN | POLLOUT

Conversation = Generator[int, None, None]  # yields what it waits for: POLLIN, or POLLIN | POLLOUT


def run(connection: psycopg.Connection[tuple[object, ...]], conversation: Conversation) -> None:
    """Has the conversation to its end, waiting for the server."""
    waiting = poll()
    for wanted in conversation:
        waiting.register(connection.pgconn.socket, wanted)
        waiting.poll(_WAIT_MS)


def copying(pgconn: pq.abc.PGconn, query: bytes, chunks: Iterable[bytes]) -> Conversation:
    """Runs ``query`` (statements, then a COPY) with the rows of ``chunks``; committed when it ends.

    The connection must be in autocommit mode and idle. A chunk is sent before the next is
    asked for. Raises psycopg's errors; then nothing is committed, unless the connection
    broke while the answer was on its way.
    """
    pgconn.send_query(query)
    yield from _flushed(pgconn)
    ready = False
    try:
        for chunk in chunks:  # the first is packed while the server works on the query
            if not ready:
                yield from _copy_started(pgconn)
                ready = True
            yield from _sent(pgconn, chunk)
    except Exception:
        with suppress(psycopg.Error):
            if not ready:
                yield from _copy_started(pgconn)
            yield from _finished(pgconn, b"the sender stopped")
        raise
    yield from _finished(pgconn, None)


def _copy_started(pgconn: pq.abc.PGconn) -> Conversation:
    """Waits until the server wants the rows. Raises what it refused."""
    while True:
        result = yield from _result(pgconn)
        if result is None:
            raise psycopg.ProgrammingError("the query asked for no rows")
        if result.status == pq.ExecStatus.COPY_IN:
            return
        if result.status == pq.ExecStatus.FATAL_ERROR:
            yield from _rest(pgconn)
            raise _error(result)


def _sent(pgconn: pq.abc.PGconn, chunk: bytes) -> Conversation:
    """Hands a chunk to libpq, and a large one to the system."""
    while not pgconn.put_copy_data(chunk):
        yield from _ready(pgconn, _EITHER)
    if len(chunk) > _SMALL:
        yield from _flushed(pgconn)


def _finished(pgconn: pq.abc.PGconn, error: bytes | None) -> Conversation:
    """Ends the rows and waits for the commit. Raises what the server refused."""
    while not pgconn.put_copy_end(error):
        yield from _ready(pgconn, _EITHER)
    yield from _flushed(pgconn)
    results = yield from _rest(pgconn)
    failed = next((r for r in results if r.status == pq.ExecStatus.FATAL_ERROR), None)
    if failed is not None:
        raise _error(failed)
    if not any(r.status == pq.ExecStatus.COMMAND_OK for r in results):
        raise psycopg.OperationalError("the server did not confirm the commit")


def _flushed(pgconn: pq.abc.PGconn) -> Conversation:
    while pgconn.flush():
        yield from _ready(pgconn, _EITHER)


def _rest(pgconn: pq.abc.PGconn) -> Generator[int, None, list[pq.abc.PGresult]]:
    """All results that are left of the query."""
    found = []
    while (result := (yield from _result(pgconn))) is not None:
        found.append(result)
    return found


def _result(pgconn: pq.abc.PGconn) -> Generator[int, None, pq.abc.PGresult | None]:
    while pgconn.is_busy():
        pgconn.consume_input()  # to its end: libuv tells once of a socket that broke, with the last it received
        if pgconn.is_busy():
            yield POLLIN
    return pgconn.get_result()


def _ready(pgconn: pq.abc.PGconn, wanted: int) -> Conversation:
    yield wanted
    pgconn.consume_input()  # reads what there is; nothing there is no error


def _error(result: pq.abc.PGresult) -> psycopg.Error:
    state = result.error_field(pq.DiagnosticField.SQLSTATE)
    message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"the server closed the connection"
    kind = psycopg.errors.lookup(state.decode()) if state else psycopg.OperationalError
    return kind(message.decode("utf-8", "replace"))
