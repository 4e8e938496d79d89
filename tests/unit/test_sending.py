"""Claim, send, mark: on the fake outbox, with receivers that are told to fail, wait or hang."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from receiving import message, until
from trueup.domain.message import Message
from trueup.errors import MissingExtra, Undelivered
from trueup.notifying.jobs import jobs, told
from trueup.notifying.memory import MemoryNotifier, MemoryOutbox
from trueup.notifying.sending import Sending
from trueup.ports import Notifier
from trueup.settings import Notifying

PASSING = Undelivered("away", is_passing=True)
LASTING = Undelivered("refused", is_passing=False)


class Desk:
    """An outbox and who sends from it."""

    def __init__(self, receivers: dict[str, Callable[[], Notifier]], **bounds: Any) -> None:
        self.bounds = Notifying(**{"retry_s": 0.001, "retry_most_s": 0.001, **bounds})
        self.outbox = MemoryOutbox(self.bounds)
        self.sending = Sending(self.outbox, receivers, self.bounds)

    def add(self, *keys: str, receiver: str = "desk") -> None:
        self.outbox.add([message(key, receiver=receiver) for key in keys])

    def states(self) -> list[str]:
        return [self.outbox.find(number).state for number in sorted(self.outbox._rows)]


@contextmanager
def desk(receivers: dict[str, Callable[[], Notifier]], **bounds: Any) -> Iterator[Desk]:
    made = Desk(receivers, **bounds)
    with made.sending:
        yield made


class Hanging:
    """Takes messages when it is let go."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.taken: list[Message] = []

    def send(self, told: Message) -> None:
        self.begun.set()
        assert self.go_on.wait(30)
        self.taken.append(told)


def test_what_is_due_is_sent_in_order_and_once():
    receiver = MemoryNotifier()
    with desk({"desk": lambda: receiver}) as at:
        at.add("a", "b", "c")
        assert at.sending.drain() == {"sent": 3}
        assert at.sending.drain() == {}
    assert [told.key for told in receiver.taken] == ["a", "b", "c"]


def test_a_fault_that_passes_is_tried_again():
    receiver = MemoryNotifier()
    receiver.failures = [PASSING, PASSING]
    with desk({"desk": lambda: receiver}) as at:
        at.add("a")
        until(lambda: at.sending.sweep()["sent"] == 1)
        assert at.outbox.find(1).attempts == 3
        assert at.outbox.find(1).last_error == "away"


@pytest.mark.parametrize(("failures", "error"), [([LASTING], "refused"), ([PASSING] * 4, "away")])
def test_a_fault_that_lasts_or_does_not_end_gives_the_message_up(failures: list[Exception], error: str):
    receiver = MemoryNotifier()
    receiver.failures = list(failures)
    with desk({"desk": lambda: receiver}, attempts=4) as at:
        at.add("a")
        until(lambda: at.sending.sweep()["given_up"] == 1)
        assert (at.states(), at.outbox.find(1).last_error) == (["given_up"], error)


def test_a_fault_of_our_own_is_told_without_what_it_says():
    receiver = MemoryNotifier()
    receiver.failures = [RuntimeError("secret")]
    with desk({"desk": lambda: receiver}) as at:
        at.add("a")
        at.sending.sweep()
        assert at.outbox.find(1).last_error == "sending failed (RuntimeError)"


def test_a_receiver_that_fails_again_and_again_ends_its_turn():
    receiver = MemoryNotifier()
    receiver.failures = [PASSING] * 100
    with desk({"desk": lambda: receiver}, turn_faults=3, retry_s=60, retry_most_s=60) as at:
        at.add(*map(str, range(10)))
        assert at.sending.sweep() == {"failed": 3}
        assert len(receiver.failures) == 97


def test_one_that_hangs_holds_up_nobody_else():
    hanging, quick = Hanging(), MemoryNotifier()
    with desk({"slow": lambda: hanging, "desk": lambda: quick}, sweep_s=0.2) as at:
        at.add("s1", "s2", receiver="slow")
        at.add("a")
        at.sending.sweep()
        assert hanging.begun.wait(30)
        at.add("b")
        assert at.sending.sweep()["busy"] == 1
        until(lambda: at.sending.sweep()["busy"] == 1 and len(quick.taken) == 2)
        assert hanging.taken == []
        hanging.go_on.set()
        until(lambda: at.sending.sweep()["busy"] == 0 and len(hanging.taken) == 2)
        assert at.states() == ["sent"] * 4


def test_stopping_ends_after_the_message_that_is_being_sent():
    hanging = Hanging()
    at = Desk({"desk": lambda: hanging}, sweep_s=0.01)
    at.add("a", "b")
    at.sending.sweep()
    assert hanging.begun.wait(30)
    closing = threading.Thread(target=at.sending.close)
    closing.start()
    until(at.sending._stopping.is_set)
    hanging.go_on.set()
    closing.join(30)
    assert at.states() == ["sent", "waiting"]


def test_messages_to_who_cannot_be_opened_or_is_not_declared_wait_without_an_attempt():
    def broken() -> Notifier:
        raise MissingExtra("kafka", "telling a topic")

    receiver = MemoryNotifier()
    with desk({"topic": broken, "desk": lambda: receiver}) as at:
        at.add("a", receiver="topic")
        at.add("b", receiver="nobody")
        at.add("c")
        assert at.sending.drain() == {"sent": 1, "unopened": 1, "undeclared": 1}
        assert at.states() == ["waiting", "waiting", "sent"]
        assert at.outbox.find(1).attempts == 0


def test_the_jobs_send_and_forget():
    receiver = MemoryNotifier()
    with desk({"desk": lambda: receiver}, kept_days=1) as at:
        sweep, retention = jobs(at.outbox, at.sending, at.bounds)
        assert (sweep.schedule, sweep.subject, retention.subject) == ("every 5s", "", "retention")
        at.add("a")
        now = at.outbox.find(1).added_at
        assert sweep.run(now) == "1 sent"
        assert sweep.run(now) == "nothing was due"
        assert retention.run(now) == "0 messages forgotten"
        assert retention.run(now.replace(year=now.year + 1)) == "1 messages forgotten"


def test_a_sweep_is_told_in_one_line():
    assert told({"sent": 2, "given_up": 1, "busy": 0}) == "2 sent, 1 given up"
