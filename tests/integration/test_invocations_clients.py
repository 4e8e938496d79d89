"""MLflow's own client and helpers, unmodified, at our door; and what each of several callers keeps for itself."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost
from mlflow.models import convert_input_example_to_serving_input
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

import trueup
from serving import Served, serving
from trueup.doors.auth import ApiRole
from trueup.doors.inference.errors import MOST_FIELDS

CONTRACT = (
    "name: c\nversion: 1\nfields:\n  a: {type: float64, nullable: true}\n  b: float64\n"
    "output: {kind: probability}\ndecision: {threshold: 0.5}\n"
)
FRAME = pd.DataFrame({"a": [0.5, np.nan], "b": [1.0, 2.0]})


@pytest.fixture
def door(up: trueup.Trueup) -> Iterator[Served]:
    up.deploy("t", contract=CONTRACT, model="python:small_models:always_half", version="1")
    with serving(up) as served:
        yield served


def invoke(door: Served, content: Any, **headers: str) -> Any:
    sent = content if isinstance(content, bytes | str) else json.dumps(content)
    kind = {"Content-Type": "application/json"}
    url = f"http://{door.address}/invocations"
    return door.http.post(url, content=sent, headers={**door.headers(ApiRole.SCORER), **kind, **headers})


def test_mlflows_client_finds_the_server_ready_and_is_told_that_it_shows_no_key(door: Served):
    client = ScoringServerClient(*door.address.split(":"))
    client.wait_server_ready(timeout=10)
    assert client.get_version() == version("trueup")
    with pytest.raises(Exception, match="UNAUTHENTICATED"):
        client.invoke(FRAME)


EXAMPLES = {
    "frame with a missing value": FRAME,
    "array with a missing value": FRAME.to_numpy(),
    "columns": {"a": np.array([0.5, 0.6]), "b": np.array([1.0, 2.0])},
    "records": [{"a": 0.5, "b": 1.0}, {"b": 2.0}],
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_mlflows_helper_writes_is_taken(door: Served, example: str):
    answered = invoke(door, convert_input_example_to_serving_input(EXAMPLES[example]))
    assert answered.json() == {"predictions": [0.5, 0.5]}


def test_nan_is_null_and_infinity_is_no_value(door: Served):
    missing = invoke(door, '{"instances": [{"a": 1, "b": NaN}, {"a": NaN, "b": 1}, {"a": -Infinity, "b": 1}]}')
    assert missing.json()["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "row 0, b: null" in missing.json()["message"]
    assert "row 2, a: infinity" in missing.json()["message"]
    assert "row 1" not in missing.json()["message"]


@pytest.mark.parametrize(
    "body",
    ['{"instances": [[NaN, 1]]', "NaN", "[NaN]", '{"instances": [[nan, 1]]}', '{"a": NaN, "b": ' + "[" * 5_000],
)
def test_a_body_with_nan_is_json_otherwise(door: Served, body: str):
    refused = invoke(door, body)
    assert (refused.status_code, refused.json()["error_code"]) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("params", [[], 0, False, "", "text"])
def test_params_are_an_object(door: Served, params: Any):
    assert invoke(door, {"instances": [[1, 2]], "params": params}).status_code == 400
    assert door.count() == 0


def test_every_row_of_another_width_is_named_up_to_a_bound(door: Served):
    refused = invoke(door, {"instances": [[1], [1, 2], [1, 2, 3], 4]})
    assert refused.json()["message"].endswith("these are not: 0, 2, 3")
    many = invoke(door, {"instances": [[1]] * (MOST_FIELDS + 5)})
    assert many.json()["message"].endswith(f", {MOST_FIELDS - 1} and 5 more")


def test_records_are_objects_alone(door: Served):
    refused = invoke(door, {"dataframe_records": [{"b": 1}, [1, 2]]})
    assert (refused.status_code, refused.json()["error_code"]) == (400, "BAD_REQUEST")
    assert refused.json()["message"].endswith("these are not: 1")


def test_the_header_is_the_key_of_the_whole_request(door: Served):
    body = {"instances": [[1, 2], [3, 4]], "params": {"details": True}}
    first, again = (invoke(door, body, **{"Idempotency-Key": "k"}).json()["predictions"] for _ in range(2))
    assert [p["prediction_id"] for p in first] == [p["prediction_id"] for p in again]
    assert door.count() == 2


def test_text_that_is_no_unicode_is_no_key(door: Served):
    body = '{"instances": [[%s, 1]], "params": {"idempotency_key": "\\ud800"}}'
    for number in ("1", "NaN"):
        refused = invoke(door, body % number)
        assert (refused.status_code, refused.json()["error_code"]) == (400, "BAD_REQUEST")


def test_a_packed_body_is_unpacked_and_a_long_one_refused(door: Served):
    packed = gzip.compress(json.dumps({"instances": [[1, 2]]}).encode())
    assert invoke(door, packed, **{"Content-Encoding": "gzip"}).json() == {"predictions": [0.5]}
    most = door.up.services.settings.limits.request_rows
    refused = invoke(door, {"instances": [[1, 2]] * (most + 1)})
    assert (refused.status_code, refused.json()["error_code"]) == (413, "BAD_REQUEST")


def test_a_model_of_classes_answers_lists_of_probabilities(up: trueup.Trueup):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(60, 2))
    data = xgboost.DMatrix(x, rng.integers(0, 3, 60), feature_names=["a", "b"])
    booster = xgboost.train({"objective": "multi:softprob", "num_class": 3}, data, 3)
    up.deploy(
        "t", contract=CONTRACT.partition("output")[0] + "output: {kind: class, classes: [x, y, z]}\n",
        model=booster, version="1",
    )  # fmt: skip
    expected = booster.predict(data).astype(float)
    with serving(up) as door:
        assert invoke(door, {"instances": x.tolist()}).json()["predictions"] == expected.tolist()
        detailed = invoke(door, {"instances": x.tolist(), "params": {"details": True}}).json()["predictions"]
    assert [p["class"] for p in detailed] == ["xyz"[i] for i in expected.argmax(1)]
    assert [p["outputs"] for p in detailed] == expected.tolist()


def test_callers_at_once_keep_their_own_answers_and_errors(door: Served):
    bodies = [{"instances": [[1, "secret" if i % 3 == 0 else i]] * (1 + i % 4)} for i in range(32)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda body: invoke(door, body), bodies))
    for i, answer in enumerate(answers):
        if i % 3:
            assert answer.json() == {"predictions": [0.5] * (1 + i % 4)}
        else:
            assert answer.status_code == 400
            assert answer.json()["message"].count("b: type") == 1 + i % 4
