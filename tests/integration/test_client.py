"""The client against the real door on a socket, and against servers and ways that misbehave."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import trueup
from certificates import Authority
from clients import ANSWER, KINDS, Awaited, dripping, error, losing_answers, scripted
from serving import Served, serving
from trueup import errors
from trueup.bootstrap import wired
from trueup.client import AsyncClient, Client, Retries, UnexpectedAnswer, Unreachable
from trueup.doors.auth import ApiRole
from trueup.ledger.urls import Urls
from trueup.settings import Settings, Tls

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
ROW = {"account": "007", "amount": 250000.0, "trades": 3}
QUICK = Retries(attempts=4, first_s=0.001, longest_s=0.01)
MODEL = "python:small_models:share_of_a_million"


@pytest.fixture
def served(up: trueup.Trueup) -> Iterator[Served]:
    up.deploy("t", contract=CONTRACT, model=MODEL, version="1")
    with serving(up) as running:
        yield running


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def opened(kind: Any, served: Served, role: ApiRole = ApiRole.ADMIN, **options: Any) -> Any:
    return kind(f"http://{served.address}", key=served.keys[role], **options)


class TestOverTheRealDoor:
    def test_an_answer_is_a_row_and_the_same_key_gets_it_again(self, served: Served, kind: Any) -> None:
        with opened(kind, served, ApiRole.SCORER) as client:
            first, again = (client.score("t", ROW, key="order-1") for _ in range(2))
        assert (first.score, first.decision, first.status, first.repeated) == (0.25, "pass", "scored", False)
        assert (again.prediction_id, again.repeated) == (first.prediction_id, True)
        assert served.count() == 1

    def test_values_come_back_exactly(self, served: Served, kind: Any) -> None:
        row = {**ROW, "trades": 9007199254740993, "fee": Decimal("12345678901234567890123.4567")}
        at = datetime(2026, 11, 20, 23, 30, tzinfo=UTC)
        with opened(kind, served) as client:
            made = client.score("t", row, event_time=at, reasons=True)
            found = client.prediction(made.prediction_id)
        assert found.fields == {**row, "fee": "12345678901234567890123.4567"}
        assert (found.event_time, found.event_day, found.score) == (at, date(2026, 11, 20), 0.25)

    def test_many_are_answered_or_refused_one_by_one(self, served: Served, kind: Any) -> None:
        times = [datetime(2026, 11, 20, tzinfo=UTC)] * 2
        with opened(kind, served) as client:
            found = client.score_many("t", [ROW, {"account": "x"}], keys=["a", "b"], event_times=times)
        assert (found.received, found.answered, found.results[0].score) == (2, 1, 0.25)
        assert (found.refused[0].key, found.refused[0].reason) == ("b", "contract")
        assert {f.field for f in found.refused[0].fields} == {"amount", "trades"}

    def test_outcomes_and_reading(self, served: Served, kind: Any) -> None:
        with opened(kind, served) as client:
            made = client.score("t", ROW, event_time=datetime(2026, 11, 20, tzinfo=UTC))
            outcome = {"account": "007", "event_day": date(2026, 11, 20), "value": True}
            assert client.record_outcomes("trade", [outcome], source="file").first == 1
            assert client.prediction(made.prediction_id).outcome == 1.0
            (listed,) = client.predictions(deployment="t", event_from=date(2026, 11, 20), min_score=0.2, limit=5)
            assert listed.prediction_id == made.prediction_id
            assert client.predictions(business_key="nobody") == ()
            (newest,), state = client.deployments(), client.deployment("t")
            assert (newest.revision, newest.champion) == (state.revision, state.champion)
            assert (state.serving_revision, state.load_failure) == (1, None)
            assert state.champion.contract.name == "trade"
            contract = client.contract("trade", 1)
            assert contract == client.contract("trade")
            assert contract.digest == client.deployment("t").champion.contract.digest

    def test_outcomes_are_taken_back_and_what_fits_is_recorded(self, served: Served, kind: Any) -> None:
        known = {"account": "007", "event_day": date(2026, 11, 20), "value": True}
        undated = {"account": "x", "value": True}
        with opened(kind, served) as client:
            client.score("t", ROW, event_time=datetime(2026, 11, 20, tzinfo=UTC))
            with pytest.raises(errors.InstanceErrors):
                client.record_outcomes("trade", [known, undated], source="file")
            some = client.record_outcomes("trade", [known, undated], source="file", all_or_none=False)
            assert (some.first, [refused.row for refused in some.refused]) == (1, [1])
            assert {fault.field for fault in some.refused[0].fields} == {"event_day"}
            taken = {"account": "007", "event_day": date(2026, 11, 20), "value": None}
            back = client.record_outcomes("trade", [taken], source="file", label="failed", state="retracted")
            assert back.revised == 1
            with pytest.raises(errors.NotFound):
                client.record_outcomes("trade", [known], source="file", label="penalty")

    def test_what_was_done_about_an_item(self, served: Served, kind: Any) -> None:
        with opened(kind, served) as client:
            made = client.score("t", ROW, event_time=datetime(2026, 11, 20, tzinfo=UTC))
            by_item = {"business_key": "007", "event_day": date(2026, 11, 20), "key": "k1"}
            seen = {"prediction_id": made.prediction_id, "action": "seen", "is_treatment": False}
            done = [{**by_item, "action": "chased"}, seen]
            assert client.record_actions("t", done).added == 2
            assert client.record_actions("t", done[:1]) == client.record_actions("t", done[:1])
            assert client.record_actions("t", done[:1]).repeated == 1
            with pytest.raises(errors.Conflict):
                client.record_actions("t", [{**by_item, "action": "called"}])
            with pytest.raises(errors.InvalidInput):
                client.record_actions("t", [{"action": "chased"}])

    def test_the_servers_errors_are_typed(self, served: Served, kind: Any) -> None:
        with opened(kind, served) as client:
            client.score("t", ROW, key="a")
            with pytest.raises(errors.Conflict):
                client.score("t", {**ROW, "trades": 4}, key="a")
            with pytest.raises(errors.InstanceErrors) as caught:
                client.score("t", {"account": "x", "amount": "hush", "trades": 1})
            assert [(f.field, f.code) for f in caught.value.errors] == [("amount", "type")]
            with pytest.raises(errors.NotFound):
                client.score("nope", ROW)
            with pytest.raises(errors.InvalidInput):
                client.prediction("no-uuid")
        with opened(kind, served, ApiRole.READER) as client, pytest.raises(errors.Forbidden):
            client.score("t", ROW)
        for key in ("tu_nonsense", None):
            with kind(f"http://{served.address}", key=key) as client, pytest.raises(errors.Unauthenticated):
                client.deployments()

    def test_an_answer_that_is_lost_is_asked_for_again_and_booked_once(self, served: Served, kind: Any) -> None:
        with losing_answers(served.address, lost=2) as url:
            with kind(url, key=served.keys[ApiRole.SCORER], retries=QUICK) as client:
                answer = client.score("t", ROW)
            assert answer.repeated
        assert served.count() == 1

    def test_many_whose_answer_is_lost_are_booked_once(self, served: Served, kind: Any) -> None:
        rows = [{**ROW, "account": str(i)} for i in range(20)]
        with (
            losing_answers(served.address, lost=1) as url,
            kind(url, key=served.keys[ApiRole.SCORER], retries=QUICK) as client,
        ):
            found = client.score_many("t", rows)
        assert {r.repeated for r in found.results} == {True}
        assert served.count() == 20

    def test_health_tells_live_ready_and_draining(self, served: Served, kind: Any) -> None:
        with opened(kind, served) as client:
            assert client.live().status == "live"
            ready = client.ready()
            assert ready.checks == {"ledger": True, "registry": True, "models": True}
            assert ready.deployments["loaded"] == 1
            served.front._behind.state.draining = True  # type: ignore[attr-defined]
            assert (client.ready().status, client.ready().good, client.live().good) == ("draining", False, True)

    def test_a_rate_is_waited_for(self, fresh_database: Urls, tmp_path: Path, kind: Any) -> None:
        rates = {"requests_per_s": 2.0, "requests_burst": 1.0}
        with trueup.Trueup(wired(Settings(data_dir=tmp_path, rates=rates), fresh_database)) as up:  # type: ignore[arg-type]
            up.deploy("t", contract=CONTRACT, model=MODEL, version="1")
            with serving(up) as served, opened(kind, served) as client:
                began = time.monotonic()
                assert not any(client.score("t", ROW).repeated for _ in range(2))
                assert time.monotonic() - began > 0.5
                assert served.count() == 2

    def test_a_token_is_asked_for_anew_at_every_attempt(self, served: Served, kind: Any) -> None:
        given = iter([served.keys[ApiRole.READER], "tu_nonsense"])
        with kind(f"http://{served.address}", key=lambda: next(given)) as client:
            client.deployments()
            with pytest.raises(errors.Unauthenticated):
                client.deployments()

    def test_one_async_client_serves_many_tasks(self, served: Served) -> None:
        async def all_at_once() -> set[str]:
            async with AsyncClient(f"http://{served.address}", key=served.keys[ApiRole.SCORER]) as client:
                found = await asyncio.gather(*(client.score("t", ROW, key="same") for _ in range(32)))
            return {answer.prediction_id for answer in found}

        assert len(asyncio.run(all_at_once())) == 1
        assert served.count() == 1


class TestRetries:
    @pytest.mark.parametrize("status", [429, 502, 503, 504])
    def test_the_same_key_is_sent_again(self, kind: Any, status: int) -> None:
        with (
            scripted((status, {}, b""), (status, {}, error("overloaded")), (200, {}, ANSWER)) as server,
            kind(server.url, retries=QUICK) as client,
        ):
            assert client.score("t", ROW).score == 0.5
            assert len(server.keys) == 3
            assert len(set(server.keys)) == 1

    @pytest.mark.parametrize(
        ("status", "code", "raised"),
        [
            (400, "invalid_request", errors.InvalidInput), (401, "unauthenticated", errors.Unauthenticated),
            (403, "forbidden", errors.Forbidden), (404, "not_found", errors.NotFound),
            (409, "conflict", errors.Conflict),
            (413, "body_too_large", errors.InvalidInput), (422, "instance_invalid", errors.InstanceErrors),
            (500, "scoring_failed", errors.ScoringError),
        ],
    )  # fmt: skip
    def test_what_would_fail_again_is_asked_once(self, kind: Any, status: int, code: str, raised: type) -> None:
        with scripted((status, {}, error(code))) as server, kind(server.url, retries=QUICK) as client:
            with pytest.raises(raised):
                client.score("t", ROW)
            assert len(server.asked) == 1

    def test_attempts_end_with_the_servers_last_error(self, kind: Any) -> None:
        with scripted((503, {}, error("ledger_unavailable"))) as server, kind(server.url, retries=QUICK) as client:
            with pytest.raises(errors.LedgerUnavailable, match="it is ledger_unavailable"):
                client.score("t", ROW, key="a")
            assert server.keys == ["a"] * 4

    def test_retry_after_is_honoured(self, kind: Any) -> None:
        with (
            scripted((503, {"Retry-After": "1"}, b""), (200, {}, ANSWER)) as server,
            kind(server.url, retries=QUICK) as client,
        ):
            began = time.monotonic()
            client.score("t", ROW)
            assert time.monotonic() - began >= 1.0

    def test_a_retry_after_beyond_the_deadline_ends_at_once(self, kind: Any) -> None:
        with scripted((429, {"Retry-After": "60"}, error("rate_limited"))) as server, kind(server.url) as client:
            with pytest.raises(errors.RateLimited) as caught:
                client.score("t", ROW)
            assert (caught.value.retry_after_s, len(server.asked)) == (60.0, 1)

    def test_nobody_there_is_unreachable(self, kind: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with kind(f"http://127.0.0.1:{port}", retries=QUICK) as client:
            with pytest.raises(Unreachable, match="does not answer"):
                client.score("t", ROW)
            assert (client.live().status, client.ready().good) == ("unreachable", False)

    def test_silence_ends_at_the_deadline(self, kind: Any) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as silent,
            kind(
                f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.6, attempt_timeout=0.2, retries=QUICK
            ) as client,
        ):
            began = time.monotonic()
            with pytest.raises(errors.TimedOut):
                client.score("t", ROW)
            assert 0.4 < time.monotonic() - began < 5

    def test_an_answer_that_comes_drop_by_drop_ends_at_the_deadline(self, kind: Any) -> None:
        with dripping() as url, kind(url, timeout=0.6, attempt_timeout=0.3, retries=QUICK) as client:
            began = time.monotonic()
            with pytest.raises(errors.TimedOut):
                client.score("t", ROW)
            assert time.monotonic() - began < 5

    def test_outcomes_are_sent_again_too(self, kind: Any) -> None:
        receipt = b'{"first": 0, "revised": 0, "unchanged": 1}'
        with scripted((503, {}, b""), (200, {}, receipt)) as server, kind(server.url, retries=QUICK) as client:
            assert client.record_outcomes("c", [{"value": True}], source="s").unchanged == 1
            assert server.asked[0][3] == server.asked[1][3]

    def test_health_is_asked_once_and_without_the_key(self, kind: Any) -> None:
        with scripted((503, {}, b"<html>")) as server, kind(server.url, key="tu_x", retries=QUICK) as client:
            assert client.ready().status == "unreachable"
            assert len(server.asked) == 1
            assert "authorization" not in server.asked[0][2]


class TestTracesAndLogs:
    TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    def test_the_callers_trace_travels_with_every_attempt(self, kind: Any) -> None:
        with (
            scripted((503, {}, b""), (200, {}, ANSWER)) as server,
            kind(server.url, retries=QUICK, traceparent=lambda: self.TRACE) as client,
        ):
            client.score("t", ROW)
            assert [headers["traceparent"] for _, _, headers, _ in server.asked] == [self.TRACE] * 2

    @pytest.mark.parametrize("none", [None, "", "nonsense", TRACE.upper(), TRACE + "\r\nX-API-Key: y"])
    def test_what_is_no_trace_is_not_sent(self, kind: Any, none: str | None) -> None:
        with scripted((200, {}, ANSWER)) as server, kind(server.url, traceparent=lambda: none) as client:
            client.score("t", ROW)
            assert not {"traceparent", "x-api-key"} & set(server.asked[0][2])

    def test_an_error_names_the_request_in_the_servers_log(self, served: Served, kind: Any) -> None:
        with opened(kind, served) as client, pytest.raises(errors.NotFound) as caught:
            client.score("nope", ROW)
        (note,) = caught.value.__notes__
        assert re.fullmatch(r"the server's log knows it as request \S+", note)

    def test_an_id_that_is_none_is_not_shown(self, kind: Any) -> None:
        with scripted((404, {"X-Request-Id": "a b"}, b"")) as server, kind(server.url) as client:
            with pytest.raises(errors.NotFound) as caught:
                client.score("t", ROW)
            assert not hasattr(caught.value, "__notes__")


class TestAnswersThatAreNone:
    def test_a_redirect_is_not_followed(self, kind: Any) -> None:
        with scripted((307, {"Location": "http://127.0.0.1:1/"}, b"")) as server, kind(server.url, key="x") as client:
            with pytest.raises(UnexpectedAnswer):
                client.score("t", ROW)
            assert len(server.asked) == 1

    def test_a_large_answer_is_not_read_to_its_end(self, kind: Any) -> None:
        with (
            scripted((200, {}, b" " * 100_000)) as server,
            kind(server.url, answer_bytes=10_000) as client,
            pytest.raises(UnexpectedAnswer, match="10000 bytes"),
        ):
            client.score("t", ROW)

    def test_a_packed_answer_is_not_unpacked(self, kind: Any) -> None:
        with scripted((200, {"Content-Encoding": "gzip"}, b"x")) as server, kind(server.url) as client:
            with pytest.raises(UnexpectedAnswer, match="packed"):
                client.score("t", ROW)
            assert server.asked[0][2]["accept-encoding"] == "identity"

    def test_another_servers_page_is_none(self, kind: Any) -> None:
        with scripted((200, {}, b"<html>")) as server, kind(server.url) as client, pytest.raises(UnexpectedAnswer):
            client.deployments()

    def test_a_key_that_no_header_holds_is_not_shown(self, kind: Any) -> None:
        for key in ("hush\r\nX: y", "hüsh", ""):
            with kind("http://127.0.0.1:1", key=key) as client, pytest.raises(errors.InvalidInput) as caught:
                client.deployments()
            assert "hush" not in str(caught.value)


def test_mutual_tls_by_files(fresh_database: Urls, tmp_path: Path) -> None:
    ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
    own, shown = ours.sign("server"), ours.sign("caller")
    locked = ours.sign("locked", password=b"secret")
    tls = Tls(certificate=own.certificate, key=own.key, client_ca=ours.file, client_certificates="required")
    with trueup.Trueup(wired(Settings(data_dir=tmp_path, tls=tls), fresh_database)) as up, serving(up) as served:
        url, key = f"https://{served.address}", served.keys[ApiRole.READER]
        pair = (shown.certificate, shown.key)
        for kind in KINDS.values():
            with kind(url, key=key, ca=ours.file, certificate=pair) as client:
                assert client.deployments() == ()
            with (
                kind(url, key=key, ca=others.file, certificate=pair) as client,
                pytest.raises(Unreachable, match="not trusted"),
            ):
                client.deployments()
            with kind(url, key=key, ca=ours.file, retries=QUICK) as client, pytest.raises(Unreachable):
                client.deployments()
        with pytest.raises(errors.InvalidInput, match="used"):
            Client(url, ca=ours.file, certificate=(locked.certificate, locked.key))


def test_the_helper_of_these_tests_awaits_the_async_client() -> None:
    with Awaited("http://127.0.0.1:1", retries=QUICK) as client:
        assert isinstance(client._client, AsyncClient)
    assert json.loads(ANSWER)["score"] == 0.5
