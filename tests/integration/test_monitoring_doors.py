"""Measuring and reading measurements through the command line and over HTTP."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_api_cli import Shell

import trueup
from monitored import CONTRACT, DECLARED, deployed, rows_of
from serving import Served, serving
from trueup.doors.api import schemas
from trueup.doors.cli.errors import BAD_INPUT, NOT_FOUND
from trueup.ledger.urls import Urls

SERVING = """
monitoring:
  reference: {training: true}
  windows: [day, half-month]
  segments: [desk]
  smallest_slice: 100
  rank_by: score
  breaches: {rows: {below: 1000}}
  metrics: [rows, psi]
"""
FEATURES = ("amount", "history", "lots", "price", "urgent", "desk", "venue")


def written(path: Path, columns: dict[str, Any]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*([_cell(v) for v in column] for column in columns.values()), strict=True))
    return path


def _cell(value: Any) -> str:
    return "" if value is None or value != value else str(value).lower() if isinstance(value, bool) else str(value)


@pytest.fixture
def shell(tmp_path: Path, fresh_database: Urls) -> Shell:
    """A deployment with its serving file, training data and a day of trades."""
    opened = Shell(tmp_path, fresh_database)
    (tmp_path / "contract.yaml").write_text(CONTRACT, encoding="utf-8")
    (tmp_path / "serving.yaml").write_text(SERVING, encoding="utf-8")
    training = rows_of(np.random.default_rng(1), 400)
    written(tmp_path / "training.csv", {name: training[name] for name in FEATURES})
    written(tmp_path / "day.csv", rows_of(np.random.default_rng(2), 300, "2026-11-03"))
    done = opened("deploy", "fails", "--contract", str(tmp_path / "contract.yaml"), "--model", "python:monitored:share",
                  "--version", "1", "--serving", str(tmp_path / "serving.yaml"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert opened("score", str(tmp_path / "day.csv"), "--deployment", "fails").returncode == 0
    return opened


def test_from_a_serving_file_to_measurements_on_the_command_line(shell: Shell):
    waiting = shell("monitor", "run", "fails", "--at", "2026-11-20", "--known-by", "observed")
    assert "no reference yet for 1" in waiting.stderr
    made = shell("monitor", "reference", "fails", str(shell.folder / "training.csv"), "--json")
    assert json.loads(made.stdout)["reference"] == "400 rows of training", made.stderr
    assert "300 rows counted" in shell("monitor", "profile", "fails").stderr
    run = ("monitor", "run", "fails", "--at", "2026-11-20", "--known-by", "observed", "--json")
    done = json.loads(shell(*run).stdout)
    assert (done["windows"], done["failed"]) == (2, [])
    assert json.loads(shell(*run).stdout)["windows"] == 0
    again = shell(*run[:-1], "--window", "day:2026-11-03")
    assert "1 windows measured, 0 figures added" in again.stderr
    show = ("monitor", "show", "fails", "--known-by", "observed")
    found = json.loads(
        shell(*show, "--window", "half-month:2026-11-03", "--metric", "rows", "--slice", "", "--json").stdout
    )
    assert [(m["value"], m["verdict"], m["floor"]) for m in found] == [(300.0, "breach", 1000.0)]
    table = shell(*show, "--metric", "psi", "--field", "amount", "--slice", "").stdout
    assert "amount" in table
    assert "half-month" in table


def test_wrong_requests_say_what_is_wrong(shell: Shell):
    assert shell("monitor", "run", "nothing").returncode == NOT_FOUND
    assert shell("monitor", "show", "nothing").returncode == NOT_FOUND
    wrong = shell("monitor", "run", "fails", "--window", "fortnight:2026-11-03")
    assert wrong.returncode == BAD_INPUT
    assert "a window is KIND:DAY" in wrong.stderr
    assert shell("monitor", "run", "fails", "--known-by", "rumour").returncode == BAD_INPUT
    (shell.folder / "serving.yaml").write_text("monitoring: {reference: {rows: 5, training: true}}", encoding="utf-8")
    files = ("--contract", str(shell.folder / "contract.yaml"), "--serving", str(shell.folder / "serving.yaml"))
    done = shell("deploy", "fails", "--model", "python:monitored:share", "--version", "1", *files)
    assert done.returncode == BAD_INPUT
    assert "a reference is one of" in done.stderr


@pytest.fixture
def door(up: trueup.Trueup) -> Iterator[Served]:
    deployed(up, replace(DECLARED, metrics=("rows", "psi")))
    up.score("fails", rows_of(np.random.default_rng(1), 500, "2026-11-02"), dataset="a day")
    up.monitor("fails")
    with serving(up) as running:
        yield running


def test_measurements_over_http(door: Served):
    everything = door.get("/v1/deployments/fails/measurements")
    schemas.MeasurementsAnswer.model_validate_json(everything.content, strict=True)
    one = door.get("/v1/deployments/fails/measurements?metric=rows&slice=&window_kind=day").json()["measurements"]
    assert [(m["window_first"], m["value"]) for m in one] == [("2026-11-02", 500.0)]
    early = door.get("/v1/deployments/fails/measurements?at=2026-11-01T00:00:00Z").json()["measurements"]
    assert early == []
    assert door.get("/v1/deployments/fails/measurements?known_by=rumour").status_code == 422
    assert door.get("/v1/deployments/nothing/measurements").status_code == 404
    assert door.get("/v1/deployments/fails/measurements", None).status_code == 401
