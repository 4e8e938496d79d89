"""Messages in the database: committed with what they tell of, sent through kills, and seen by people."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

import trueup
from databases import away
from receiving import HttpReceiver, answered, http_receiver, message, until
from trueup.bootstrap import Services, open_sending, wired
from trueup.errors import LedgerUnavailable
from trueup.ledger.embedded import EmbeddedPostgres
from trueup.ledger.urls import Urls
from trueup.notifying import postgres
from trueup.notifying.outbox import identity_of

TESTS = Path(__file__).parents[1]
KEY = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as made:
        yield made


def environment(receiver: HttpReceiver) -> dict[str, str]:
    """What declares the receiver, impatient ones of it."""
    return {
        "TRUEUP_NOTIFY__RECEIVERS": json.dumps({"desk": {"kind": "webhook", "url": receiver.url}}),
        "TRUEUP_NOTIFY__SECRETS": json.dumps({"desk": {"signing_key": KEY}}),
        "TRUEUP_NOTIFY__TIMEOUT_S": "1",
        "TRUEUP_NOTIFY__LEASE_S": "2",
        "TRUEUP_NOTIFY__RETRY_S": "0.01",
        "TRUEUP_NOTIFY__RETRY_MOST_S": "0.01",
    }


@pytest.fixture
def services(
    fresh_database: Urls, receiver: HttpReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Services]:
    for name, value in environment(receiver).items():
        monkeypatch.setenv(name, value)
    with wired(trueup.Settings(data_dir=tmp_path / "data"), fresh_database) as made:
        yield made


def add(services: Services, *keys: str, **changes: Any) -> None:
    with services._pools[1].transaction() as connection:
        services.outbox.add([message(key, **changes) for key in keys], within=connection)


def posted_ids(receiver: HttpReceiver) -> Counter[str]:
    return Counter(posted.headers["webhook-id"] for posted in receiver.posted)


def states(services: Services) -> dict[str, str]:
    return {row["key"]: row["state"] for row in services.queries.rows("SELECT key, state FROM messages")}


class Cli:
    """`trueup` as a program on the test's database."""

    def __init__(self, database: Urls, folder: Path) -> None:
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
            "TRUEUP_DATABASE_URL": database.owner,
            "TRUEUP_DATA_DIR": str(folder),
        }

    def __call__(self, *command: str, kill: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(TESTS / "killed_sending.py"), *command],
            env={**self._environment, "TRUEUP_TEST_KILL": kill},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def json(self, *command: str) -> Any:
        done = self(*command, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def cli(services: Services, fresh_database: Urls, tmp_path: Path) -> Cli:
    return Cli(fresh_database, tmp_path / "data")


def test_a_message_is_there_if_what_it_tells_of_is(services: Services):
    pool = services._pools[1]
    tell = "INSERT INTO ledger.audit (actor, action, subject, detail) VALUES ('t', 'told', 's', '{}')"

    def undone() -> None:
        with pool.transaction() as connection:
            connection.execute(tell)
            services.outbox.add([message("a")], within=connection)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        undone()
    assert states(services) == {}
    with pool.transaction() as connection:
        connection.execute(tell)
        assert services.outbox.add([message("a")], within=connection) == 1
    assert states(services) == {"a": "waiting"}


# Killed where and the how often, and how often each of the four messages is posted at the end.
KILLS = [
    ("claimed:1", [1, 1, 1, 1]),
    ("claimed:2", [1, 1, 1, 1]),
    ("sent:1", [2, 1, 1, 1]),
    ("sent:3", [1, 1, 2, 1]),
    ("marked:1", [1, 1, 1, 1]),
    ("marked:4", [1, 1, 1, 1]),
]


@pytest.mark.parametrize(("kill", "posts"), KILLS, ids=[kill for kill, _ in KILLS])
def test_a_kill_loses_nothing_and_doubles_only_what_was_sent_and_not_marked(
    services: Services, cli: Cli, receiver: HttpReceiver, kill: str, posts: list[int]
):
    keys = ["g1", "g2", "x", "y"]
    add(services, "g1", "g2", ordering="g")
    add(services, "x", "y")
    assert cli("message", "send", kill=kill).returncode == -signal.SIGKILL
    until(lambda: _swept(services) and set(states(services).values()) == {"sent"})
    ids = posted_ids(receiver)
    assert [ids[str(identity_of(message(key)))] for key in keys] == posts
    assert sum(ids.values()) == sum(posts)
    order = [posted.headers["webhook-id"] for posted in receiver.posted]
    assert order.index(str(identity_of(message("g2")))) > order.index(str(identity_of(message("g1"))))


def test_a_kill_after_a_failure_was_marked_counts_it_once(services: Services, cli: Cli, receiver: HttpReceiver):
    receiver.answer = lambda handler: answered(handler, 500)
    add(services, "a")
    assert cli("message", "send", kill="failed:1").returncode == -signal.SIGKILL
    stored = services.outbox.find(1)
    assert (stored.state, stored.attempts, stored.last_error) == ("waiting", 1, "the receiver answered 500")


def test_several_workers_send_each_message_once_and_in_order(services: Services, receiver: HttpReceiver):
    for number in range(20):
        add(services, f"a{number}", ordering="a")
        add(services, f"n{number}")

    def work(_: int) -> None:
        with open_sending(services) as sending:
            for _ in range(10):
                sending.drain()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    until(lambda: _swept(services) and set(states(services).values()) == {"sent"})
    assert set(posted_ids(receiver).values()) == {1}
    places = {posted.headers["webhook-id"]: place for place, posted in enumerate(receiver.posted)}
    ordered = [places[str(identity_of(message(f"a{number}")))] for number in range(20)]
    assert ordered == sorted(ordered)


def _swept(services: Services) -> bool:
    with open_sending(services) as sending:
        sending.drain()
    return True


def test_a_ledger_that_goes_away_while_sending_loses_nothing(
    services: Services, server: EmbeddedPostgres, fresh_database: Urls, receiver: HttpReceiver
):
    add(services, "a", "b")
    with open_sending(services) as sending:
        with away(server, fresh_database), pytest.raises(LedgerUnavailable):
            sending.sweep()
        until(lambda: _quietly(sending) and set(states(services).values()) == {"sent"})
    assert posted_ids(receiver) == {str(identity_of(message(key))): 1 for key in ("a", "b")}


def _quietly(sending: Any) -> bool:
    try:
        sending.drain()
    except LedgerUnavailable:
        return False
    return True


def test_the_command_line_shows_sends_and_retries(services: Services, cli: Cli, receiver: HttpReceiver):
    receiver.answer = lambda handler: answered(handler, 404)
    add(services, "a", "b", ordering="g")
    assert [m["state"] for m in cli.json("message", "list", "--receiver", "desk")] == ["waiting", "waiting"]
    done = cli("message", "send")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "2 given up")
    given_up = cli.json("message", "list", "--state", "given_up")
    assert {m["last_error"] for m in given_up} == {"the receiver answered 404"}
    assert "text" not in given_up[0]
    (totals,) = services.queries.rows("SELECT receiver, state, messages FROM message_totals")
    assert totals == {"receiver": "desk", "state": "given_up", "messages": 2}
    receiver.answer = lambda handler: answered(handler, 200)
    assert cli.json("message", "retry", "--receiver", "desk") == {"asked": 2, "due": 2}
    assert cli.json("message", "send") == {"sent": 2}
    shown = cli.json("message", "show", "1")
    assert (shown["state"], shown["id"]) == ("sent", str(identity_of(message("a"))))
    assert shown["text"] == message("a").text
    assert "Look at <fails> & more." in cli("message", "show", "1").stdout
    again = cli("message", "retry", "1")
    assert (again.returncode, again.stderr.strip()) == (1, "0 of 1 messages are due now")
    assert cli("message", "retry", "99").returncode == 4
    assert cli("message", "retry").returncode == 2
    audit = "SELECT subject, detail FROM ledger.audit WHERE action = 'retry message' ORDER BY audit_id"
    with services._pools[1].transaction() as connection:
        assert connection.execute(audit).fetchall() == [("desk", {"message_id": n}) for n in (1, 2)]


def test_the_command_line_tries_a_receiver(cli: Cli, receiver: HttpReceiver):
    told = cli.json("message", "test", "desk")
    assert [posted.headers["webhook-id"] for posted in receiver.posted] == [told["id"]]
    receiver.answer = lambda handler: answered(handler, 403)
    failed = cli("message", "test", "desk")
    assert (failed.returncode, failed.stderr.splitlines()[0]) == (1, "error: the receiver answered 403")
    assert cli("message", "test", "nobody").returncode == 4


def test_a_wrong_receiver_is_named_and_not_shown(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    cli._environment["TRUEUP_NOTIFY__RECEIVERS"] = '{"desk": {"kind": "webhook", "url": "https://u:secret@h"}}'
    done = cli("message", "list")
    assert done.returncode == 3
    assert "TRUEUP_NOTIFY__RECEIVERS__DESK" in done.stderr
    assert "secret" not in done.stderr


def test_the_writer_changes_what_becomes_of_a_message_and_nothing_that_it_says(
    fresh_database: Urls, services: Services
):
    add(services, "a")
    for statement in (
        "UPDATE ledger.messages SET subject = 'x'",
        "UPDATE ledger.messages SET receiver = 'x'",
        "DELETE FROM ledger.messages",
        "DELETE FROM ledger.message_attachments",
        "UPDATE ledger.message_attachments SET content = ''",
    ):
        with psycopg.connect(fresh_database.writer) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)
    with psycopg.connect(fresh_database.reader) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT ledger.forget_messages(now(), now(), 1)")


@pytest.mark.parametrize("statement", [postgres._CLAIM, postgres._GIVE_UP_LOST])
def test_claiming_reads_little_though_much_was_sent_and_much_waits(services: Services, statement: str):
    """By plan, not by time: what was sent is not read, and what waits is read in the order of the claim."""
    with psycopg.connect(services.urls.owner, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO ledger.messages (key, receiver, kind, ordering, subject, text, html, payload, state, ended_at)"
            " SELECT i::text, 'desk', 'alert', (i % 100)::text, '', '', '', '{}',"
            " CASE WHEN i % 2 = 0 THEN 'sent' ELSE 'waiting' END, CASE WHEN i % 2 = 0 THEN now() END"
            " FROM generate_series(1, 20000) i"
        )
        connection.execute("ANALYZE ledger.messages")
        parameters = {"receiver": "desk", "lease": None, "lease_s": 1.0, "attempts": 1, "why": ""}
        plan = "\n".join(row[0] for row in connection.execute("EXPLAIN " + statement, parameters).fetchall())
    assert "Seq Scan" not in plan
    assert "Sort" not in plan
    assert "Index" in plan
