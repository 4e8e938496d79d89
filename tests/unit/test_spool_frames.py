"""Records of the spool: a torn end and a changed bit are noticed, and nothing else is lost for them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trueup.ledger.spool_frames import HEAD_BYTES, Damage, Frame, Kind, framed, scan, written_at

payloads = st.lists(st.binary(max_size=60) | st.just(b"TUSP" * 9) | st.just(b"\0" * 40), min_size=1, max_size=5)


def whole(data: bytes) -> list[bytes]:
    return [item.payload for item in scan(data) if isinstance(item, Frame)]


def written(parts: list[bytes]) -> list[bytes]:
    return [framed(Kind.BOOKING, place, payload, 1_000 + place) for place, payload in enumerate(parts)]


@given(payloads)
def test_what_is_written_is_read(parts: list[bytes]):
    found = list(scan(b"".join(written(parts))))
    assert [(f.kind, f.rows, f.payload, f.at_us) for f in found if isinstance(f, Frame)] == [
        (Kind.BOOKING, place, payload, 1_000 + place) for place, payload in enumerate(parts)
    ]


@given(payloads)
def test_an_end_torn_at_any_byte_costs_its_own_record_only(parts: list[bytes]):
    frames = written(parts)
    data = b"".join(frames)
    start = len(data) - len(frames[-1])
    for cut in range(start, len(data)):
        found = list(scan(data[:cut]))
        assert [f.payload for f in found if isinstance(f, Frame)] == parts[:-1]
        assert [(d.start, d.end, d.torn) for d in found if isinstance(d, Damage)] == (
            [] if cut == start else [(start, cut, True)]
        )


@given(payloads, st.data())
def test_a_changed_bit_is_never_read_and_hides_no_other_record(parts: list[bytes], data: st.DataObject):
    frames = written(parts)
    place = data.draw(st.integers(0, len(frames) - 1))
    at = data.draw(st.integers(0, len(frames[place]) - 1))
    broken = bytearray(b"".join(frames))
    broken[sum(map(len, frames[:place])) + at] ^= 1 << data.draw(st.integers(0, 7))
    assert whole(bytes(broken)) == parts[:place] + parts[place + 1 :]
    assert any(isinstance(item, Damage) and not item.torn for item in scan(bytes(broken)))


@given(payloads, st.integers(1, 200))
def test_a_file_that_grew_before_it_was_written_ends_in_zeros(parts: list[bytes], zeros: int):
    assert whole(b"".join(written(parts)) + b"\0" * zeros) == parts


@given(st.binary(max_size=300))
def test_any_bytes_are_covered_and_none_twice(data: bytes):
    at = 0
    for item in scan(data):
        assert item.start == at < item.end
        at = item.end
    assert at == len(data)


def test_a_head_says_when_it_was_written():
    assert written_at(framed(Kind.CLAIMS, 0, b"x", 42)[:HEAD_BYTES]) == 42
    assert written_at(b"x" * HEAD_BYTES) is None
