"""The OpenAPI documents are promises: schemathesis looks for a request whose answer breaks one.

Both doors run on a real socket over a real PostgreSQL. The examples are bounded and the same on every run.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jsonschema_rs
import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import Failure, FailureGroup, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import trueup
from attacks import tells_of_the_inside
from databases import create_database
from serving import Served, serving
from trueup.bootstrap import wired
from trueup.ledger.embedded import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
OPEN_INFERENCE = ROOT / "docs/reference/open-inference.yaml"
CONTRACT = """
name: trade
version: 1
fields:
  account: {type: string, role: key}
  amount: {type: float64, minimum: 0}
  trades: int64
  open: {type: bool, nullable: true}
  settled: {type: date, nullable: true}
  fee: {type: "decimal(38,4)", nullable: true}
output: {kind: probability}
label: {name: failed, type: bool, join_key: [account], horizon: {days: 2}}
decision: {threshold: 0.5}
"""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
KNOWN = {"model": "t", "name": "t", "version": "1"}
BOUNDED = hypothesis.settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def door(server: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = trueup.Settings(data_dir=tmp_path_factory.mktemp("data"))
    with trueup.Trueup(wired(settings, create_database(server, template))) as up:
        up.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
        up.score("t", [{"account": "a", "amount": 1.0, "trades": 2, "open": True}], keys=["k"])
        with serving(up) as served:
            yield served


def broken_promises(schema: Any, door: Served, mode: GenerationMode) -> list[str]:
    """What schemathesis finds, an operation at a time."""
    found = []
    for result in schema.get_all_operations():
        operation = result.ok()

        @BOUNDED
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
        def held(case: Any, known: bool) -> None:
            if known:  # else nearly every answer is "no such model"
                case.path_parameters = {n: KNOWN.get(n, v) for n, v in (case.path_parameters or {}).items()}
            response = case.call(base_url=f"http://{door.address}", headers=door.headers())
            assert not tells_of_the_inside(response.content), response.content
            case.validate_response(response, checks=CHECKS)

        try:
            held()
        except Unsatisfiable:  # an operation without parameters cannot be asked wrongly
            continue
        except (FailureGroup, Failure, AssertionError, ExceptionGroup) as error:
            found.append(f"{operation.label}: {error}\n{getattr(error, 'exceptions', '')}")
    return found


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_management_api_does_what_its_document_says(door: Served, mode: GenerationMode):
    schema = schemathesis.openapi.from_url(f"http://{door.address}/openapi.json")
    assert not broken_promises(schema, door, mode)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_inference_door_does_what_its_document_says(door: Served, mode: GenerationMode):
    schema = schemathesis.openapi.from_dict(yaml.safe_load(OPEN_INFERENCE.read_text(encoding="utf-8")))
    assert not broken_promises(schema, door, mode)


VALID: dict[str, Any] = {
    "id": "request",
    "parameters": {"reasons": True, "timeout": 10_000_000, "event_time": "2026-11-20T10:00:00Z"},
    "inputs": [
        {"name": "account", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]},
        {"name": "amount", "shape": [2, 1], "datatype": "FP64", "data": [[1.0], [2.5]], "parameters": {"x": 1}},
        {"name": "trades", "shape": [2], "datatype": "INT64", "data": [1, 2]},
        {"name": "open", "shape": [2], "datatype": "BOOL", "data": [True, None]},
        {"name": "settled", "shape": [2], "datatype": "BYTES", "data": ["2026-11-20", None]},
        {"name": "fee", "shape": [2], "datatype": "BYTES", "data": ["1.5", "-2"]},
    ],
    "outputs": [{"name": "score"}, {"name": "status", "parameters": {"binary_data": False}}],
}
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, 0, 2**31, 2**63, 2**64, 2**200, 10**400, 1e308, 5e-324, -0.0]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=20),
    st.sampled_from(["", "FP64", "FP16", "BYTES", "NONE", "features", "amount", "amount.is_null", "\0", "é" * 200]),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=3)), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
    st.recursive(st.none(), lambda inner: st.lists(inner, max_size=2), max_leaves=30),
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every member and element of a document."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way for name, inner in pairs for way in [(*here, name), *places(inner, (*here, name))]]


@st.composite
def nearly_valid(draw: st.DrawFn) -> Any:
    """A valid request in which one thing, sometimes more, is replaced, left out, doubled or wrapped."""
    request = copy.deepcopy(VALID)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        *way, last = draw(st.sampled_from(places(request)))
        holder = request
        for step in way:
            holder = holder[step]
        change = draw(st.sampled_from(["replace", "leave out", "double", "wrap"]))
        if change == "replace":
            holder[last] = draw(ODD)
        elif change == "leave out":
            del holder[last]
        elif change == "double" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        else:
            holder[last] = [holder[last]]
        if not places(request):
            break
    return request


def test_a_nearly_valid_request_is_answered_as_documented_or_refused_whole(door: Served):
    document = yaml.safe_load(OPEN_INFERENCE.read_text(encoding="utf-8"))
    schemas = {name: {"$ref": f"#/components/schemas/{name}"} | document for name in ("InferResponse", "Error")}
    validators = {name: jsonschema_rs.validator_for(schema) for name, schema in schemas.items()}
    seen: Counter[int] = Counter()

    @hypothesis.settings(BOUNDED, max_examples=600)
    @hypothesis.given(request=nearly_valid())
    def held(request: Any) -> None:
        before = door.count()
        answer = door.infer(json.dumps(request).encode())  # NaN and Infinity go as such
        seen[answer.status_code] += 1
        assert answer.status_code in (200, 400), answer.text
        assert not tells_of_the_inside(answer.content), answer.content
        if answer.headers["content-type"] == "application/json":
            validators["InferResponse" if answer.status_code == 200 else "Error"].validate(answer.json())
        rows = door.count() - before
        assert rows == 0 if answer.status_code == 400 else rows >= 0

    assert door.infer(VALID).status_code == 200
    held()
    assert min(seen[200], seen[400]) > 10, seen
