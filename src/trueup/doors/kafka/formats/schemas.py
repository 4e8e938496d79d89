"""Schemas of Confluent's registry, by the id that a record's first bytes name."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any, Generic, TypeVar

from trueup.doors.kafka.formats.message import Undecodable
from trueup.errors import Unavailable

T = TypeVar("T")
_HEAD = 5  # a zero byte and the schema's id
_MOST = 256
_UNKNOWN_S = 30.0


def framed(data: bytes) -> tuple[int, int]:
    """The schema's id and where what follows it begins. Raises Undecodable."""
    if len(data) < _HEAD or data[0] != 0:
        raise Undecodable("no schema id: the value does not begin as Confluent's serializers write it")
    return int.from_bytes(data[1:_HEAD], "big"), _HEAD


class Schemas(Generic[T]):
    """What a format makes of each schema. Bounded; an unknown id is asked for again after half a minute."""

    def __init__(self, client: Any, make: Callable[[Any, Any], T], *, kind: str, fmt: str | None = None) -> None:
        self._client, self._make, self._kind, self._fmt = client, make, kind, fmt
        self._made: OrderedDict[int, T | _Unusable] = OrderedDict()
        self._lock = Lock()

    def of(self, schema_id: int) -> T:
        """Raises Undecodable where there is no such schema or it cannot be used, Unavailable where nobody knows."""
        made = self._made.get(schema_id)
        if made is None or (isinstance(made, _Unusable) and made.until < time.monotonic()):
            made = self._fetched(schema_id)
            with self._lock:
                self._made[schema_id] = made
                while len(self._made) > _MOST:
                    self._made.popitem(last=False)
        if isinstance(made, _Unusable):
            raise Undecodable(made.detail)
        return made

    def _fetched(self, schema_id: int) -> T | _Unusable:
        schema = asked(lambda: self._client.get_schema(schema_id, fmt=self._fmt))
        if schema is None:
            return _Unusable("the registry knows no schema of that id")
        if (schema.schema_type or "AVRO").upper() != self._kind:
            return _Unusable("the schema is of another format")
        try:
            return self._make(schema, self._client)
        except (Unavailable, MemoryError):
            raise
        except Undecodable as unusable:
            return _Unusable(unusable.detail)
        except Exception:
            return _Unusable("the schema cannot be used")


class _Unusable:
    def __init__(self, detail: str) -> None:
        self.detail, self.until = detail, time.monotonic() + _UNKNOWN_S


def asked(ask: Callable[[], Any]) -> Any:
    """The registry's answer, None where it says that there is no such thing. Raises Unavailable for any other no."""
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    try:
        return ask()
    except SchemaRegistryError as error:
        if error.http_status_code == 404:
            return None
        raise _away() from None
    except Exception:  # the client lets its HTTP library's errors through, after it has tried again
        raise _away() from None


def _away() -> Unavailable:
    return Unavailable("the schema registry does not answer", next_step="the stream tries again by itself")
