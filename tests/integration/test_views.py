"""The Flask and the Django view of the examples against the real door on a socket."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import django.conf
import django.test
import pytest

import trueup
from serving import Served, serving
from trueup import errors
from trueup.client import Client
from trueup.doors.auth import ApiRole
from trueup_examples.integrations import django_view, flask_view, orders

CONTRACT = """
name: settlement_fails
version: 1
event_time: settlement_date
fields:
  settlement_date: {type: date, role: context}
  cusip: {type: string, role: key}
  last_value_usd: {type: float64, nullable: true, minimum: 0, unit: USD}
output: {kind: probability}
decision: {threshold: 0.5, at_or_above: act, below: wait}
"""
ORDER = {"order_id": "4711", "settlement_date": "2026-11-20", "cusip": "037833100", "last_value_usd": 9e5, "desk": "NY"}
Post = Callable[[Any], tuple[int, dict[str, str], Any]]


def value_in_millions(columns: Any) -> Any:
    import numpy as np

    return np.clip(columns.numeric("last_value_usd") / 1e6, 0, 1)


def in_flask(url: str, key: str) -> Iterator[Post]:
    with Client(url, key=key, timeout=orders.TIMEOUT_S) as client:
        asked = flask_view.create_app(client).test_client()

        def post(order: Any) -> tuple[int, dict[str, str], Any]:
            response = asked.post("/orders", data=json.dumps(order), content_type="application/json")
            return response.status_code, dict(response.headers), response.get_json()

        yield post


def in_django(url: str, key: str) -> Iterator[Post]:
    if not django.conf.settings.configured:
        django.conf.settings.configure(
            ROOT_URLCONF=django_view.__name__, ALLOWED_HOSTS=["testserver"], SECRET_KEY="tests", DATABASES={}
        )
        django.setup()
    with django.test.override_settings(TRUEUP_URL=url, TRUEUP_KEY=key):
        django_view.client.cache_clear()
        asked = django.test.Client()

        def post(order: Any) -> tuple[int, dict[str, str], Any]:
            response = asked.post("/orders", data=json.dumps(order), content_type="application/json")
            return response.status_code, dict(response.headers), response.json()

        yield post
        assert django_view.client.cache_info().misses == 1, "one client is shared"
        django_view.client().close()


@pytest.fixture
def served(up: trueup.Trueup) -> Iterator[Served]:
    up.deploy("fails", contract=CONTRACT, model=f"python:{__name__}:value_in_millions", version="1")
    with serving(up) as running:
        yield running


@pytest.fixture(params=[in_flask, in_django])
def post(request: pytest.FixtureRequest, served: Served) -> Iterator[Post]:
    yield from request.param(f"http://{served.address}", served.keys[ApiRole.SCORER])


def test_an_order_is_decided_and_booked_under_its_id(served: Served, post: Post) -> None:
    status, _, document = post(ORDER)
    (row,) = served.up.query("SELECT prediction_id, source_key FROM predictions")
    assert (status, document) == (200, {"decision": "act", "prediction_id": str(row["prediction_id"])})
    assert row["source_key"] == "4711"


def test_an_order_that_is_sent_twice_is_one_prediction(served: Served, post: Post) -> None:
    assert post(ORDER)[2] == post(ORDER)[2]
    assert served.count() == 1


def test_another_order_of_the_same_id_is_a_conflict(served: Served, post: Post) -> None:
    post(ORDER)
    status, _, document = post({**ORDER, "last_value_usd": 1.0})
    assert (status, set(document)) == (409, {"error"})
    assert served.count() == 1


def test_an_order_that_breaks_the_contract_names_its_fields(post: Post) -> None:
    status, _, document = post({"order_id": "1", "settlement_date": "soon", "last_value_usd": -1.0})
    assert status == 422
    assert {(f["field"], f["code"]) for f in document["fields"]} >= {("settlement_date", "type"), ("cusip", "missing")}


@pytest.mark.parametrize("order", [[], "text", {}, {"order_id": 7}, {"order_id": ""}, {"order_id": "x" * 300}])
def test_what_is_no_order_is_refused(post: Post, order: Any) -> None:
    assert post(order)[0] == 400


@pytest.mark.parametrize("kind", [in_flask, in_django])
def test_without_a_server_the_view_says_come_again(up: trueup.Trueup, kind: Any) -> None:
    with serving(up) as served:
        url, key = f"http://{served.address}", served.keys[ApiRole.SCORER]
    for post in kind(url, key):
        status, headers, document = post(ORDER)
        assert (status, headers["Retry-After"], set(document)) == (503, "1", {"error"})


@pytest.mark.parametrize("kind", [in_flask, in_django])
def test_a_key_that_may_not_is_the_operators_error(served: Served, kind: Any) -> None:
    for post in kind(f"http://{served.address}", served.keys[ApiRole.READER]):
        if kind is in_flask:
            assert post(ORDER)[0] == 500
        else:
            with pytest.raises(errors.Forbidden):  # Django's test client raises what became a 500
                post(ORDER)
