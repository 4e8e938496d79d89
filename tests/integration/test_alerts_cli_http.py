"""Alerts from the command line and over HTTP, on a real ledger with real rules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import trueup
from alerting import START
from serving import Served, serving
from trueup.alerts.engine import AlertEngine
from trueup.bootstrap import open_alerts, wired
from trueup.doors.api import alerts as schemas
from trueup.doors.auth import ApiRole
from trueup.doors.cli.server import application
from trueup.errors import TrueupError
from trueup.ledger.urls import Urls
from trueup.settings import Alerting

CONTRACT = """
name: trade
version: 1
fields:
  account: {type: string, role: key}
  amount: float64
output: {kind: probability}
decision: {threshold: 0.5}
"""
DEPLOYED = """/*---
name: Deployed
owner: desk
severity: critical
schedule: every 1m
summary: "{{ labels.deployment }} is there"
receivers: [ops]
parameters: {most: {type: integer, default: 0}}
---*/
SELECT name AS deployment, revision AS value FROM deployments WHERE revision > %(most)s AND deployed_at <= %(now)s
"""
SLOW = DEPLOYED.replace("Deployed", "Slow").replace("SELECT name", "SELECT 1 / (revision - revision) AS x, name")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "rules"
    made.mkdir()
    (made / "deployed.sql").write_text(DEPLOYED)
    return made


@pytest.fixture
def up(fresh_database: Urls, tmp_path: Path, folder: Path) -> Iterator[trueup.Trueup]:
    settings = trueup.Settings(data_dir=tmp_path / "data", alerts=Alerting(folders=[folder]))
    with trueup.Trueup(wired(settings, fresh_database)) as opened:
        for name in ("mine", "theirs"):
            opened.deploy(name, contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
        yield opened


@pytest.fixture
def engine(up: trueup.Trueup) -> AlertEngine:
    return open_alerts(up.services)


class Commands:
    """The command line, on the test's own database and rules."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, urls: Urls, folder: Path, data: Path) -> None:
        for name, value in {
            "TRUEUP_DATABASE_URL": urls.owner,
            "TRUEUP_DATA_DIR": str(data),
            "TRUEUP_ALERTS__FOLDERS": json.dumps([str(folder)]),
        }.items():
            monkeypatch.setenv(name, value)

    def __call__(self, *arguments: str, code: int = 0) -> Any:
        done = CliRunner().invoke(application(), ["alert", *arguments, "--json"])
        if done.exception is not None and isinstance(done.exception, TrueupError):
            return done.exception
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)


@pytest.fixture
def alert(monkeypatch: pytest.MonkeyPatch, fresh_database: Urls, folder: Path, tmp_path: Path, up: Any) -> Commands:
    return Commands(monkeypatch, fresh_database, folder, tmp_path / "data")


class TestCommands:
    def test_an_alert_from_its_rule_to_its_end(self, alert: Commands, folder: Path):
        assert {r["rule"]: r["state"] for r in alert("rules")}["deployed"] == "not evaluated yet"
        assert {r["rule"]: r["did"] for r in alert("run")["rules"]}["deployed"] == "2 firing, 0 pending"
        mine, theirs = sorted(alert("list", "--state", "firing"), key=lambda one: one["deployment"])
        assert (mine["deployment"], mine["summary"]) == ("mine", "mine is there")
        assert alert("list", "--deployment", "theirs") == [theirs]
        assert alert("ack", mine["alert_id"][:12], "--by", "ann", "--comment", "known")["acknowledged_by"] == "user:ann"
        assert alert("assign", mine["alert_id"], "bob")["assigned_to"] == "bob"
        shown = alert("show", mine["alert_id"])
        assert (shown["acknowledged_by"], shown["assigned_to"]) == ("user:ann", "bob")
        assert [(t["before"], t["after"]) for t in shown["transitions"]] == [("inactive", "firing")]
        silenced = alert("silence", "alertname=Deployed", 'deployment=~"th.*"', "--for", "2h", "--comment", "known")
        assert [s["silence_id"] for s in alert("silences")] == [silenced["silence_id"]]
        alert("unsilence", str(silenced["silence_id"]))
        assert alert("silences") == []
        assert [s["comment"] for s in alert("silences", "--all")] == ["known"]
        (folder / "deployed.sql").write_text(DEPLOYED.replace("default: 0", "default: 1"))
        alert("run", "deployed")
        assert alert("list") == []
        assert len(alert("list", "--state", "inactive")) == 2

    def test_a_broken_rule_is_told_with_its_reason(self, alert: Commands, folder: Path):
        (folder / "slow.sql").write_text(SLOW)
        (folder / "bad.sql").write_text("DELETE FROM x")
        done = alert("run", code=1)
        assert {r["rule"]: r["did"][:30] for r in done["rules"] if r["rule"] in ("slow", "bad")} == {
            "bad": "bad.sql: line 1: a file begins", "slow": "the query or its parameters ar"}  # fmt: skip
        states = {r["rule"]: r["state"] for r in alert("rules")}
        assert {rule for rule, state in states.items() if state == "quarantined"} == {"bad", "slow"}
        assert states["deployed"] == states["rejections_up"] == "active"
        broken = [a for a in alert("list") if a["alertname"] == "RuleBroken"]
        assert sorted(a["labels"]["rule"] for a in broken) == ["bad", "slow"]
        (folder / "slow.sql").write_text(SLOW.replace("1 / (revision - revision) AS x, ", ""))
        alert("run", "slow")
        assert [a["labels"]["rule"] for a in alert("list") if a["alertname"] == "RuleBroken"] == ["bad"]

    def test_a_rule_that_takes_too_long_is_broken_and_ends_in_time(
        self, alert: Commands, folder: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("TRUEUP_ALERTS__STATEMENT_TIMEOUT_S", "0.2")
        endless = "SELECT count(*) AS value FROM generate_series(1, 1000000000000) AS s"
        (folder / "deployed.sql").write_text(DEPLOYED.partition("SELECT")[0] + endless)
        (did,) = alert("run", "deployed", code=1)["rules"]
        assert "longer than allowed" in did["did"]

    def test_too_many_rows_are_no_alerts(self, alert: Commands, folder: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("TRUEUP_ALERTS__MAX_ROWS", "1")
        (did,) = alert("run", "deployed", code=1)["rules"]
        assert "more than 1 rows" in did["did"]
        assert [a["alertname"] for a in alert("list")] == ["RuleBroken"]

    def test_explain_and_backtest_say_what_it_would_do(self, alert: Commands, engine: AlertEngine):
        found = alert("explain", "deployed", "--param", "most=7")
        assert (found["reads"], found["parameters"]["most"], found["receivers"]) == (["deployments"], 7, ["ops"])
        assert found["plans"]["main"]["Node Type"]
        from trueup.bootstrap import utc_now

        day = utc_now().date()
        by_days = alert("backtest", "deployed", "--from", "2026-01-01", "--to", "2026-01-05", "--every", "2d")
        assert by_days["evaluations"] == 3, "the 1st, 3rd and 5th"
        before = alert("backtest", "deployed", "--from", "2026-01-01", "--to", "2026-01-02", "--every", "1h")
        assert before == {"evaluations": 25, "intervals": [], "errors": []}
        later = alert("backtest", "deployed", "--from", str(day.replace(year=day.year + 1, day=1)),
                      "--to", str(day.replace(year=day.year + 1, day=2)), "--every", "6h")  # fmt: skip
        assert [(i["labels"]["deployment"], i["ended_at"]) for i in later["intervals"]] == [
            ("mine", None), ("theirs", None)]  # fmt: skip
        assert alert("list") == []

    def test_the_shipped_rule_passes_its_fixture_and_one_without_is_told(self, alert: Commands):
        assert all(one["passed"] for one in alert("test", "rejections_up"))
        assert alert("test", "deployed").message == "the rule has no fixture"
        for words in (("show", "zz"), ("ack", "zz"), ("explain", "nothing"), ("unsilence", "7"), ("run", "nothing")):
            assert "no such" in alert(*words).message

    def test_tables_are_printed_too(self, alert: Commands):
        alert("run")
        one = alert("list")[0]["alert_id"]
        for words in (["list"], ["show", one], ["rules"], ["silences"], ["explain", "deployed"], ["run"],
                      ["test", "rejections_up"], ["ack", one], ["assign", one, "bob"],
                      ["backtest", "deployed", "--from", "2026-01-01", "--to", "2026-01-01"],
                      ["silence", "a=b", "--for", "1h", "--comment", "x"], ["unsilence", "1"]):  # fmt: skip
            done = CliRunner().invoke(application(), ["alert", *words])
            assert done.exit_code == 0, (words, done.output)


class TestHttp:
    @pytest.fixture
    def door(self, up: trueup.Trueup, engine: AlertEngine) -> Iterator[Served]:
        engine.evaluate("deployed", START.replace(year=2100))
        with serving(up) as served:
            yield served

    def call(self, door: Served, role: ApiRole, *names: str) -> Any:
        text = door.api_keys.create("limited", role, by="test", deployments=names or None)[1]

        def ask(method: str, path: str, **more: Any) -> Any:
            headers = {"Authorization": f"Bearer {text}"}
            return door.http.request(method, f"http://{door.address}{path}", headers=headers, **more)

        return ask

    def test_alerts_are_read_and_handled(self, door: Served):
        reader, operator = self.call(door, ApiRole.READER), self.call(door, ApiRole.OPERATOR)
        found = reader("GET", "/v1/alerts?state=firing")
        schemas.AlertsAnswer.model_validate_json(found.content, strict=True)
        one = found.json()["alerts"][0]["alert_id"]
        for path, body in ((f"/v1/alerts/{one}/acknowledge", {}), (f"/v1/alerts/{one}/assign", {"to": "ann"})):
            assert reader("POST", path, json=body).status_code == 403
            answer = operator("POST", path, json=body)
            schemas.AlertAnswer.model_validate_json(answer.content, strict=True)
        assert (answer.json()["assigned_to"], answer.json()["acknowledged_by"][:4]) == ("ann", "key:")
        assert operator("POST", "/v1/alerts/nothing/acknowledge", json={}).status_code == 404
        assert operator("POST", f"/v1/alerts/{one}/assign", json={"to": ""}).status_code == 400

    def test_silences_are_made_listed_and_ended(self, door: Served):
        reader, operator = self.call(door, ApiRole.READER), self.call(door, ApiRole.OPERATOR)
        body = {"matchers": ['deployment="mine"'], "lasting_s": 60, "comment": "known"}
        assert reader("POST", "/v1/silences", json=body).status_code == 403
        made = operator("POST", "/v1/silences", json=body)
        assert made.status_code == 201
        schemas.SilenceAnswer.model_validate_json(made.content, strict=True)
        listed = reader("GET", "/v1/silences")
        schemas.SilencesAnswer.model_validate_json(listed.content, strict=True)
        assert listed.json()["silences"] == [made.json()]
        path = f"/v1/silences/{made.json()['silence_id']}"
        assert reader("DELETE", path).status_code == 403
        assert operator("DELETE", path).status_code == 200
        assert reader("GET", "/v1/silences").json() == {"silences": []}
        assert operator("DELETE", "/v1/silences/77").status_code == 404
        for wrong in ({**body, "matchers": ["x"]}, {**body, "lasting_s": 1e8}, {**body, "matchers": ['a=~"(x)"']}):
            assert operator("POST", "/v1/silences", json=wrong).status_code == 400

    def test_who_is_limited_reaches_their_own_alone(self, door: Served):
        everyone, mine = self.call(door, ApiRole.OPERATOR), self.call(door, ApiRole.OPERATOR, "mine")
        ids = {a["labels"]["deployment"]: a["alert_id"] for a in everyone("GET", "/v1/alerts").json()["alerts"]}
        assert [a["labels"]["deployment"] for a in mine("GET", "/v1/alerts").json()["alerts"]] == ["mine"]
        assert mine("POST", f"/v1/alerts/{ids['mine']}/acknowledge", json={}).status_code == 200
        theirs = mine("POST", f"/v1/alerts/{ids['theirs']}/acknowledge", json={})
        none = mine("POST", f"/v1/alerts/{'0' * 32}/acknowledge", json={})
        assert (theirs.status_code, theirs.json()) == (none.status_code, none.json())
        body = {"matchers": ["alertname=Deployed"], "lasting_s": 60, "comment": "known"}
        assert mine("POST", "/v1/silences", json=body).status_code == 403
        wide = everyone("POST", "/v1/silences", json=body).json()["silence_id"]
        assert mine("DELETE", f"/v1/silences/{wide}").status_code == 404
        assert mine("GET", "/v1/silences").json() == {"silences": []}
        own = {**body, "matchers": ["alertname=Deployed", "deployment=mine"]}
        made = mine("POST", "/v1/silences", json=own).json()
        assert mine("GET", "/v1/silences").json() == {"silences": [made]}
        assert mine("DELETE", f"/v1/silences/{made['silence_id']}").status_code == 200
