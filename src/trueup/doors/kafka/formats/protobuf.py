"""Protocol buffers with Confluent's schema registry: a record is read with the schema that it was written with.

The registry hands out the compiled schema, so that no compiler and no generated code is needed.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from threading import local
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from trueup.doors.kafka.formats.message import Message, Undecodable, message_of
from trueup.doors.kafka.formats.schemas import Schemas, asked, framed
from trueup.doors.kafka.formats.wellknown import WELL_KNOWN, known_files
from trueup.doors.kafka.records import Record

_INDEXES = 32
_REFERENCES = 100
_DEPTH = 64
_MESSAGES = 20_000  # in one record; two bytes are enough for one with all of its defaults


class Protobuf:
    """``client`` is Confluent's schema registry client; ``name`` of a message, where others are not to be read."""

    def __init__(self, client: Any, name: str = "") -> None:
        self._name = name
        self._schemas = Schemas(client, _compiled, kind="PROTOBUF", fmt="serialized")

    def read(self, record: Record) -> Sequence[Message]:
        """One message."""
        data = record.value
        assert data is not None
        schema_id, start = framed(data)
        schema = self._schemas.of(schema_id)
        indexes, start = _indexes(data, start)
        kind = schema.message(indexes)
        if self._name and kind.DESCRIPTOR.full_name != self._name:
            raise Undecodable("a message of another name than the stream declares")
        try:
            return [message_of(record, schema.plain.whole(kind.FromString(data[start:])))]
        except (DecodeError, ValueError, ArithmeticError, RecursionError):
            raise Undecodable("not of its protobuf message") from None


class _Schema:
    """A compiled file of messages."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.plain = _Plain()
        self._kinds: dict[tuple[int, ...], Any] = {}

    def message(self, indexes: tuple[int, ...]) -> Any:
        """The class of the message at those places, each within the one before. Raises Undecodable."""
        kind = self._kinds.get(indexes)
        if kind is None:
            kind = self._kinds[indexes] = message_factory.GetMessageClass(self._descriptor(indexes))
        return kind

    def _descriptor(self, indexes: tuple[int, ...]) -> Any:
        inside = list(self._file.message_types_by_name.values())
        found = None
        for index in indexes:
            if index >= len(inside):
                raise Undecodable("the schema has no message at that index")
            found = inside[index]
            inside = list(found.nested_types)
        return found


def _indexes(data: bytes, start: int) -> tuple[tuple[int, ...], int]:
    """Which message of the schema it is, and where it begins; none written stands for the first."""
    count, start = _varint(data, start)
    if count > _INDEXES:
        raise Undecodable("too many message indexes")
    found = []
    for _ in range(count):
        index, start = _varint(data, start)
        found.append(index)
    return tuple(found) or (0,), start


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """A zigzag number that is not negative, and where the next begins. Raises Undecodable."""
    raw = shift = 0
    for at in range(start, min(start + 5, len(data))):
        raw |= (data[at] & 0x7F) << shift
        shift += 7
        if data[at] < 0x80:
            if raw & 1:
                break
            return raw >> 1, at + 1
    raise Undecodable("no message indexes")


def _compiled(schema: Any, client: Any) -> _Schema:
    pool = descriptor_pool.DescriptorPool()
    for known in known_files():
        pool.AddSerializedFile(known)
    seen: set[str] = set()
    _refer(schema, client, pool, seen)
    file = _file_of(schema)
    pool.Add(file)
    return _Schema(pool.FindFileByName(file.name))


def _refer(schema: Any, client: Any, pool: Any, seen: set[str]) -> None:
    for reference in schema.references or ():
        if reference.name in seen:
            continue
        seen.add(reference.name)
        if len(seen) > _REFERENCES:
            raise Undecodable("the schema refers to too many others")
        found = asked(lambda r=reference: client.get_version(r.subject, r.version, fmt="serialized"))  # type: ignore[misc]
        if found is None:
            raise Undecodable("a schema's reference is not in the registry")
        _refer(found.schema, client, pool, seen)
        file = _file_of(found.schema)
        file.name = reference.name
        pool.Add(file)


def _file_of(schema: Any) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto.FromString(base64.standard_b64decode(schema.schema_str))
    file.name = file.name or "schema.proto"
    return file


class _Plain:
    """Messages as plain Python: fields by the names of the schema, whole numbers exact, what is not set left out."""

    def __init__(self) -> None:
        self._left = local()
        self._plans: dict[Any, list[tuple[str, bool, Callable[[Any, int], Any]]]] = {}

    def whole(self, message: Any) -> Any:
        """A record's message. Raises ValueError for what is beyond a bound, and for moments outside of the calendar."""
        self._left.messages = _MESSAGES
        return self._of(message, 0)

    def _of(self, message: Any, depth: int) -> Any:
        self._left.messages -= 1
        if depth > _DEPTH or self._left.messages < 0:
            raise ValueError("nested too deeply, or too many messages")
        kind = message.DESCRIPTOR
        known = WELL_KNOWN.get(kind.full_name)
        if known is not None:
            return known(message)
        plan = self._plans.get(kind)
        if plan is None:
            plan = self._plans[kind] = [(f.name, f.has_presence, self._whole(f)) for f in kind.fields]
        return {
            name: convert(getattr(message, name), depth)
            for name, optional, convert in plan
            if not optional or message.HasField(name)
        }

    def _whole(self, f: Any) -> Callable[[Any, int], Any]:
        """How a field's value is converted, with all of its entries."""
        if f.message_type is not None and f.message_type.GetOptions().map_entry:
            entry = self._one(f.message_type.fields_by_name["value"])
            return lambda value, depth: {str(k): entry(v, depth) for k, v in value.items()}
        one = self._one(f)
        if f.is_repeated:
            return lambda value, depth: [one(v, depth) for v in value]
        return one

    def _one(self, f: Any) -> Callable[[Any, int], Any]:
        if f.message_type is not None:
            return lambda value, depth: self._of(value, depth + 1)
        if f.enum_type is not None:
            names = {number: value.name for number, value in f.enum_type.values_by_number.items()}
            return lambda value, _: names.get(value, value)
        return lambda value, _: value
