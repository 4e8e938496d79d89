"""A file of one record a line, read as a topic of one partition: the same loop without a broker."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from trueup.doors.kafka.broker import Message, Watcher
from trueup.doors.kafka.records import Record
from trueup.errors import InvalidFile
from trueup.settings import Streaming

CLUSTER = "file"


class FileBroker:
    """The line's number is its offset. Replies are written to ``replies``, a line each, where there is one."""

    cluster = CLUSTER

    def __init__(
        self, path: Path, bounds: Streaming, replies: IO[bytes] | None = None, replies_topic: str | None = None
    ) -> None:
        """Raises InvalidFile. ``replies_topic``: whose messages are written."""
        try:
            self._file = path.open("rb")
            self._appended_us = path.stat().st_mtime_ns // 1000
        except OSError:
            raise InvalidFile(f"{path.name} cannot be read") from None
        self.topic = topic_of(path)
        self._most_bytes = bounds.record_bytes + 1  # one more than is allowed, so that it is seen to be too large
        self._replies = replies
        self._replies_topic = replies_topic
        self._line = 0
        self._held = True
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether the last line was taken."""
        return self._ended

    def open(self, watcher: Watcher) -> None:
        """Goes to the first line that the ledger does not know."""
        offsets = watcher.assigned([0])
        if offsets is not None:
            self.go_on(offsets)

    def take(self, most: int, wait_s: float) -> list[Record]:
        """The next lines; waits at their end, where nothing will come."""
        found: list[Record] = []
        if self._ended:
            time.sleep(wait_s)
        while not self._held and len(found) < most:
            line = self._next_line()
            if line is None:
                self._ended = True
                break
            value = line.rstrip(b"\r\n")
            if value:
                found.append(Record(self.topic, 0, self._line, self._appended_us, None, value))
            self._line += 1
        return found

    def hold(self, wait_s: float) -> None:
        """Takes nothing until ``go_on``."""
        self._held = True
        time.sleep(wait_s)

    def go_on(self, offsets: Mapping[int, int | None]) -> None:
        """Skips to a line."""
        self._file.seek(0)
        self._line, self._ended, self._held = 0, False, False
        while self._line < (offsets.get(0) or 0) and self._next_line() is not None:
            self._line += 1

    def commit(self, offsets: Mapping[int, int]) -> None:
        """There is no group."""

    def send(self, message: Message, delivered: Callable[[bool], None]) -> None:
        """Writes a reply's value as a line; dead letters stay in the ledger."""
        if self._replies is not None and message.topic == self._replies_topic and message.value is not None:
            self._replies.write(message.value + b"\n")
        delivered(True)

    def serve(self, wait_s: float = 0.0) -> int:
        """Nothing waits."""
        return 0

    def beginnings(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """All of a file is wanted."""
        return {}

    def behind(self) -> Mapping[int, int]:
        """Nobody has counted the lines."""
        return {}

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _next_line(self) -> bytes | None:
        """At most so many bytes of it; what is beyond is skipped. None at the end."""
        line = self._file.readline(self._most_bytes)
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = self._file.readline(1 << 20)
        return line or None


def topic_of(path: Path) -> str:
    """The file's name as a topic's, with a digest of its first line: another day's file of that name is another place.

    Raises InvalidFile.
    """
    try:
        with path.open("rb") as file:
            first = file.readline(1 << 16)
    except OSError:
        raise InvalidFile(f"{path.name} cannot be read") from None
    name = re.sub(r"[^a-zA-Z0-9._-]", "_", path.name)[:200]
    return f"{name}-{hashlib.blake2b(first, digest_size=4).hexdigest()}"
