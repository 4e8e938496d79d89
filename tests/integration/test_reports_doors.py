"""Reports over the command line and HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_api_cli import Shell

import trueup
from databases import create_database
from reported import LAST, seeded
from serving import Served, serving
from trueup.bootstrap import wired
from trueup.doors.auth import ApiRole
from trueup.ledger.embedded import EmbeddedPostgres
from trueup.ledger.urls import Urls

PERIOD = {"from": "2026-10-01", "day": str(LAST)}


@pytest.fixture(scope="module")
def database(server: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory) -> Urls:
    made = create_database(server, template)
    with trueup.Trueup(wired(trueup.Settings(data_dir=tmp_path_factory.mktemp("data")), made)) as up:
        seeded(up, made, per_day=20)
    return made


@pytest.fixture
def shell(tmp_path: Path, database: Urls) -> Shell:
    return Shell(tmp_path, database)


@pytest.fixture(scope="module")
def door(database: Urls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with (
        trueup.Trueup(wired(trueup.Settings(data_dir=tmp_path_factory.mktemp("served")), database)) as up,
        serving(up) as served,
    ):
        yield served


class TestCommandLine:
    def test_a_run_is_shown_again_with_the_rows_behind_it(self, shell: Shell, tmp_path: Path):
        done = shell("report", "run", "daily_mi", "-p", "from=2026-10-01", "-p", f"day={LAST}", "--json")
        run = json.loads(done.stdout)
        assert run["queries"]["by_day"]["rows"]
        again = shell("report", "show", str(run["run_id"]), "--json")
        assert again.stdout == done.stdout
        page = tmp_path / "mi.html"
        assert shell("report", "show", str(run["run_id"]), "-o", str(page)).returncode == 0
        assert "<svg" in page.read_text()
        assert shell("report", "show", str(run["run_id"]), "-o", str(tmp_path / "mi.csv")).returncode == 3
        assert shell("report", "show", str(run["run_id"]), "-o", str(tmp_path / "mi.zip")).returncode == 0
        rows = json.loads(shell("report", "rows", str(run["run_id"]), "by_day", "--row", "1", "--json").stdout)
        assert len(rows) == 20
        assert json.loads(shell("report", "list", "daily_mi", "--json").stdout)[0]["name"] == "daily_mi"

    def test_as_known_on_a_day_by_what_was_observed(self, shell: Shell):
        options = [
            "-p",
            "from=2026-11-01",
            "-p",
            f"day={LAST}",
            "--as-known-on",
            "2026-11-10",
            "--known-by",
            "observed",
        ]
        run = json.loads(shell("report", "run", "daily_mi", *options, "--json").stdout)
        assert run["as_known_at"] == "2026-11-10T23:59:59.999999+00:00"
        days = [row[1] for row in run["queries"]["by_day"]["rows"]]
        assert max(days) == "2026-11-10"

    def test_tables_and_lists_are_for_people(self, shell: Shell):
        done = shell("report", "run", "usage", "-p", "from=2026-10-01")
        assert "By deployment and channel" in done.stdout
        listed = shell("report", "list").stdout
        assert all(name in listed for name in ("daily_mi", "reconciliation", "overrides"))
        assert "daily_mi" in shell("report", "schedule").stdout
        assert "{" not in listed, "parameters are written as they are given"

    def test_programs_are_told_of_a_report_as_over_http(self, shell: Shell, door: Served):
        found = {one["name"]: one for one in json.loads(shell("report", "list", "--json").stdout)}
        assert set(found["daily_mi"]["parameters"][0]) == {"name", "type", "required", "default", "description"}
        assert found["daily_mi"]["recipients"] == []
        over_http = door.get("/v1/reports").json()["reports"]
        assert [{k: v for k, v in found[one["name"]].items() if k != "recipients"} for one in over_http] == over_http

    def test_files_are_checked(self, shell: Shell, tmp_path: Path):
        good, bad = tmp_path / "good.sql", tmp_path / "bad.sql"
        good.write_text("/*---\ntitle: Good\n---*/\nSELECT count(*) FROM truth")
        bad.write_text("/*---\ntitle: Bad\n---*/\nDELETE FROM truth")
        assert shell("report", "check", str(good)).returncode == 0
        done = shell("report", "check", str(bad))
        assert done.returncode == 3
        assert "bad.sql: line 4" in done.stderr

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (["run", "none"], 4),
            (["show", "999999"], 4),
            (["run", "daily_mi", "-p", "nonsense=1"], 3),
            (["run", "daily_mi", "-p", "k=many"], 3),
            (["run", "daily_mi", "-p", "k"], 2),
            (["run", "daily_mi", "--known-by", "guessed"], 3),
            (["run", "daily_mi", "--as-known-at", "2021-02-15T00:00:00"], 2),
            (["run", "daily_mi", "-o", "mi.docx"], 2),
        ],
    )
    def test_faults_have_their_codes(self, shell: Shell, arguments: list[str], code: int):
        assert shell("report", *arguments).returncode == code


class TestHttp:
    def run(self, door: Served, role: ApiRole = ApiRole.OPERATOR, **body: Any) -> Any:
        url = f"http://{door.address}/v1/reports/daily_mi/runs"
        return door.http.post(url, headers=door.headers(role), json={"parameters": PERIOD, **body})

    def test_a_run_in_every_format(self, door: Served):
        made = self.run(door)
        assert made.status_code == 201
        run = made.json()
        assert run["row_counts"]["by_day"] == 40
        assert "queries" not in run
        path = f"/v1/report-runs/{run['run_id']}"
        for kind, begins in (("html", b"<!doctype"), ("pdf", b"%PDF"), ("xlsx", b"PK"), ("csv", b"PK"), ("json", b"{")):
            answer = door.get(f"{path}.{kind}")
            assert answer.status_code == 200
            assert answer.content.startswith(begins)
            assert "daily_mi-" in answer.headers["content-disposition"]
        assert door.get(path).json()["queries"] == door.get(f"{path}.json").json()["queries"]
        rows = door.get(f"{path}/rows/by_day/1").json()
        assert len(rows["rows"]) == 20
        assert door.get("/v1/report-runs?name=daily_mi").json()["runs"][0]["run_id"] == run["run_id"]
        assert {r["name"] for r in door.get("/v1/reports").json()["reports"]} >= {"daily_mi", "usage"}

    def test_the_page_is_whole_under_its_policy(self, door: Served):
        page = door.get(f"/v1/report-runs/{self.run(door).json()['run_id']}.html")
        (policy,) = page.headers.get_list("content-security-policy")
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        text = page.text
        assert "<script" not in text
        assert not re.search(r"\sstyle=|\son\w+=|<img|<link|@import|url\(|<iframe|https?://(?!www\.w3\.org)", text)

    def test_who_may(self, door: Served):
        assert self.run(door, ApiRole.READER).status_code == 403
        assert self.run(door, ApiRole.SCORER).status_code == 403
        limited = door.api_keys.create("limited", ApiRole.OPERATOR, by="test", deployments=("fails",))[1]
        headers = {"Authorization": f"Bearer {limited}"}
        for method, path in (
            ("GET", "/v1/reports"),
            ("GET", "/v1/report-runs"),
            ("GET", "/v1/report-runs/1"),
            ("GET", "/v1/report-runs/1.html"),
            ("GET", "/v1/report-runs/1/rows/by_day/1"),
            ("POST", "/v1/reports/daily_mi/runs"),
        ):
            answer = door.http.request(method, f"http://{door.address}{path}", headers=headers)
            assert answer.status_code == 403, path
        assert door.get("/v1/reports", None).status_code == 401

    def test_faults(self, door: Served):
        assert self.run(door, known_by="guessed").status_code == 400
        assert self.run(door, as_known_at="2026-11-20T00:00:00Z", as_known_on="2026-11-20").status_code == 400
        assert door.get("/v1/report-runs/999999").status_code == 404
        assert door.get("/v1/report-runs/999999.pdf").status_code == 404
        assert door.get("/v1/report-runs/1.docx").status_code == 422
        assert door.get("/v1/report-runs/1/rows/none/1").status_code == 404
