"""One instance has one score and one side of the slice that is left alone, whichever door it comes through."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

import grpc_calls
import trueup
from serving import Served, serving
from streams import until
from trueup.domain.stream import Stream
from trueup.doors.auth import ApiRole
from trueup.doors.kafka.files import topic_of
from trueup.doors.kafka.memory import MemoryBroker, MemoryTopics
from trueup.doors.kafka.opening import lines, stream_server

FIELDS = [f"f{i}" for i in range(6)]
CONTRACT = (
    "name: c\nversion: 1\nfields:\n  item: {type: string, role: key}\n"
    + "".join(f"  {name}: {{type: float64, nullable: true}}\n" for name in FIELDS)
    + "output: {kind: probability}\nlabel: {name: l, type: bool, horizon: {days: 1}}\n"
)
NUMBERS = itertools.count()
RNG = np.random.default_rng(4)
X = RNG.normal(size=(64, 6))
X[RNG.random(X.shape) < 0.1] = np.nan


@pytest.fixture(scope="module")
def booster() -> Any:
    import xgboost

    y = RNG.random(64) < 0.5
    return xgboost.train({"objective": "binary:logistic", "max_depth": 4}, xgboost.DMatrix(X, y), 20)


@pytest.fixture
def door(up: trueup.Trueup, booster: Any) -> Iterator[Served]:
    stream = trueup.Serving(stream=Stream("rows", replies="scores"))
    up.deploy("t", contract=CONTRACT, model=booster, version="1", serving=stream)
    with serving(up) as served:
        yield served


def instance(i: int) -> dict[str, Any]:
    values = {name: None if np.isnan(v) else float(v) for name, v in zip(FIELDS, X[i], strict=True)}
    return {"item": f"I{i}", **values}


def by_records(door: Served, rows: list[int], what: str = "score") -> list[Any]:
    url = f"http://{door.address}/v1/deployments/t/score"
    sent = door.http.post(url, json={"instances": [instance(i) for i in rows]}, headers=door.headers(ApiRole.SCORER))
    return [answer[what] for answer in sent.json()["results"]]


def by_python(door: Served, rows: list[int]) -> list[float]:
    return door.up.score("t", [instance(i) for i in rows]).score.tolist()


def by_columns(door: Served, rows: list[int]) -> list[float]:
    columns = {name: X[rows, place] for place, name in enumerate(FIELDS)}
    return door.up.score("t", {"item": [f"I{i}" for i in rows], **columns}).score.tolist()


def by_oip(door: Served, rows: list[int], *, binary: bool, matrix: bool) -> list[float]:
    item = triton.InferInput("item", [len(rows)], "BYTES")
    item.set_data_from_numpy(np.array([f"I{i}" for i in rows], object), binary_data=binary)
    inputs = [item]
    tensors = {"features": X[rows]} if matrix else {name: X[rows, place] for place, name in enumerate(FIELDS)}
    for name, values in tensors.items():
        inputs.append(triton.InferInput(name, list(values.shape), "FP64"))
        inputs[-1].set_data_from_numpy(np.ascontiguousarray(values), binary_data=binary)
    client = triton.InferenceServerClient(door.address)
    try:
        return client.infer("t", inputs, headers=door.headers()).as_numpy("score").tolist()  # type: ignore[no-any-return]
    finally:
        client.close()


def by_oip_json(door: Served, rows: list[int], what: str = "score") -> list[Any]:
    inputs = [{"name": "item", "shape": [len(rows)], "datatype": "BYTES", "data": [f"I{i}" for i in rows]}]
    for name in FIELDS:
        data = [instance(i)[name] for i in rows]
        inputs.append({"name": name, "shape": [len(rows), 1], "datatype": "FP64", "data": data})
    sent = door.infer({"inputs": inputs, "outputs": [{"name": what}]})
    return sent.json()["outputs"][0]["data"]  # type: ignore[no-any-return]


def by_grpc(door: Served, rows: list[int], what: str = "score", *, raw: bool, matrix: bool) -> list[Any]:
    numbers = [("features", X[rows].ravel())] if matrix else [(name, X[rows, i]) for i, name in enumerate(FIELDS)]
    asked = grpc_calls.infer_request(
        ("item", "BYTES", [b"I%d" % i for i in rows]), *((n, "FP64", v.tolist()) for n, v in numbers), raw=raw
    )
    with grpc_calls.calling(door) as client:
        return grpc_calls.values(client.infer(asked), what)


def by_invocations(door: Served, rows: list[int]) -> list[float]:
    url = f"http://{door.address}/invocations"
    sent = door.http.post(url, json={"instances": [instance(i) for i in rows]}, headers=door.headers(ApiRole.SCORER))
    return sent.json()["predictions"]  # type: ignore[no-any-return]


def by_topic(door: Served, rows: list[int], what: str = "score") -> list[Any]:
    topics, services = MemoryTopics(), door.up.services
    topics.make("rows", 2)
    topics.make("scores")
    for i in rows:
        topics.append("rows", json.dumps(instance(i)).encode(), partition=i % 2)
    broker = MemoryBroker(topics, "rows", services.settings.stream, cluster=f"c{next(NUMBERS)}")
    server = stream_server(services, "t", lambda _: broker)
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(server.run)
        until(lambda: len(topics.records("scores")) == len(rows) or done.done(), 30)
        server.stop()
        assert done.result() is True
    return replied((r.value or b"" for r in topics.records("scores")), rows, what)


def by_file(door: Served, rows: list[int]) -> list[float]:
    services, out = door.up.services, io.BytesIO()
    path = services.settings.data_dir / f"rows-{next(NUMBERS)}"
    path.write_bytes(b"".join(json.dumps(instance(i)).encode() + b"\n" for i in rows))
    assert stream_server(services, "t", lambda _: lines(services, "t", path, out), topic=topic_of(path)).run()
    return replied(out.getvalue().splitlines(), rows)


def replied(values: Iterable[bytes], rows: list[int], what: str = "score") -> list[Any]:
    found = {document["business_key"]: document[what] for document in map(json.loads, values)}
    return [found[f"I{i}"] for i in rows]


DOORS = {
    "topic": by_topic,
    "file": by_file,
    "invocations": by_invocations,
    "records": by_records,
    "python": by_python,
    "columns": by_columns,
    "oip json": by_oip_json,
    "oip binary": lambda door, rows: by_oip(door, rows, binary=True, matrix=False),
    "grpc typed": lambda door, rows: by_grpc(door, rows, raw=False, matrix=False),
    "grpc raw": lambda door, rows: by_grpc(door, rows, raw=True, matrix=False),
    "grpc matrix": lambda door, rows: by_grpc(door, rows, raw=False, matrix=True),
    "oip matrix": lambda door, rows: by_oip(door, rows, binary=True, matrix=True),
}


@pytest.mark.parametrize("name", DOORS)
def test_alone_and_among_others_the_score_is_the_models_own(door: Served, booster: Any, name: str):
    expected = np.asarray(booster.inplace_predict(X), np.float64)
    everything = list(range(len(X)))
    assert DOORS[name](door, everything) == expected.tolist()
    for i in everything[::9]:
        assert DOORS[name](door, [i]) == [expected[i]]


@pytest.fixture
def sliced(up: trueup.Trueup, booster: Any) -> Iterator[Served]:
    """Half of the items are left alone."""
    serving_ = trueup.Serving(stream=Stream("rows", replies="scores"), untreated=trueup.Untreated(0.5, "2026-11"))
    up.deploy("t", contract=CONTRACT + "decision: {threshold: 0.5}\n", model=booster, version="1", serving=serving_)
    with serving(up) as served:
        yield served


def drawn(i: int) -> bool:
    """Whether an item is left alone, as anyone finds who knows the salt."""
    return hashlib.blake2b(b"I%d" % i, key=b"2026-11", digest_size=8).digest() < b"\x80"


@pytest.mark.parametrize("name", DOORS)
def test_an_item_is_left_alone_whichever_door_asks_and_the_ledger_says_so(sliced: Served, booster: Any, name: str):
    rows = list(range(20))
    expected = np.asarray(booster.inplace_predict(X), np.float64)[rows]
    assert DOORS[name](sliced, rows) == expected.tolist(), "a score is the model's own also where nobody acts on it"
    sides = {f"I{i}": drawn(i) for i in rows}
    assert set(sides.values()) == {True, False}
    query = sliced.up.services.queries.rows
    booked = query("SELECT business_key, decision FROM predictions")
    assert len(booked) == len(rows)
    assert {one["business_key"]: one["decision"] == "untreated" for one in booked} == sides
    truth = query("SELECT business_key, is_untreated FROM truth")
    assert {one["business_key"]: one["is_untreated"] for one in truth} == sides
    assert query("SELECT sum(untreated)::int AS n FROM maturity") == [{"n": sum(sides.values())}]
    url = f"http://{sliced.address}/v1/predictions?decision=untreated"
    listed = sliced.http.get(url, headers=sliced.headers(ApiRole.READER)).json()["predictions"]
    assert {one["business_key"] for one in listed} == {item for item, is_drawn in sides.items() if is_drawn}


@pytest.mark.parametrize(
    "ask", [by_records, by_oip_json, by_topic, lambda *args: by_grpc(*args, raw=True, matrix=False)]
)
def test_who_asks_is_told_that_an_item_is_left_alone(sliced: Served, ask: Any):
    rows = list(range(20))
    told = [one.decode() if isinstance(one, bytes) else one for one in ask(sliced, rows, "decision")]
    assert [one == "untreated" for one in told] == [drawn(i) for i in rows]
    assert set(told) <= {"untreated", "act", "pass"}
