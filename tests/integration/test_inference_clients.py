"""Unmodified clients of the Open Inference Protocol, in an environment of their own (`make test` makes it).

Their pins collide with ours, so each is a small program of ``tests/clients`` that another interpreter
runs once; the tests look at what it saw.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trueup
from databases import create_database
from serving import Served, serving
from trueup.bootstrap import wired
from trueup.doors.auth import ApiRole
from trueup.ledger.embedded import EmbeddedPostgres

PROGRAMS = Path(__file__).parents[1] / "clients"
PYTHON = Path(f"{sys.prefix}-clients") / "bin" / "python"
CONTRACT = """
name: trade
version: 1
fields:
  account: {type: string, role: key}
  amount: {type: float64, minimum: 0}
  trades: int64
  open: {type: bool, nullable: true}
output: {kind: probability}
label: {name: failed, type: bool, join_key: [account], horizon: {days: 2}}
decision: {threshold: 0.5}
"""
INPUTS = [("account", "BYTES"), ("amount", "FP64"), ("trades", "INT64"), ("open", "BOOL")]
FAULTS = ["wrong shape", "wrong datatype", "wrong name", "too few"]


@pytest.fixture(scope="module")
def door(server: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = trueup.Settings(data_dir=tmp_path_factory.mktemp("data"))
    with trueup.Trueup(wired(settings, create_database(server, template))) as up:
        up.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
        with serving(up) as served:
            yield served


def seen(program: str, address: str, key: str) -> Any:
    """What the client saw, as its program tells."""
    assert PYTHON.exists(), "`make clients` makes the environment of the unmodified clients"
    done = subprocess.run(
        [PYTHON, PROGRAMS / program, address, key], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_answered(door: Served, found: dict[str, Any]) -> None:
    """Both instances are scored, and are rows with what was sent."""
    assert (found["score"], found["decision"]) == ([0.25, 0.75], ["pass", "act"])
    assert found["status"] == ["scored", "scored"]
    assert found["id"] == "é-1"
    fields = [door.up.prediction(one)["fields"] for one in found["prediction_id"]]
    assert [(f["account"], f["amount"], f["trades"]) for f in fields] == [
        ("é", 250_000.0, 3),
        ("007", 750_000.0, 2**60),
    ]


def assert_refused(fault: list[Any], code: str, text: str = "") -> None:
    """The client tells of the status and of our text."""
    assert fault is not None
    assert str(fault[0]).endswith(code), fault
    assert len(fault[1]) > 10
    assert text in fault[1]


@pytest.fixture(scope="module")
def triton_http(door: Served) -> Any:
    return seen("triton_http.py", door.address, door.keys[ApiRole.ADMIN])


@pytest.fixture(scope="module")
def kserve_rest(door: Served) -> Any:
    return seen("kserve_rest.py", door.address, door.keys[ApiRole.SCORER])


@pytest.fixture(scope="module")
def triton_grpc(door: Served) -> Any:
    return seen("triton_grpc.py", door.grpc.address, door.keys[ApiRole.ADMIN])


@pytest.fixture(scope="module")
def kserve_grpc(door: Served) -> Any:
    return seen("kserve_grpc.py", door.grpc.address, door.keys[ApiRole.SCORER])


class TestTritonHttp:
    @pytest.fixture
    def told(self, triton_http: Any) -> Any:
        return triton_http

    def test_health_and_metadata(self, told: Any):
        assert told["live"] is told["ready"] is told["model ready"] is told["version ready"] is True
        assert told["unknown model ready"] is False
        assert (told["server"]["name"], told["model"]["versions"]) == ("trueup", ["1"])
        assert [(i["name"], i["datatype"]) for i in told["model"]["inputs"]] == INPUTS

    @pytest.mark.parametrize("form", ["json", "binary", "gzip", "deflate", "after unload"])
    def test_inference(self, door: Served, told: Any, form: str):
        assert_answered(door, told[form])

    def test_a_repeat_under_a_key_gets_the_first_answer(self, told: Any):
        assert told["keyed"][0] == told["keyed"][1]

    def test_repository(self, told: Any):
        assert told["index"] == [{"name": "t", "version": "1", "state": "READY", "reason": ""}]
        assert_refused(told["faults"]["unknown load"], "404")

    @pytest.mark.parametrize("fault", FAULTS)
    def test_what_does_not_fit_is_refused(self, told: Any, fault: str):
        assert_refused(told["faults"][fault], "400")

    @pytest.mark.parametrize(
        ("fault", "code"), [("unknown model", "404"), ("unknown version", "404"), ("no key", "401")]
    )
    def test_other_errors(self, told: Any, fault: str, code: str):
        assert_refused(told["faults"][fault], code)


class TestKServeRest:
    @pytest.fixture
    def told(self, kserve_rest: Any) -> Any:
        return kserve_rest

    def test_health(self, told: Any):
        assert told["live"] is told["ready"] is told["model ready"] is True
        assert told["unknown model ready"] is False

    @pytest.mark.parametrize("form", ["json", "binary", "binary both ways"])
    def test_inference(self, door: Served, told: Any, form: str):
        assert_answered(door, told[form])

    def test_a_repeat_under_a_key_gets_the_first_answer(self, told: Any):
        assert told["keyed"][0] == told["keyed"][1]

    @pytest.mark.parametrize(
        ("fault", "code"), [*((fault, "400") for fault in FAULTS), ("unknown model", "404"), ("no key", "401")]
    )
    def test_the_client_shows_our_text(self, told: Any, fault: str, code: str):
        assert_refused(told["faults"][fault], code)
        assert not told["faults"][fault][1].startswith(","), "the client found no `error` to show"


class TestTritonGrpc:
    @pytest.fixture
    def told(self, triton_grpc: Any) -> Any:
        return triton_grpc

    def test_health_and_metadata(self, told: Any):
        assert told["live"] is told["ready"] is told["model ready"] is told["version ready"] is True
        assert (told["server"]["name"], told["model"]["versions"]) == ("trueup", ["1"])
        assert [(i["name"], i["datatype"]) for i in told["model"]["inputs"]] == INPUTS

    @pytest.mark.parametrize("form", ["raw", "chosen", "packed", "after unload"])
    def test_inference(self, door: Served, told: Any, form: str):
        assert_answered(door, told[form])

    def test_a_repeat_under_a_key_gets_the_first_answer(self, told: Any):
        assert told["keyed"][0] == told["keyed"][1]

    def test_repository(self, told: Any):
        assert told["index"] == {"models": [{"name": "t", "version": "1", "state": "READY"}]}
        assert_refused(told["faults"]["unknown load"], "NOT_FOUND")

    @pytest.mark.parametrize("fault", FAULTS)
    def test_what_does_not_fit_is_refused(self, told: Any, fault: str):
        assert_refused(told["faults"][fault], "INVALID_ARGUMENT")

    @pytest.mark.parametrize(
        ("fault", "code"),
        [("unknown model", "NOT_FOUND"), ("unknown version", "NOT_FOUND"), ("no key", "UNAUTHENTICATED")],
    )
    def test_other_errors(self, told: Any, fault: str, code: str):
        assert_refused(told["faults"][fault], code)


class TestKServeGrpc:
    @pytest.fixture
    def told(self, kserve_grpc: Any) -> Any:
        return kserve_grpc

    def test_health(self, told: Any):
        assert told["live"] is told["ready"] is told["model ready"] is True
        assert_refused(told["unknown model ready"], "NOT_FOUND")

    @pytest.mark.parametrize("form", ["typed", "raw"])
    def test_inference(self, door: Served, told: Any, form: str):
        assert_answered(door, told[form])

    def test_one_key_is_one_answer_typed_and_raw(self, told: Any):
        assert told["keyed"][0] == told["keyed"][1]

    @pytest.mark.parametrize(
        ("fault", "code"),
        [
            *((fault, "INVALID_ARGUMENT") for fault in FAULTS),
            ("unknown model", "NOT_FOUND"),
            ("no key", "UNAUTHENTICATED"),
        ],
    )
    def test_errors(self, told: Any, fault: str, code: str):
        assert_refused(told["faults"][fault], code)
