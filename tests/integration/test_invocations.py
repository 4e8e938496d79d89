"""MLflow's scoring protocol: the same numbers as MLflow's own server gives, from every form; typed errors."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import mlflow
import numpy as np
import pandas as pd
import pytest
import xgboost
from mlflow.models import convert_input_example_to_serving_input, infer_signature

import trueup
from serving import Served, serving
from trueup.doors.auth import ApiRole

NAMES = ["a", "b", "c"]
CONTRACT = (
    "name: c\nversion: 1\nfields:\n"
    + "".join(f"  {name}: {{type: float64, nullable: true}}\n" for name in NAMES)
    + "output: {kind: probability}\ndecision: {threshold: 0.5}\n"
)
RNG = np.random.default_rng(3)
FRAME = pd.DataFrame(RNG.normal(size=(20, 3)), columns=NAMES)
GAPS = FRAME.mask(RNG.random(FRAME.shape) < 0.3)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that MLflow made, with a booster in it."""
    place = tmp_path_factory.mktemp("logged") / "model"
    x = RNG.normal(size=(300, 3))
    booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(x, x[:, 0] > 0, feature_names=NAMES), 10)
    mlflow.xgboost.save_model(booster, str(place), signature=infer_signature(FRAME, np.zeros(20, np.float32)))
    return str(place)


@pytest.fixture(scope="module")
def mlflow_server(logged: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("mlflow-server")
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", logged, "--env-manager", "local"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 90
            while not _answers(f"http://127.0.0.1:{port}/ping"):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False


@pytest.fixture
def door(up: trueup.Trueup, logged: str) -> Iterator[Served]:
    up.deploy("t", contract=CONTRACT, model=str(Path(logged) / "model.ubj"), version="1")
    with serving(up) as served:
        yield served


def invoke(door: Served, content: str | bytes, kind: str = "application/json", **headers: str) -> Any:
    url = f"http://{door.address}/invocations"
    return door.http.post(
        url, content=content, headers={**door.headers(ApiRole.SCORER), "Content-Type": kind, **headers}
    )


FORMS = {
    "mlflow's own helper": lambda: (convert_input_example_to_serving_input(FRAME), "application/json"),
    "dataframe_split": lambda: (json.dumps({"dataframe_split": FRAME.to_dict("split")}), "application/json"),
    "dataframe_records": lambda: (json.dumps({"dataframe_records": FRAME.to_dict("records")}), "application/json"),
    "instances": lambda: (json.dumps({"instances": FRAME.to_dict("records")}), "application/json"),
    "inputs": lambda: (json.dumps({"inputs": FRAME.to_dict("list")}), "application/json; charset=utf-8"),
    "csv": lambda: (FRAME.to_csv(index=False), "text/csv"),
    "missing values": lambda: (convert_input_example_to_serving_input(GAPS), "application/json"),
    "missing values in csv": lambda: (GAPS.to_csv(index=False), "text/csv"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_what_mlflows_own_server_gives(door: Served, mlflow_server: str, form: str):
    content, kind = FORMS[form]()
    theirs = httpx2.post(f"{mlflow_server}/invocations", content=content, headers={"Content-Type": kind}, timeout=60)
    assert theirs.status_code == 200, theirs.text
    ours = invoke(door, content, kind)
    assert ours.status_code == 200, ours.text
    assert ours.json()["predictions"] == theirs.json()["predictions"]
    assert door.count() == len(FRAME)


def test_rows_as_arrays_are_in_the_contracts_order(door: Served):
    rows = FRAME.to_numpy().tolist()
    expected = invoke(door, json.dumps({"dataframe_records": FRAME.to_dict("records")})).json()
    for form in ("instances", "inputs"):
        assert invoke(door, json.dumps({form: rows})).json() == expected
    assert invoke(door, json.dumps({"dataframe_split": {"data": rows}})).json() == expected


def test_a_null_and_a_missing_column_are_null(door: Served):
    sent = [{"a": 1.0, "b": None, "c": None}, {"a": 1.0}]
    first, second = invoke(door, json.dumps({"dataframe_records": sent})).json()["predictions"]
    assert first == second
    assert invoke(door, "a,b,c\n1.0,,\n", "text/csv").json()["predictions"] == [first]


def test_details_name_the_rows_of_the_ledger(door: Served):
    body = {"instances": [[0.1, 0.2, 0.3], [1, 2, 3]], "params": {"details": True, "idempotency_key": "k"}}
    found, again = (invoke(door, json.dumps(body)).json()["predictions"] for _ in range(2))
    assert [p["repeated"] for p in again] == [True, True]
    ids = {str(row["prediction_id"]) for row in door.up.query("SELECT prediction_id FROM predictions").rows()}
    assert {p["prediction_id"] for p in found} == ids
    other = {"instances": [[9, 9, 9], [1, 2, 3]], "params": {"idempotency_key": "k"}}
    conflict = invoke(door, json.dumps(other))
    assert (conflict.status_code, conflict.json()["error_code"]) == (409, "RESOURCE_CONFLICT")


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        ("{}", "application/json", 400, "BAD_REQUEST"),
        ('{"instances": [[1, 2, 3]], "inputs": [[1, 2, 3]]}', "application/json", 400, "BAD_REQUEST"),
        ('{"instances": [[1, 2]]}', "application/json", 400, "BAD_REQUEST"),
        ('{"instances": []}', "application/json", 400, "BAD_REQUEST"),
        ('{"instances": [["secret", 2, 3]]}', "application/json", 400, "INVALID_PARAMETER_VALUE"),
        ('{"instances": [{"a": 1, "d": "secret"}]}', "application/json", 400, "INVALID_PARAMETER_VALUE"),
        ('{"inputs": {"a": [1, 2], "b": [1]}}', "application/json", 400, "BAD_REQUEST"),
        ('{"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}', "application/json", 400, "BAD_REQUEST"),
        ('{"instances": [[1, 2, 3]], "params": {"details": "yes"}}', "application/json", 400, "BAD_REQUEST"),
        ('{"instances": [[1, 2, 3]], "params": {"temperature": 1}}', "application/json", 400, "BAD_REQUEST"),
        ('{"instances": [[1, 2, 3]], "more": 1}', "application/json", 400, "BAD_REQUEST"),
        ('{"messages": []}', "application/json", 400, "BAD_REQUEST"),
        ('{"instances": [[1e999, 2, 3]]}', "application/json", 400, None),
        ("[" * 100_000, "application/json", None, None),
        ('{"instances": NaN}', "application/json", 400, "BAD_REQUEST"),
        ('{"prompt": "secret"}', "application/json", 400, "BAD_REQUEST"),
        ('{"input": "secret"}', "application/json", 400, "BAD_REQUEST"),
        (",a\n0,1\n", "text/csv", 400, "BAD_REQUEST"),
        ('a,b,c\n"1,2,3\n', "text/csv", 400, "BAD_REQUEST"),
        ("", "text/csv", 400, "BAD_REQUEST"),
        ("a: 1", "text/yaml", 415, "BAD_REQUEST"),
        ("{}", "application/json; charset=latin-1", 415, "BAD_REQUEST"),
        ("{}", "application/json; version=1", 415, "BAD_REQUEST"),
    ],
)
def test_what_does_not_fit_is_refused_in_mlflows_words(door: Served, content: str, kind: str, status: Any, code: Any):
    refused = invoke(door, content, kind)
    assert refused.status_code == (status or refused.status_code)
    assert 400 <= refused.status_code < 500
    assert set(refused.json()) == {"error_code", "message"}
    assert refused.json()["error_code"] == (code or refused.json()["error_code"])
    assert "secret" not in refused.text
    assert door.count() == 0


def test_one_bad_instance_refuses_all_and_each_is_a_refusal(door: Served):
    refused = invoke(door, json.dumps({"instances": [[1, 2, 3], [1, 2, "x"]]}))
    assert refused.status_code == 400
    assert "row 1, c: type" in refused.json()["message"]
    assert door.count("refusals") == 2


class TestWhoAnswers:
    BODY = json.dumps({"instances": [[1, 2, 3]]})

    @pytest.fixture
    def two(self, door: Served) -> Served:
        door.up.deploy("other", contract=CONTRACT, model="python:small_models:always_half", version="2")
        return door

    def test_the_header_or_the_query_says_it(self, two: Served):
        assert invoke(two, self.BODY, **{"X-Trueup-Deployment": "other"}).json() == {"predictions": [0.5]}
        url = f"http://{two.address}/invocations?deployment=other"
        sent = two.http.post(url, content=self.BODY, headers={**two.headers(), "Content-Type": "application/json"})
        assert sent.json() == {"predictions": [0.5]}

    @pytest.mark.parametrize("query", ["deployment=t&deployment=other", "&".join(f"a{i}=1" for i in range(50))])
    def test_a_query_that_says_too_much(self, two: Served, query: str):
        url = f"http://{two.address}/invocations?{query}"
        sent = two.http.post(url, content=self.BODY, headers={**two.headers(), "Content-Type": "application/json"})
        assert (sent.status_code, sent.json()["error_code"]) == (400, "BAD_REQUEST")

    def test_of_several_one_must_be_named(self, two: Served, monkeypatch: pytest.MonkeyPatch):
        refused = invoke(two, self.BODY)
        assert (refused.status_code, refused.json()["error_code"]) == (400, "BAD_REQUEST")
        assert "other" not in refused.text.replace("another", "")
        monkeypatch.setattr(two.up.services.settings, "invocations_deployment", "other")
        assert invoke(two, self.BODY).json() == {"predictions": [0.5]}

    def test_one_that_is_not_there(self, two: Served):
        refused = invoke(two, self.BODY, **{"X-Trueup-Deployment": "nobody"})
        assert (refused.status_code, refused.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")


def test_it_needs_a_key_and_health_does_not(door: Served):
    url = f"http://{door.address}"
    refused = door.http.post(f"{url}/invocations", content="{}", headers={"Content-Type": "application/json"})
    assert (refused.status_code, refused.json()["error_code"]) == (401, "UNAUTHENTICATED")
    reader = door.http.post(f"{url}/invocations", content="{}", headers=door.headers(ApiRole.READER))
    assert (reader.status_code, reader.json()["error_code"]) == (403, "PERMISSION_DENIED")
    assert [door.http.get(f"{url}{path}").status_code for path in ("/ping", "/health", "/version")] == [200] * 3
    assert door.http.get(f"{url}/version").text == "0.1.0"
    wrong = door.http.get(f"{url}/invocations")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
