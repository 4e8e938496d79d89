"""Whatever step kills a process that evaluates and tells, nothing is lost and nothing told twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from alerting import RULE
from databases import create_database
from killed_alerts import STEPS
from trueup.ledger.embedded import EmbeddedPostgres

PROGRAM = Path(__file__).parents[1] / "killed_alerts.py"
TRACES = (
    "SELECT receiver, payload, ordering FROM ledger.messages ORDER BY message_id",
    "SELECT fingerprint, before, after, at, reason FROM ledger.alert_transitions ORDER BY at, fingerprint, before",
    "SELECT rule, due, rows, error FROM ledger.alert_evaluations ORDER BY due",
    "SELECT fingerprint, state, active_at, fired_at, resolved_at FROM ledger.alert_instances ORDER BY 1",
    "SELECT actor, action, subject FROM ledger.audit ORDER BY audit_id",
    "SELECT group_key, sequence, next_at, told_at, firing FROM ledger.alert_groups ORDER BY 1",
)


def lived(server: EmbeddedPostgres, template: str, folder: Path, *kills: str) -> list[Any]:
    """What the ledger holds after a life that was ended after each of these steps, and begun again."""
    folder.mkdir()
    (folder / "drift.sql").write_text(
        RULE.format(name="Drift", more="for: 1m\nescalate: {after: 90s, receivers: [head]}")
    )
    urls = create_database(server, template)
    for kill in (*kills, ""):
        command = [
            sys.executable,
            str(PROGRAM),
            urls.writer,
            str(folder),
            str(folder / "done"),
            *([kill] if kill else []),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode in ((-signal.SIGKILL, 0) if kill else (0,)), done.stderr
        if kill.endswith(":1"):
            assert done.returncode == -signal.SIGKILL
    with psycopg.connect(urls.owner) as connection:
        return [connection.execute(trace.encode()).fetchall() for trace in TRACES]


@pytest.fixture(scope="module")
def undisturbed(server: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return lived(server, template, tmp_path_factory.mktemp("undisturbed") / "rules")


def test_the_story_is_worth_telling(undisturbed: list[Any]):
    messages, transitions, *_ = undisturbed
    assert {receiver for receiver, _, _ in messages} == {"ops", "head"}
    assert {payload["status"] for _, payload, _ in messages} == {"firing", "resolved"}
    assert len(messages) > 6
    assert len(transitions) > 10


@pytest.mark.parametrize("step", STEPS)
def test_killed_after_a_step_twice_and_the_life_is_the_same(
    server: EmbeddedPostgres, template: str, tmp_path: Path, undisturbed: list[Any], step: str
):
    assert lived(server, template, tmp_path / "rules", f"{step}:1", f"{step}:3") == undisturbed
