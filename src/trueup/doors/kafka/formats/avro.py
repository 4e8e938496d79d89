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
    _Bounded(named).check(whole)
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
            raise Undecodable("a schema's reference is not in the registry")
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


class _Bounded:
    """Refuses schemas by which a few bytes claim more than any memory or stack holds."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._done: set[str] = set()
        self._empty: dict[str, bool] = {}

    def check(self, schema: Any, inside: frozenset[str] = frozenset()) -> None:
        """Raises Undecodable."""
        if isinstance(schema, str):
            if schema in inside:  # fastavro's compiled reader would run out of its stack, and end the process
                raise Undecodable("the schema refers to itself")
            if schema in self._named and schema not in self._done:
                self.check(self._named[schema], inside)
        elif isinstance(schema, list):
            for part in schema:
                self.check(part, inside)
        elif schema.get("type") in ("record", "error"):
            self._check_record(schema, inside)
        elif schema.get("type") == "array":
            if self._takes_nothing(schema["items"]):
                raise Undecodable("the schema has a list whose items take no bytes")
            self.check(schema["items"], inside)
        elif schema.get("type") == "map":
            self.check(schema["values"], inside)
        elif not isinstance(schema.get("type"), str):
            self.check(schema["type"], inside)

    def _check_record(self, schema: Mapping[str, Any], inside: frozenset[str]) -> None:
        name = schema["name"]
        for f in schema["fields"]:
            self.check(f["type"], inside | {name})
        self._done.add(name)
        if self._takes_nothing(schema):
            raise Undecodable("the schema has a record whose values take no bytes")

    def _takes_nothing(self, schema: Any) -> bool:
        """Whether a value of the schema takes no bytes at all; a union's branch takes one."""
        if isinstance(schema, str):
            if schema not in self._named:
                return schema == "null"
            if schema not in self._empty:
                self._empty[schema] = False  # for a schema that refers to itself, which is refused elsewhere
                self._empty[schema] = self._takes_nothing(self._named[schema])
            return self._empty[schema]
        if not isinstance(schema, Mapping):
            return False
        if schema.get("type") in ("record", "error"):
            return all(self._takes_nothing(f["type"]) for f in schema["fields"])
        if schema.get("type") == "fixed":
            return not schema["size"]
        return self._takes_nothing(schema.get("type"))
