"""Paths lead to what they name, or nowhere; they never fail for what a record holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueup.contracts.each import ABSENT
from trueup.doors.kafka.formats.message import Message
from trueup.doors.kafka.paths import Path, Place, parsed
from trueup.errors import InvalidInput

VALUE = {"trade": {"legs": [{"id": "a"}, {"id": "b"}], "0": "member", "none": None}}
MESSAGE = Message(
    VALUE, b'{"account": {"id": "7"}}', {"desk": b"rates", "context": b'{"user": "u"}', "bad": b"\xff", "n": None}
)


def at(path: str, message: Message = MESSAGE) -> Any:
    return parsed(path).of(message)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("value", VALUE),
        ("value.trade.legs.1.id", "b"),
        ("value.trade.0", "member"),
        ("value.trade.none", None),
        ("value.trade.legs.2", ABSENT),
        ("value.trade.legs.-1", ABSENT),
        ("value.trade.legs.id", ABSENT),
        ("value.trade.none.more", ABSENT),
        ("value.other", ABSENT),
        ("key", '{"account": {"id": "7"}}'),
        ("key.account.id", "7"),
        ("key.account.other", ABSENT),
        ("headers.desk", "rates"),
        ("headers.desk.more", ABSENT),
        ("headers.context.user", "u"),
        ("headers.bad", ABSENT),
        ("headers.bad.more", ABSENT),
        ("headers.n", ABSENT),
        ("headers.unknown", ABSENT),
    ],
)
def test_a_path_leads_to_what_it_names(path: str, found: Any):
    assert at(path) == found


def test_a_record_without_a_key_has_nothing_there():
    assert at("key", Message({}, None, {})) is ABSENT
    assert at("key.account", Message({}, None, {})) is ABSENT


def test_an_attribute_that_is_no_bytes_is_taken_as_it_is():
    assert at("headers.count", Message({}, None, {"count": 3})) == 3


@pytest.mark.parametrize(
    "text", ["", "values", "Value", "value.", ".value", "value..x", "headers", "x" * 2000, "value" + ".x" * 33]
)
def test_a_bad_path_is_invalid_input(text: str):
    with pytest.raises(InvalidInput):
        parsed(text)


def test_a_place_is_in_each_instance_when_its_path_goes_on_from_theirs():
    legs = parsed("value.trade.legs")
    assert Place("value.trade.legs.id", legs).within == ("id",)
    assert Place("value.trade.legs", legs).within == ()
    assert Place("value.trade.legs.0.id", legs).within is None
    assert Place("value.trade", legs).within is None
    assert Place("key", legs).within is None


@given(
    st.text(max_size=30),
    st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)),
    st.none() | st.binary(),
    st.dictionaries(st.text(), st.none() | st.binary()),
)
def test_any_path_of_any_message_is_found_absent_or_refused(text: str, value: Any, key: Any, headers: Any):
    for root in ("value.", "key.", "headers."):
        try:
            path = parsed(root + text)
        except InvalidInput:
            continue
        assert isinstance(path, Path)
        path.of(Message(value, key, headers))
