"""What is remembered of a request's head, and of which."""

from __future__ import annotations

from typing import Any

import pytest

from trueup.doors.api.heads import END, MOST_BYTES, MOST_HEADS, Heads

HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"
SCOPE: dict[str, Any] = {"path": "/v2/models/m/infer", "headers": [(b"host", b"x"), (b"content-length", b"2")]}


def kept(data: bytes, body_bytes: int, **scope: Any) -> Heads:
    heads = Heads()
    heads.keep(data, {**SCOPE, **scope}, body_bytes)
    return heads


def test_a_head_is_known_with_any_body_of_its_length():
    heads = kept(HEAD + b"{}", 2)
    assert heads.found(HEAD + b"[]") == (SCOPE, b"[]")
    assert heads.found(HEAD + END[:2]) == (SCOPE, END[:2])


@pytest.mark.parametrize(
    "data",
    [
        HEAD,
        HEAD + b"{",
        HEAD[:-1],
        b"",
        HEAD + b"{}" + HEAD,
        HEAD + b"{}\r\n",
        b"\r\n" + HEAD + b"{}",
        HEAD.replace(b"host", b"Host") + b"{}",
        HEAD.replace(b"length: 2", b"length: 3") + b"{ }",
    ],
)
def test_whatever_is_not_one_whole_request_behind_the_same_head_is_not_known(data: bytes):
    assert kept(HEAD + b"{}", 2).found(data) is None


@pytest.mark.parametrize(
    ("data", "body_bytes"),
    [
        (HEAD.replace(b"content-length: 2", b"transfer-encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n", 2),
        (HEAD + b"{}" + HEAD + b"{}", 2),
        (HEAD + b"{}\r\n", 2),
        (b"\r\n\r\n" + HEAD + b"{}", 2),
        (HEAD.replace(b"\r\n", b"\n") + b"{}", 2),
        (HEAD.replace(b"\r\n", b"\n") + END, 4),
        (HEAD.replace(b"host: x", b"host: " + MOST_BYTES * b"x") + b"{}", 2),
    ],
)
def test_a_head_whose_request_ends_elsewhere_or_that_is_long_is_not_kept(data: bytes, body_bytes: int):
    assert len(kept(data, body_bytes)) == 0


@pytest.mark.parametrize("name", [b"idempotency-key", b"traceparent", b"x-request-id"])
def test_a_head_that_names_its_request_pushes_no_other_out(name: bytes):
    assert len(kept(HEAD + b"{}", 2, headers=[*SCOPE["headers"], (name, b"1")])) == 0


def test_heads_are_bounded_and_the_oldest_goes_first():
    heads = Heads()
    sent = [HEAD.replace(b"host: x", b"host: %d" % i) + b"{}" for i in range(MOST_HEADS + 1)]
    for data in sent:
        heads.keep(data, SCOPE, 2)
    assert len(heads) == MOST_HEADS
    assert heads.found(sent[0]) is None
    assert heads.found(sent[-1]) is not None
