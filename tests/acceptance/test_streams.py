"""Steps of streams.feature: `trueup stream` as a process, on a real Kafka and a real PostgreSQL."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Producer
from pytest_bdd import given, parsers, scenarios, then, when

import trueup
from brokers import Cluster
from databases import away, create_database
from streams import Field, all_of, until
from trueup.domain.stream import Stream
from trueup.ledger import migrating
from trueup.ledger.embedded import EmbeddedPostgres

scenarios("streams.feature")

PATIENCE_S = 40
CONTRACT = trueup.load_contract("""
name: settlement
version: 1
fields:
  instruction: {type: string, role: key}
  amount: {type: float64, minimum: 0, unit: EUR}
output: {kind: probability}
decision: {threshold: 0.5, at_or_above: chase, below: watch}
""")
FULL = """
CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER disk_full BEFORE INSERT ON ledger.reads EXECUTE FUNCTION disk_full()
"""
RUNBOOK = Path(__file__).parents[2] / "docs" / "runbooks" / "streams.md"


@dataclass
class Desk(Field):
    """What the scenario's people hold on to."""

    model: str = "share_of_a_million"
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    ends: list[Callable[[], None]] = field(default_factory=list)

    def deploy(self) -> None:
        with self.opened() as up:
            serving = trueup.Serving(stream=self.stream, replay_grade=trueup.ReplayGrade.RECORD_ONLY, reason_codes=0)
            model = f"python:small_models:{self.model}"
            up.deploy("settlement", contract=CONTRACT, model=model, version=self.model, serving=serving)

    def serve(self) -> None:
        with (self.folder / "servers.log").open("ab") as log:
            command = [sys.executable, "-m", "trueup", "stream", "settlement"]
            self.servers.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))

    def send(self, *values: bytes) -> None:
        producer = Producer({"bootstrap.servers": self.cluster.bootstrap, "acks": "all"})
        for value in values:
            producer.produce(self.topic, value, str(len(self.sent)).encode())
            self.sent.append(value)
        assert producer.flush(PATIENCE_S) == 0

    def log(self) -> str:
        path = self.folder / "servers.log"
        return path.read_text() if path.exists() else ""

    def count(self, sql: str) -> int:
        return int(self.query(sql)[0][0])


def instruction(number: int, amount: float | None = None) -> bytes:
    return json.dumps({"instruction": f"I{number}", "amount": amount or 1000.0 * number}).encode()


@pytest.fixture(scope="module")
def database_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One of this module's own, which has migrated the template of the scenarios' databases."""
    postgres = EmbeddedPostgres(tmp_path_factory.mktemp("pg"))
    migrating.migrate(postgres.start("template_trueup").owner)
    yield postgres
    postgres.stop()


@given("a desk that reads the topic of settlement instructions", target_fixture="desk")
def _desk(kafka: Cluster, database_server: EmbeddedPostgres, tmp_path: Path) -> Iterator[Desk]:
    name = f"settlement-{random.randrange(10**9)}"
    stream = Stream(
        kafka.topic(name, 3),
        identity="value.instruction",
        replies=kafka.topic(f"{name}-scores"),
        dead_letters=kafka.topic(f"{name}-refused"),
    )
    urls = create_database(database_server, "template_trueup")
    desk = Desk(kafka, database_server, urls, tmp_path, name, stream)
    # The real group of another scenario is another one; and whoever is silent is given up soon.
    desk.more = {"TRUEUP_STREAM__SESSION_MS": "1500", "TRUEUP_STREAM__GROUP": name, "TRUEUP_STREAM__WAIT_S": "0.1"}
    desk.deploy()
    yield desk
    for end in desk.ends:
        end()
    for server in desk.servers:
        server.kill()
        server.wait()


@given(parsers.parse("the deployed model fails on an amount of 13"))
def _fragile(desk: Desk) -> None:
    desk.model = "fails_on_13"
    desk.deploy()


@given("a server that scores the stream")
@when("a server is started again")
def _server(desk: Desk) -> None:
    before = _assignments(desk)
    desk.serve()
    until(lambda: _assignments(desk) > before, PATIENCE_S)


@given("a second server that scores the stream")
def _second(desk: Desk) -> None:
    desk.serve()
    until(lambda: _assignments(desk) >= 2, PATIENCE_S)


@when(parsers.parse("the custodian sends instructions {first:d} to {last:d}"))
def _send(desk: Desk, first: int, last: int) -> None:
    desk.send(*map(instruction, range(first, last + 1)))


@when(parsers.parse("the custodian sends instruction {number:d} with another amount"))
def _send_other(desk: Desk, number: int) -> None:
    until(lambda: desk.count("SELECT count(*) FROM ledger.predictions") >= number, PATIENCE_S)
    desk.send(instruction(number, 7.0))


@when("the custodian sends something that is not JSON")
def _send_garbage(desk: Desk) -> None:
    desk.send(b"\xffI4;4000,00")


@when(parsers.parse("the custodian sends instruction {number:d} without an amount"))
def _send_short(desk: Desk, number: int) -> None:
    desk.send(b'{"instruction":"I%d","amount":null}' % number)


@when(parsers.parse("the custodian sends instruction {number:d} with an amount of 13"))
def _send_13(desk: Desk, number: int) -> None:
    desk.send(instruction(number, 13.0))


@when("the database goes away")
def _away(desk: Desk) -> None:
    gone = away(desk.postgres, desk.urls)
    gone.__enter__()
    desk.ends.append(lambda: gone.__exit__(None, None, None))


@when("the database comes back")
def _back(desk: Desk) -> None:
    until(lambda: "looks_anew" in desk.log(), PATIENCE_S)
    desk.ends.pop()()


@when("the database's disk is full")
def _full(desk: Desk) -> None:
    with psycopg.connect(desk.urls.owner) as connection:
        connection.execute(FULL)


@when("the stream has met the fault")
def _met(desk: Desk) -> None:
    until(lambda: "looks_anew" in desk.log(), PATIENCE_S)
    assert desk.query("SELECT count(*) FROM ledger.predictions") == [(0,)]
    assert desk.query("SELECT count(*) FROM ledger.positions") == [(0,)]


@when("there is room on the disk again")
def _room(desk: Desk) -> None:
    with psycopg.connect(desk.urls.owner) as connection:
        connection.execute("DROP TRIGGER disk_full ON ledger.reads")


@when("the brokers are restarted")
def _brokers(desk: Desk) -> None:
    desk.cluster.kill(1)
    desk.cluster.restart(1)


@when("the first server is killed")
def _killed(desk: Desk) -> None:
    desk.servers[0].kill()


@when("the first server freezes")
def _frozen(desk: Desk) -> None:
    _received(desk, 50)
    desk.servers[0].send_signal(signal.SIGSTOP)


@when("a second server has taken over")
def _taken_over(desk: Desk) -> None:
    desk.serve()
    until(lambda: _assignments(desk) >= 2, PATIENCE_S)


@when("the first server wakes")
def _awake(desk: Desk) -> None:
    desk.servers[0].send_signal(signal.SIGCONT)
    until(lambda: bool(re.search(r" lost | looks_anew ", desk.log())), PATIENCE_S)


@when("the server is stopped")
def _stopped(desk: Desk) -> None:
    desk.servers[0].terminate()
    assert desk.servers[0].wait(PATIENCE_S) == 0


@when("the owner sets the stream's positions back to the beginning, with an audit row")
def _rewound(desk: Desk) -> None:
    """By the statements of the runbook, as they are written there."""
    (statements,) = re.findall(r"```sql\n(.*?)```", RUNBOOK.read_text(), re.DOTALL)
    with psycopg.connect(desk.urls.owner, autocommit=True) as connection:
        connection.execute(
            statements.replace("'fails'", "'settlement'").replace("'trades'", f"'{desk.topic}'").encode()
        )
    assert desk.query("SELECT sum((detail->>'from')::int) FROM ledger.audit WHERE action = 'rewind'") == [(20,)]


@then(parsers.parse("{number:d} instructions were received"))
@when(parsers.parse("{number:d} instructions were received"))
def _received(desk: Desk, number: int) -> None:
    until(lambda: desk.count("SELECT coalesce(sum(instances), 0) FROM ledger.reads") >= number, PATIENCE_S)
    sums = desk.query("SELECT sum(instances), sum(answered + repeated + refused) FROM ledger.reads")
    assert sums == [(number, number)]


@then(parsers.parse("{number:d} predictions are booked, one an instruction"))
def _booked(desk: Desk, number: int) -> None:
    found = desk.query("SELECT count(*), count(DISTINCT business_key) FROM ledger.predictions")
    assert found == [(number, number)]
    if desk.model == "share_of_a_million":
        wrong = "SELECT count(*) FROM ledger.predictions WHERE score <> substr(business_key, 2)::int / 1000.0"
        assert desk.query(wrong) == [(0,)]


@then(parsers.parse('1 instruction is set aside as "{reason}", because "{detail}"'))
def _aside(desk: Desk, reason: str, detail: str) -> None:
    found = desk.query("SELECT reason, detail FROM trueup.dead_letters")
    assert found.count((reason, detail)) == 1
    refusals = desk.query("SELECT reason, detail FROM trueup.refusals")
    assert refusals.count((reason, detail)) == 1


@then("the dead-letter topic holds what the custodian sent, with the reasons")
def _letters(desk: Desk) -> None:
    until(lambda: not desk.query("SELECT 1 FROM ledger.dead_letters WHERE relayed_at IS NULL"), PATIENCE_S)
    found = {
        value: headers["trueup_reason"] for headers, _, value in all_of(desk.cluster, desk.stream.dead_letters or "")
    }
    assert found == {desk.sent[3]: b"undecodable", desk.sent[4]: b"contract"}


@then("the reply topic holds one answer for each of them")
def _answered_once(desk: Desk) -> None:
    assert set(_answers(desk).values()) == {1}


@then("the reply topic holds an answer for each of them, and repeats are equal")
def _answered(desk: Desk) -> None:
    _answers(desk)


def _answers(desk: Desk) -> Counter[str]:
    """How often each prediction was told; every one must have been, always alike, and nothing else."""
    until(lambda: not desk.query("SELECT 1 FROM ledger.owed_replies"), PATIENCE_S)
    told = [(h["ce_id"].decode(), value) for h, _, value in all_of(desk.cluster, desk.stream.replies or "")]
    booked = {number for (number,) in desk.query("SELECT prediction_id::text FROM ledger.predictions")}
    assert {number for number, _ in told} == booked
    assert len(set(told)) == len(booked)
    return Counter(number for number, _ in told)


def _assignments(desk: Desk) -> int:
    """How often a server was given partitions."""
    return len(re.findall(r" assigned +partitions=\[\d", desk.log()))
