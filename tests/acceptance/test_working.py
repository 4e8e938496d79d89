"""Steps of working.feature: every room under real `trueup work` processes, seen from outside."""

from __future__ import annotations

import base64
import csv
import hashlib
import hmac
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from clocks import QUICK, until
from receiving import HttpReceiver, Posted, answered, http_receiver
from streaming import Command
from trueup.ledger.urls import Urls

scenarios("working.feature")

CONTRACT = """
name: trades
version: 1
event_time: settlement_date
fields:
  trade: {type: string, role: key}
  settlement_date: {type: date, role: context}
  amount: float64
output: {kind: probability}
labels:
  - {name: failed, type: bool, horizon: {days: 1}}
  - {name: penalty, type: float64, horizon: {days: 30}}
"""
SERVING = "monitoring: {reference: {rows: 20}, windows: [day], smallest_slice: 5, top_k: 5}\n"
PULL = "SELECT trade, day AS event_day, failed, penalty, changed_at AS observed_at FROM fails WHERE changed_at > :since"
RULE = """/*---
name: TooManyFails
owner: settlements desk
severity: critical
schedule: every 1s
summary: "{{ value | number }} trades of {{ labels.book }} have failed"
runbook: https://runbooks.bank.example/fails
receivers: [tickets]
label_columns: [book]
parameters:
  most: {type: integer, default: 3, description: failed trades that are too many}
---*/
SELECT contract_name AS book, count(*) AS value FROM outcomes
WHERE label = 'failed' AND value_number = 1 GROUP BY contract_name HAVING count(*) >= %(most)s
"""
REFUSED = "Unavailable: the source of a pull failed (OperationalError)"
SECRET = bytes(range(32))
TODAY = datetime.now(UTC).date()
DAYS = TODAY - timedelta(days=2), TODAY - timedelta(days=1)
WORK = {"upkeep", "pull", "monitor", "alert", "alert-groups", "report", "notify"}


@dataclass
class Desk:
    """The desk, its custodian, its ticket program and its machines."""

    command: Command
    urls: Urls
    folder: Path
    tickets: HttpReceiver
    is_away: bool = False
    taken: list[Posted] = field(default_factory=list)
    machines: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tickets.answer = self._answer
        self.custodian("CREATE TABLE fails (trade TEXT, day TEXT, failed INTEGER, penalty NUMERIC, changed_at TEXT)")

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        if not self.is_away:
            self.taken.append(self.tickets.posted[-1])
        answered(handler, 503 if self.is_away else 200)

    def custodian(self, statement: str, *rows: tuple[Any, ...]) -> None:
        with closing(sqlite3.connect(self.folder / "custodian.db")) as connection, connection:
            for row in rows or [()]:
                connection.execute(statement, row)

    def learns(self, day: date, *facts: tuple[str, bool]) -> None:
        """The custodian learns now whether trades of the day have failed; a failed one costs a penalty."""
        moment = datetime.now(UTC).isoformat()
        self.custodian(
            "INSERT INTO fails VALUES (?, ?, ?, ?, ?)",
            *((trade, str(day), int(failed), 12.5 if failed else None, moment) for trade, failed in facts),
        )

    def asked(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """What the ledger's views say, as anybody with a connection sees them."""
        with psycopg.connect(self.urls.reader, options="-c search_path=trueup") as connection:
            return connection.execute(query.encode(), parameters).fetchall()

    def start(self) -> None:
        with (self.folder / "machines.log").open("ab") as out:
            program = Path(sys.executable).parent / "trueup"
            self.machines.append(subprocess.Popen([program, "work"], stdout=out, stderr=out))

    def runs(self, name: str, outcome: str = "ok") -> int:
        return int(self.asked("SELECT count(*) FROM clock_runs WHERE (name, outcome) = (%s, %s)", name, outcome)[0][0])

    def told(self) -> list[str]:
        return [json.loads(one.body)["status"] for one in self.taken]


@pytest.fixture
def desk(fresh_database: Urls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    command = Command(fresh_database, tmp_path, monkeypatch)
    for name in ("contract.yaml", "serving.yaml", "fails.sql"):
        text = {"contract.yaml": CONTRACT, "serving.yaml": SERVING, "fails.sql": PULL}[name]
        (tmp_path / name).write_text(text)
    with http_receiver() as tickets:
        settings: dict[str, Any] = {
            **{f"CLOCK__{name}": value for name, value in QUICK.items()},
            "ALERTS__FOLDERS": json.dumps([str(tmp_path / "rules")]),
            "ALERTS__GROUP_WAIT_S": 0,
            "ALERTS__GROUP_INTERVAL_S": 1,
            "ALERTS__LOOK_S": 1,
            "NOTIFY__RECEIVERS": json.dumps({"tickets": {"kind": "webhook", "url": tickets.url}}),
            "NOTIFY__SECRETS": json.dumps({"tickets": {"signing_key": f"whsec_{base64.b64encode(SECRET).decode()}"}}),
            "NOTIFY__SWEEP_EVERY_S": 1,
            "NOTIFY__RETRY_S": 0.2,
            "NOTIFY__RETRY_MOST_S": 0.5,
            "NOTIFY__TIMEOUT_S": 2,
            "NOTIFY__LEASE_S": 3.5,
            "MONITORING__SCHEDULE": "every 2s",
            "REPORTS__SCHEDULES": json.dumps({"usage": "every 5s"}),
        }
        for name, database in (("CUSTODIAN", "custodian.db"), ("ARCHIVE", "empty.db")):
            settings[f"PULLS__{name}__URL"] = f"sqlite:///{tmp_path / database}"
            settings[f"PULLS__{name}__QUERY"] = tmp_path / "fails.sql"
            settings[f"PULLS__{name}__CONTRACT"] = "trades"
            settings[f"PULLS__{name}__SCHEDULE"] = "every 1s"
        for name, value in settings.items():
            monkeypatch.setenv(f"TRUEUP_{name.upper()}", str(value))
        (tmp_path / "rules").mkdir()
        made = Desk(command, fresh_database, tmp_path, tickets)
        try:
            yield made
        finally:
            for machine in made.machines:
                machine.kill()
                machine.wait(30)


@given("a settlements desk whose model is measured, and a custodian who knows what failed")
def _deployed(desk: Desk) -> None:
    files = {name: str(desk.folder / f"{name}.yaml") for name in ("contract", "serving")}
    desk.command("deploy", "trades", "--contract", files["contract"], "--serving", files["serving"],
                 "--model", "python:monitored:share", "--version", "1")  # fmt: skip
    desk.learns(DAYS[0], *((f"A{n}", n == 0) for n in range(10)))
    sqlite3.connect(desk.folder / "empty.db").close()


@given(parsers.parse("a rule of the desk that fires when {most:d} trades or more have failed"))
def _rule(desk: Desk, most: int) -> None:
    (desk.folder / "rules" / "too_many_fails.sql").write_text(RULE.replace("default: 3", f"default: {most}"))


@given("the trades of the last two days have been scored, and of some the desk knows itself what became of them")
def _scored(desk: Desk) -> None:
    rows = [[f"{'AB'[k]}{n}", day, n / 10 - 1] for k, day in enumerate(DAYS) for n in range(20)]
    _write(desk.folder / "trades.csv", ["trade", "settlement_date", "amount"], rows)
    desk.command("score", str(desk.folder / "trades.csv"), "--deployment", "trades")
    _write(desk.folder / "known.csv", ["trade", "event_day", "value"], [["B19", DAYS[1], "false"]])
    desk.command("outcomes", "record", str(desk.folder / "known.csv"), "--contract", "trades", "--source", "desk")


def _write(path: Path, names: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])


@when("a machine works")
@when("another machine works")
def _works(desk: Desk) -> None:
    desk.start()


@when("tables were not made for an hour")
def _behind(desk: Desk) -> None:
    until(lambda: desk.asked("SELECT 1 FROM clock_jobs WHERE (name, subject) = ('upkeep', 'partitions')"))
    with psycopg.connect(desk.urls.owner) as owner:
        owner.execute(
            "UPDATE ledger.clock_jobs SET next_due = next_due - interval '1 hour'"
            " WHERE (name, subject) = ('upkeep', 'partitions')"
        )


@then("there are tables for the week ahead")
def _tables(desk: Desk) -> None:
    ahead = TODAY + timedelta(days=7)
    until(lambda: ahead in [day for (day,) in desk.asked("SELECT d FROM event_days() AS d")])


@then("what the custodian knows is in the ledger")
def _pulled(desk: Desk) -> None:
    query = (
        "SELECT label, count(*), sum(value_number) FROM outcomes WHERE source = 'pull:custodian' GROUP BY 1 ORDER BY 1"
    )
    until(lambda: desk.asked(query) == [("failed", 10, 1.0), ("penalty", 1, 12.5)])


@then("both days were measured with it")
def _measured(desk: Desk) -> None:
    query = """
        SELECT window_first, value FROM measurements_as_known(now(), 'recorded')
        WHERE deployment = 'trades' AND metric = 'maturity' AND slice = '' ORDER BY 1
    """
    until(lambda: desk.asked(query) == [(DAYS[0], 0.5), (DAYS[1], 0.05)])


@then("the report of the night is kept")
def _reported(desk: Desk) -> None:
    until(lambda: desk.runs("report"))
    kept = desk.command.json("report", "list", "usage", "--runs")
    shown = desk.command.json("report", "show", str(kept[0]["run_id"]))
    assert (kept[0]["name"], kept[0]["error"]) == ("usage", None)
    totals = shown["queries"]["totals"]
    predictions = [column["name"] for column in totals["columns"]].index("predictions")
    assert [row[predictions] for row in totals["rows"]] == [40]


@then("the ticket program was told nothing")
def _nothing(desk: Desk) -> None:
    until(lambda: desk.runs("alert") and desk.runs("alert-groups") and desk.runs("notify"))
    assert desk.tickets.posted == []


@when("the ticket program is away")
def _away(desk: Desk) -> None:
    desk.is_away = True


@when("the ticket program is back")
def _back(desk: Desk) -> None:
    desk.is_away = False


@when(parsers.parse("the custodian learns that {count:d} trades have failed"))
def _fail(desk: Desk, count: int) -> None:
    desk.learns(DAYS[1], *((f"B{n}", True) for n in range(count)))


@then("the rule fires and its message waits")
def _waits(desk: Desk) -> None:
    query = "SELECT state, attempts > 0 FROM messages WHERE receiver = 'tickets'"
    until(lambda: desk.asked(query) == [("waiting", True)])
    assert desk.asked("SELECT rule, state, value FROM alerts") == [("too_many_fails", "firing", 5.0)]
    assert desk.taken == []


@when("the machine loses power")
def _dies(desk: Desk) -> None:
    desk.machines[-1].kill()
    assert desk.machines[-1].wait(30) == -9


@then("the ticket program was told once that the rule fires, and by us")
def _fires(desk: Desk) -> None:
    until(lambda: desk.taken, 60)
    document = _checked(desk.taken[0])
    (alert,) = document["alerts"]
    assert desk.told() == ["firing"]
    assert document["subject"] == "[FIRING] TooManyFails (critical): 5 trades of trades have failed"
    assert alert["labels"] == {"alertname": "TooManyFails", "severity": "critical", "book": "trades"}
    assert (alert["value"], document["commonAnnotations"]["owner"]) == (5.0, "settlements desk")


@when(parsers.parse("the custodian learns that {count:d} of these have settled"))
def _settle(desk: Desk, count: int) -> None:
    desk.learns(DAYS[1], *((f"B{n}", False) for n in range(count)))
    desk.learns(DAYS[0], ("A0", False))


@then("the ticket program was told once that it is over, and by us")
def _over(desk: Desk) -> None:
    until(lambda: len(desk.taken) == 2, 60)
    first, last = map(_checked, desk.taken)
    assert desk.told() == ["firing", "resolved"]
    assert first["id"] != last["id"]
    assert [one["fingerprint"] for one in last["alerts"]] == [one["fingerprint"] for one in first["alerts"]]


@then(parsers.parse("however long they work, it was told {count:d} times in all"))
def _in_all(desk: Desk, count: int) -> None:
    before = {name: desk.runs(name) for name in ("alert", "alert-groups", "notify")}
    until(lambda: all(desk.runs(name) >= n + 3 for name, n in before.items()))
    assert len(desk.taken) == count
    ids = [one.headers["webhook-id"] for one in desk.taken]
    assert len(set(ids)) == count
    assert {one.headers["webhook-id"] for one in desk.tickets.posted} == set(ids)


@then("the list of runs says of both machines what each did, how long that took, and what failed")
def _listed(desk: Desk) -> None:
    desk.machines[-1].terminate()
    assert desk.machines[-1].wait(30) == 0
    listed = desk.command.json("jobs", "history", "--limit", "10000")
    ended = [run for run in listed if run["outcome"] in ("ok", "failed")]
    assert {run["name"] for run in ended if run["outcome"] == "ok"} >= WORK
    for run in ended:
        assert run["duration_s"] >= 0, run
        assert (run["error"] is None, run["said"] is None) == (run["outcome"] == "ok", run["outcome"] == "failed"), run
    assert len({run["worker"] for run in ended}) == 2
    assert {(run["name"], run["subject"]) for run in ended if run["outcome"] == "failed"} == {("pull", "archive")}
    assert {run["error"] for run in ended if run["outcome"] == "failed"} == {REFUSED}
    jobs = {(job["name"], job["subject"]): job for job in desk.command.json("jobs", "list")}
    assert jobs["pull", "archive"]["last_outcome"] == "failed"
    assert jobs["monitor", "trades"]["last_outcome"] == "ok"


def _checked(posted: Posted) -> dict[str, Any]:
    """What was posted, once its signature is known to be ours."""
    headers = posted.headers
    assert abs(time.time() - int(headers["webhook-timestamp"])) < 300
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + posted.body
    expected = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    found = json.loads(posted.body)
    assert isinstance(found, dict)
    return found
