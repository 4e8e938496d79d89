"""Statements and a COPY in one message: all of it or nothing, whoever stops in the middle."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import psycopg
import pytest

from trueup.ledger.copying import copying, run
from trueup.ledger.urls import Urls

COPY = "COPY things FROM STDIN"
BEFORE = "INSERT INTO things VALUES (7);"


def copy_rows(
    connection: psycopg.Connection[tuple[object, ...]], before: str, copy: str, chunks: Iterable[bytes]
) -> None:
    run(connection, copying(connection.pgconn, f"{before} {copy}".encode(), chunks))


@pytest.fixture
def connection(empty_database: Urls) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(empty_database.owner, autocommit=True) as opened:
        opened.execute("CREATE TABLE things (number int PRIMARY KEY)")
        yield opened


def numbers(database: Urls) -> list[int]:
    with psycopg.connect(database.owner) as other:
        return [row[0] for row in other.execute("SELECT number FROM things ORDER BY 1")]


def test_statements_and_rows_are_one_transaction(
    connection: psycopg.Connection[tuple[object, ...]], empty_database: Urls
):
    copy_rows(connection, BEFORE, COPY, [b"1\n", b"2\n" * 0, b"3\n"])
    assert numbers(empty_database) == [1, 3, 7]
    with pytest.raises(psycopg.errors.UniqueViolation):
        copy_rows(connection, "INSERT INTO things VALUES (8);", COPY, [b"9\n", b"1\n"])
    with pytest.raises(psycopg.errors.UniqueViolation):
        copy_rows(connection, BEFORE, COPY, [b"9\n"])
    assert numbers(empty_database) == [1, 3, 7]
    copy_rows(connection, "", COPY, [b"9\n"])
    assert numbers(empty_database) == [1, 3, 7, 9]


@pytest.mark.parametrize("sent", [0, 1])
def test_a_sender_that_stops_leaves_nothing_and_a_usable_connection(
    connection: psycopg.Connection[tuple[object, ...]], empty_database: Urls, sent: int
):
    def chunks() -> Iterator[bytes]:
        yield from [b"1\n"] * sent
        raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        copy_rows(connection, BEFORE, COPY, chunks())
    assert numbers(empty_database) == []
    copy_rows(connection, BEFORE, COPY, [b"1\n"])
    assert numbers(empty_database) == [1, 7]


def test_a_connection_that_breaks_is_never_taken_for_a_commit(
    connection: psycopg.Connection[tuple[object, ...]], empty_database: Urls
):
    def chunks() -> Iterator[bytes]:
        yield b"1\n"
        with psycopg.connect(empty_database.owner, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        time.sleep(0.2)
        yield b"2\n"

    with pytest.raises(psycopg.OperationalError):
        copy_rows(connection, BEFORE, COPY, chunks())
    assert numbers(empty_database) == []


def test_rows_larger_than_every_buffer(connection: psycopg.Connection[tuple[object, ...]], empty_database: Urls):
    chunks = (b"".join(b"%d\n" % n for n in range(start, start + 50_000)) for start in range(0, 400_000, 50_000))
    copy_rows(connection, "", COPY, chunks)
    assert len(numbers(empty_database)) == 400_000


def test_one_event_tells_of_a_connection_that_broke(
    connection: psycopg.Connection[tuple[object, ...]], empty_database: Urls
):
    """libuv tells of a broken socket once, though the server's last words lie before its end."""
    conversation = copying(connection.pgconn, b"SELECT pg_sleep(60); COPY things FROM STDIN", [b"1\n"])
    next(conversation)
    with psycopg.connect(empty_database.owner) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", (connection.info.backend_pid,))
    with pytest.raises(psycopg.OperationalError):
        next(conversation)
