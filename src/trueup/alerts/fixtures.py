"""Tests of alert rules: a YAML file beside the rule says what is given, and which alerts are expected when.

What is given are rows of views, which the rule's SELECT then reads in their place, or the rows of the SELECT itself.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from trueup.alerts.backtesting import Replay
from trueup.alerts.durations import parse_duration
from trueup.alerts.observing import observed
from trueup.alerts.reading import EXPECTED, MAIN, RuleFile
from trueup.alerts.states import Bounds
from trueup.contracts.schedules import between, schedule
from trueup.domain.alert import Alert, State
from trueup.errors import InvalidFile, InvalidInput

MOST_BYTES = 1_000_000
MOST_ROWS = 100_000
MOST_TESTS = 200
START = datetime(2026, 1, 5, 9, tzinfo=UTC)
_VIEW = re.compile(r"[a-z_][a-z0-9_]{0,62}\Z")
_LATER = re.compile(r"([+-])(\d[0-9wdhms]*)\Z")
_KEYS = {"name", "start", "parameters", "given", "rows", "expected", "expect", "known_by"}

Bind = Callable[[datetime, Mapping[str, object]], Mapping[str, object]]
Run = Callable[[str, Mapping[str, object]], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Story:
    """One story of a fixture."""

    name: str
    start: datetime
    parameters: Mapping[str, object]
    given: Mapping[str, Sequence[Mapping[str, Any]]] | None  # rows of views; None: ``rows`` are those of the SELECT
    rows: Sequence[Mapping[str, Any]]
    expected: Sequence[Mapping[str, Any]]
    expect: Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class Verdict:
    """What came of a story; no fault: it passed."""

    name: str
    faults: list[str] = field(default_factory=list)


def read_fixture(path: Path) -> list[Story]:
    """The stories of a file. Raises InvalidFile."""
    try:
        with path.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
        body = yaml.safe_load(content) if len(content) <= MOST_BYTES else None
    except OSError:
        raise InvalidFile("the rule has no fixture", next_step="write NAME.test.yaml beside NAME.sql") from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise InvalidFile("the fixture is not valid YAML") from None
    tests = body.get("tests") if isinstance(body, dict) and set(body) == {"tests"} else None
    if not isinstance(tests, list) or not 0 < len(tests) <= MOST_TESTS:
        raise InvalidFile(f"a fixture is `tests:`, a list of at most {MOST_TESTS}")
    return [_story(one, f"tests[{place}]") for place, one in enumerate(tests)]


def run_story(story: Story, file: RuleFile, bind: Bind, run: Run, bounds: Bounds, most: int) -> Verdict:
    """Evaluates the rule at its moments from the start to the last expectation. ``run`` answers a SELECT. Raises
    InvalidFile, InvalidInput."""
    verdict = Verdict(story.name)
    views = frozenset(view for query in file.file.queries for view in query.relations)
    if foreign := sorted(set(story.given or ()) - views):
        raise InvalidFile(f"given.{foreign[0]}: the rule does not read it")
    wanted = {story.start + _offset(one, "at"): one for one in story.expect}
    due = sorted({*between(schedule(file.rule.schedule), story.start, max(wanted)), *wanted})
    if len(due) > most:
        raise InvalidInput(f"more than {most} evaluations", next_step="expect something earlier")
    replay = Replay(file.name, file.rule, lambda at: _observed(story, file, bind, run, at), bounds)
    for moment in due:
        replay.evaluate(moment)
        if moment in wanted:
            at = f"at {wanted[moment]['at']}"
            verdict.faults += [f"{at}: {fault}" for fault in _compared(wanted[moment], replay, file)]
    return verdict


def _observed(story: Story, file: RuleFile, bind: Bind, run: Run, at: datetime) -> Any:
    if story.given is None:
        now = at - story.start
        rows = [
            r for s in story.rows if _offset(s, "from") <= now <= _offset(s, "until", timedelta.max) for r in s["rows"]
        ]
        return observed(file.rule, rows, story.expected)
    bound = bind(at, story.parameters)
    found = {q.name: run(*_shadowed(q.text, q.relations, story.given, bound)) for q in file.file.queries}
    return observed(file.rule, found[MAIN], found.get(EXPECTED, ()))


def _shadowed(
    text: str, views: frozenset[str], given: Mapping[str, Sequence[Mapping[str, Any]]], bound: Mapping[str, object]
) -> tuple[str, Mapping[str, object]]:
    """The SELECT over the given rows: every view it reads is a table of the same name and type."""
    tables = ", ".join(
        f"{view} AS (SELECT * FROM jsonb_populate_recordset(NULL::trueup.{view}, %(given_{view})s::jsonb))"  # noqa: S608
        for view in sorted(views)
        if _VIEW.match(view)
    )
    more = {f"given_{view}": json.dumps(list(given.get(view, ())), default=str) for view in views}
    shadowed = f"WITH {tables} SELECT * FROM (\n{text}\n) AS rule" if tables else text  # noqa: S608 - a checked SELECT
    return shadowed, {**bound, **more}


def _compared(wanted: Mapping[str, Any], replay: Replay, file: RuleFile) -> list[str]:
    """What is not as expected."""
    found = {key: alert for key, alert in replay.alerts.items() if alert.state is not State.INACTIVE}
    faults = [] if replay.error is None else [f"the rule is broken: {replay.error}"]
    for one in wanted["alerts"]:
        labels = {**file.rule.own_labels, **one.get("labels", {})}
        alert = next((a for a in found.values() if dict(a.labels) == labels), None)
        if alert is None:
            faults.append(f"no alert {_told(labels)}")
            continue
        del found[alert.fingerprint]
        faults += _differences(one, alert)
    return [*faults, *(f"unexpected: {_told(alert.labels)} {alert.state}" for alert in found.values())]


def _differences(one: Mapping[str, Any], alert: Alert) -> list[str]:
    seen: dict[str, Any] = {"state": str(alert.state), "value": alert.value, **alert.annotations}
    return [
        f"{_told(alert.labels)}: {name} is {seen.get(name)!r}, expected {wanted!r}"
        for name, wanted in one.items()
        if name != "labels" and not _equal(seen.get(name), wanted)
    ]


def _equal(seen: Any, wanted: Any) -> bool:
    if isinstance(seen, float) and isinstance(wanted, int | float):
        return math.isclose(seen, wanted, rel_tol=1e-9, abs_tol=1e-12)
    return bool(seen == wanted)


def _told(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{name}={text}" for name, text in sorted(labels.items())) + "}"


def _story(one: Any, what: str) -> Story:
    if not isinstance(one, dict) or set(one) - _KEYS or not isinstance(one.get("name"), str):
        raise InvalidFile(f"{what}: {', '.join(sorted(_KEYS))} may be said, and name is needed")
    start = one.get("start", START)
    if not isinstance(start, datetime):
        raise InvalidFile(f"{what}.start: a moment like 2026-01-05T09:00:00Z is needed")
    start = start if start.tzinfo else start.replace(tzinfo=UTC)
    if ("given" in one) == ("rows" in one):
        raise InvalidFile(f"{what}: either given (rows of views) or rows (of the SELECT) is needed")
    expect = _objects(one.get("expect"), f"{what}.expect")
    for wanted in expect:
        _offset(wanted, "at")
        _objects(wanted.get("alerts"), f"{what}.expect.alerts")
    if not expect:
        raise InvalidFile(f"{what}.expect: nothing is expected")
    stretches = _objects(one.get("rows", []), f"{what}.rows")
    for stretch in stretches:
        _objects(stretch.get("rows"), f"{what}.rows.rows")
    return Story(
        one["name"],
        start,
        dict(one.get("parameters") or {}),
        None if "given" not in one else _given(one["given"], start, f"{what}.given"),
        stretches,
        _objects(one.get("expected", []), f"{what}.expected"),
        expect,
    )


def _given(value: Any, start: datetime, what: str) -> dict[str, list[dict[str, Any]]]:
    """Rows by view. ``{times: 3, row: {...}}`` is three rows; ``+5m`` and ``-1h`` are moments from the start."""
    if not isinstance(value, dict) or not all(isinstance(view, str) and _VIEW.match(view) for view in value):
        raise InvalidFile(f"{what}: views with rows each are needed")
    found: dict[str, list[dict[str, Any]]] = {}
    for view, rows in value.items():
        found[view] = []
        for one in _objects(rows, f"{what}.{view}"):
            times, row = (one["times"], one["row"]) if set(one) == {"times", "row"} else (1, one)
            if not isinstance(times, int) or not isinstance(row, dict) or len(found[view]) + times > MOST_ROWS:
                raise InvalidFile(f"{what}.{view}: at most {MOST_ROWS} rows, and times is a whole number")
            found[view] += [{name: _placed(cell, start) for name, cell in row.items()}] * times
    return found


def _placed(cell: Any, start: datetime) -> Any:
    later = _LATER.match(cell) if isinstance(cell, str) else None
    if later is None:
        return cell.isoformat() if hasattr(cell, "isoformat") else cell
    away = parse_duration(later[2], "given")
    return (start + away if later[1] == "+" else start - away).isoformat()


def _objects(value: Any, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise InvalidFile(f"{what}: a list is needed")
    return value


def _offset(one: Mapping[str, Any], key: str, default: timedelta = timedelta()) -> timedelta:
    return parse_duration(one[key], key) if key in one else default
