"""The documented metrics are the exposed ones, and every query that is shipped asks for something there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from trueup.domain.batch import Role
from trueup.telemetry.exposition import Exposition
from trueup.telemetry.layout import DOORS, FAMILIES, OUTCOMES, STEPS
from trueup.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8")
HOW_TO = (ROOT / "docs/how-to/observe.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((ROOT / "deploy/dashboards/serving.json").read_text(encoding="utf-8"))


def exposed() -> dict[str, tuple[str, set[str], set[str]]]:
    """Metric as it is documented -> (type, sample names, labels) when everything has been counted once."""
    metrics = Metrics()
    metrics.request(0, metrics.deployment("m", 1), "ok", 1, 1)
    metrics.booked(1, np.zeros((1, 4), np.int32), 1, np.zeros(1, np.int8), [Role.CHAMPION])
    metrics.stream_booked(1, np.zeros(1, np.int64), received=1, letters=0)
    found = {}
    for family in text_string_to_metric_families(Exposition(metrics, None, "0").page("")[0].decode()):
        names = {sample.name for sample in family.samples}
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        shown = family.name if family.type == "histogram" else min(names)
        found[shown] = ("info" if shown.endswith("_info") else family.type, names, labels)
    return found


def queries() -> list[str]:
    shown = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    shown += [variable["query"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]
    _, rules = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", HOW_TO, re.DOTALL))
    return shown + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def test_every_metric_is_documented_with_its_type_and_labels():
    rows = re.findall(r"^\| `(trueup_\w+)` \| (\w+) \| ([\w, ]+) \|", REFERENCE, re.MULTILINE)
    documented = {name: (kind, {*labels.split(", ")}) for name, kind, labels in rows}
    assert documented == {name: (kind, labels) for name, (kind, _, labels) in exposed().items()}
    assert len(rows) == len(documented) == len(FAMILIES) + 3


@pytest.mark.parametrize("value", [*DOORS, *STEPS, "client_gone", "rate_limited"])
def test_label_values_are_documented(value: str):
    assert f"`{value}`" in REFERENCE


def test_errors_that_are_counted_are_documented_with_the_api():
    api = (ROOT / "docs/reference/http-api.md").read_text(encoding="utf-8")
    missing = {code for code in OUTCOMES if f"`{code}`" not in api + REFERENCE}
    assert missing == {"http_error"}


@pytest.mark.parametrize("query", queries())
def test_every_query_asks_for_metrics_and_labels_there_are(query: str):
    known = exposed()
    samples = {sample: labels for _, names, labels in known.values() for sample in names}
    asked = re.findall(r"\b(trueup_\w+)(\{[^}]*\})?", query)
    assert asked
    for sample, selector in asked:
        assert sample in samples
        assert set(re.findall(r"(\w+)[=!]", selector)) <= samples[sample]
    values = {*DOORS, *OUTCOMES, *OUTCOMES.values(), *STEPS}
    for said in re.findall(r'(?:door|step|outcome|class)[=!]~?"([^"]+)"', query):
        assert set(said.split("|")) <= values
    for grouped in re.findall(r"by \(([\w, ]+)\)", query):
        assert {*grouped.split(", ")} - {"le"} <= set().union(*(samples[sample] for sample, _ in asked))


def test_every_metric_is_on_the_dashboard():
    shown = " ".join(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])
    assert [name for name in exposed() if name not in shown] == []


def test_the_scrape_config_is_one():
    config, _ = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", HOW_TO, re.DOTALL))
    (job,) = config["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["authorization"]["type"] == "Bearer"
