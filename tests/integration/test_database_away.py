"""What a pool of connections does when its database goes away: nobody waits, and its return goes unnoticed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from databases import away
from trueup.doors.auth import postgres as keys_module
from trueup.doors.auth.postgres import PostgresApiKeys
from trueup.doors.auth.roles import ApiRole
from trueup.errors import LedgerUnavailable, Unauthenticated
from trueup.ledger.embedded import EmbeddedPostgres
from trueup.ledger.urls import Urls
from trueup.postgres import Pool

QUICK_S = 0.5


@pytest.fixture
def pool(fresh_database: Urls) -> Iterator[Pool]:
    made = Pool(fresh_database.owner, size=4, application="test", probe_s=0.05)
    yield made
    made.close()


def asked(pool: Pool) -> int:
    with pool.connection() as connection:
        row = connection.execute("SELECT 1").fetchone()
        assert row is not None
        return int(row[0])


def until_back(pool: Pool) -> None:
    end = time.monotonic() + 10
    while True:
        try:
            assert asked(pool) == 1
            return
        except LedgerUnavailable:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_nobody_waits_and_it_is_noticed_when_it_is_back(pool: Pool, server: EmbeddedPostgres, fresh_database: Urls):
    asked(pool)

    def refused(_: int) -> float:
        began = time.monotonic()
        with pytest.raises(LedgerUnavailable):
            asked(pool)
        return time.monotonic() - began

    with away(server, fresh_database):
        with ThreadPoolExecutor(16) as callers:
            assert max(callers.map(refused, range(200))) < QUICK_S
        assert pool.circuit.is_open
        assert pool.idle() is None
    until_back(pool)
    assert not pool.circuit.is_open


def test_from_the_start_it_is_refused_quickly(server: EmbeddedPostgres, fresh_database: Urls):
    with away(server, fresh_database):
        fresh = Pool(fresh_database.owner, size=4, application="test")
        began = time.monotonic()
        with pytest.raises(LedgerUnavailable):
            asked(fresh)
        assert time.monotonic() - began < QUICK_S
        fresh.close()


def test_nobody_listens_there():
    pool = Pool("postgresql://nobody@127.0.0.1:1/none", size=4, application="test")
    began = time.monotonic()
    with pytest.raises(LedgerUnavailable):
        asked(pool)
    assert time.monotonic() - began < QUICK_S
    pool.close()


def test_a_restart_between_two_calls_goes_unnoticed(pool: Pool, server: EmbeddedPostgres, fresh_database: Urls):
    with ThreadPoolExecutor(4) as callers:
        list(callers.map(lambda _: asked(pool), range(16)))
    with away(server, fresh_database):
        pass  # every idle connection is closed by the server
    for _ in range(8):
        assert asked(pool) == 1


def test_a_busy_pool_is_no_absent_database(pool: Pool):
    with ThreadPoolExecutor(12) as callers:

        def slow(_: int) -> None:
            with pool.connection() as connection:
                connection.execute("SELECT pg_sleep(0.15)")

        list(callers.map(slow, range(12)))
    assert not pool.circuit.is_open


def test_a_failed_transaction_leaves_the_connection_usable(pool: Pool):
    with pytest.raises(psycopg.errors.UndefinedTable), pool.transaction() as connection:
        connection.execute("SELECT * FROM nothing")
    assert asked(pool) == 1


def test_a_key_that_is_known_works_while_the_database_is_away(
    pool: Pool, server: EmbeddedPostgres, fresh_database: Urls, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(keys_module, "CACHE_S", 0.0)
    keys = PostgresApiKeys(pool)
    _, known = keys.create("known", ApiRole.SCORER, by="test")
    _, unseen = keys.create("unseen", ApiRole.SCORER, by="test")
    caller = keys.authenticate(known)
    with away(server, fresh_database):
        assert keys.authenticate(known) == caller
        assert keys.known(known) == caller  # from memory, until the database is asked again
        with pytest.raises(LedgerUnavailable):
            keys.authenticate(unseen)
    until_back(pool)
    key = next(key for key in keys.listed() if key.name == "known")
    keys.revoke(key.key_id, by="test")
    with pytest.raises(Unauthenticated):
        keys.authenticate(known)
