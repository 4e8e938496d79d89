"""Avro with Confluent's schema registry: a record is read with the schema that it was written with.

The registry's own deserializer expands the schema and looks for rules at every record, which takes many times
as long as reading one; so the client fetches, and fastavro reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import fastavro

from trueup.doors.kafka.formats.message import Message, Undecodable, message_of
from trueup.doors.kafka.formats.schemas import Schemas, asked, framed
from trueup.doors.kafka.records import Record
from trueup.errors import Unavailable

_REFERENCES = 100


class Avro:
    """``client`` is Confluent's schema registry client."""

    def __init__(self, client: Any) -> None:
        self._schemas = Schemas(client, _parsed, kind="AVRO")
        self._read = fastavro.schemaless_reader

    def read(self, record: Record) -> Sequence[Message]:
        """One message."""
        assert record.value is not None
        schema_id, start = framed(record.value)
        schema = self._schemas.of(schema_id)
        rest = BytesIO(record.value)
        rest.seek(start)
        try:
            value = self._read(rest, schema, None)
        except Exception:  # fastavro raises whatever its readers meet, and its messages hold values
            raise Undecodable("not of its Avro schema") from None
        if rest.read(1):
            raise Undecodable("longer than its Avro schema says")
        return [message_of(record, value)]


def _parsed(schema: Any, client: Any) -> Any:
    """A schema ready to read with, and the schemas it refers to."""
    named: dict[str, Any] = {}
    _refer(schema, client, named, set())
    found = _simplified(json.loads(schema.schema_str))
    whole = fastavro.parse_schema(found, named_schemas=named)
    _refuse_empty_items(whole, named, frozenset())
    return whole


def _refer(schema: Any, client: Any, named: dict[str, Any], seen: set[tuple[str, int]]) -> None:
    for reference in schema.references or ():
        place = (reference.subject, reference.version)
        if place in seen:
            continue
        seen.add(place)
        if len(seen) > _REFERENCES:
            raise Undecodable("the schema refers to too many others")
        found = asked(lambda place=place: client.get_version(*place))  # type: ignore[misc]
        if found is None:
            raise Unavailable("a schema's reference is not in the registry")
        _refer(found.schema, client, named, seen)
        fastavro.parse_schema(_simplified(json.loads(found.schema.schema_str)), named_schemas=named)


def _simplified(schema: Any) -> Any:
    """The schema without the logical type uuid, whose values are text to a contract."""
    if isinstance(schema, list):
        return [_simplified(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept = {k: v for k, v in schema.items() if not (k == "logicalType" and v == "uuid")}
    return {k: _simplified(v) if k in ("type", "items", "values", "fields") else v for k, v in kept.items()}


def _refuse_empty_items(schema: Any, named: Mapping[str, Any], inside: frozenset[str]) -> None:
    """A list of what takes no bytes could claim any length; no record may."""
    if isinstance(schema, list):
        for part in schema:
            _refuse_empty_items(part, named, inside)
    if not isinstance(schema, Mapping):
        return
    if schema.get("type") == "array" and _takes_nothing(schema["items"], named, frozenset()):
        raise Undecodable("the schema has a list whose items take no bytes")
    for name in ("items", "values"):
        _refuse_empty_items(schema.get(name), named, inside)
    for f in schema.get("fields", ()):
        _refuse_empty_items(f["type"] if not isinstance(f["type"], str) else None, named, inside)
    if isinstance(schema.get("type"), (Mapping, list)):
        _refuse_empty_items(schema["type"], named, inside)


def _takes_nothing(schema: Any, named: Mapping[str, Any], inside: frozenset[str]) -> bool:
    """Whether a value of the schema may take no bytes at all."""
    if isinstance(schema, str):
        if schema == "null":
            return True
        return schema in named and schema not in inside and _takes_nothing(named[schema], named, inside | {schema})
    if not isinstance(schema, Mapping):
        return False  # a union's branch takes a byte
    if schema.get("type") in ("record", "error"):
        return all(_takes_nothing(f["type"], named, inside) for f in schema.get("fields", ()))
    if schema.get("type") == "fixed":
        return not schema.get("size")
    return _takes_nothing(schema.get("type"), named, inside)
