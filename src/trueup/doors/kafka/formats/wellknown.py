"""Protobuf messages that stand for one plain value: moments, dates, decimals, wrapped numbers and texts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Context, Decimal
from functools import cache
from typing import Any

from confluent_kafka.schema_registry.confluent import meta_pb2
from confluent_kafka.schema_registry.confluent.type import decimal_pb2
from google.protobuf import any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.json_format import MessageToDict
from google.type import date_pb2, money_pb2, timeofday_pb2

_DIGITS = 400  # bytes of an unscaled decimal; a contract's have at most 200 digits


@cache
def known_files() -> tuple[bytes, ...]:
    """The compiled files that schemas import without saying where they are, each after those it imports."""
    ordered: dict[str, bytes] = {}
    from google.protobuf import descriptor_pb2

    modules: tuple[Any, ...] = (
        any_pb2, descriptor_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2,
        date_pb2, money_pb2, timeofday_pb2, meta_pb2, decimal_pb2,
    )  # fmt: skip
    for module in modules:
        _add(module.DESCRIPTOR, ordered)
    return tuple(ordered.values())


def _add(file: Any, ordered: dict[str, bytes]) -> None:
    for other in file.dependencies:
        _add(other, ordered)
    ordered[file.name] = file.serialized_pb


def _date(message: Any) -> Any:
    return dt.date(message.year, message.month, message.day)


def _decimal(message: Any) -> Decimal:
    if len(message.value) > _DIGITS or not -_DIGITS <= message.scale <= _DIGITS:
        raise ValueError("a decimal out of bounds")
    return Decimal(int.from_bytes(message.value, "big", signed=True)).scaleb(-message.scale, Context(prec=2_000))


def _moment(message: Any) -> dt.datetime:
    found: dt.datetime = message.ToDatetime(tzinfo=dt.UTC)
    return found


def _wrapped(message: Any) -> Any:
    return message.value


WELL_KNOWN: dict[str, Callable[[Any], Any]] = {
    "google.protobuf.Timestamp": _moment,
    "google.type.Date": _date,
    "google.protobuf.Struct": MessageToDict,
    "google.protobuf.Value": MessageToDict,
    "google.protobuf.ListValue": MessageToDict,
    "confluent.type.Decimal": _decimal,
    **{
        f"google.protobuf.{kind}Value": _wrapped
        for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
    },
}
