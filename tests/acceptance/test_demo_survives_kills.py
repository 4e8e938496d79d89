"""`trueup demo` is killed fifty times at random moments; the ledger ends as if nothing had happened.

Five ledgers are made from nothing with ten kills each: kills that come after everything is
booked prove little, so the moments are drawn from the time a whole run takes, and each
ledger's first run is never let through.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import trueup
from trueup_examples.settlement_fails.market import Market, write_files

LEDGERS = 5
KILLS = 10  # of each
SUMMARY = """
    SELECT count(*) AS rows, count(DISTINCT (source, source_key, role)) AS identities, sum(score) AS score,
           sum(expected_cost) AS cost, min(event_day)::text AS first, max(event_day)::text AS last,
           string_agg(DISTINCT model_version, ',') AS versions
    FROM predictions
"""
OUTCOMES = "SELECT count(*) AS rows, max(revision) AS revision, sum(value_number) AS value FROM outcome_history"


def demo(home: Path, files: Path, *, out: Path | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "trueup", "demo", "--data", str(files)]
    return subprocess.Popen(
        [*command, *(["--out", str(out)] if out else [])],
        env={**os.environ, "TRUEUP_DATA_DIR": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finished(home: Path, files: Path, out: Path) -> float:
    began = time.monotonic()
    process = demo(home, files, out=out)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-2000:]
    return time.monotonic() - began


def killed(home: Path, files: Path, after: float) -> None:
    """Kills a run ``after`` so many seconds, or sooner, if it would be through before."""
    while True:
        process = demo(home, files)
        try:
            process.wait(timeout=after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return
        process.communicate()
        after *= 0.5


def state(home: Path) -> list[Any]:
    with trueup.connect(trueup.Settings(data_dir=home)) as up:
        revisions = up.query("SELECT count(*) AS n FROM deployment_history").rows()
        return [*up.query(SUMMARY), *up.query(OUTCOMES), *revisions]


def test_no_row_is_lost_or_doubled_and_a_rerun_adds_none(tmp_path: Path):
    files = tmp_path / "files"
    write_files(Market(securities=150, months=3, seed=5), files)
    whole = finished(tmp_path / "undisturbed", files, tmp_path / "undisturbed.json")
    expected = state(tmp_path / "undisturbed")
    assert expected[0]["rows"] == expected[0]["identities"] > 1000

    dice = random.Random(20_261_123)
    for number in range(LEDGERS):
        home = tmp_path / f"killed-{number}"
        for _ in range(KILLS):
            killed(home, files, dice.uniform(0.3, whole * 0.8))
        finished(home, files, tmp_path / "killed.json")
        assert state(home) == expected

    finished(tmp_path / "killed-0", files, tmp_path / "again.json")
    assert state(tmp_path / "killed-0") == expected
    first, again = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("undisturbed", "again"))
    for row in (first["overall"], again["overall"]):
        row.pop("example")
    assert first == again
