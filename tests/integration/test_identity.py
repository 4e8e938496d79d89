"""One key is one row and one answer: at once, later, elsewhere, and through whichever door it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import httpx2
import pytest

import trueup
from grpc_calls import Client, calling, infer_request, values
from processes import Running, running
from serving import Served, serving
from trueup.bootstrap import wired
from trueup.doors.auth import ApiRole
from trueup.doors.inference.asking import Arrival
from trueup.ledger.urls import Urls

CONTRACT = """
name: trade
version: 1
fields:
  account: {type: string, role: key}
  amount: {type: float64, minimum: 0}
output: {kind: probability}
label: {name: failed, type: bool, join_key: [account], horizon: {days: 2}}
"""
FIRST = "python:small_models:share_of_a_million"
SECOND = "python:small_models:always_half"
Answer = tuple[str, float]  # prediction id, score
Door = Callable[[str, float], Answer]


class Refused(Exception):
    """The door's answer, where it is none."""


def by_records(http: httpx2.Client, key: str, amount: float) -> Answer:
    answer = http.post("/v1/deployments/t/score", json={"instance": {"account": "a", "amount": amount}, "key": key})
    if answer.status_code != 200:
        raise Refused(answer.status_code)
    return answer.json()["prediction_id"], answer.json()["score"]


def by_rest(http: httpx2.Client, key: str, amount: float) -> Answer:
    inputs = [
        {"name": "account", "shape": [1], "datatype": "BYTES", "data": ["a"]},
        {"name": "amount", "shape": [1], "datatype": "FP64", "data": [amount]},
    ]
    answer = http.post("/v2/models/t/infer", json={"inputs": inputs}, headers={"Idempotency-Key": key})
    if answer.status_code != 200:
        raise Refused(answer.status_code)
    outputs = {output["name"]: output["data"][0] for output in answer.json()["outputs"]}
    return outputs["prediction_id"], outputs["score"]


def by_grpc(client: Client, key: str, amount: float) -> Answer:
    request = infer_request(("account", "BYTES", [b"a"]), ("amount", "FP64", [amount]), raw=True)
    try:
        answer = client.infer(request, **{"idempotency-key": key})
    except grpc.RpcError as error:
        raise Refused(error.code()) from None  # type: ignore[attr-defined]
    return values(answer, "prediction_id")[0].decode(), values(answer, "score")[0]


@pytest.fixture
def door(up: trueup.Trueup) -> Iterator[Served]:
    up.deploy("t", contract=CONTRACT, model=FIRST, version="1")
    with serving(up) as served:
        yield served


@pytest.fixture
def doors(door: Served) -> Iterator[dict[str, Door]]:
    limits = httpx2.Limits(max_connections=64)
    with (
        httpx2.Client(base_url=f"http://{door.address}", headers=door.headers(), timeout=60, limits=limits) as http,
        calling(door) as client,
    ):
        yield {
            "records": lambda key, amount: by_records(http, key, amount),
            "rest": lambda key, amount: by_rest(http, key, amount),
            "grpc": lambda key, amount: by_grpc(client, key, amount),
        }


@pytest.fixture(params=["records", "rest", "grpc"])
def one(request: pytest.FixtureRequest, doors: dict[str, Door]) -> Door:
    return doors[request.param]


class TestAtOnce:
    def test_one_key_by_32_callers_is_one_row_and_32_equal_answers(self, door: Served, one: Door):
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda _: one("k", 250_000.0), range(32)))
        assert len(set(answers)) == 1
        assert answers[0][1] == 0.25
        assert door.count() == 1

    def test_through_all_doors_at_once_too(self, door: Served, doors: dict[str, Door]):
        mixed = list(doors.values()) * 11
        with ThreadPoolExecutor(33) as pool:
            answers = list(pool.map(lambda call: call("k", 250_000.0), mixed))
        assert len(set(answers)) == 1
        assert door.count() == 1

    def test_of_two_contents_under_one_key_one_is_booked_and_the_other_a_conflict(
        self, door: Served, doors: dict[str, Door]
    ):
        calls = [(call, 1_000.0 * (1 + i % 2)) for i, call in enumerate(list(doors.values()) * 8)]

        def outcome(pair: tuple[Door, float]) -> tuple[float, Answer | str]:
            call, amount = pair
            try:
                return amount, call("k", amount)
            except Refused as error:
                return amount, str(error)

        with ThreadPoolExecutor(24) as pool:
            seen = set(pool.map(outcome, calls))
        answered = {s for s in seen if isinstance(s[1], tuple)}
        refused = seen - answered
        assert len(answered) == 1
        assert {amount for amount, _ in refused} == {3_000.0 - amount for amount, _ in answered}
        assert {text for _, text in refused} <= {"409", "StatusCode.ALREADY_EXISTS"}
        assert door.count() == 1


class TestLater:
    def test_a_retry_after_midnight_gets_the_first_answer(
        self, door: Served, one: Door, monkeypatch: pytest.MonkeyPatch
    ):
        first = one("k", 250_000.0)
        tomorrow = datetime.now(UTC) + timedelta(days=1)

        us = int(tomorrow.timestamp() * 1e6)
        monkeypatch.setattr(Arrival, "now", classmethod(lambda cls: cls(us, time.perf_counter_ns())))
        assert one("k", 250_000.0) == first
        assert door.count() == 1
        fresh, _ = one("another", 250_000.0)
        assert door.up.prediction(fresh)["event_day"] == tomorrow.date()
        with pytest.raises(Refused):
            one("k", 1.0)

    def test_a_retry_after_a_promotion_gets_the_first_answer(self, door: Served, one: Door):
        first = one("k", 250_000.0)
        door.up.deploy("t", contract=CONTRACT, model=SECOND, version="2")
        assert one("k", 250_000.0) == first
        assert one("another", 250_000.0)[1] == 0.5

    def test_one_door_repeats_what_another_answered(self, door: Served, doors: dict[str, Door]):
        for first in doors:
            answers = {
                name: call(f"first by {first}", 250_000.0) for name, call in [(first, doors[first]), *doors.items()]
            }
            assert len(set(answers.values())) == 1
        assert door.count() == len(doors)


class TestElsewhere:
    """Servers that are processes of their own on one database."""

    def http(self, server: Running, key: str) -> httpx2.Client:
        return httpx2.Client(
            base_url=f"http://{server.address}", headers={"Authorization": f"Bearer {key}"}, timeout=60
        )

    def test_after_a_kill_and_a_restart_from_another_process_and_both_at_once(
        self, fresh_database: Urls, tmp_path: Path
    ):
        with trueup.Trueup(wired(trueup.Settings(data_dir=tmp_path / "data"), fresh_database)) as up:
            up.deploy("t", contract=CONTRACT, model=FIRST, version="1")
            with running(fresh_database, tmp_path) as first:
                key = first.key
                with self.http(first, key) as http:
                    answer = by_records(http, "k", 250_000.0)
                first.process.kill()
                first.process.wait()
            up.deploy("t", contract=CONTRACT, model=SECOND, version="2")
            with (
                running(fresh_database, tmp_path) as second,
                running(fresh_database, tmp_path) as third,
                self.http(second, key) as one,
                self.http(third, key) as other,
            ):
                assert {call(http, "k", 250_000.0) for http in (one, other) for call in (by_rest, by_records)} == {
                    answer
                }
                with pytest.raises(Refused, match="409"):
                    by_rest(other, "k", 1.0)
                calls = [(call, http) for call in (by_rest, by_records) for http in (one, other)] * 8
                with ThreadPoolExecutor(32) as pool:
                    answers = list(pool.map(lambda pair: pair[0](pair[1], "at once", 250_000.0), calls))
                assert len(set(answers)) == 1
                assert answers[0][1] == 0.5
            assert up.query("SELECT count(*) AS n FROM predictions").rows()[0]["n"] == 2


def test_the_roles_key_is_no_part_of_the_identity(door: Served):
    with httpx2.Client(base_url=f"http://{door.address}", timeout=60) as http:
        answers = set()
        for role in (ApiRole.SCORER, ApiRole.OPERATOR, ApiRole.ADMIN):
            http.headers["Authorization"] = door.headers(role)["Authorization"]
            answers.add(by_rest(http, "k", 250_000.0))
    assert len(answers) == 1
    assert door.count() == 1
