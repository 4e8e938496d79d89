"""The OpenAPI document says what the door answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import trueup
from serving import Served, serving
from trueup.doors.api import schemas
from trueup.doors.api.errors import STATUS
from trueup.doors.api.openapi import document

CONTRACT = """
name: trade
version: 1
fields:
  account: {type: string, role: key}
  amount: float64
output: {kind: probability}
label: {name: failed, type: bool, join_key: [account], horizon: {days: 2}}
decision: {threshold: 0.5}
"""
ROW = {"account": "007", "amount": 250000.0}


@pytest.fixture
def served(up: trueup.Trueup) -> Iterator[Served]:
    up.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
    with serving(up) as running:
        yield running


def test_every_operation_has_a_name_of_its_own_and_says_what_it_answers() -> None:
    operations = [o for methods in document()["paths"].values() for o in methods.values()]
    names = [o["operationId"] for o in operations]
    assert len(set(names)) == len(names) >= 12
    for operation in operations:
        (good,) = (r for status, r in operation["responses"].items() if status in ("200", "201"))
        assert all(kind["schema"] for kind in good["content"].values()), operation["operationId"]
        for status, error in operation["responses"].items():
            if status >= "400" and operation["operationId"] != "ready":
                assert error["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorAnswer")


def test_every_status_that_errors_have_is_documented() -> None:
    documented = {int(status) for status in document()["paths"]["/v1/deployments/{name}/score"]["post"]["responses"]}
    assert {status for status, _ in STATUS.values()} - documented == {
        501
    }  # no extra is missing where models are loaded


def test_who_may_call_is_said_for_each_kind_of_key() -> None:
    schemes = document()["components"]["securitySchemes"]
    assert set(schemes) == {"HTTPBearer", "APIKeyHeader", "MetricsToken"}
    assert all(scheme["description"] for scheme in schemes.values())
    assert "METRICS" not in schemes["HTTPBearer"]["description"]


def test_the_command_prints_what_the_server_serves_and_needs_no_database(served: Served, tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from trueup.doors.cli.server import main; main()", "openapi"]
    nowhere = {"TRUEUP_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "TRUEUP_DATA_DIR": str(tmp_path / "no")}

    done = subprocess.run(program, capture_output=True, text=True, env={**os.environ, **nowhere}, check=True)
    assert json.loads(done.stdout) == served.get("/openapi.json", None).json()
    assert not (tmp_path / "no").exists()


def test_every_answer_is_one_of_its_documented_kind(served: Served) -> None:
    def fits(kind: type[BaseModel], answer: Any) -> Any:
        assert answer.is_success, answer.text
        kind.model_validate_json(answer.content, strict=True)
        return answer.json()

    def post(path: str, body: Any) -> Any:
        return served.http.post(f"http://{served.address}{path}", json=body, headers=served.headers())

    score = "/v1/deployments/t/score"
    for reasons in (False, True):
        made = fits(schemas.Answer, post(score, {"instance": ROW, "event_time": "2026-11-20T00:00:00Z",
                                                 "reasons": reasons}))  # fmt: skip
    fits(schemas.BatchAnswer, post(score, {"instances": [ROW, {}], "keys": ["a", "b"]}))
    outcome = {"account": "007", "event_day": "2026-11-20", "value": True}
    one = f"/v1/predictions/{made['prediction_id']}"
    assert fits(schemas.PredictionAnswer, served.get(one))["outcome"] is None
    fits(schemas.OutcomesAnswer, post("/v1/outcomes", {"contract": "trade", "source": "s", "outcomes": [outcome]}))
    assert fits(schemas.PredictionAnswer, served.get(one))["outcome"] == 1.0
    assert len(fits(schemas.PredictionsAnswer, served.get("/v1/predictions"))["predictions"]) == 3
    fits(schemas.DeploymentsAnswer, served.get("/v1/deployments"))
    fits(schemas.DeploymentState, served.get("/v1/deployments/t"))
    fits(schemas.MeasurementsAnswer, served.get("/v1/deployments/t/measurements"))
    fits(schemas.ServerAnswer, served.get("/v1/server"))
    fits(schemas.ContractAnswer, served.get("/v1/contracts/trade"))
    fits(schemas.Health, served.get("/health/ready", None))
    fits(schemas.Health, served.get("/health/live", None))
    wrong = post(score, {"instance": {}})
    schemas.ErrorAnswer.model_validate_json(wrong.content, strict=True)
