"""Every shipped alert rule is explained and run by the database, and passes its fixture."""

from __future__ import annotations

from pathlib import Path

import pytest

import trueup
from trueup.alerts.fixtures import read_fixture, run_story
from trueup.alerts.reading import SHIPPED
from trueup.bootstrap import open_alerts, utc_now

RULES = sorted(path.stem for path in SHIPPED.glob("*.sql"))
RUNBOOK = Path(__file__).parents[2] / "docs" / "runbooks" / "alerts.md"


def test_there_are_rules():
    assert "rejections_up" in RULES


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_read_explained_and_run(up: trueup.Trueup, name: str):
    services = up.services
    engine = open_alerts(services)
    file = engine.folders.rule(name)
    bound = engine.bound(file, utc_now())
    for query in file.file.queries:
        assert services.queries.explain(query.text, bound)["Node Type"]
    assert "firing" in engine.evaluate(name, utc_now())
    assert f"## {file.rule.name}\n" in RUNBOOK.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RULES)
def test_a_rule_passes_its_fixture(up: trueup.Trueup, name: str):
    services = up.services
    engine = open_alerts(services)
    file = engine.folders.rule(name)
    stories = read_fixture(engine.folders.path(name).with_suffix(".test.yaml"))
    for story in stories:
        verdict = run_story(
            story, file, lambda at, given: file.file.bind(given, now=at), services.queries.rows, engine.bounds, 1_000
        )
        assert verdict.faults == [], story.name
