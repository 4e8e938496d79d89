"""The formats by name: those of trueup, and those that other packages bring.

A package brings one as an entry point of the group ``trueup.formats``: a function of the
value's bytes to plain Python (mappings, lists, texts, numbers, Decimals, dates, moments with a zone).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from threading import Lock
from typing import Any

from trueup.domain.stream import Stream
from trueup.doors.kafka.formats.message import Format, Message, Undecodable, message_of
from trueup.doors.kafka.formats.plain import Json
from trueup.doors.kafka.records import Record
from trueup.errors import InvalidInput, MissingExtra, TrueupError

GROUP = "trueup.formats"
OWN = ("json", "cloudevents", "avro", "protobuf")


class Formats:
    """Makes the format that a stream names. ``client`` makes Confluent's schema registry client, when one is needed."""

    def __init__(self, client: Callable[[], Any] | None = None) -> None:
        self._make_client = client
        self._client: Any = None
        self._lock = Lock()

    def of(self, stream: Stream, *, exact: bool) -> Format:
        """The stream's format; ``exact`` where numbers must keep every digit. Raises InvalidInput, MissingExtra."""
        if stream.format == "json":
            return Json(exact=exact)
        if stream.format == "cloudevents":
            from trueup.doors.kafka.formats.cloudevents import CloudEvents

            return CloudEvents(exact=exact)
        if stream.format in ("avro", "protobuf"):
            return self._with_schemas(stream)
        return Brought(_plug_in(stream.format))

    def _with_schemas(self, stream: Stream) -> Format:
        try:
            if stream.format == "avro":
                from trueup.doors.kafka.formats.avro import Avro

                return Avro(self._registry())
            from trueup.doors.kafka.formats.protobuf import Protobuf

            return Protobuf(self._registry(), stream.message)
        except ImportError:
            raise MissingExtra("kafka", f"a stream of the format {stream.format}") from None

    def _registry(self) -> Any:
        if self._make_client is None:
            raise InvalidInput("the format needs a schema registry", next_step="set the registry's address")
        with self._lock:
            if self._client is None:
                self._client = self._make_client()
        return self._client


class Brought:
    """A format of another package."""

    def __init__(self, read: Callable[[bytes], Any]) -> None:
        self._read = read

    def read(self, record: Record) -> Sequence[Message]:
        """One message."""
        assert record.value is not None
        try:
            value = self._read(record.value)
        except TrueupError as error:
            if isinstance(error, InvalidInput):
                raise Undecodable("not of the stream's format") from None
            raise
        except Exception:  # whatever it is, it is the record's fault, and its message may hold values
            raise Undecodable("not of the stream's format") from None
        return [message_of(record, value)]


def _plug_in(name: str) -> Callable[[bytes], Any]:
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        raise InvalidInput(
            "no such format",
            next_step=f"use {', '.join(OWN)}, or install the package whose entry point in {GROUP} has that name",
        )
    if len({point.value for point in points}) > 1:
        raise InvalidInput("two packages bring a format of that name", next_step="uninstall one of them")
    try:
        read: Callable[[bytes], Any] = points[0].load()
    except (ImportError, AttributeError):
        raise InvalidInput("the package that brings the format cannot be loaded", next_step="see its own log") from None
    return read
