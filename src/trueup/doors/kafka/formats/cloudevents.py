"""CloudEvents 1.0 over Kafka: structured, batched and binary. An event's attributes stand in its headers.

The mode is told by the header ``content-type``, else by headers that begin with ``ce_``, else by the
value itself. An event without data has none: paths into ``value`` lead nowhere.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trueup.contracts.each import ABSENT
from trueup.doors.kafka.formats.message import Message, Undecodable
from trueup.doors.kafka.formats.plain import json_value
from trueup.doors.kafka.records import Record

_REQUIRED = ("specversion", "id", "source", "type")
_USUAL = frozenset({*_REQUIRED, "time", "subject", "datacontenttype", "dataschema"})
_DATA = frozenset({"data", "data_base64"})
_NAME = re.compile(r"[a-z0-9]{1,100}\Z")
_JSON_TYPE = re.compile(r"[^/]+/([^/]+\+)?json\Z")


class CloudEvents:
    """Reads events whose data is JSON. ``exact`` as for plain JSON."""

    def __init__(self, *, exact: bool) -> None:
        self._exact = exact

    def read(self, record: Record) -> Sequence[Message]:
        """One message an event."""
        assert record.value is not None
        headers = {name.lower(): value for name, value in record.headers}
        kind = media_type(_text(headers.get("content-type")))
        if kind.startswith("application/cloudevents"):
            return self._structured(record, kind)
        if "ce_specversion" in headers or "ce_id" in headers:
            return [self._binary(record, headers, kind)]
        return self._structured(record, "")

    def _structured(self, record: Record, kind: str) -> Sequence[Message]:
        """A JSON object is one event, a list of them a batch; where a type is given, it must be that one."""
        if kind not in ("", "application/cloudevents+json", "application/cloudevents-batch+json"):
            raise Undecodable("CloudEvents in a format other than JSON")
        assert record.value is not None
        found = json_value(record.value, exact=self._exact)
        batch = isinstance(found, list)
        if kind and batch != ("batch" in kind):
            raise Undecodable("content-type and value do not agree")
        return [self._event(event, record.key) for event in (found if batch else [found])]

    def _event(self, event: Any, key: bytes | None) -> Message:
        if not isinstance(event, dict):
            raise Undecodable("a CloudEvent is an object")
        attributes = {name: value for name, value in event.items() if name not in _DATA and value is not None}
        _check(attributes)
        if event.get("data_base64") is None:
            return Message(event.get("data", ABSENT), key, attributes)
        if "data" in event:
            raise Undecodable("data and data_base64 exclude each other")
        return Message(self._data(_unpacked(event["data_base64"]), attributes.get("datacontenttype")), key, attributes)

    def _binary(self, record: Record, headers: Mapping[str, bytes | None], kind: str) -> Message:
        attributes: dict[str, Any] = {
            name[3:]: _text(value) for name, value in headers.items() if name.startswith("ce_") and value is not None
        }
        if kind:
            attributes["datacontenttype"] = kind
        _check(attributes)
        assert record.value is not None
        return Message(self._data(record.value, kind or None), record.key, attributes)

    def _data(self, data: bytes, kind: Any) -> Any:
        """The data's value, whose type is JSON where none is given."""
        if kind is not None and not _JSON_TYPE.match(media_type(str(kind))):
            raise Undecodable("the event's data is not JSON")
        return json_value(data, exact=self._exact)


def media_type(text: str) -> str:
    """The type without its parameters, in small letters."""
    return text.partition(";")[0].strip().lower()


def _check(attributes: Mapping[str, Any]) -> None:
    for name in _REQUIRED:
        value = attributes.get(name)
        if not isinstance(value, str) or not value:
            raise Undecodable(f"the attribute {name} is missing or no text")
    if attributes["specversion"] != "1.0":
        raise Undecodable("a specversion other than 1.0")
    for name, value in attributes.items():
        if name in _USUAL and type(value) is str:
            continue
        if not _NAME.match(name) or not isinstance(value, (str, int)):
            raise Undecodable(
                "an attribute's name is small letters and digits, its value text, whole number or boolean"
            )


def _unpacked(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else _no_base64()
    except (binascii.Error, ValueError):
        return _no_base64()


def _no_base64() -> bytes:
    raise Undecodable("data_base64 is not base64")


def _text(value: bytes | None) -> str:
    try:
        return (value or b"").decode()
    except UnicodeError:
        raise Undecodable("a header that is not UTF-8") from None
