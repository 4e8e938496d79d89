"""Whatever a message says, it can be stored and sent."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from receiving import message
from trueup.domain.message import Attachment, Message
from trueup.notifying.bounding import KEY_CHARS, bounded
from trueup.notifying.outbox import identity_of, wait_s
from trueup.settings import Notifying

SMALL = Notifying(
    subject_chars=20, text_chars=100, html_chars=100, payload_bytes=1_000, attachments=2, attachments_bytes=10
)
ANYTHING = st.text(st.characters(), max_size=200)  # also halves of surrogate pairs
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANYTHING,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(ANYTHING, inner, max_size=5),
)
MESSAGES = st.builds(
    Message,
    *[ANYTHING] * 6,
    payload=st.dictionaries(ANYTHING | st.just("alerts") | st.just("truncatedAlerts"), VALUES, max_size=5),
    attachments=st.lists(st.builds(Attachment, ANYTHING, ANYTHING, st.binary(max_size=20)), max_size=4).map(tuple),
    ordering=ANYTHING,
)


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for name, inner in value.items() for text in (name, *texts(inner))]
    if isinstance(value, list):
        return [text for inner in value for text in texts(inner)]
    return [value] if isinstance(value, str) else []


@given(MESSAGES)
def test_any_message_is_within_the_bounds_after(told: Message):
    found = bounded(told, SMALL)
    assert len(found.subject) <= 20
    assert len(found.text) <= 100
    assert len(found.html) <= 100
    assert len(json.dumps(found.payload, allow_nan=False, ensure_ascii=False).encode()) <= 1_000
    assert len(found.attachments) <= 2
    assert sum(len(file.content) for file in found.attachments) <= 10
    one_line = [found.subject, found.receiver, found.kind, *(f.name + f.media_type for f in found.attachments)]
    assert not any(ord(character) < 32 for text in one_line for character in text)
    for text in (found.key, found.ordering, found.text, found.html, *one_line, *texts(dict(found.payload))):
        assert "\0" not in text
        text.encode("utf-8")


@given(MESSAGES)
def test_what_is_bounded_stays_as_it_is(told: Message):
    once = bounded(told, SMALL)
    assert bounded(once, SMALL) == once


def test_an_ordinary_message_is_not_changed():
    told = message(html="<p>x</p>", attachments=(Attachment("a.csv", "text/csv", b"x"),), ordering="g")
    assert bounded(told, Notifying()) == told


@given(st.text(max_size=600), st.text(max_size=600))
def test_other_keys_stay_other(one: str, two: str):
    first, second = (bounded(message(key), SMALL).key for key in (one, two))
    assert (first == second) == (one == two)
    assert len(first) <= KEY_CHARS


def test_the_id_is_of_the_key_alone():
    assert identity_of(message("a")) == identity_of(replace(message("a"), subject="other", text="other"))
    assert str(identity_of(message("a"))) == "a2c7391f-3f72-5606-be7e-883a9ec8e625"


@given(st.integers(1, 10_000), st.floats(0, 1), st.none() | st.floats(-1e9, 1e9))
def test_waits_grow_within_their_bounds(attempt: int, chance: float, asked: float | None):
    bounds = Notifying(retry_s=5, retry_most_s=900)
    doubled = min(5 * 2.0 ** min(attempt - 1, 100), 900)
    found = wait_s(attempt, bounds, asked, chance)
    assert max(doubled / 2, min(asked or 0, 900)) <= found <= max(doubled, min(asked or 0, 900))
