"""Every command and program that the documents show is one that works."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from brokers import Cluster
from streams import until
from trueup.ledger.embedded import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONTRACT = """
name: settlement_fails
version: 1
event_time: settlement_date
fields:
  settlement_date: {type: date, role: context}
  cusip: {type: string, role: key}
  last_value_usd: {type: float64, nullable: true, minimum: 0, unit: USD}
output: {kind: probability}
label: {name: failed, type: bool, horizon: {days: 1}}
decision: {threshold: 0.5}
"""
DAY = ["settlement_date,cusip,last_value_usd", "2026-11-20,037833100,1250000.0", "2026-11-20,594918104,"]
PREPARED = """
frame = [{"settlement_date": "2026-11-20", "cusip": "037833100", "last_value_usd": 5.0}]
outcomes = [{"cusip": "037833100", "event_day": "2026-11-20", "value": True}]
"""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


# A tutorial is run as a whole, below.
SHELL = [
    (page.name, block)
    for page in PAGES
    for block in blocks(page, "console")
    if page.parent.name != "tutorials" and not block.startswith("make")
]


class Place:
    """A folder with the files that the documents speak of, and trueup's data beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        scripts = Path(sys.executable).parent
        self.environment = {
            **os.environ,
            "TRUEUP_DATA_DIR": str(folder / "data"),
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        }

    def run(self, *command: str, **environment: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    import numpy as np
    import xgboost

    made = Place(tmp_path_factory.mktemp("reader"))
    (made.folder / "contract.yaml").write_text(CONTRACT)
    (made.folder / "day.csv").write_text("\n".join(DAY) + "\n")
    (made.folder / "day.jsonl").write_text('{"settlement_date":"2026-11-20","cusip":"1","last_value_usd":2.5}\n')
    for name, header, row in (("fails.csv", ",value", ",true"), ("cancelled.csv", "", "")):
        (made.folder / name).write_text(f"cusip,event_day{header}\n037833100,2026-11-20{row}\n")
    (query,) = blocks(ROOT / "docs/how-to/record-outcomes.md", "sql")
    (made.folder / "custodian.sql").write_text(query)
    with closing(sqlite3.connect(made.folder / "custodian.db")) as source, source:
        source.execute("CREATE TABLE fails (cusip TEXT, settlement_day TEXT, failed INTEGER, changed_at TEXT)")
        source.execute("INSERT INTO fails VALUES ('037833100', '2026-11-20', 1, '2026-11-21 08:00:00')")
    value = np.random.default_rng(1).uniform(0, 1e6, (500, 1))
    xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(value, value[:, 0] > 5e5), 5).save_model(
        made.folder / "model.ubj"
    )
    made.run("trueup", *["deploy", "fails", "--contract", "contract.yaml", "--model", "model.ubj", "--version", "1"])
    return made


@pytest.fixture(scope="module")
def served(place: Place) -> Iterator[dict[str, str]]:
    """The address of a running `trueup up`, and its first key."""
    process = subprocess.Popen(
        ["trueup", "up", "--port", "0"],
        cwd=place.folder,
        env=place.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stderr
    key = process.stdout.readline().strip()
    address = next(found[1] for line in process.stderr if (found := re.search(r"listens on (\S+)", line)))
    yield {"URL": address, "KEY": key}
    process.terminate()
    process.communicate(timeout=60)


@pytest.fixture
def own_postgresql(server: EmbeddedPostgres, request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("empty_database").owner


@pytest.mark.parametrize(("page", "block"), SHELL, ids=[f"{page}-{i}" for i, (page, _) in enumerate(SHELL)])
def test_the_commands_work(page: str, block: str, place: Place, request: pytest.FixtureRequest):
    environment: dict[str, str] = {}
    if "$URL" in block:
        environment = request.getfixturevalue("served")
        block = block.replace("curl ", "curl --fail-with-body --silent --show-error ")
    if "custodian.example" in block:
        block = re.sub(r"URL='postgresql\S+", f"URL='sqlite:///{place.folder}/custodian.db'", block)
    if "db.example" in block:
        real = request.getfixturevalue("own_postgresql")
        block = re.sub(r"TRUEUP_DATABASE_URL=\S+", f"TRUEUP_DATABASE_URL='{real}'", block)
    place.run("bash", "-euo", "pipefail", "-c", block, **environment)


def test_the_make_commands_are_targets():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    called = {c.split()[1] for page in PAGES for c in re.findall(r"^make \w+", page.read_text("utf-8"), re.MULTILINE)}
    assert {"demo", "test"} <= called <= targets


def test_the_readmes_program_works(place: Place):
    (program,) = blocks(ROOT / "README.md", "python")
    place.run(sys.executable, "-c", PREPARED + program)


def test_the_programs_that_call_a_server_work(place: Place, served: dict[str, str]):
    programs = blocks(ROOT / "docs/how-to/call-from-python.md", "python")
    assert len(programs) == 6
    shown = place.run(sys.executable, "-c", "\n".join(programs), **served)
    assert "('last_value_usd', 'type')" in shown
    assert shown.splitlines()[-2:] == ["2 []", "10"]


def test_the_tutorial_does_what_it_says(tmp_path: Path):
    page = ROOT / "docs/tutorials/first-prediction.md"
    reader = Place(tmp_path)
    (tmp_path / "contract.yaml").write_text(blocks(page, "yaml")[0])
    for name, text in zip(("my_models.py", "morning.py"), blocks(page, "python"), strict=True):
        (tmp_path / name).write_text(text)
    first, again = (reader.run(sys.executable, "morning.py") for _ in range(2))
    assert first == again
    assert "0.9 chase" in first
    assert "[{'business_key': 'T1', 'score': 0.9, 'outcome': 1.0}]" in first
    (commands,) = blocks(page, "console")
    assert "T1" in reader.run("bash", "-euc", commands)


def test_the_streams_tutorial_does_what_it_says(tmp_path: Path, kafka: Cluster):
    page = ROOT / "docs/tutorials/first-stream.md"
    reader = Place(tmp_path)
    reader.environment |= {"TRUEUP_STREAM__BOOTSTRAP": kafka.bootstrap, "TRUEUP_STREAM__WAIT_S": "0.1"}
    for name, text in zip(("contract.yaml", "serving.yaml"), blocks(page, "yaml"), strict=True):
        (tmp_path / name).write_text(text)
    for name, text in zip(("my_models.py", "topics.py", "send.py", "look.py"), blocks(page, "python"), strict=True):
        (tmp_path / name).write_text(text.replace("127.0.0.1:9092", kafka.bootstrap))
    (tmp_path / "events.jsonl").write_text(blocks(page, "json")[0])
    path, deploy, broker, stream, found, count, from_file = blocks(page, "console")
    assert (path, broker) == ("export PYTHONPATH=$PWD\n", "make kafka\n")
    reader.environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"

    def read_until(records: int) -> None:
        """Runs the stream until that many records are booked, and then as Ctrl-C ends it."""
        process = subprocess.Popen(stream.split(), cwd=tmp_path, env=reader.environment)
        done = ["trueup", "db", "psql", "--", "-Atc", "SELECT sum(records) FROM reads"]
        until(lambda: int(reader.run(*done).strip() or 0) >= records, 60)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0

    reader.run("bash", "-euc", deploy)
    reader.run(sys.executable, "topics.py")
    reader.run(sys.executable, "send.py")
    read_until(6)
    shown = reader.run("bash", "-euc", found)
    assert "undecodable | not JSON" in shown
    assert re.search(r"I1 +\| +0.9 \| chase +\| event:\S+/settlement.instructions \| I1", shown)
    assert re.search(r"6 \| +4 \| +1 \| +1\n", shown)
    told = reader.run(sys.executable, "look.py")
    assert len(re.findall(r"^settlement.scores .*\"fails-stream\".* None$", told, re.MULTILINE)) == 4
    assert "settlement.refused I5;7000,00 b'undecodable'" in told
    reader.run(sys.executable, "send.py")
    read_until(12)
    assert re.search(r"^ +4$", reader.run("bash", "-euc", count), re.MULTILINE)
    letters = "SELECT count(*) FROM dead_letters"
    assert reader.run("trueup", "db", "psql", "--", "-Atc", letters) == "2\n"
    done = subprocess.run(
        ["bash", "-euc", from_file], cwd=tmp_path, env=reader.environment, capture_output=True, text=True, timeout=120
    )
    said = "3 instances of events.jsonl in the ledger: 2 answered, 1 refused\n"
    assert done.stderr.count(said) == 2, done.stderr
    assert (tmp_path / "replies.jsonl").read_text().count('"prediction_id"') == 2
