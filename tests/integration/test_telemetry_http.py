"""What the running door says of itself: counters that agree with the ledger, and series no caller can make."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import trueup
from observing import CONTRACT, oip, records
from serving import Served, serving
from trueup.bootstrap import wired
from trueup.doors.auth import ApiRole
from trueup.ledger.urls import Urls
from trueup.settings import Limits

TOKEN = "a-token-for-prometheus-and-nothing-else"
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def door(up: trueup.Trueup) -> Iterator[Served]:
    up.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
    with serving(up) as served:
        yield served


@contextmanager
def narrow(database: Urls, folder: Path, model: str, **settings: Any) -> Iterator[Served]:
    with trueup.Trueup(wired(trueup.Settings(data_dir=folder, **settings), database)) as up:
        up.deploy("t", contract=CONTRACT, model=f"python:small_models:{model}", version="1")
        with serving(up) as served:
            yield served


def scraped(door: Served, role: ApiRole | None = ApiRole.READER) -> Series:
    response = door.get("/metrics", role)
    assert response.status_code == 200, response.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def total(series: Series, name: str, **labels: str) -> float:
    return sum(value for (n, found), value in series.items() if n == name and labels.items() <= dict(found).items())


def ledger_agrees(door: Served) -> Series:
    """Waits for refusals that are booked later, then compares every count with the ledger's."""
    until = time.monotonic() + 10
    while True:
        series = scraped(door)
        refused = total(series, "trueup_instances_refused_total")
        received, answered = (total(series, f"trueup_instances_{name}_total") for name in ("received", "answered"))
        unbooked = total(series, "trueup_instances_unbooked_total")
        if received == answered + refused + unbooked or time.monotonic() > until:
            break
        time.sleep(0.02)
    assert received == answered + refused + unbooked
    assert total(series, "trueup_instances_answered_total", booked="new") == door.count()
    for row in door.up.query("SELECT reason, count(*) AS n FROM refusals GROUP BY reason").rows():
        assert total(series, "trueup_instances_refused_total", reason=row["reason"]) == row["n"]
    assert refused == door.count("refusals")
    assert total(series, "trueup_step_seconds_count", step="model") == total(series, "trueup_batch_rows_sum")
    return series


class TestCounters:
    def test_they_agree_with_the_ledger(self, door: Served):
        for i in range(5):
            assert door.infer(oip(float(i))).status_code == 200
        assert door.infer(oip(*map(float, range(30)))).status_code == 200
        assert door.infer(oip(1.0, -1.0, 2.0)).status_code == 400  # one breaks the contract: all three refused
        assert records(door, 1.0, 2.0, "x").status_code == 200  # answered, answered, refused
        for _ in range(2):
            assert records(door, 7.0, keys=["k"]).status_code == 200
        assert records(door, 8.0, keys=["k"]).json()["refused"]  # a conflict
        assert door.infer(oip(3.0), headers={"Idempotency-Key": "k"}).status_code == 409
        assert door.infer(b"{").status_code == 400
        series = ledger_agrees(door)
        assert total(series, "trueup_instances_received_total") == 5 + 30 + 3 + 3 + 1 + 1 + 1 + 1
        assert total(series, "trueup_instances_answered_total", booked="repeated") == 1
        assert total(series, "trueup_requests_total", door="rest", outcome="ok") == 6
        assert total(series, "trueup_requests_total", door="rest", outcome="instance_invalid") == 1
        assert total(series, "trueup_requests_total", door="rest", outcome="invalid_request") == 1
        assert total(series, "trueup_requests_total", door="rest", outcome="conflict") == 1
        assert total(series, "trueup_requests_total", door="records", outcome="ok", deployment="t") == 4
        assert total(series, "trueup_request_seconds_count", door="rest") == 9
        assert total(series, "trueup_requests_in_flight", door="rest") == 0
        assert total(series, "trueup_models_loaded", deployment="t") == 1

    def test_what_is_refused_beyond_the_bound_is_counted_as_it_is_booked(self, fresh_database: Urls, tmp_path: Path):
        limits = Limits(gathered_rows=2, queued_rows=4)
        with narrow(fresh_database, tmp_path, "slow_share_of_a_million", limits=limits) as door:
            with ThreadPoolExecutor(20) as pool:
                late = {"parameters": {"timeout": 100_000}}
                sent = [pool.submit(door.infer, oip(float(i), **(late if i % 2 else {}))) for i in range(20)]
                time.sleep(0.1)
                during = scraped(door)
                codes = {answer.result().status_code for answer in sent}
            assert codes == {200, 503, 504}
            assert total(during, "trueup_requests_in_flight", door="rest") > 0
            assert total(during, "trueup_queue_rows", deployment="t") > 0
            assert total(during, "trueup_batches_in_flight", deployment="t") > 0
            series = ledger_agrees(door)
        assert total(series, "trueup_queue_rows") == total(series, "trueup_batches_in_flight") == 0
        assert total(series, "trueup_instances_refused_total", reason="overloaded") > 0
        assert total(series, "trueup_instances_refused_total", reason="timed_out") > 0

    def test_a_model_that_fails_is_counted(self, fresh_database: Urls, tmp_path: Path):
        with narrow(fresh_database, tmp_path, "broken") as door:
            assert door.infer(oip(1.0, 2.0)).status_code == 500
            series = ledger_agrees(door)
        assert total(series, "trueup_model_failures_total", role="champion") == 1
        assert total(series, "trueup_instances_refused_total", reason="failed") == 2
        assert total(series, "trueup_requests_total", outcome="scoring_failed", **{"class": "5xx"}) == 1

    def test_every_row_has_its_steps_and_its_booking(self, door: Served):
        answer = door.infer(oip(1.0, 2.0)).json()
        (ids,) = (output["data"] for output in answer["outputs"] if output["name"] == "prediction_id")
        found = door.get(f"/v1/predictions/{ids[0]}").json()
        assert list(found["steps_us"]) == ["parse", "validate", "queue", "model", "book"]
        whole = door.up.query(
            "SELECT 1e6 * extract(epoch FROM booked_at - received_at) AS us, steps_us, book_us FROM predictions"
        ).rows()
        for row in whole:
            assert abs(float(row["us"]) - sum(row["steps_us"]) - row["book_us"]) < 1


class TestLabels:
    def test_ten_thousand_made_up_names_make_no_series(self, door: Served):
        assert door.infer(oip(1.0)).status_code == 200
        assert records(door, 1.0).status_code == 200
        paths = [
            ("POST", "/v2/models/{}/infer"),
            ("POST", "/v2/models/t/versions/{}/infer"),
            ("GET", "/v2/models/{}"),
            ("GET", "/v2/models/{}/ready"),
            ("POST", "/v2/repository/models/{}/load"),
            ("POST", "/v1/deployments/{}/score"),
            ("GET", "/v1/deployments/{}"),
            ("GET", "/v1/contracts/{}"),
            ("GET", "/v1/predictions?deployment={}"),
            ("GET", "/{}"),
        ]
        headers = {**door.headers(), "Content-Type": "application/json"}
        bodies = (json.dumps(oip(1.0)), json.dumps({"instance": {"account": "1", "amount": 1.0}}))

        def flood(start: int) -> set[int]:
            connection, seen = HTTPConnection(door.address, timeout=60), set()
            for i in range(start, 10_000, 4):
                verb, path = paths[i % len(paths)]
                sent = bodies[path.startswith("/v1")] if verb == "POST" else None
                named = {**headers, "X-Request-Id": f"made-up-{i}", "Idempotency-Key": f"made-up-{i}"}
                connection.request(verb, path.format(f"made-up-{i}"), sent, named)
                response = connection.getresponse()
                response.read()
                seen.add(response.status)
            return seen

        for first in range(len(paths)):  # every kind of answer once, so that only names differ from here on
            verb, path = paths[first]
            door.http.request(verb, f"http://{door.address}{path.format('first')}", headers=headers, content=bodies[0])
            door.http.request(verb, f"http://{door.address}{path.format('first')}", headers=headers, content=bodies[1])
        scraped(door)  # which is a request too
        before = scraped(door)
        with ThreadPoolExecutor(4) as pool:
            assert set().union(*pool.map(flood, range(4))) == {200, 404}
        after = scraped(door)
        assert after.keys() == before.keys()
        assert total(after, "trueup_requests_total") - total(before, "trueup_requests_total") >= 10_000
        assert {dict(labels).get("deployment", "") for _, labels in after} <= {"", "t", "other"}
        assert "made-up" not in door.get("/metrics").text
        assert len(door.get("/metrics").content) < 100_000


class TestScraping:
    def test_it_needs_a_key_that_may_read(self, door: Served):
        assert door.get("/metrics", None).status_code == 401
        assert door.get("/metrics", ApiRole.READER).status_code == 200
        response = door.http.get(f"http://{door.address}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert response.status_code == 401

    def test_openmetrics_is_answered_where_it_is_asked_for(self, door: Served):
        accept = {"Accept": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4"}
        response = door.http.get(f"http://{door.address}/metrics", headers=door.headers() | accept)
        assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert response.text.endswith("# EOF\n")
        assert door.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")

    def test_open_it_needs_none(self, fresh_database: Urls, tmp_path: Path):
        with narrow(fresh_database, tmp_path, "always_half", metrics_open=True) as door:
            assert door.get("/metrics", None).status_code == 200

    def test_the_token_reads_metrics_and_nothing_else_also_while_the_ledger_is_away(
        self, fresh_database: Urls, tmp_path: Path, server: Any
    ):
        import psycopg

        name = psycopg.conninfo.conninfo_to_dict(fresh_database.owner)["dbname"]
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        with narrow(fresh_database, tmp_path, "always_half", metrics_token=TOKEN) as door:
            assert door.http.get(f"http://{door.address}/v1/deployments", headers=bearer).status_code == 401
            assert door.infer(oip(1.0)).status_code == 200
            with psycopg.connect(server.urls("postgres").owner, autocommit=True) as connection:
                connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')  # type: ignore[arg-type]
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
                try:
                    assert door.infer(oip(2.0, 3.0)).status_code == 503
                    began = time.monotonic()
                    response = door.http.get(f"http://{door.address}/metrics", headers=bearer)
                    assert time.monotonic() - began < 1
                finally:
                    connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')  # type: ignore[arg-type]
            assert 'trueup_ledger_unavailable_total{deployment="t"} 1.0' in response.text
            assert 'trueup_instances_unbooked_total{deployment="t"} 2.0' in response.text
            assert 'outcome="ledger_unavailable"' in response.text
            ledger_agrees(door)


class TestRequestIds:
    @pytest.mark.parametrize("path", ["/v2/models/t", "/v1/deployments/t", "/v2/models/none", "/nowhere", "/metrics"])
    def test_a_plain_one_comes_back_from_every_path(self, door: Served, path: str):
        headers = door.headers() | {"X-Request-Id": "desk-7/4711"}
        assert door.http.get(f"http://{door.address}{path}", headers=headers).headers["x-request-id"] == "desk-7/4711"

    def test_an_error_has_one_of_ours(self, door: Served):
        for response in (door.infer(b"{"), door.get("/v1/deployments/none")):
            assert response.headers["x-request-id"].isprintable()
        assert "x-request-id" not in door.infer(oip(1.0)).headers
