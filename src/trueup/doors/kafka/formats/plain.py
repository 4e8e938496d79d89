"""JSON: a record's value is one JSON text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from trueup.contracts.values import JsonNumber
from trueup.doors.kafka.formats.message import Message, Undecodable, message_of
from trueup.doors.kafka.records import Record

_EXACT = msgspec.json.Decoder(float_hook=JsonNumber)
_DOUBLES = msgspec.json.Decoder()


class Json:
    """``exact``: numbers with a fraction keep every digit, for a contract that has decimals; else they are doubles."""

    def __init__(self, *, exact: bool) -> None:
        self._exact = exact

    def read(self, record: Record) -> Sequence[Message]:
        """One message."""
        assert record.value is not None
        return [message_of(record, json_value(record.value, exact=self._exact))]


def json_value(data: bytes, *, exact: bool = True) -> Any:
    """The value of a JSON text. Raises Undecodable."""
    try:
        if not exact:
            try:
                return _DOUBLES.decode(data)
            except msgspec.DecodeError:
                pass  # perhaps a number beyond the doubles
        return _EXACT.decode(data)
    except RecursionError:
        raise Undecodable("nested too deeply") from None
    except (msgspec.DecodeError, UnicodeError, ValueError, ArithmeticError):
        raise Undecodable("not JSON") from None
