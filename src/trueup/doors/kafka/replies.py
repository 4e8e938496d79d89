"""Step 4: what the ledger owes is sent, and forgotten when the broker has confirmed it.

The outbox is the ledger itself: a batch whose replies are owed is a row, written with its predictions. A reply
is a function of its prediction, so one that is sent twice, after a crash between sending and forgetting, is the
same message under the same id.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote
from uuid import UUID

import msgspec
import numpy as np

from trueup.domain.batch import Booked, Receipt
from trueup.domain.stream import Letter, OwedReplies, Place, Stream
from trueup.doors.kafka.broker import Broker, Message
from trueup.doors.kafka.handlers import Batch
from trueup.ports import StreamLedger

TYPE = b"trueup.prediction.v1"
FORGET_S = 0.2  # confirmed batches wait so long for others
BATCHES_AT_ONCE = 100  # that are read back from the ledger
LETTERS_AT_ONCE = 500
RETRY_S, RETRY_MOST_S = 1.0, 60.0  # between tries of what the broker does not take; doubled each time
MOST_FAILING = 1_000  # batches and letters, each, that are remembered as such
LOOK_S = 10.0  # what others book for us, as a replay of dead letters does, is looked for so often
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Owed:
    """A batch on its way: how many of its messages are not confirmed, and whether one was given up."""

    left: int
    failed: bool = False


class _Failing:
    """What the broker did not take: when each is tried again, later and later."""

    def __init__(self) -> None:
        self._due: dict[int, tuple[float, float]] = {}  # moment, and the wait after it

    def failed(self, number: int) -> float:
        """Seconds until it is tried again."""
        _, wait_s = self._due.pop(number, (0.0, RETRY_S))
        self._due[number] = (time.monotonic() + wait_s, min(2 * wait_s, RETRY_MOST_S))
        while len(self._due) > MOST_FAILING:
            del self._due[next(iter(self._due))]
        return wait_s

    def sent(self, number: int) -> None:
        """It was taken after all."""
        self._due.pop(number, None)

    def next_due(self) -> float:
        """When the first of those that wait is to be tried."""
        now = time.monotonic()
        return min((due for due, _ in self._due.values() if due > now), default=float("inf"))

    def waiting(self) -> list[int]:
        """Those whose time has not come."""
        now = time.monotonic()
        return [number for number, (due, _) in self._due.items() if due > now]


class Replies:
    """The replies and dead letters of one stream. Used by one thread."""

    def __init__(
        self, name: str, stream: Stream, place: Place, streams: StreamLedger, broker: Broker, most: int
    ) -> None:
        self._stream = stream
        self._place = place
        self._streams = streams
        self._broker = broker
        self._most = most
        self._source = f"/trueup/deployments/{quote(name)}".encode()
        self._name = name
        self._owed: dict[int, _Owed] = {}
        self._letters: dict[int, _Owed] = {}
        self._confirmed: list[int] = []
        self._confirmed_letters: list[int] = []
        self._forget_at = 0.0
        self._partitions: set[int] = set()
        self._look_at = 0.0 if stream.replies or stream.dead_letters else float("inf")
        self._look_again_at = self._look_at
        self._has_more = False  # than was looked at: the next look is when some of that is forgotten
        self._in_flight = 0
        self._failing = _Failing()
        self._failing_letters = _Failing()

    @property
    def in_flight(self) -> int:
        """Messages that the broker has not confirmed."""
        return self._in_flight

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be read before some are confirmed."""
        return self._in_flight >= self._most

    @property
    def has_room(self) -> bool:
        """Whether reading may begin again after it was full: not at once, which would be for a few records only."""
        return self._in_flight <= self._most // 2

    def follow(self, partitions: Sequence[int]) -> None:
        """Owes what these partitions owe from now on, also what others booked and did not send."""
        self._partitions = set(partitions)
        if self._stream.replies or self._stream.dead_letters:
            self._look_at = 0.0

    def answer(self, batch: Any, receipt: Receipt | None) -> None:
        """Sends the replies to what was booked just now; outcomes have none."""
        if receipt is not None and receipt.batch_id is not None and self._stream.replies is not None:
            self._answer(batch, receipt, receipt.batch_id)
        conflicts = receipt is not None and bool((receipt.booked >= Booked.CONFLICT).any())
        if self._stream.dead_letters is not None and (conflicts or batch.read.refused or batch.read.letters(())):
            self._look_at = 0.0

    def _answer(self, batch: Batch, receipt: Receipt, number: int) -> None:
        if self._is_sent(number):  # found in the ledger between its commit and now
            return
        places = np.flatnonzero(receipt.booked == Booked.NEW).tolist()
        owed = self._owed[number] = _Owed(len(places))
        for document in self._documents(batch, receipt, places):
            self._send(owed, self._reply(document), partial(self._batch_done, number))

    def _is_sent(self, batch_id: int) -> bool:
        return batch_id in self._owed or batch_id in self._confirmed

    def turn(self) -> None:
        """Serves deliveries, forgets what was confirmed, and looks for what is owed. Raises LedgerUnavailable."""
        self._broker.serve()
        now = time.monotonic()
        if (now >= self._forget_at or self._has_more) and (self._confirmed or self._confirmed_letters):
            self._forget()
            self._forget_at = now + FORGET_S
            if self._has_more:
                self._look_at = now
        if now >= min(self._look_at, self._look_again_at) and self._partitions and not self.is_full:
            self._look_at = min(self._failing.next_due(), self._failing_letters.next_due())
            self._look_again_at = now + LOOK_S
            replies_left, letters_left = self._resend(), self._send_letters()
            self._has_more = replies_left or letters_left

    def drain(self, seconds: float) -> bool:
        """Waits until everything is confirmed and forgotten, at most so long. Raises LedgerUnavailable."""
        until = time.monotonic() + seconds
        while self._owes and time.monotonic() < until:
            self._broker.serve(0.05)
            self.turn()
        self._forget()
        return not self._owes

    @property
    def _owes(self) -> bool:
        looks = self._has_more or self._look_at != float("inf")
        return self._in_flight > 0 or (looks and bool(self._partitions))

    def _forget(self) -> None:
        if self._confirmed:
            self._streams.replies_sent(self._confirmed)
            self._confirmed = []
        if self._confirmed_letters:
            self._streams.letters_sent(self._confirmed_letters)
            self._confirmed_letters = []

    def _resend(self) -> bool:
        """Sends what is owed by earlier owners, or was given up; whether there may be more."""
        if self._stream.replies is None:
            return False
        waiting = self._failing.waiting()
        found = self._streams.owed(self._place, sorted(self._partitions), BATCHES_AT_ONCE, waiting)
        for owed in found:
            if self._is_sent(owed.batch_id):
                continue
            if self.is_full:
                return True
            self._resend_batch(owed)
        return len(found) == BATCHES_AT_ONCE

    def _resend_batch(self, owed: OwedReplies) -> None:
        state = self._owed[owed.batch_id] = _Owed(1)  # one more than is sent, until all are
        try:
            for row in self._streams.replies(self._place, [owed]):
                state.left += 1
                self._send(state, self._reply(_document_of(row)), partial(self._batch_done, owed.batch_id))
        except BaseException:
            state.failed = True  # the rest is sent another time, with what was sent now
            raise
        finally:
            state.left -= 1
            if not state.left:
                self._batch_done(owed.batch_id)

    def _send_letters(self) -> bool:
        """Sends what was not sent yet; whether there may be more."""
        if self._stream.dead_letters is None:
            return False
        waiting = self._failing_letters.waiting()
        found = self._streams.letters(self._place, sorted(self._partitions), LETTERS_AT_ONCE, waiting)
        for letter in found:
            if self.is_full:
                return True
            number = letter.letter_id
            if number is not None and number not in self._letters and number not in self._confirmed_letters:
                state = self._letters[number] = _Owed(1)
                self._send(state, self._dead_letter(letter), partial(self._letter_done, number))
        return len(found) == LETTERS_AT_ONCE

    def _send(self, owed: _Owed, message: Message, done: Any) -> None:
        self._in_flight += 1
        self._broker.send(message, partial(self._delivered, owed, done))

    def _delivered(self, owed: _Owed, done: Any, good: bool) -> None:
        self._in_flight -= 1
        owed.left -= 1
        owed.failed |= not good
        if not owed.left:
            done()

    def _batch_done(self, batch_id: int) -> None:
        self._done(self._owed.pop(batch_id), self._confirmed, self._failing, batch_id)

    def _letter_done(self, number: int) -> None:
        self._done(self._letters.pop(number), self._confirmed_letters, self._failing_letters, number)

    def _done(self, owed: _Owed, confirmed: list[int], failing: _Failing, number: int) -> None:
        if owed.failed:
            self._look_at = min(self._look_at, time.monotonic() + failing.failed(number))
        else:
            failing.sent(number)
            confirmed.append(number)

    def _documents(self, batch: Batch, receipt: Receipt, places: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The answers to what was booked just now, as ``_document_of`` makes them of the ledger's rows."""
        booking, answers = batch.booking, receipt.answers
        assert booking is not None
        version = batch.resolved.champion.version.version
        raw = receipt.ids.tobytes()
        scores, status = answers.score.tolist(), answers.status.tolist()
        costs = None if answers.expected_cost is None else answers.expected_cost.tolist()
        outputs = None if answers.outputs is None else answers.outputs.tolist()
        for place in places:
            yield _document(
                prediction_id=str(UUID(bytes=raw[16 * place : 16 * place + 16])),
                model_version=version,
                business_key=booking.business_keys[place],
                source=booking.source.name,
                source_key=booking.source.keys[place],
                status=str(status[place]),
                score=scores[place],
                outputs=None if outputs is None else outputs[place],
                class_=None if answers.classes is None else answers.classes[place],
                decision=None if answers.decision is None else answers.decision[place],
                expected_cost=None if costs is None else costs[place],
            )

    def _reply(self, document: dict[str, Any]) -> Message:
        """In CloudEvents' binary mode."""
        assert self._stream.replies is not None
        number = document["prediction_id"].encode()
        headers: list[tuple[str, bytes | None]] = [
            ("ce_specversion", b"1.0"),
            ("ce_id", number),
            ("ce_source", self._source),
            ("ce_type", TYPE),
            ("content-type", b"application/json"),
        ]
        if document["business_key"]:
            headers.append(("ce_subject", quote(document["business_key"], safe=" /:|=,+").encode()))
        return Message(self._stream.replies, number, _encode({"deployment": self._name, **document}), headers)

    def _dead_letter(self, letter: Letter) -> Message:
        """The record as it was, with the reason in headers."""
        assert self._stream.dead_letters is not None
        place = self._place
        more: Mapping[str, str] = {
            "trueup_reason": letter.reason,
            "trueup_detail": letter.detail,
            "trueup_deployment": self._name,
            "trueup_position": f"{place.cluster}/{place.topic}/{letter.partition}/{letter.offset}",
            **({} if letter.places is None else {"trueup_places": ",".join(map(str, letter.places))}),
        }
        own = [header for header in letter.headers if not header[0].startswith("trueup_")]
        headers = [*own, *((name, text.encode()) for name, text in more.items())]
        return Message(self._stream.dead_letters, letter.key, letter.value, headers)


def _document(**values: Any) -> dict[str, Any]:
    """The body of a reply: what there is."""
    found = {name.rstrip("_"): value for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None and value == value}


def _document_of(row: Mapping[str, Any]) -> dict[str, Any]:
    return _document(
        prediction_id=str(row["prediction_id"]),
        model_version=row["model_version"],
        business_key=row["business_key"],
        source=row["source"],
        source_key=row["source_key"],
        status=row["status"],
        score=row["score"],
        outputs=row["outputs"],
        class_=row["class"],
        decision=row["decision"],
        expected_cost=row["expected_cost"],
    )
