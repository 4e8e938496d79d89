"""What the door needs of a log of records: Kafka's client, a file, or the fake of the tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from trueup.doors.kafka.records import Record


@dataclass(frozen=True, slots=True)
class Message:
    """A record on its way out."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


class Watcher(Protocol):
    """Is told which partitions are ours, on the thread that takes records and while it does."""

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None] | None:
        """The offsets to start from, None of a partition for where the settings say; None: not known now, so
        nothing is read until ``Broker.go_on``."""
        ...

    def revoked(self, partitions: Sequence[int]) -> None:
        """They are about to be another's: what was read of them is booked now or never."""
        ...

    def lost(self, partitions: Sequence[int]) -> None:
        """They are another's already."""
        ...


class Broker(Protocol):
    """One topic read, any written. Used by one thread."""

    cluster: str

    @property
    def ended(self) -> bool:
        """Whether nothing will ever come any more, as in a file."""
        ...

    def open(self, watcher: Watcher) -> None:
        """Joins the group. Raises Unavailable, InvalidInput."""
        ...

    def take(self, most: int, wait_s: float) -> list[Record]:
        """Waits so long for a first record, and takes what else is there already, at most so many in all.

        Raises Unavailable, StreamFailed where no retry can help.
        """
        ...

    def hold(self, wait_s: float) -> None:
        """Takes nothing until ``go_on``, but stays a member of the group, for so long."""
        ...

    def go_on(self, offsets: Mapping[int, int | None]) -> None:
        """Reads these partitions from these offsets. Raises Unavailable."""
        ...

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Tells the group how far it is, for tools that watch lag; nothing depends on it."""
        ...

    def send(self, message: Message, delivered: Callable[[bool], None]) -> None:
        """Queues a message; ``delivered`` is called by ``serve``, False where it was given up."""
        ...

    def serve(self, wait_s: float = 0.0) -> int:
        """Has deliveries told, waiting so long; how many messages still wait for theirs."""
        ...

    def beginnings(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """Where these partitions of ours start if they were never read and their past is not wanted (`latest`)."""
        ...

    def behind(self) -> Mapping[int, int]:
        """Records of each of our partitions that were not taken yet, as far as is known."""
        ...

    def close(self) -> None:
        """Leaves the group."""
        ...
