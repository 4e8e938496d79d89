"""What the client sends, how it reads answers, and when it asks again: without any network."""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from trueup import client as package
from trueup import errors
from trueup.client import AsyncClient, Client, Retries, answers, calls
from trueup.client.errors import BY_CODE, UnexpectedAnswer, error_of
from trueup.client.retrying import Attempts, Failed, retry_after
from trueup.domain.batch import Booked, OutcomeState, Status
from trueup.doors.api.errors import STATUS


def sent(**instance: Any) -> Any:
    return json.loads(calls.encoded(calls.exact(instance)))


class TestWhatIsSent:
    def test_every_value_is_sent_exactly(self) -> None:
        assert sent(
            i=2**63 - 1, f=0.1, b=True, n=None, s="007", d=Decimal("12345678901234567890.10"), e=Decimal("1E+3"),
            day=date(2026, 11, 20), at=datetime(2026, 11, 20, 1, 2, 3, 4, UTC),
        ) == {
            "i": 2**63 - 1, "f": 0.1, "b": True, "n": None, "s": "007", "d": "12345678901234567890.10", "e": "1000",
            "day": "2026-11-20", "at": "2026-11-20T01:02:03.000004+00:00",
        }  # fmt: skip

    def test_nan_and_infinity_do_not_become_null(self) -> None:
        found = sent(a=math.nan, b=math.inf, c=-math.inf, d=np.float64("nan"), e=np.float32("-inf"))
        assert found == {"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": "NaN", "e": "-Infinity"}

    def test_members_of_enums_are_their_values(self) -> None:
        assert sent(a=Status.SCORED, b=Booked.REPEATED) == {"a": "scored", "b": int(Booked.REPEATED)}

    def test_numpy_scalars_are_plain_numbers(self) -> None:
        found = sent(i=np.int64(2**62), f=np.float64(0.1), b=np.bool_(True), s=np.str_("x"))
        assert found == {"i": 2**62, "f": 0.1, "b": True, "s": "x"}

    @pytest.mark.parametrize(
        "value", [b"hush", object(), datetime(2026, 11, 20), [1.0], {"a": 1}, 1j, np.datetime64("2026-11-20", "ns")]
    )
    def test_what_has_no_exact_form_is_refused_by_the_name_of_its_field(self, value: Any) -> None:
        with pytest.raises(errors.InvalidInput, match="the fields bad have") as caught:
            calls.exact({"good": 1, "bad": value})
        assert "hush" not in str(caught.value)

    @pytest.mark.parametrize("instance", [[1], "text", None, {1: 2}])
    def test_an_instance_is_a_mapping(self, instance: Any) -> None:
        with pytest.raises(errors.InvalidInput, match=r"mapping|are text"):
            calls.exact(instance)

    def test_text_that_is_no_unicode_is_refused(self) -> None:
        with pytest.raises(errors.InvalidInput):
            calls.encoded({"a": "\ud800"})

    def test_a_call_without_a_key_draws_one_that_all_its_attempts_share(self) -> None:
        one, two = (calls.score("t", {}, key=None, event_time=None, reasons=False) for _ in range(2))
        assert json.loads(one.content or b"")["key"] != json.loads(two.content or b"")["key"]
        many = calls.score_many("t", [{}, {}], keys=None, event_times=None, reasons=False)
        assert len(set(json.loads(many.content or b"")["keys"])) == 2

    def test_outcomes_say_no_more_than_the_caller_does(self) -> None:
        row = {"account": "007", "event_day": date(2026, 11, 20), "value": Decimal("1.50"), "state": None}
        plain = calls.record_outcomes("trade", [row], source="file", label=None, state=None, all_or_none=True)
        assert json.loads(plain.content or b"") == {
            "contract": "trade", "source": "file", "all_or_none": True,
            "outcomes": [{"account": "007", "event_day": "2026-11-20", "value": "1.50", "state": None}],
        }  # fmt: skip
        named = calls.record_outcomes(
            "trade", [], source="file", label="penalty", state=OutcomeState.CENSORED, all_or_none=False
        )
        said = json.loads(named.content or b"")
        assert (said["label"], said["state"], said["all_or_none"]) == ("penalty", "censored", False)

    def test_an_action_without_a_key_gets_one_that_all_attempts_share(self) -> None:
        prediction = UUID(int=7)
        found = calls.record_actions(
            "t", [{"action": "a", "key": "case 1"}, {"action": "b", "key": None}, {"prediction_id": prediction}]
        )
        one, two, three = json.loads(found.content or b"")["actions"]
        assert (one["key"], three["prediction_id"]) == ("case 1", str(prediction))
        assert len({one["key"], two["key"], three["key"], None}) == 4

    @pytest.mark.parametrize("row", [[1], None, "text", {"value": b"hush"}, {"prediction_id": object()}])
    def test_what_is_no_outcome_and_no_action_is_refused_before_it_is_sent(self, row: Any) -> None:
        with pytest.raises(errors.InvalidInput):
            calls.record_outcomes("trade", [row], source="file", label=None, state=None, all_or_none=True)
        with pytest.raises(errors.InvalidInput):
            calls.record_actions("t", [row])

    @pytest.mark.parametrize("more", [{"keys": ["a"]}, {"keys": "ab"}, {"event_times": [datetime.now(UTC)]}])
    def test_one_key_and_one_event_time_a_row(self, more: dict[str, Any]) -> None:
        with pytest.raises(errors.InvalidInput):
            calls.score_many("t", [{}, {}], **{"keys": None, "event_times": None, "reasons": False, **more})

    def test_an_event_time_has_a_zone(self) -> None:
        with pytest.raises(errors.InvalidInput, match="zone"):
            calls.score("t", {}, key=None, event_time=datetime(2026, 11, 20), reasons=False)

    @pytest.mark.parametrize(("name", "path"), [("a/b?c#d", "a%2Fb%3Fc%23d"), ("ü", "%C3%BC"), ("..%2f", "..%252f")])
    def test_a_name_is_one_part_of_the_path(self, name: str, path: str) -> None:
        assert calls.deployment(name).path == f"/v1/deployments/{path}"

    @pytest.mark.parametrize("name", ["", ".", "..", "\ud800"])
    def test_a_name_that_is_another_path_is_refused(self, name: str) -> None:
        with pytest.raises(errors.InvalidInput):
            calls.prediction(name)


class TestWhatIsRead:
    def test_unknown_fields_are_passed_over_and_numbers_are_exact(self) -> None:
        content = b'{"digest": "d", "later": {"x": [1]}, "contract": {"n": 9007199254740993}}'
        assert calls.contract("c", None).read(content).contract == {"n": 9007199254740993}

    def test_answers_are_frozen(self) -> None:
        found = answers.Answer(prediction_id="p", status="scored")
        with pytest.raises(AttributeError):
            found.score = 1.0  # type: ignore[misc]

    @pytest.mark.parametrize("content", [b"", b"<html>", b"{}", b"[]", b'{"digest": 1}', b"\xff", b"[" * 100_000])
    def test_another_servers_answer_is_none(self, content: bytes) -> None:
        with pytest.raises(UnexpectedAnswer):
            calls.contract("c", None).read(content)


class TestErrors:
    @pytest.mark.parametrize(("kind", "status", "code"), [(k, *v) for k, v in STATUS.items()], ids=lambda v: str(v))
    def test_every_error_of_the_server_comes_back_as_itself(
        self, kind: type[errors.TrueupError], status: int, code: str
    ) -> None:
        found = error_of(status, json.dumps({"error": {"code": code, "message": "m", "next_step": "n"}}).encode(), None)
        if kind is errors.MissingExtra:  # the caller can install nothing on the server
            assert type(found) is errors.TrueupError
        elif kind.__module__ == "trueup.errors":
            assert type(found) is kind
        else:
            assert type(found) is kind.__mro__[1]
        assert issubclass(errors.InstanceErrors, BY_CODE["instance_invalid"])

    def test_field_errors_come_back(self) -> None:
        fault = {"row": 2, "field": "x", "code": "type", "expected": "float64"}
        found = error_of(422, json.dumps({"error": {"code": "instance_invalid", "fields": [fault]}}).encode(), None)
        assert isinstance(found, errors.InstanceErrors)
        assert (found.errors[0].row, found.errors[0].field, found.total) == (2, "x", 1)

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (301, UnexpectedAnswer), (400, errors.InvalidInput), (401, errors.Unauthenticated), (404, errors.NotFound),
            (418, errors.InvalidInput), (500, errors.TrueupError), (502, errors.Unavailable), (504, errors.TimedOut),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("content", [b"<html>hush</html>", b'{"error": "text"}', b'{"error": {"code": "new"}}'])
    def test_what_is_not_trueups_is_told_by_its_status(self, status: int, kind: type, content: bytes) -> None:
        found = error_of(status, content, None)
        assert type(found) is kind
        assert "hush" not in found.message

    def test_a_rate_limit_says_when(self) -> None:
        found = error_of(429, b"", 7.0)
        assert isinstance(found, errors.RateLimited)
        assert found.retry_after_s == 7.0


class TestAskingAgain:
    def attempts(self, timeout_s: float = 100.0, **bounds: Any) -> tuple[Attempts, list[float]]:
        now = [0.0]
        return Attempts(Retries(**bounds), timeout_s, lambda: now[0], lambda: 1.0), now

    FAILED = Failed(errors.Overloaded("full"), again=True)

    def test_pauses_double_up_to_the_longest(self) -> None:
        attempts, _ = self.attempts(attempts=6, first_s=1.0, longest_s=4.0)
        pauses = []
        for _ in range(5):
            attempts.seconds(1.0)
            pauses.append(attempts.pause(self.FAILED))
        assert pauses == [1.0, 2.0, 4.0, 4.0, 4.0]

    def test_attempts_are_bounded(self) -> None:
        attempts, _ = self.attempts(attempts=2)
        attempts.seconds(1.0)
        attempts.pause(self.FAILED)
        attempts.seconds(1.0)
        with pytest.raises(errors.Overloaded):
            attempts.pause(self.FAILED)

    def test_retry_after_is_waited_for_in_full(self) -> None:
        attempts, _ = self.attempts(first_s=0.5)
        attempts.seconds(1.0)
        assert attempts.pause(Failed(errors.Overloaded("full"), True, 3.0)) == 3.5

    def test_a_pause_beyond_the_deadline_is_not_begun(self) -> None:
        attempts, _ = self.attempts(timeout_s=5.0)
        attempts.seconds(1.0)
        with pytest.raises(errors.Overloaded):
            attempts.pause(Failed(errors.Overloaded("full"), True, 60.0))

    def test_an_attempt_has_no_more_time_than_the_call(self) -> None:
        attempts, now = self.attempts(timeout_s=5.0)
        assert attempts.seconds(3.0) == 3.0
        now[0] = 4.5
        assert attempts.seconds(3.0) == 0.5

    def test_what_cannot_get_better_is_not_asked_again(self) -> None:
        attempts, _ = self.attempts()
        attempts.seconds(1.0)
        with pytest.raises(errors.Conflict):
            attempts.pause(Failed(errors.Conflict("taken"), again=False))

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            (None, None), ("7", 7.0), (" 7 ", 7.0), ("soon", None), ("-1", None), ("", None), ("²", None),
            ("9" * 5_000, 999_999_999.0), ("Fri, 31 Dec 9999 23:59:59 -2300", None),
        ],
    )  # fmt: skip
    def test_the_header_is_read(self, header: str | None, seconds: float | None) -> None:
        assert retry_after(header) == seconds

    def test_the_header_may_be_a_date(self) -> None:
        later = (datetime.now(UTC) + timedelta(seconds=60)).strftime("%a, %d %b %Y %H:%M:%S GMT")
        assert 55 < (retry_after(later) or 0) <= 60
        assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0

    @pytest.mark.parametrize("bounds", [{"attempts": 0}, {"first_s": -1.0}, {"first_s": 9.0}, {"longest_s": math.inf}])
    def test_bounds_are_checked(self, bounds: dict[str, Any]) -> None:
        with pytest.raises(errors.InvalidInput):
            Retries(**bounds)


class TestTheClients:
    def test_both_have_the_same_calls(self) -> None:
        names = {n for n in vars(Client) if not n.startswith("_")}
        assert names == {n for n in vars(AsyncClient) if not n.startswith("_")}
        for name in (*names, "__init__"):
            one, other = inspect.signature(getattr(Client, name)), inspect.signature(getattr(AsyncClient, name))
            assert one == other, name

    def test_a_secret_is_never_shown(self) -> None:
        with Client("https://bank.example/", key="tu_hush") as opened:
            shown = f"{opened!r} {opened} {vars(opened)} {opened._options} {vars(opened._http)}"
        assert repr(opened) == "Client('https://bank.example')"
        assert "hush" not in shown

    @pytest.mark.parametrize(
        "url", ["", "bank.example", "ftp://a", "https://", "https://u:hush@a", "https://a?k=hush", 7]
    )
    def test_an_address_is_a_place_and_nothing_else(self, url: Any) -> None:
        with pytest.raises(errors.InvalidInput) as caught:
            Client(url)
        assert "hush" not in str(caught.value)

    @pytest.mark.parametrize(
        "bounds", [{"timeout": 0}, {"attempt_timeout": -1}, {"timeout": math.inf}, {"connections": 0}]
    )
    def test_bounds_are_checked(self, bounds: dict[str, Any]) -> None:
        with pytest.raises(errors.InvalidInput):
            Client("https://a", **bounds)

    def test_files_of_tls_that_are_none_are_refused(self) -> None:
        for more in ({"ca": "/no/file"}, {"certificate": "/no/file"}, {"certificate": ("/no", "/file")}):
            with pytest.raises(errors.InvalidInput, match="cannot be used"):
                Client("https://a", **more)  # type: ignore[arg-type]

    def test_importing_it_loads_no_server(self) -> None:
        program = "import sys, trueup.client; print(*sys.modules)"
        loaded = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.split()
        assert not {"numpy", "psycopg", "sqlalchemy", "fastapi", "pydantic", "uvicorn", "typer"} & set(loaded)
        ours = {n for n in loaded if n.startswith("trueup.") and not n.startswith("trueup.client")}
        assert ours == {"trueup.errors", "trueup.domain", "trueup.domain.contract"}

    def test_without_its_extra_it_says_what_to_install(self) -> None:
        program = "import sys; sys.modules['httpx2'] = None; import trueup.client"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert "needs the optional extra 'client'" in done.stderr

    def test_its_names_are_there(self) -> None:
        assert all(hasattr(package, name) for name in package.__all__)
