"""The HTTP door over the real core and a real PostgreSQL."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from starlette.testclient import TestClient

import trueup
from trueup.bootstrap import wired
from trueup.doors.api import edge, handlers
from trueup.doors.api.server import create_app
from trueup.doors.auth import ApiRole, MemoryApiKeys
from trueup.doors.inference.server import Front
from trueup.ledger.urls import Urls
from trueup.settings import Limits

CONTRACT = """
name: trade
version: 1
fields:
  account: {type: string, role: key}
  amount: float64
  trades: int64
  fee: {type: "decimal(38,4)", nullable: true}
output: {kind: probability}
label: {name: failed, type: bool, join_key: [account], horizon: {days: 2}}
decision: {threshold: 0.5}
"""
DEEP = b"[" * 100_000 + b"]" * 100_000
ROW = {"account": "007", "amount": 250000.0, "trades": 3}


class Door:
    """A client that has a key of every role."""

    def __init__(self, up: trueup.Trueup) -> None:
        self.up = up
        self.keys = MemoryApiKeys()
        self.app = create_app(up.services, self.keys)
        front = Front(self.app, up.services, self.keys, lambda: False)
        self.http = TestClient(front, raise_server_exceptions=False)
        self.texts = {role: self.keys.create(role, role, by="test")[1] for role in ApiRole}

    def call(self, method: str, path: str, role: ApiRole | None = ApiRole.ADMIN, **more: Any) -> Any:
        headers = dict(more.pop("headers", {}))
        if role is not None:
            headers["Authorization"] = f"Bearer {self.texts[role]}"
        return self.http.request(method, path, headers=headers, **more)

    def score(self, body: Any) -> Any:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.call("POST", "/v1/deployments/t/score", ApiRole.SCORER, content=content)

    def count(self, table: str = "predictions") -> int:
        (row,) = self.up.query(f"SELECT count(*) AS n FROM {table}")
        return int(row["n"])


@pytest.fixture
def door(up: trueup.Trueup) -> Iterator[Door]:
    up.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
    opened = Door(up)
    with opened.http:  # one event loop for all requests
        yield opened


@pytest.fixture
def narrow(fresh_database: Urls, tmp_path: Path) -> Iterator[Door]:
    """A door with small bounds."""
    limits = Limits(body_bytes=2000, request_rows=3, requests_in_flight=2, pool_connections=2, key_chars=10)
    with trueup.Trueup(wired(trueup.Settings(data_dir=tmp_path, limits=limits), fresh_database)) as up:
        up.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
        opened = Door(up)
        with opened.http:
            yield opened


def _error(response: Any, status: int, code: str) -> dict[str, Any]:
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json"), response.text
    body = response.json()
    assert set(body) == {"error"}
    assert body["error"]["code"] == code
    assert set(body["error"]) <= {"code", "message", "next_step", "fields"}
    found: dict[str, Any] = body["error"]
    return found


class TestScoring:
    def test_an_answer_is_a_row_of_the_ledger(self, door: Door) -> None:
        answer = door.score({"instance": ROW, "key": "a"}).json()
        (row,) = door.up.query("SELECT prediction_id, score, channel, source, source_key FROM predictions")
        assert answer["prediction_id"] == str(row["prediction_id"])
        assert (answer["score"], answer["decision"], answer["repeated"]) == (0.25, "pass", False)
        assert (row["channel"], row["source"], row["source_key"]) == ("rest", "request", "a")

    def test_a_retry_gets_the_first_answer_and_books_nothing(self, door: Door) -> None:
        first, second = (door.score({"instance": ROW, "key": "a"}).json() for _ in range(2))
        assert second == {**first, "repeated": True}
        assert door.count() == 1

    def test_retries_at_the_same_moment_book_one_row(self, door: Door) -> None:
        with ThreadPoolExecutor(8) as pool:
            ids = {
                r.json()["prediction_id"]
                for r in pool.map(lambda _: door.score({"instance": ROW, "key": "a"}), range(16))
            }
        assert (len(ids), door.count()) == (1, 1)

    def test_the_same_key_with_other_content_is_a_conflict_and_a_refusal(self, door: Door) -> None:
        door.score({"instance": ROW, "key": "a"})
        _error(door.score({"instance": {**ROW, "trades": 4}, "key": "a"}), 409, "conflict")
        assert (door.count(), door.count("refusals")) == (1, 1)

    def test_without_a_key_each_request_is_its_own(self, door: Door) -> None:
        assert len({door.score({"instance": ROW}).json()["prediction_id"] for _ in range(2)}) == 2

    def test_numbers_reach_the_ledger_exactly(self, door: Door) -> None:
        row = b'{"account": "007", "amount": 0.1, "trades": 9007199254740993, "fee": 12345678901234567890123.4567}'
        body = b'{"instance": ' + row + b"}"
        found = door.call("GET", f"/v1/predictions/{door.score(body).json()['prediction_id']}").json()
        assert found["fields"] == {
            "account": "007",
            "amount": 0.1,
            "trades": 9007199254740993,
            "fee": "12345678901234567890123.4567",
        }

    def test_a_refused_instance_names_every_bad_field_but_no_value(self, door: Door) -> None:
        error = _error(
            door.score({"instance": {"account": "hush", "amount": "hush", "other": 1}}), 422, "instance_invalid"
        )
        assert {(f["field"], f["code"]) for f in error["fields"]} == {
            ("amount", "type"),
            ("trades", "missing"),
            ("other", "unexpected"),
        }
        assert "hush" not in json.dumps(error)
        assert (door.count(), door.count("refusals")) == (0, 1)

    def test_in_a_batch_each_row_stands_for_itself(self, door: Door) -> None:
        door.score({"instance": ROW, "key": "taken"})
        rows = [ROW, {"account": 1}, {**ROW, "amount": 1.0}, {**ROW, "amount": 900000.0}]
        answer = door.score({"instances": rows, "keys": ["a", "b", "taken", "d"]}).json()
        assert [(r["row"], r["score"]) for r in answer["results"]] == [(0, 0.25), (3, 0.9)]
        assert [(r["row"], r["key"], r["reason"]) for r in answer["refused"]] == [
            (1, "b", "contract"),
            (2, "taken", "conflict"),
        ]
        assert answer["received"] == answer["answered"] + len(answer["refused"])

    def test_an_empty_batch_is_answered_with_nothing(self, door: Door) -> None:
        assert door.score({"instances": []}).json()["results"] == []

    def test_the_event_time_is_the_callers(self, door: Door) -> None:
        door.score({"instance": ROW, "event_time": "2026-11-20T23:30:00-05:00"})
        (row,) = door.up.query("SELECT event_day::text AS d FROM predictions")
        assert row["d"] == "2026-11-21"

    def test_a_model_that_fails_says_nothing_about_the_values(self, door: Door) -> None:
        door.up.deploy("t", contract=CONTRACT, model="python:small_models:broken", version="2")
        door.up.services.scoring.resolve("t", fresh=True)
        response = door.score({"instance": ROW})
        _error(response, 500, "scoring_failed")
        assert "250000" not in response.text

    @pytest.mark.parametrize(
        "body",
        [
            b"", b"{", b"[]", b"null", b'{"instance": {}, "instances": []}', b"{}", b'{"instance": {}, "keys": ["a"]}',
            b'{"instances": [], "key": "a"}', b'{"instances": [{}], "keys": []}', b'{"instances": {"a": [1]}}',
            b'{"instances": [1]}', b'{"instance": {}, "key": ""}', b'{"instance": {}, "key": "a\\u0000"}',
            b'{"instance": {}, "key": 7}', b'{"instance": {}, "hush": 1}',
            b'{"instance": {}, "event_time": "2026-11-20T10:00:00"}',
            b'{"instance": ' + DEEP + b"}", b'{"instances": [{"a":' + DEEP + b"}]}",
            b'\xff\xfe{"instance": {}}', b'{"instance": {}, "event_time": "0001-01-01T00:00:00+10:00"}',
        ],
    )  # fmt: skip
    def test_a_body_that_is_no_request_is_refused_in_the_one_shape(self, door: Door, body: bytes) -> None:
        error = _error(door.score(body), 400, "invalid_request")
        assert "hush" not in json.dumps(error)

    def test_an_unknown_deployment_is_not_found(self, door: Door) -> None:
        _error(door.call("POST", "/v1/deployments/nope/score", json={"instance": ROW}), 404, "not_found")

    def test_an_event_in_another_age_is_refused(self, door: Door) -> None:
        _error(door.score({"instance": ROW, "event_time": "1700-01-01T00:00:00Z"}), 400, "invalid_query")


class TestOutcomesAndReading:
    def test_an_outcome_is_joined_to_its_prediction(self, door: Door) -> None:
        made = door.score({"instance": ROW, "event_time": "2026-11-20T12:00:00Z"}).json()
        rows = [{"account": "007", "event_day": "2026-11-20", "value": True}]
        body = {"contract": "trade", "source": "file 1", "outcomes": rows}
        receipts = [door.call("POST", "/v1/outcomes", ApiRole.OPERATOR, json=body).json() for _ in range(2)]
        assert receipts == [{"first": 1, "revised": 0, "unchanged": 0}, {"first": 0, "revised": 0, "unchanged": 1}]
        assert door.call("GET", f"/v1/predictions/{made['prediction_id']}").json()["outcome"] == 1.0

    def test_one_wrong_outcome_refuses_all(self, door: Door) -> None:
        rows = [
            {"account": "007", "event_day": "2026-11-20", "value": True},
            {"account": "8", "event_day": "x", "value": 1},
        ]
        error = _error(
            door.call("POST", "/v1/outcomes", json={"contract": "trade", "source": "s", "outcomes": rows}),
            422,
            "instance_invalid",
        )
        assert {(f["row"], f["field"]) for f in error["fields"]} == {(1, "event_day"), (1, "value")}
        assert door.count("outcomes") == 0

    def test_what_fits_is_recorded_where_that_is_asked_for(self, door: Door) -> None:
        good = {"account": "007", "event_day": "2026-11-20"}
        rows = [{**good, "value": True}, good, {**good, "account": "8", "state": "censored"}, {**good, "value": 2}]
        body = {"contract": "trade", "source": "s", "outcomes": rows, "all_or_none": False}
        told = door.call("POST", "/v1/outcomes", ApiRole.OPERATOR, json=body).json()
        assert (told["first"], told["revised"], told["unchanged"]) == (2, 0, 0)
        faults = [(one["row"], [(f["field"], f["code"]) for f in one["fields"]]) for one in told["refused"]]
        assert faults == [(1, [("value", "null")]), (3, [("value", "type")])]

    def test_columns_a_label_and_a_state_for_all(self, door: Door) -> None:
        columns = {"account": ["007", "8"], "event_day": ["2026-11-20", "2026-11-20"]}
        body = {"contract": "trade", "source": "s", "outcomes": columns, "state": "retracted"}
        label = door.up.services.registry.contract("trade").label
        assert label is not None
        for more, status in (({"label": label.name}, 200), ({}, 200), ({"label": "nope"}, 404)):
            answer = door.call("POST", "/v1/outcomes", ApiRole.OPERATOR, json={**body, **more})
            assert answer.status_code == status
        states = door.up.services.queries.rows("SELECT DISTINCT state, revision FROM outcome_history")
        assert states == [{"state": "retracted", "revision": 1}]

    def test_an_action_is_recorded_once_and_the_truth_knows_of_it(self, door: Door) -> None:
        made = door.score({"instance": ROW, "event_time": "2026-11-20T12:00:00Z"}).json()
        actions = [
            {"key": "1", "action": "called", "prediction_id": made["prediction_id"], "actor": "ann", "reason": "risk"},
            {"key": "2", "action": "read", "business_key": "007", "event_day": "2026-11-20", "is_treatment": False},
        ]
        body = {"deployment": "t", "actions": actions}
        receipts = [door.call("POST", "/v1/actions", ApiRole.OPERATOR, json=body).json() for _ in range(2)]
        assert receipts == [{"added": 2, "repeated": 0}, {"added": 0, "repeated": 2}]
        rows = door.up.services.queries.rows(
            "SELECT business_key, actor, recorded_by, reason FROM actions ORDER BY key"
        )
        assert (rows[0]["business_key"], rows[0]["actor"], rows[0]["reason"]) == ("007", "ann", "risk")
        assert rows[1]["actor"] == rows[1]["recorded_by"] == rows[0]["recorded_by"]
        assert rows[1]["actor"].startswith("key:")
        assert door.up.services.queries.rows("SELECT was_treated FROM truth") == [{"was_treated": True}]
        with door.up.services._pools[1].transaction() as connection:
            audit = connection.execute("SELECT detail FROM ledger.audit WHERE action = 'record actions'").fetchall()
        assert audit == [({"actions": 2},)]

    @pytest.mark.parametrize(
        ("changes", "status"),
        [
            ({"action": "other"}, 409),
            ({"key": "2", "business_key": None}, 400),
            ({"key": "2", "event_day": None, "business_key": None, "prediction_id": str(UUID(int=0))}, 404),
            ({"key": ""}, 400),
            ({"colour": "red"}, 400),
            ({"key": "2", "acted_at": "2026-11-20T12:00:00"}, 400),
        ],
    )
    def test_what_is_no_action_records_nothing(self, door: Door, changes: dict[str, Any], status: int) -> None:
        action = {"key": "1", "action": "called", "business_key": "007", "event_day": "2026-11-20"}
        body = {"deployment": "t", "actions": [action]}
        assert door.call("POST", "/v1/actions", ApiRole.OPERATOR, json=body).status_code == 200
        more = {"deployment": "t", "actions": [{**action, "key": "3"}, {**action, **changes}]}
        assert door.call("POST", "/v1/actions", ApiRole.OPERATOR, json=more).status_code == status
        assert door.up.services.queries.rows("SELECT key FROM actions") == [{"key": "1"}]

    def test_actions_need_a_deployment_and_the_role(self, door: Door) -> None:
        body = {"deployment": "nope", "actions": []}
        assert door.call("POST", "/v1/actions", ApiRole.OPERATOR, json=body).status_code == 404
        assert door.call("POST", "/v1/actions", ApiRole.SCORER, json=body).status_code == 403

    def test_predictions_are_filtered(self, door: Door) -> None:
        for day, amount in (("2026-11-19", 1.0), ("2026-11-20", 900000.0)):
            door.score({"instance": {**ROW, "amount": amount}, "event_time": f"{day}T12:00:00Z"})

        def listed(query: str) -> list[float]:
            return [p["score"] for p in door.call("GET", f"/v1/predictions?{query}").json()["predictions"]]

        assert listed("") == [0.9, 1e-06]
        assert listed("event_until=2026-11-19") == [1e-06]
        assert listed("min_score=0.5&deployment=t&business_key=007&status=scored") == [0.9]
        assert listed("limit=1") == [0.9]

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=10001", "event_from=yesterday", "status=hush", "min_score=nan"]
    )
    def test_a_wrong_filter_names_the_parameter_and_not_the_value(self, door: Door, query: str) -> None:
        response = door.call("GET", f"/v1/predictions?{query}")
        error = _error(response, 422, "invalid_request")
        assert error["fields"][0]["field"] == query.partition("=")[0]
        assert "hush" not in response.text

    def test_deployments_and_contracts_are_shown_without_the_servers_paths(self, door: Door) -> None:
        one = door.call("GET", "/v1/deployments/t", ApiRole.READER)
        listed = door.call("GET", "/v1/deployments").json()["deployments"][0]
        assert one.json() == {**listed, "serving_revision": 1, "load_failure": None}
        assert "small_models" not in one.text
        assert door.call("GET", "/v1/contracts/trade?version=1").json()["contract"]["name"] == "trade"
        _error(door.call("GET", "/v1/contracts/trade?version=2"), 404, "not_found")
        _error(door.call("GET", "/v1/deployments/nope"), 404, "not_found")
        _error(door.call("GET", "/v1/predictions/no-uuid"), 422, "invalid_request")
        _error(door.call("GET", "/v1/nothing"), 404, "not_found")
        _error(door.call("DELETE", "/v1/deployments"), 405, "method_not_allowed")


class TestDeploying:
    def _model(self, door: Door, tmp_path: Path) -> str:
        """Puts a booster into the server's store, as the command line does; returns its digest."""
        import numpy as np
        import xgboost

        booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(np.eye(3), [0, 1, 0]), 1)
        booster.save_model(tmp_path / "model.ubj")
        made = door.up.deploy("other", contract=CONTRACT, model=tmp_path / "model.ubj", version="x")
        return made.champion.artifacts[0].digest

    def test_a_model_of_the_store_is_deployed_by_its_digest_and_audited(self, door: Door, tmp_path: Path) -> None:
        digest = self._model(door, tmp_path)
        body = {
            "name": "new",
            "version": "x",
            "contract": CONTRACT,
            "artifacts": [{"runtime": "xgboost", "digest": digest}],
        }
        response = door.call("POST", "/v1/deployments", ApiRole.OPERATOR, json=body)
        assert response.status_code == 201, response.text
        assert response.json()["deployed_by"].startswith("key:")
        scored = door.call("POST", "/v1/deployments/new/score", json={"instance": ROW})
        assert scored.status_code == 200

    @pytest.mark.parametrize(
        ("change", "status", "code"),
        [
            ({"artifacts": [{"runtime": "xgboost", "digest": "0" * 64}]}, 404, "not_found"),
            ({"artifacts": [{"runtime": "xgboost", "digest": "../../etc/passwd"}]}, 400, "invalid_request"),
            ({"artifacts": [{"runtime": "xgboost", "digest": "*" * 64}]}, 400, "invalid_request"),
            ({"artifacts": [{"runtime": "python", "digest": "0" * 64}]}, 400, "invalid_query"),
            ({"artifacts": [{"runtime": "hush", "digest": "0" * 64}]}, 400, "invalid_request"),
            ({"artifacts": []}, 400, "invalid_request"),
            ({"name": "../x"}, 400, "invalid_request"),
            ({"contract": "name: x"}, 422, "contract_invalid"),
            ({"contract": "/etc/passwd"}, 422, "contract_invalid"),
            ({"contract": {"name": "x"}}, 422, "contract_invalid"),
            ({"serving": {"allowed_pickles": ["0" * 64]}}, 400, "invalid_query"),
            ({"serving": {"threads": "hush"}}, 400, "invalid_request"),
        ],
    )
    def test_nothing_else_can_be_deployed(
        self, door: Door, tmp_path: Path, change: dict[str, Any], status: int, code: str
    ) -> None:
        digest = self._model(door, tmp_path)
        body = {
            "name": "new",
            "version": "y",
            "contract": CONTRACT,
            "artifacts": [{"runtime": "xgboost", "digest": digest}],
        }
        response = door.call("POST", "/v1/deployments", json={**body, **change})
        _error(response, status, code)
        assert "hush" not in response.text
        assert [d["name"] for d in door.call("GET", "/v1/deployments").json()["deployments"]] == ["other", "t"]


class TestWhoMay:
    def test_every_call_under_v1_needs_a_key_that_may(self, door: Door) -> None:
        least = {
            ("get", "/v1/deployments"): ApiRole.READER,
            ("post", "/v1/deployments"): ApiRole.OPERATOR,
            ("get", "/v1/deployments/{name}"): ApiRole.READER,
            ("post", "/v1/deployments/{name}/score"): ApiRole.SCORER,
            ("post", "/v1/outcomes"): ApiRole.OPERATOR,
            ("get", "/v1/predictions"): ApiRole.READER,
            ("get", "/v1/predictions/{prediction_id}"): ApiRole.READER,
            ("get", "/v1/contracts/{name}"): ApiRole.READER,
            ("get", "/v1/server"): ApiRole.READER,
            ("get", "/v1/deployments/{name}/measurements"): ApiRole.READER,
            ("post", "/v1/actions"): ApiRole.OPERATOR,
            ("get", "/v1/alerts"): ApiRole.READER,
            ("post", "/v1/alerts/{alert_id}/acknowledge"): ApiRole.OPERATOR,
            ("post", "/v1/alerts/{alert_id}/assign"): ApiRole.OPERATOR,
            ("get", "/v1/silences"): ApiRole.READER,
            ("post", "/v1/silences"): ApiRole.OPERATOR,
            ("delete", "/v1/silences/{silence_id}"): ApiRole.OPERATOR,
            ("get", "/v1/reports"): ApiRole.READER,
            ("post", "/v1/reports/{report}/runs"): ApiRole.OPERATOR,
            ("get", "/v1/report-runs"): ApiRole.READER,
            ("get", "/v1/report-runs/{run_id}"): ApiRole.READER,
            ("get", "/v1/report-runs/{run_id}.{kind}"): ApiRole.READER,
            ("get", "/v1/report-runs/{run_id}/rows/{query}/{row}"): ApiRole.READER,
        }
        document = door.http.get("/openapi.json").json()
        calls = {(m, p) for p, methods in document["paths"].items() for m in methods if p.startswith("/v1/")}
        assert calls == set(least)
        for (method, path), role in least.items():
            url = path.replace("{name}", "t").replace("{prediction_id}", "00000000-0000-0000-0000-000000000000")
            url = url.replace("{run_id}", "1").replace("{kind}", "html").replace("{row}", "1")
            url = url.replace("{alert_id}", "1").replace("{silence_id}", "1")
            assert document["paths"][path][method]["security"], (method, path)
            _error(door.call(method, url, None), 401, "unauthenticated")
            _error(door.call(method, url, None, headers={"X-API-Key": "tu_nonsense"}), 401, "unauthenticated")
            for other in ApiRole:
                response = door.call(method, url, other)
                allowed = list(ApiRole).index(other) >= list(ApiRole).index(role)
                assert (response.status_code != 403) == allowed, (method, path, other)
                assert response.status_code != 401

    def test_both_headers_are_taken(self, door: Door) -> None:
        text = door.texts[ApiRole.READER]
        assert door.call("GET", "/v1/deployments", None, headers={"X-API-Key": text}).status_code == 200
        _error(
            door.call("GET", "/v1/deployments", None, headers={"Authorization": f"Basic {text}"}),
            401,
            "unauthenticated",
        )

    def test_a_key_in_the_address_is_not_taken(self, door: Door) -> None:
        _error(door.call("GET", f"/v1/deployments?api_key={door.texts[ApiRole.ADMIN]}", None), 401, "unauthenticated")

    def test_a_revoked_key_is_out(self, door: Door) -> None:
        made, text = door.keys.create("x", ApiRole.READER, by="me")
        door.keys.revoke(made.key_id, by="me")
        _error(door.call("GET", "/v1/deployments", None, headers={"X-API-Key": text}), 401, "unauthenticated")

    def test_no_key_is_needed_to_be_healthy(self, door: Door) -> None:
        assert door.http.get("/health/live").json()["status"] == "live"
        assert door.http.get("/health/ready").json()["status"] == "ready"

    def test_a_body_is_not_read_for_a_stranger(self, narrow: Door) -> None:
        _error(narrow.call("POST", "/v1/outcomes", None, content=b"x" * 5000), 401, "unauthenticated")


class TestBounds:
    def test_a_body_beyond_the_bound_is_refused_whether_it_says_its_length_or_not(self, narrow: Door) -> None:
        _error(narrow.score(b"x" * 2001), 413, "body_too_large")
        sent: list[int] = []

        def endless() -> Iterator[bytes]:
            for i in range(1000):
                sent.append(i)
                yield b" " * 500

        response = narrow.call("POST", "/v1/deployments/t/score", content=endless())
        _error(response, 413, "body_too_large")

    def test_too_many_rows_are_refused_before_they_are_decoded(self, narrow: Door) -> None:
        assert narrow.score({"instances": [ROW] * 3}).status_code == 200
        _error(narrow.score({"instances": [ROW] * 4}), 413, "body_too_large")
        assert narrow.score({"instances": [{**ROW, "account": "{" * 20}]}).status_code == 200

    def test_a_key_beyond_the_bound_is_refused(self, narrow: Door) -> None:
        _error(narrow.score({"instance": ROW, "key": "k" * 11}), 400, "invalid_request")

    def test_beyond_the_requests_in_flight_the_answer_is_503_at_once(
        self, narrow: Door, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entered, go_on = threading.Semaphore(0), threading.Event()
        known = handlers.deployments

        def slow(*given: Any) -> Any:
            entered.release()
            go_on.wait(20)
            return known(*given)

        monkeypatch.setattr(handlers, "deployments", slow)
        with narrow.http, ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(narrow.call, "GET", "/v1/deployments") for _ in range(2)]
            for _ in waiting:
                assert entered.acquire(timeout=10)
            refused = narrow.call("GET", "/v1/deployments")
            assert narrow.http.get("/health/live").status_code == 200
            go_on.set()
            assert [w.result().status_code for w in waiting] == [200, 200]
        _error(refused, 503, "overloaded")
        assert refused.headers["Retry-After"] == "1"
        assert narrow.call("GET", "/v1/deployments").status_code == 200

    def test_many_large_bodies_at_once_are_bounded_together(
        self, narrow: Door, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(edge, "BODIES_AT_ONCE", 0)
        _error(narrow.call("POST", "/v1/outcomes", json={"contract": "trade"}), 503, "overloaded")
        monkeypatch.setattr(narrow.up.services.settings.limits, "bodies_bytes", 10)
        _error(narrow.score({"instance": ROW}), 503, "overloaded")
        monkeypatch.undo()
        assert narrow.score({"instance": ROW}).status_code == 200


class TestFaults:
    def test_an_unforeseen_fault_leaks_nothing(self, door: Door, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
        def fails(*_: Any) -> Any:
            raise RuntimeError("hush: SELECT secret")

        monkeypatch.setattr(handlers, "deployments", fails)
        response = door.call("GET", "/v1/deployments")
        _error(response, 500, "internal")
        assert "hush" not in response.text + "".join(capfd.readouterr())
        assert response.headers["x-content-type-options"] == "nosniff"

    def test_without_its_database_the_door_is_not_ready_and_answers_nothing(self, settings: trueup.Settings) -> None:
        nowhere = Urls(*(["postgresql://nobody@127.0.0.1:1/none?connect_timeout=1"] * 3))
        from trueup import postgres

        wait, postgres.WAIT_S = postgres.WAIT_S, 1.0
        try:
            with trueup.Trueup(wired(settings, nowhere)) as up:
                door = Door(up)
                response = door.http.get("/health/ready")
                found = response.json()["checks"]
                assert (response.status_code, found["ledger"], found["registry"]) == (503, False, False)
                _error(door.score({"instance": ROW}), 503, "ledger_unavailable")
                assert door.http.get("/health/live").status_code == 200
        finally:
            postgres.WAIT_S = wait

    def test_every_answer_carries_the_security_headers(self, door: Door) -> None:
        for path in ("/health/live", "/v1/deployments", "/nothing"):
            headers = door.http.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert headers["x-frame-options"] == "DENY"
            assert "default-src 'none'" in headers["content-security-policy"]

    def test_the_documentation_has_examples_of_both_kinds_of_scoring(self, door: Door) -> None:
        body = door.http.get("/openapi.json").json()["paths"]["/v1/deployments/{name}/score"]["post"]["requestBody"]
        assert set(body["content"]["application/json"]["examples"]) == {"single", "batch"}

    def test_the_documentation_needs_nobody_elses_network(self, door: Door) -> None:
        page = door.http.get("/docs")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(loaded) >= 3
        for address in loaded:
            assert address.startswith("/docs/viewer/")
            assert door.http.get(address).status_code == 200
