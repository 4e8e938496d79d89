"""Whatever is sent, to whichever route: no answer and no log line repeats it, or tells about the inside."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from test_inference_http import CONTRACT, body

import trueup
from serving import Served, serving
from trueup import telemetry
from trueup.doors.auth import ApiRole
from trueup.doors.headers import API_HEADERS, VIEWER_HEADERS

SECRET = "hush7f3a"
HOSTILE = [
    SECRET,
    f"'; SELECT {SECRET} FROM ledger.api_keys --",
    f"../../{SECRET}/etc/passwd",
    f"<script>{SECRET}</script>",
    f"{SECRET}\0",
    f"%s%n{{{SECRET}}}",
    f"é{SECRET}\u202e",
    SECRET + "x" * 3_000,
]
INSIDE = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|psycopg|sqlalchemy|asyncpg|libpq|SELECT |INSERT |UPDATE |DELETE |"
    r"ledger\.\w+|pg_|relation \"|/home/|/usr/|/tmp/|/root/|line \d+, in|"
    + re.escape(str(Path(__file__).parents[2])),  # wherever the checkout lies
)


@pytest.fixture
def said(capfd: Any) -> Iterator[Callable[[], str]]:
    """All that was written to the log or the terminal since the last time."""
    telemetry_was = structlog.get_config()
    yield lambda: "".join(capfd.readouterr())
    structlog.configure(**telemetry_was)


@pytest.fixture
def door(up: trueup.Trueup) -> Iterator[Served]:
    up.deploy("t", contract=CONTRACT, model="python:small_models:fails_on_13", version="1")
    with serving(up) as served:
        yield served


def routes(door: Served) -> list[tuple[str, str]]:
    """Every method and path of both applications, with {} where a value goes."""
    document = door.get("/openapi.json").json()
    documented = [
        (method.upper(), re.sub(r"\{\w+\}", "{}", path))
        for path, methods in document["paths"].items()
        for method in methods
    ]
    inference = [
        ("GET", "/v2/{}"), ("GET", "/v2/models/{}"), ("GET", "/v2/models/{}/versions/{}"),
        ("GET", "/v2/models/{}/ready"), ("POST", "/v2/models/{}/infer"), ("POST", "/v2/models/t/infer"),
        ("POST", "/v2/models/t/versions/{}/infer"), ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/{}/load"), ("POST", "/v2/repository/models/{}/unload"),
        ("POST", "/v2/repository/models/t/{}"),
    ]  # fmt: skip
    others = [
        ("GET", "/{}"), ("GET", "/docs/viewer/{}"), ("GET", "/v1/contracts/t?version={}"),
        ("DELETE", "/v1/deployments"),
        ("POST", "/v1/deployments/t/score"), ("GET", "/v1/predictions?deployment={}&business_key={}"),
        ("GET", "/v1/predictions?event_from={}&min_score={}&status={}&limit={}&decision={}&event_until={}"),
    ]  # fmt: skip
    return [*documented, *inference, *others]


def bodies(value: str) -> list[Any]:
    """Requests that hold the value in every place where a value can stand."""
    wrong = body(1.0)
    wrong["inputs"][0]["data"] = [value]
    tensors = [
        {**wrong, "id": value},
        {**wrong, "parameters": {value: value}},
        {**wrong, "parameters": {"idempotency_key": value * 200}},
        {**wrong, "parameters": {"event_time": value}},
        {**wrong, "outputs": [{"name": value}]},
        body(-1.0, id=value),
        body(13.0, id=value),
    ]
    for name, changed in (("name", value), ("datatype", value), ("shape", [value]), ("data", [value]), ("data", value)):
        one = body(1.0)
        one["inputs"][1][name] = changed
        tensors.append(one)
    row = {"account": value, "amount": 13.0, "trades": 3}
    records = [
        {"instance": row}, {"instance": {**row, "amount": value}}, {"instance": {**row, value: 1}},
        {"instance": {**row, "fee": value}, "key": value}, {"instance": row, "event_time": value},
        {"instances": [row, {value: value}], "keys": [value, value]}, {value: value}, [value], value,
        {"instance": {**row, "settled": value}},
    ]  # fmt: skip
    new = {"name": "n", "version": "1", "contract": CONTRACT, "artifacts": [{"runtime": "onnx", "digest": "0" * 64}]}
    managing = [
        {"contract": value, "source": value, "outcomes": [{"account": value, "event_day": value, "value": value}]},
        {"contract": "trade", "source": "s", "outcomes": [{"account": value, "event_day": value, "value": value}]},
        {"name": value, "version": value, "contract": value, "artifacts": [{"runtime": value, "digest": value}]},
        {**new, "contract": f"name: {value}"},
        {**new, "contract": {value: value}},
        {**new, "contract": CONTRACT.replace("float64", value, 1)},
        {**new, "serving": {value: value}},
        {**new, "serving": {"fallback": {"field": value}}},
        {"ready": value},
    ]  # fmt: skip
    documents = [json.dumps(d).encode() for d in [*tensors, *records, *managing]]
    return [*documents, value.encode(), json.dumps(wrong).encode()[:-40]]


def headers(value: str) -> dict[str, str]:
    """Headers that hold the value as far as a header can."""
    shown = "".join(c for c in value[:200] if 32 < ord(c) < 127)
    return {
        "Idempotency-Key": shown * 50,
        "Inference-Header-Content-Length": shown,
        "Content-Encoding": shown,
        "Traceparent": shown,
        "X-Forwarded-For": shown,
        "Host": "x",
    }


def may_repeat(path: str, status: int) -> bool:
    """A good answer gives back what was asked for: an id, a field, a contract."""
    return status < 300


@pytest.mark.parametrize("value", HOSTILE, ids=lambda v: repr(v[:14]))
def test_no_route_repeats_or_explains(door: Served, value: str, said: Callable[[], str]) -> None:
    telemetry.configure("debug")  # here, because the terminal is another one in each phase of a test
    said()
    seen: list[int] = []

    def check(answer: Any, what: str) -> None:
        seen.append(answer.status_code)
        shown = answer.text + "".join(f"{k}: {v}\n" for k, v in answer.headers.items() if k != "location")
        # The name of a field that the contract does not have is told back where it reads as a name.
        shown = shown.replace(f'"field":"{SECRET}","code":"unexpected"', "")
        if not may_repeat(what, answer.status_code):
            assert SECRET not in shown, (what, answer.status_code, shown[:300])
        found = INSIDE.search(shown.replace(value, ""))
        assert not found or what.endswith(("/openapi.json", "/docs")), (what, found, shown[:300])
        if not what.startswith("GET /docs"):
            assert answer.status_code < 500 or answer.json()["error"], what
        for name, wanted in API_HEADERS[:-1]:
            assert answer.headers[name.decode()] == wanted.decode(), what
        assert "server" not in answer.headers

    credentials = door.headers(ApiRole.ADMIN)
    for method, path in routes(door):
        url = f"http://{door.address}" + path.replace("{}", quote(value, safe=""))
        what = f"{method} {path}"
        for sent in bodies(value) if method == "POST" else [None]:
            check(door.http.request(method, url, headers=credentials, content=sent), what)
        plain = {k: v for k, v in headers(value).items() if k != "Content-Encoding"}
        for extra in (plain, headers(value), {"Authorization": f"Bearer {headers(value)['X-Forwarded-For']}"},
                      {"Authorization": f"Bearer a.{headers(value)['X-Forwarded-For']}.c"}):  # fmt: skip
            check(door.http.request(method, url, headers=credentials | extra, content=b"{}"), what)
    log = said()
    assert SECRET not in log, [line[:300] for line in log.splitlines() if SECRET in line][:3]
    assert "Traceback" not in log
    assert len(seen) > 300
    assert seen.count(500) <= seen.count(200)  # 500: only where the model is told to fail


def test_a_fault_of_our_own_says_where_and_not_what(
    door: Served, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"{SECRET}: SELECT secret FROM /etc/passwd")

    telemetry.configure("debug")
    monkeypatch.setattr(type(door.up.services.registry), "deployments", fails)
    for path in ("/v1/deployments", "/v2/models"):
        answer = door.get(path)
        assert answer.status_code == 500
        assert SECRET not in answer.text
        assert not INSIDE.search(answer.text)
        assert answer.headers["x-frame-options"] == "DENY"
    log = said()
    assert log.count("request_failed") == 2
    assert SECRET not in log
    assert "Traceback" not in log


def test_every_answer_of_both_applications_carries_the_headers(door: Served) -> None:
    methods = ("GET", "POST", "HEAD", "OPTIONS", "TRACE")
    paths = ("/v2", "/v2/health/live", "/v2/models", "/v2/x", "/v1/deployments", "/health/live", "/x", "/", "//")
    for method, path in itertools.product(methods, paths):
        answer = door.http.request(method, f"http://{door.address}{path}")
        for name, wanted in API_HEADERS:
            assert answer.headers.get_list(name.decode()) == [wanted.decode()], (method, path)
        assert "server" not in answer.headers
        assert "strict-transport-security" not in answer.headers  # only where this server speaks TLS
    viewer = door.http.get(f"http://{door.address}/docs")
    for name, wanted in VIEWER_HEADERS:
        assert viewer.headers.get_list(name.decode()) == [wanted.decode()]
