"""Callers share batches, connections and commits, and nothing else: many at once, each unlike the others."""

from __future__ import annotations

import gzip
import json
import random
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

import trueup
from attacks import Raw, request
from serving import Served, serving
from trueup.doors.auth import ApiRole

CONTRACT = """
name: trade
version: 1
fields:
  account: {type: string, role: key}
  amount: {type: float64, minimum: 0}
  trades: {type: int64, nullable: true}
output: {kind: probability}
label: {name: failed, type: bool, join_key: [account], horizon: {days: 2}}
decision: {threshold: 0.5}
"""


@pytest.fixture
def door(up: trueup.Trueup) -> Iterator[Served]:
    up.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
    up.deploy("half", contract=CONTRACT, model="python:small_models:always_half", version="7")
    with serving(up) as served:
        yield served


@dataclass
class Caller:
    """One caller's wishes, all drawn from its number."""

    number: int

    def __post_init__(self) -> None:
        drawn = random.Random(self.number)
        self.model = drawn.choice(["t", "half"])
        self.rows = drawn.choice([1, 1, 1, 2, 5])
        self.amounts = [float(drawn.randrange(1_000_000)) for _ in range(self.rows)]
        self.id = drawn.choice([None, f"caller {self.number}", "ß\n\"'", ""])
        self.outputs = drawn.choice([None, ["score"], ["decision", "score", "prediction_id"]])
        self.binary_in, self.binary_out = drawn.random() < 0.4, drawn.random() < 0.4
        self.packed_in, self.packed_out = drawn.random() < 0.3, drawn.random() < 0.3
        self.key = drawn.choice([None, f"key {self.number}"])
        self.key_in_header = drawn.random() < 0.5
        self.reasons = drawn.random() < 0.3
        self.day = drawn.choice([None, f"2026-11-{1 + self.number % 20:02}"])
        self.fault = drawn.choice([None, None, None, "amount", "shape", "datatype", "key", "length"])

    def request(self) -> tuple[bytes, dict[str, str]]:
        amount: dict[str, Any] = {"name": "amount", "shape": [self.rows], "datatype": "FP64"}
        account = {
            "name": "account",
            "shape": [self.rows],
            "datatype": "BYTES",
            "data": [f"{self.number}/{row}" for row in range(self.rows)],
        }
        amounts = [-1.0, *self.amounts[1:]] if self.fault == "amount" else self.amounts
        tail = b""
        if self.binary_in:
            tail = struct.pack(f"<{self.rows}d", *amounts)
            amount["parameters"] = {"binary_data_size": len(tail)}
        else:
            amount["data"] = amounts
        if self.fault == "shape":
            amount["shape"] = [self.rows + 1]
        if self.fault == "datatype":
            amount["datatype"] = "INT64"
        parameters: dict[str, Any] = {"reasons": self.reasons, "binary_data_output": self.binary_out}
        headers = {"Authorization": "Bearer tu_nobody"} if self.fault == "key" else {}
        if self.day is not None:
            parameters["event_time"] = f"{self.day}T12:00:00Z"
        if self.key is not None and self.key_in_header:
            headers["Idempotency-Key"] = self.key
        elif self.key is not None:
            parameters["idempotency_key"] = self.key
        document: dict[str, Any] = {"inputs": [account, amount], "parameters": parameters}
        if self.id is not None:
            document["id"] = self.id
        if self.outputs is not None:
            document["outputs"] = [{"name": name} for name in self.outputs]
        head = json.dumps(document).encode()
        body = head + tail
        if self.binary_in or self.fault == "length":
            length = len(body) + 1 if self.fault == "length" else len(head)
            headers["Inference-Header-Content-Length"] = str(length)
        if self.packed_in:
            body = gzip.compress(body)
            headers["Content-Encoding"] = "gzip"
        headers["Accept-Encoding"] = "gzip" if self.packed_out else "identity"
        return body, headers

    def assert_own(self, answer: httpx2.Response, door: Served) -> None:
        """The answer is to this caller's request, in the form that it asked for."""
        if self.fault is not None:
            assert answer.status_code == (401 if self.fault == "key" else 400), answer.text
            assert list(answer.json()) == ["error"]
            return
        assert answer.status_code == 200, answer.text
        length = answer.headers.get("inference-header-content-length")
        assert (length is not None) == self.binary_out
        document = json.loads(answer.content[: int(length)] if length else answer.content)
        assert document.get("id") == self.id
        assert (document["model_name"], document["model_version"]) == (self.model, {"t": "1", "half": "7"}[self.model])
        found = values(document, answer.content[int(length) :] if length else b"")
        assert list(found) == (self.outputs or ["prediction_id", "status", "score", "decision"])
        scores = [a / 1e6 if self.model == "t" else 0.5 for a in self.amounts]
        assert found["score"] == scores
        if "decision" in found:
            assert found["decision"] == ["act" if score >= 0.5 else "pass" for score in scores]
        for row, one in enumerate(found.get("prediction_id", [])):
            booked = door.up.prediction(one)
            assert booked["fields"]["account"] == f"{self.number}/{row}"
            assert booked["fields"]["amount"] == self.amounts[row]
            if self.day is not None:
                assert str(booked["event_day"]) == self.day


def values(document: dict[str, Any], tail: bytes) -> dict[str, list[Any]]:
    """Every output's elements, whichever way they came."""
    found: dict[str, list[Any]] = {}
    for output in document["outputs"]:
        if "data" in output:
            found[output["name"]] = output["data"]
            continue
        size = output["parameters"]["binary_data_size"]
        part, tail = tail[:size], tail[size:]
        if output["datatype"] == "FP64":
            found[output["name"]] = list(struct.unpack(f"<{len(part) // 8}d", part))
        else:
            texts = found[output["name"]] = []
            while part:
                (length,) = struct.unpack_from("<I", part)
                texts.append(part[4 : 4 + length].decode())
                part = part[4 + length :]
    assert tail == b""
    return found


def test_four_hundred_callers_each_get_their_own_answer(door: Served):
    callers = [Caller(number) for number in range(400)]

    def call(caller: Caller) -> httpx2.Response:
        body, headers = caller.request()
        return door.infer(body, model=caller.model, headers=headers)

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(call, callers))
    for caller, answer in zip(callers, answers, strict=True):
        caller.assert_own(answer, door)
    assert {c.fault for c in callers} == {None, "amount", "shape", "datatype", "key", "length"}
    assert door.count() == sum(c.rows for c in callers if c.fault is None)


def test_one_body_to_two_models_is_two_predictions_also_under_one_key(door: Served):
    inputs = [
        {"name": "account", "shape": [1], "datatype": "BYTES", "data": ["a"]},
        {"name": "amount", "shape": [1], "datatype": "FP64", "data": [250_000.0]},
    ]
    body = json.dumps({"inputs": inputs, "parameters": {"idempotency_key": "k"}}).encode()
    models = ["t", "half"] * 16
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda model: door.infer(body, model=model).json(), models))
    found = {(a["model_name"], json.dumps(a["outputs"])) for a in answers}
    assert len(found) == 2
    scores = {a["model_name"]: a["outputs"][2]["data"] for a in answers}
    assert scores == {"t": [0.25], "half": [0.5]}
    assert door.count() == 2


def test_a_wrong_shape_fails_alone_whatever_its_neighbours_send(door: Served):
    def body(rows: int, data: int) -> bytes:
        inputs = [
            {"name": "account", "shape": [rows], "datatype": "BYTES", "data": [str(i) for i in range(rows)]},
            {"name": "amount", "shape": [rows], "datatype": "FP64", "data": [1_000.0 * i for i in range(data)]},
        ]
        return json.dumps({"inputs": inputs}).encode()

    # Sums agree: two that are wrong would fit together.
    sent = [(2, 2), (2, 3), (3, 2), (2, 2)] * 40
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda shape: door.infer(body(*shape)), sent))
    for (rows, data), answer in zip(sent, answers, strict=True):
        assert answer.status_code == (200 if rows == data else 400)
    assert door.count() == 160


def test_callers_that_go_away_leave_nothing_for_those_who_stay(door: Served):
    def call(number: int) -> None:
        inputs = [
            {"name": "account", "shape": [1], "datatype": "BYTES", "data": ["a"]},
            {"name": "amount", "shape": [1], "datatype": "FP64", "data": [float(number)]},
        ]
        body = json.dumps({"inputs": inputs, "id": str(number)}).encode()
        sent = request("/v2/models/t/infer", body, key=door.keys[ApiRole.SCORER])
        with Raw(door.address) as raw:
            raw.send(sent[: len(sent) - number % 3 * 20])  # some whole, some not
            if number % 3 or number % 2:
                return
            answer = json.loads(raw.answer()[2])
            assert (answer["id"], answer["outputs"][2]["data"]) == (str(number), [number / 1e6])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, range(300)))
    assert door.infer({"inputs": [], "id": "x"}).status_code == 400


def test_a_head_that_was_good_is_not_good_for_ever(door: Served):
    inputs = [
        {"name": "account", "shape": [1], "datatype": "BYTES", "data": ["a"]},
        {"name": "amount", "shape": [1], "datatype": "FP64", "data": [1.0]},
    ]
    sent = request("/v2/models/t/infer", json.dumps({"inputs": inputs}).encode(), key=door.keys[ApiRole.SCORER])
    with Raw(door.address) as raw, Raw(door.address) as another:
        ids = set()
        for one in (raw, raw, another):
            one.send(sent)
            status, _, body = one.answer()
            assert status == 200
            ids.add(json.loads(body)["outputs"][0]["data"][0])
        assert len(ids) == 3
        door.revoke(ApiRole.SCORER)
        for one in (raw, another):
            one.send(sent)
            assert one.answer()[0] == 401
    assert door.count() == 3
