"""Outcomes from a topic: recorded with their positions, in one commit or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import trueup
from trueup.domain.stream import Stream
from trueup.doors.kafka.files import topic_of
from trueup.doors.kafka.opening import lines, outcome_server
from trueup.doors.kafka.server import StreamServer
from trueup.errors import Fenced, InvalidInput, LedgerUnavailable
from trueup.outcomes.postgres import PostgresOutcomes

CONTRACT = trueup.load_contract("""
name: t
version: 1
fields:
  account: {type: string, role: key}
  amount: float64
output: {kind: probability}
label: {name: failed, type: bool, horizon: {days: 1}}
""")


@pytest.fixture
def desk(up: trueup.Trueup) -> trueup.Trueup:
    deployed(up, outcomes=Stream("outcomes", dead_letters="dead"))
    return up


def deployed(up: trueup.Trueup, **serving: Any) -> None:
    model = "python:small_models:share_of_a_million"
    up.deploy("t", contract=CONTRACT, model=model, version="1", serving=trueup.Serving(**serving))


def outcome(account: str, value: Any, observed: str | None = "2026-11-20T10:00:00Z") -> dict[str, Any]:
    return {"account": account, "event_day": "2026-11-19", "value": value, "observed_at": observed}


def served(up: trueup.Trueup, path: Path) -> StreamServer:
    return outcome_server(up.services, "t", lambda _: lines(up.services, "t", path, None), topic=topic_of(path))


def written(path: Path, *rows: Any) -> Path:
    with path.open("ab") as file:
        for row in rows:
            file.write((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n")
    return path


def history(up: trueup.Trueup) -> list[tuple[Any, ...]]:
    found = up.query("SELECT business_key, revision, value_number, source FROM outcome_history ORDER BY 1, 2").rows()
    return [tuple(row.values()) for row in found]


def test_outcomes_are_recorded_and_revised_once(desk: trueup.Trueup, tmp_path: Path) -> None:
    path = written(tmp_path / "o.jsonl", outcome("A", True), outcome("B", False))
    assert served(desk, path).run()
    written(path, outcome("A", False, "2026-11-21T10:00:00Z"), outcome("B", False))
    assert served(desk, path).run()
    assert served(desk, path).run()
    source = f"kafka:file/{topic_of(path)}"
    assert history(desk) == [("A", 1, 1.0, source), ("A", 2, 0.0, source), ("B", 1, 0.0, source)]
    assert desk.query("SELECT next_offset FROM positions").rows() == [{"next_offset": 4}]


def test_what_is_no_outcome_is_a_dead_letter_and_the_stream_goes_on(desk: trueup.Trueup, tmp_path: Path) -> None:
    path = written(tmp_path / "o.jsonl", outcome("A", True), b"{", outcome("B", "perhaps"), outcome("C", True))
    written(path, outcome("D", True, "0001-01-01T00:00:00+01:00"))
    assert served(desk, path).run()
    assert [row[0] for row in history(desk)] == ["A", "C"]
    letters = desk.query("SELECT record_offset, reason FROM dead_letters ORDER BY 1").rows()
    assert [tuple(letter.values()) for letter in letters] == [(1, "undecodable"), (2, "contract"), (4, "contract")]
    assert desk.query("SELECT instances, answered, refused FROM reads").rows() == [
        {"instances": 5, "answered": 2, "refused": 3}
    ]
    reconciled = "SELECT difference FROM stream_reconciliation(NULL, current_date - 1, current_date + 1)"
    assert desk.query(reconciled).rows() == [{"difference": 0}]


def test_an_outcome_without_a_moment_was_observed_when_it_was_appended(desk: trueup.Trueup, tmp_path: Path) -> None:
    path = written(tmp_path / "o.jsonl", outcome("A", True, None))
    assert served(desk, path).run()
    (row,) = desk.query("SELECT extract(epoch FROM observed_at) AS at FROM outcomes").rows()
    assert float(row["at"]) == pytest.approx(path.stat().st_mtime, abs=1)


def test_positions_do_not_move_without_their_outcomes(
    desk: trueup.Trueup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "o.jsonl", outcome("A", True), outcome("B", False))
    record, faults = PostgresOutcomes.record, [LedgerUnavailable("away"), LedgerUnavailable("away")]

    def failing(self: PostgresOutcomes, *given: Any) -> Any:
        done = record(self, *given)
        if faults:
            assert desk.query("SELECT * FROM outcomes").rows() == []
            raise faults.pop()
        return done

    monkeypatch.setattr(PostgresOutcomes, "record", failing)
    assert served(desk, path).run()
    assert faults == []
    assert [row[:2] for row in history(desk)] == [("A", 1), ("B", 1)]


def test_who_lost_the_partition_records_nothing(desk: trueup.Trueup, tmp_path: Path) -> None:
    path = written(tmp_path / "o.jsonl", outcome("A", True))
    server = served(desk, path)
    server._broker.go_on({0: None})
    (batch,) = server._handlers.scored(server._broker.take(10, 0), {0: None})
    server._handlers.book(batch)
    with pytest.raises(Fenced):
        server._handlers.book(batch)
    assert len(history(desk)) == 1


def test_a_stream_of_outcomes_must_be_declared(up: trueup.Trueup, tmp_path: Path) -> None:
    deployed(up)
    with pytest.raises(InvalidInput, match="declares no topic of outcomes"):
        served(up, written(tmp_path / "o.jsonl"))


def test_a_topic_holds_several_labels_and_takes_back_what_it_said(up: trueup.Trueup, tmp_path: Path) -> None:
    labels = "labels: [{name: failed, type: bool, horizon: {days: 1}}, {name: late, type: int64, horizon: {days: 9}}]"
    text = trueup.dump_contract(CONTRACT).partition("label:")[0] + labels
    model = "python:small_models:share_of_a_million"
    serving = trueup.Serving(outcomes=Stream("outcomes", dead_letters="dead"))
    up.deploy("t", contract=text, model=model, version="1", serving=serving)
    item = {"account": "A", "event_day": "2026-11-19", "observed_at": "2026-11-20T10:00:00Z"}
    later = {**item, "observed_at": "2026-11-21T10:00:00Z"}
    path = written(
        tmp_path / "o.jsonl",
        {**later, "label": "late", "state": "retracted"},  # arrives before what it takes back
        {**item, "failed": True, "late": 3},
        {**later, "value": True, "state": "censored"},
        {**later, "value": False},
    )
    assert served(up, path).run()
    rows = up.query("SELECT label, state, value_number FROM outcomes ORDER BY label").rows()
    assert [tuple(row.values()) for row in rows] == [("failed", "known", 0.0), ("late", "retracted", None)]
    assert [row[1] for row in history(up)] == [1, 1, 2, 2]
    assert up.query("SELECT record_offset, reason FROM dead_letters").rows() == [
        {"record_offset": 2, "reason": "contract"}
    ]
