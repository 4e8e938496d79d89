"""Every shipped alert rule is explained and run by the database, and passes its fixture."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import trueup
from trueup.alerts.fixtures import read_fixture, run_story
from trueup.alerts.reading import SHIPPED, RuleFolders
from trueup.alerts.states import Bounds
from trueup.bootstrap import open_alerts, utc_now

RULES = sorted(path.stem for path in SHIPPED.glob("*.sql"))
ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "docs" / "runbooks" / "alerts.md"


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


def test_the_rule_of_the_guide_passes_its_fixture(up: trueup.Trueup, tmp_path: Path):
    guide = (ROOT / "docs/how-to/write-an-alert.md").read_text(encoding="utf-8")
    for language, name in (("sql", "silent_model.sql"), ("yaml", "silent_model.test.yaml")):
        (block,) = re.findall(rf"```{language}\n(.*?)```", guide, re.DOTALL)
        (tmp_path / name).write_text(block)
    file = RuleFolders([tmp_path]).rule("silent_model")
    (story,) = read_fixture(tmp_path / "silent_model.test.yaml")
    verdict = run_story(
        story, file, lambda at, given: file.file.bind(given, now=at), up.services.queries.rows, Bounds(), 1_000
    )
    assert verdict.faults == []
    engine = open_alerts(up.services)
    assert engine.ask(file, engine.bound(file, utc_now())).rows == ()


def test_the_evaluations_steps_have_the_same_words_in_code_and_docs():
    import trueup.alerts.engine as module

    def steps(text: str) -> list[str]:
        return re.findall(r"^\d\. \*.*$", text, re.MULTILINE)

    text = (ROOT / "docs/explanation/alerts.md").read_text(encoding="utf-8")
    assert steps(module.__doc__ or "") == steps(text)
    assert len(steps(text)) == 5
