"""Asking the ledger whether it holds an identity, without ever waiting long for it."""

from __future__ import annotations

import time
from datetime import UTC
from select import POLLIN, POLLOUT, poll
from typing import Any

import msgspec
import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import pq
from psycopg.adapt import Transformer

from trueup.domain.batch import REQUEST_SOURCE, Booking
from trueup.ledger.postgres import First
from trueup.ledger.spool_index import Held
from trueup.postgres import Connection, Pool

_CLAIMED = b"""
    SELECT source_key, event_time FROM ledger.request_days
    WHERE deployment_id = $1::int AND source = $2
      AND source_key = ANY(ARRAY(SELECT json_array_elements_text($3::json)))
"""
_FIRST = b"""
    SELECT prediction_id, content_digest, contract_id, status, score, outputs, class, decision, expected_cost
    FROM ledger.predictions
    WHERE prediction_id = ANY(ARRAY(SELECT json_array_elements_text($1::json)::uuid))
      AND event_day = ANY(ARRAY(SELECT json_array_elements_text($2::json)::date))
"""


class Lookup:
    """Finds first answers in the ledger within ``wait_s`` seconds, or not at all."""

    def __init__(self, writer: Pool, wait_s: float) -> None:
        self._pool = writer
        self._wait_s = wait_s

    def first(self, booking: Booking, ids: NDArray[np.uint8]) -> dict[bytes, Held] | None:
        """By identity what the ledger holds of the booking's rows; None when it did not say in time."""
        connection = self._pool.idle(self._wait_s)
        if connection is None:
            return None
        try:
            return self._first(connection, booking, ids)
        except (psycopg.Error, TimeoutError) as error:
            connection.close()
            if isinstance(error, TimeoutError):
                self._pool.suspect()
            return None
        finally:
            self._pool.give_back(connection)

    def _first(self, connection: Connection, booking: Booking, ids: NDArray[np.uint8]) -> dict[bytes, Held]:
        until = time.monotonic() + self._wait_s
        days = booking.event_time.astype("datetime64[D]")
        if booking.source.name == REQUEST_SOURCE:
            named = (str(booking.deployment_id), booking.source.name, _json(list(booking.source.keys)))
            moments = [row[1].astimezone(UTC) for row in _rows(connection, _CLAIMED, named, until)]
            days = np.array([moment.date() for moment in moments], "datetime64[D]")
        if not len(days):
            return {}
        wanted = (_json([row.tobytes().hex() for row in ids]), _json(np.unique(days).astype(str).tolist()))
        return {
            row[0].bytes: Held(bytes(row[1]), row[2], First(*row[3:]))
            for row in _rows(connection, _FIRST, wanted, until)
        }


def _rows(connection: Connection, query: bytes, parameters: tuple[str | bytes, ...], until: float) -> list[Any]:
    """The rows of one query. Raises TimeoutError: then the connection is of no use any more."""
    pgconn = connection.pgconn
    given = [p.encode() if isinstance(p, str) else p for p in parameters]
    pgconn.send_query_params(query, given, result_format=pq.Format.BINARY)
    while pgconn.flush():
        _wait(pgconn, POLLIN | POLLOUT, until)
    found: list[Any] = []
    while True:
        while pgconn.is_busy():
            _wait(pgconn, POLLIN, until)
        result = pgconn.get_result()
        if result is None:
            return found
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise psycopg.OperationalError("the ledger refused to be asked")
        reading = Transformer(connection)
        reading.set_pgresult(result)
        found = reading.load_rows(0, result.ntuples, tuple)


def _wait(pgconn: pq.abc.PGconn, wanted: int, until: float) -> None:
    left = until - time.monotonic()
    waiting = poll()
    waiting.register(pgconn.socket, wanted)
    if left <= 0 or not waiting.poll(left * 1000):
        raise TimeoutError
    pgconn.consume_input()


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)
