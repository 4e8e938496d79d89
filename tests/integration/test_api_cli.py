"""The command line and `trueup up`, as their own processes on a real PostgreSQL."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from trueup.doors.cli.server import main
from trueup.ledger.urls import Urls

TESTS = Path(__file__).parents[1]
CONTRACT = """
name: trade
version: 1
fields:
  account: {type: string, role: key}
  day: {type: date, role: context}
  amount: float64
output: {kind: probability}
label: {name: failed, type: bool, join_key: [account], horizon: {days: 2}}
decision: {threshold: 0.5}
event_time: day
"""
ROWS = "account,day,amount\n007,2026-11-20,250000\n008,2026-11-20,750000\n"


class Shell:
    """Runs `trueup` in a folder of its own against one database."""

    def __init__(self, folder: Path, urls: Urls) -> None:
        self.folder = folder
        self.urls = urls
        self.environment = {
            **os.environ,
            "TRUEUP_DATABASE_URL": urls.owner,
            "TRUEUP_DATA_DIR": str(folder / "data"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")])),
            "COLUMNS": "200",
        }
        self.program = [sys.executable, "-c", "from trueup.doors.cli.server import main; main()"]

    def __call__(self, *arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        """In this process, which spares a second of imports."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name, value in {**self.environment, **more}.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["trueup", *arguments])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            with pytest.raises(SystemExit) as ended:
                main()
        code = ended.value.code
        return subprocess.CompletedProcess(
            arguments, code if isinstance(code, int) else 0, out.getvalue(), err.getvalue()
        )

    def process(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """In a process of its own."""
        return subprocess.run(
            [*self.program, *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**self.environment, **more},
            timeout=60,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def shell(tmp_path: Path, fresh_database: Urls) -> Shell:
    (tmp_path / "contract.yaml").write_text(CONTRACT)
    (tmp_path / "rows.csv").write_text(ROWS)
    return Shell(tmp_path, fresh_database)


@pytest.fixture
def deployed(shell: Shell) -> Shell:
    done = shell(*_DEPLOY)
    assert done.returncode == 0, done.stderr
    return shell


_DEPLOY = ("deploy", "t", "--contract", "contract.yaml", "--model", "python:small_models:share_of_a_million",
           "--version", "1")  # fmt: skip


def _refused(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert "\nnext:  " in done.stderr
    return done.stderr


def test_a_file_is_scored_once_however_often_it_is_given(deployed: Shell) -> None:
    first, again = (deployed("score", "rows.csv", "-d", "t") for _ in range(2))
    assert "2 booked, 0 booked before, 0 refused" in first.stderr
    assert "0 booked, 2 booked before, 0 refused" in again.stderr
    assert first.stdout == again.stdout
    answers = [json.loads(line) for line in first.stdout.splitlines()]
    assert [(a["row"], a["score"], a["decision"]) for a in answers] == [(0, 0.25, "pass"), (1, 0.75, "act")]
    assert deployed.process("score", "rows.csv", "-d", "t").stdout == first.stdout
    piped = deployed("score", "-", "--format", "csv", "-d", "t", stdin=ROWS)
    assert piped.stdout == first.stdout


def test_answers_go_where_they_are_wanted(deployed: Shell) -> None:
    done = deployed("score", "rows.csv", "-d", "t", "--out", "answers.csv", "--out-format", "csv")
    assert (done.returncode, done.stdout) == (0, "")
    lines = (deployed.folder / "answers.csv").read_text().splitlines()
    assert lines[0].startswith("row,prediction_id,status,score")
    assert len(lines) == 3


def test_refused_rows_show_in_the_exit_code_and_the_others_are_booked(deployed: Shell) -> None:
    (deployed.folder / "bad.csv").write_text(ROWS + "009,2026-11-20,hush\n")
    done = deployed("score", "bad.csv", "-d", "t")
    assert done.returncode == 3
    assert json.loads(done.stdout.splitlines()[2]) == {"row": 2, "refused": "contract", "detail": "amount: type"}
    assert "hush" not in done.stdout + done.stderr
    assert len(deployed.json("predictions")) == 2


def test_predictions_are_listed_shown_and_trued_up(deployed: Shell) -> None:
    deployed("score", "rows.csv", "-d", "t")
    (found,) = deployed.json("predictions", "--min-score", "0.5", "--event-from", "2026-11-20")
    (deployed.folder / "truth.csv").write_text("account,event_day,value\n008,2026-11-20,true\n")
    receipts = [deployed.json("outcomes", "truth.csv", "--contract", "trade") for _ in range(2)]
    assert [r["first"] for r in receipts] == [1, 0]
    shown = deployed.json("show", found["prediction_id"])
    assert (shown["outcome"], shown["fields"]["account"]) == (1.0, "008")
    assert found["prediction_id"] in deployed("predictions").stdout
    assert "008" in deployed("show", found["prediction_id"]).stdout


def test_one_wrong_outcome_records_none(deployed: Shell) -> None:
    (deployed.folder / "truth.csv").write_text("account,event_day,value\n007,2026-11-20,true\n008,2026-11-20,hush\n")
    text = _refused(deployed("outcomes", "truth.csv", "--contract", "trade"), 3)
    assert "row 1, field value: type, expected bool" in text
    assert "hush" not in text
    with psycopg.connect(deployed.urls.owner) as connection:
        assert connection.execute("SELECT count(*) FROM ledger.outcomes").fetchone() == (0,)


def test_deploying_the_same_again_changes_nothing_and_other_content_is_a_conflict(deployed: Shell) -> None:
    assert deployed.json(*_DEPLOY)["revision"] == 1
    other = [a.replace("share_of_a_million", "always_half") for a in _DEPLOY]
    _refused(deployed(*other), 5)
    (listed,) = deployed.json("deployments")
    assert (listed["name"], listed["version"]) == ("t", "1")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["show", "no-uuid"], 3),
        (["show", "00000000-0000-8000-8000-000000000000"], 4),
        (["score", "rows.csv", "-d", "nope"], 4),
        (["score", "nowhere.csv", "-d", "t"], 3),
        (["score", "-", "-d", "t"], 3),
        (["outcomes", "rows.csv", "--contract", "nope"], 4),
        (["contract", "show", "nope"], 4),
        (["contract", "check", "rows.csv"], 3),
        (["keys", "revoke", "0000000000000000"], 4),
        (["demo", "nope"], 4),
        ([*_DEPLOY[:-1], "2", "--serving", "rows.csv"], 3),
        ([*_DEPLOY[:-1], "2", "--library", "xgboost"], 3),
    ],
)
def test_an_error_is_one_line_a_next_step_and_its_exit_code(shell: Shell, arguments: list[str], code: int) -> None:
    _refused(shell(*arguments), code)


def test_wrong_usage_exits_with_2(shell: Shell) -> None:
    for arguments in (
        ["score"],
        ["predictions", "--limit", "0"],
        ["nothing"],
        ["keys", "create", "x", "--role", "god"],
    ):
        done = shell(*arguments)
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_named_without_its_value(shell: Shell) -> None:
    text = _refused(shell("predictions", TRUEUP_PORT="hush"), 3)
    assert "TRUEUP_PORT" in text
    assert "hush" not in text


def test_a_database_that_is_away_exits_with_7(shell: Shell) -> None:
    _refused(shell("predictions", TRUEUP_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none"), 7)


def test_keys_are_made_shown_once_listed_and_revoked(shell: Shell) -> None:
    made = shell("keys", "create", "orders", "--role", "scorer")
    text = made.stdout.strip()
    assert re.fullmatch(r"tu_[0-9a-f]{16}_[\w-]{43}", text)
    (listed,) = shell.json("keys", "list")
    assert (listed["name"], listed["role"], listed["revoked_at"]) == ("orders", "scorer", None)
    assert text.split("_", 2)[2] not in json.dumps(listed)
    assert shell("keys", "revoke", listed["key_id"]).returncode == 0
    assert shell.json("keys", "list")[0]["revoked_at"] is not None


def test_a_key_is_limited_to_deployments(shell: Shell) -> None:
    made = shell("keys", "create", "desk", "--role", "scorer", "--deployment", "fails", "--deployment", "aging")
    assert "(scorer of aging, fails) for desk" in made.stderr
    assert shell.json("keys", "list")[0]["deployments"] == ["aging", "fails"]
    assert "aging, fails" in shell("keys", "list").stdout
    _refused(shell("keys", "create", "boss", "--role", "admin", "--deployment", "fails"), 3)
    assert len(shell.json("keys", "list")) == 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TRUEUP_TLS__KEY", "/secret/key.pem"),
        ("TRUEUP_OIDC__ISSUER", "http://hush.example"),
        ("TRUEUP_OIDC__ROLES", '{"hush": {"role": "god"}}'),
        ("TRUEUP_RATES__REQUESTS_PER_S", "-1"),
    ],
)
def test_an_unsafe_setting_is_named_and_not_shown(shell: Shell, variable: str, value: str) -> None:
    refused = shell("keys", "list", **{variable: value})
    _refused(refused, 3)
    assert variable.partition("__")[0] in refused.stderr
    assert "hush" not in refused.stderr
    assert "/secret" not in refused.stderr


def test_contracts_are_checked_and_compared(shell: Shell) -> None:
    assert len(shell.json("contract", "check", "contract.yaml")["digest"]) == 64
    assert shell("contract", "diff", "contract.yaml", "contract.yaml").stdout == "no difference\n"
    (shell.folder / "new.yaml").write_text(
        CONTRACT.replace("amount: float64", "amount: int64").replace("version: 1", "version: 2")
    )
    done = shell("contract", "diff", "contract.yaml", "new.yaml", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["breaking"] is True
    assert "amount" in shell("contract", "show", "contract.yaml").stdout


def test_the_database_says_whether_it_is_up_to_date(shell: Shell) -> None:
    assert shell.json("db", "status")["up_to_date"] is True
    assert "nothing to do" in shell("db", "migrate").stderr
    doctor = {check["check"]: check["state"] for check in shell.json("doctor")}
    assert (doctor["database"], doctor["settings"]) == ("good", "good")


def test_psql_reads_views_and_changes_nothing(deployed: Shell, server: Any) -> None:
    path = f"{server.psql.parent}:{os.environ['PATH']}"
    deployed("score", "rows.csv", "-d", "t")
    read = deployed.process("db", "psql", "-c", "SELECT count(*) FROM predictions", "--", "-At", PATH=path)
    assert (read.returncode, read.stdout.strip()) == (0, "2"), read.stderr
    for statement in ("DELETE FROM ledger.predictions", "SELECT key_hash FROM ledger.api_keys", "CREATE TABLE x ()"):
        assert deployed.process("db", "psql", "-c", statement, PATH=path).returncode != 0


def test_help_is_instant_and_loads_nothing_heavy(shell: Shell) -> None:
    began = time.perf_counter()
    done = shell.process("--help")
    took = time.perf_counter() - began
    assert done.returncode == 0
    assert "Exit codes" in done.stdout
    probe = (
        "import sys\nfrom trueup.doors.cli.server import application\napplication()\n"
        "heavy = {'numpy', 'pydantic', 'psycopg', 'fastapi', 'sqlalchemy', 'rich', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
    assert took < 2.0  # a loose bound for a busy machine; alone it takes about 0.15 s


@pytest.mark.parametrize(
    "command", [["score"], ["up"], ["contract", "diff"], ["db", "psql"], ["keys", "create"], ["demo"]]
)
def test_every_command_has_an_example(shell: Shell, command: list[str]) -> None:
    assert "Example" in shell(*command, "--help").stdout


class Server:
    """`trueup up` in a process of its own."""

    def __init__(self, shell: Shell, drain: str = "1") -> None:
        self.process = subprocess.Popen(
            [*shell.program, "up", "--port", "0", "--drain-seconds", drain],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=shell.environment,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            found = re.search(r"listens on (\S+)", line)
            if found:
                self.url = found[1]
                return
        raise AssertionError("the server did not start")


@pytest.fixture
def running(deployed: Shell) -> Iterator[Server]:
    server = Server(deployed)
    yield server
    if server.process.poll() is None:
        server.process.kill()
    server.process.communicate()


def test_up_makes_an_admin_key_once_and_stops_when_told(deployed: Shell, running: Server) -> None:
    assert running.process.stdout is not None
    key = running.process.stdout.readline().strip()
    headers = {"Authorization": f"Bearer {key}"}
    instance = {"account": "007", "day": "2026-11-20", "amount": 1.0}
    url = f"{running.url}/v1/deployments/t/score"
    answer = httpx2.post(url, headers=headers, json={"instance": instance, "key": "a"})
    assert answer.status_code == 200
    assert httpx2.get(f"{running.url}/health/ready").status_code == 200
    running.process.send_signal(signal.SIGTERM)
    _until(lambda: httpx2.get(f"{running.url}/health/ready").status_code == 503)
    late = httpx2.post(url, headers=headers, json={"instance": instance, "key": "a"})
    assert late.json() == {**answer.json(), "repeated": True}
    assert running.process.wait(20) == 0
    again = Server(deployed)
    again.process.send_signal(signal.SIGINT)
    out, _ = again.process.communicate(timeout=20)
    assert "tu_" not in out


def test_what_is_in_flight_when_the_server_stops_is_answered(running: Server) -> None:
    assert running.process.stdout is not None
    key = running.process.stdout.readline().strip()
    asked = {"instance": {"account": "007", "day": "2026-11-20", "amount": 1.0}, "key": "slow"}

    def slowly() -> Iterator[bytes]:
        body = json.dumps(asked).encode()
        yield body[:10]
        running.process.send_signal(signal.SIGTERM)
        time.sleep(2)
        yield body[10:]

    answer = httpx2.post(
        f"{running.url}/v1/deployments/t/score", headers={"X-API-Key": key}, content=slowly(), timeout=20
    )
    assert answer.status_code == 200
    assert running.process.wait(20) == 0


def _until(condition: Any, seconds: float = 5.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_outcomes_are_checked_taken_back_and_shown(deployed: Shell) -> None:
    (deployed.folder / "truth.csv").write_text("account,event_day,value\n008,2026-11-20,true\n")
    (deployed.folder / "gone.csv").write_text("account,event_day\n008,2026-11-20\n")
    assert deployed.json("outcomes", "truth.csv", "-c", "trade", "--dry-run")["rows"] == 1
    _refused(deployed("outcomes", "show", "008"), 4)
    assert deployed.json("outcomes", "record", "truth.csv", "-c", "trade")["first"] == 1
    assert deployed.json("outcomes", "gone.csv", "-c", "trade", "--retract", "--source", "CSD")["revised"] == 1
    assert "value: null" in _refused(deployed("outcomes", "gone.csv", "-c", "trade"), 3)
    assert "not both" in _refused(deployed("outcomes", "gone.csv", "-c", "trade", "--retract", "--censored"), 3)
    _refused(deployed("outcomes", "gone.csv", "-c", "trade", "--label", "nope"), 4)
    shown = deployed.json("outcomes", "show", "008", "--contract", "trade")
    assert [(r["state"], r["value"], r["source"], r["is_latest"]) for r in shown] == [
        ("known", 1.0, "truth.csv", False),
        ("retracted", None, "CSD", True),
    ]
    assert "retracted" in deployed("outcomes", "show", "008").stdout
    _refused(deployed("outcomes", "pull", "nope"), 4)


_SOME_BAD = """account,event_day,value
007,2026-11-20,true
008,2026-11-20,hush
009,20.11.2026,hush
010,2026-11-20
011,2026-11-20,false
"""


def test_what_fits_is_recorded_and_the_rest_is_told_row_by_row(deployed: Shell) -> None:
    (deployed.folder / "truth.csv").write_text(_SOME_BAD)
    rejects = deployed.folder / "rejects.jsonl"
    record = ("outcomes", "truth.csv", "-c", "trade", "--rejects", "rejects.jsonl", "--json")
    checked = deployed(*record, "--dry-run")
    assert (checked.returncode, json.loads(checked.stdout)["first"]) == (3, 0)
    assert len(rejects.read_text().splitlines()) == 3
    done = deployed(*record)
    assert done.returncode == 3
    assert json.loads(done.stdout) == {"first": 2, "revised": 0, "unchanged": 0, "rejected": 3}
    assert "3 of 5 rows do not fit" in done.stderr
    told = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [one["row"] for one in told] == [1, 2, 3]
    assert told[0]["fields"] == [{"field": "value", "code": "type", "expected": "bool"}]
    assert {fault["field"] for fault in told[1]["fields"]} == {"event_day", "value"}
    assert all(one["fields"] for one in told)
    assert "hush" not in rejects.read_text() + done.stderr
    assert json.loads(deployed(*record).stdout)["unchanged"] == 2
    mended = _SOME_BAD.replace("hush", "true").replace("20.11.2026", "2026-11-20").replace("11-20\n", "11-20,true\n")
    (deployed.folder / "truth.csv").write_text(mended)
    again = deployed(*record)
    assert (again.returncode, rejects.read_text()) == (0, "")
    assert json.loads(again.stdout) == {"first": 3, "revised": 0, "unchanged": 2, "rejected": 0}
    with psycopg.connect(deployed.urls.owner) as connection:
        assert connection.execute("SELECT count(*) FROM ledger.outcomes").fetchone() == (5,)


def test_rejects_beyond_the_bound_on_field_errors_have_their_faults_too(deployed: Shell) -> None:
    lines = [f'{{"account": "{n}", "event_day": "2026-11-20", "value": {n}}}' for n in range(9)]
    (deployed.folder / "truth.jsonl").write_text("\n".join([*lines, "{"]))
    done = deployed("outcomes", "truth.jsonl", "-c", "trade", "--rejects", "rejects.jsonl",
                    TRUEUP_LIMITS__FIELD_ERRORS="3", TRUEUP_LIMITS__BATCH_ROWS="6")  # fmt: skip
    assert done.returncode == 3
    told = [json.loads(line) for line in (deployed.folder / "rejects.jsonl").read_text().splitlines()]
    assert [one["row"] for one in told] == list(range(10))
    assert {one["fields"][0]["code"] for one in told} == {"type"}


def test_rejects_neither_overwrite_the_file_nor_hide_that_they_cannot_be_written(deployed: Shell) -> None:
    (deployed.folder / "truth.csv").write_text(_SOME_BAD)
    record = ("outcomes", "truth.csv", "-c", "trade", "--rejects")
    assert "overwrite" in _refused(deployed(*record, "truth.csv"), 3)
    _refused(deployed(*record, "nowhere/rejects.jsonl"), 3)
    assert (deployed.folder / "truth.csv").read_text() == _SOME_BAD
    with psycopg.connect(deployed.urls.owner) as connection:
        assert connection.execute("SELECT count(*) FROM ledger.outcomes").fetchone() == (0,)


def test_what_was_done_is_recorded_once_and_listed(deployed: Shell) -> None:
    deployed("score", "rows.csv", "-d", "t")
    (found,) = deployed.json("predictions", "--min-score", "0.5")
    done = ("action", "add", "t", "--prediction", found["prediction_id"], "--action", "called", "--key", "case 1")
    receipts = [deployed.json(*done, "--reason", "late before", "--actor", "ann") for _ in range(2)]
    assert [(r["added"], r["repeated"]) for r in receipts] == [(1, 0), (0, 1)]
    _refused(deployed(*done, "--reason", "another"), 5)
    _refused(deployed("action", "add", "t", "--action", "called"), 3)
    _refused(deployed("action", "add", "t", "--action", "called", "--prediction", "x"), 3)
    item = ("--business-key", "007", "--event-day", "2026-11-20")
    assert deployed.json("action", "add", "t", "--action", "read", *item, "--no-treatment")["added"] == 1
    assert [a["action"] for a in deployed.json("action", "list", "--deployment", "t")] == ["read", "called"]
    (listed,) = deployed.json("action", "list", "--business-key", "008")
    assert (listed["actor"], listed["reason"], listed["is_treatment"]) == ("ann", "late before", True)
    assert listed["recorded_by"].startswith("user:")
    assert "called" in deployed("action", "list").stdout
