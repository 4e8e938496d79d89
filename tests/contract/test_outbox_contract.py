"""What every outbox must do."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trueup.domain.message import Attachment, Message
from trueup.errors import NotFound
from trueup.notifying.memory import MemoryOutbox
from trueup.notifying.outbox import LOST_SENDERS, Claimed, SendingOutbox
from trueup.notifying.postgres import PostgresOutbox
from trueup.postgres import Pool
from trueup.settings import Notifying

BOUNDS = Notifying(attempts=3)
AT_ONCE = BOUNDS.model_copy(update={"lease_s": 0.0})  # whoever holds a message is taken for dead at once


def message(key: str = "a", **changes: Any) -> Message:
    return replace(Message(key, "desk", "alert", "subject", "text"), **changes)


@dataclass
class Box:
    """An outbox, the same one whose leases end at once, and a transaction of what messages tell of."""

    outbox: SendingOutbox
    impatient: SendingOutbox
    transaction: Callable[[], AbstractContextManager[Any]]

    def add(self, *messages: Message) -> int:
        with self.transaction() as connection:
            return self.outbox.add(messages, within=connection)

    def claim(self, receiver: str = "desk") -> Claimed:
        claimed = self.outbox.claim(receiver)
        assert claimed is not None
        return claimed


@contextmanager
def postgres(request: pytest.FixtureRequest) -> Iterator[Box]:
    pool = Pool(request.getfixturevalue("fresh_database").writer, size=8, application="test")
    yield Box(PostgresOutbox(pool, BOUNDS), PostgresOutbox(pool, AT_ONCE), pool.transaction)
    pool.close()


@contextmanager
def memory(request: pytest.FixtureRequest) -> Iterator[Box]:
    outbox = MemoryOutbox(BOUNDS)
    impatient = MemoryOutbox(AT_ONCE)
    impatient._rows, impatient._lock = outbox._rows, outbox._lock
    yield Box(outbox, impatient, lambda: nullcontext(None))


@pytest.fixture(params=[memory, postgres], ids=["memory", "postgres"])
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    with request.param(request) as made:
        yield made


class TestEveryOutbox:
    def test_a_message_comes_out_as_it_was_added_and_is_taken_once(self, box: Box):
        told = message(
            html="<p>ü</p>",
            payload={"version": "4", "alerts": [{"labels": {"a": "é"}, "value": 0.25}]},
            attachments=(Attachment("a.csv", "text/csv", b"\x00\xff"), Attachment("b.pdf", "application/pdf", b"")),
            ordering="group",
        )
        assert box.add(told) == 1
        claimed = box.claim()
        assert (claimed.message, claimed.attempt) == (told, 1)
        assert box.outbox.claim("desk") is None
        assert box.outbox.sent(claimed)
        assert not box.outbox.sent(claimed)
        stored = box.outbox.find(claimed.message_id)
        assert (stored.message, stored.state, stored.attempts) == (told, "sent", 1)
        assert stored.ended_at is not None

    def test_a_known_key_adds_nothing_even_after_it_was_sent(self, box: Box):
        assert box.add(message("a"), message("b"), message("a", subject="other")) == 2
        box.outbox.sent(box.claim())
        assert box.add(message("a"), message("c")) == 1

    def test_each_receiver_has_its_own(self, box: Box):
        box.add(message("a"), message("b", receiver="other"))
        assert box.outbox.due() == {"desk": 1, "other": 1}
        assert box.outbox.claim("third") is None
        assert box.claim("other").message.key == "b"
        assert box.outbox.due() == {"desk": 1}

    def test_what_failed_comes_again_when_it_is_due_with_another_attempt(self, box: Box):
        box.add(message())
        first = box.claim()
        assert box.outbox.failed(first, "away", 3600)
        assert box.outbox.claim("desk") is None
        assert box.outbox.due() == {}
        assert box.outbox.retry([first.message_id], "user:test") == 1
        again = box.claim()
        assert again.attempt == 1
        assert box.outbox.failed(again, "away", 0)
        assert box.claim().attempt == 2
        assert box.outbox.find(first.message_id).last_error == "away"

    def test_the_one_that_is_due_for_longest_goes_first(self, box: Box):
        box.add(message("a"), message("b"), message("c"))
        assert box.outbox.failed(box.claim(), "away", 0)
        assert [box.claim().message.key for _ in range(3)] == ["b", "c", "a"]

    def test_a_later_message_of_an_order_waits_until_the_earlier_has_ended(self, box: Box):
        box.add(message("a1", ordering="a"), message("a2", ordering="a"), message("b1", ordering="b"), message("n"))
        first = box.claim()
        assert [box.claim().message.key for _ in range(2)] == ["b1", "n"]
        assert box.outbox.claim("desk") is None
        box.outbox.failed(first, "away", 3600)
        assert box.outbox.claim("desk") is None
        box.outbox.retry([first.message_id], "user:test")
        box.outbox.sent(box.claim())
        assert box.claim().message.key == "a2"

    def test_an_order_is_that_of_one_receiver(self, box: Box):
        box.add(message("a", ordering="g"), message("b", ordering="g", receiver="other"))
        assert box.claim("other").message.key == "b"

    def test_giving_up_lets_the_next_of_the_order_go_and_is_taken_back_only_until_then(self, box: Box):
        box.add(message("a1", ordering="a"), message("a2", ordering="a"))
        first = box.claim()
        assert box.outbox.failed(first, "refused", None)
        assert box.outbox.find(first.message_id).state == "given_up"
        assert box.outbox.retry([first.message_id], "user:test") == 1
        assert box.outbox.failed(box.claim(), "refused", None)
        second = box.claim()
        assert second.message.key == "a2"
        box.outbox.sent(second)
        assert box.outbox.retry([first.message_id, second.message_id, 99], "user:test") == 0

    def test_the_message_of_a_sender_that_died_comes_again(self, box: Box):
        box.add(message())
        dead = box.impatient.claim("desk")
        again = box.claim()
        assert dead is not None
        assert (again.message_id, again.attempt) == (dead.message_id, 2)
        assert not box.outbox.failed(dead, "late", None)  # it has no say any more
        assert box.outbox.find(dead.message_id).state == "waiting"
        assert box.outbox.sent(dead)  # but the receiver has it, and that is so
        assert not box.outbox.failed(again, "late", 0)
        assert box.outbox.find(dead.message_id).state == "sent"

    def test_a_message_whose_senders_all_die_is_given_up(self, box: Box):
        box.add(message("poison"), message("next"))
        seen = [box.impatient.claim("desk") for _ in range(8)]
        assert [c.message.key for c in seen if c is not None] == ["poison"] * 3 + ["next"] * 3
        assert seen[0] is not None
        stored = box.outbox.find(seen[0].message_id)
        assert (stored.state, stored.last_error) == ("given_up", LOST_SENDERS)

    def test_what_is_being_sent_is_not_retried(self, box: Box):
        box.add(message())
        assert box.outbox.retry([box.claim().message_id], "user:test") == 0

    def test_what_ended_long_ago_is_forgotten_and_what_waits_is_not(self, box: Box):
        box.add(message("sent"), message("given_up"), message("waits"))
        box.outbox.sent(box.claim())
        box.outbox.failed(box.claim(), "refused", None)
        later, before = datetime.now(UTC) + timedelta(days=1), datetime.now(UTC) - timedelta(days=1)
        assert box.outbox.forget(before, before) == 0
        assert box.outbox.forget(later, before) == 1
        assert box.outbox.forget(later, later) == 1
        assert box.claim().message.key == "waits"
        assert box.add(message("sent")) == 1  # its key is not known any more

    def test_nothing_that_is_said_makes_adding_fail(self, box: Box):
        hostile = message(
            "k" * 5_000 + "\0",
            subject="a\r\nBcc: b@example.org\0" * 100,
            text="\ud800 \0" + "x" * 100_000,
            html="<p>" + "x" * 500_000,
            payload={"alerts": [{"labels": {"n\0": float("nan"), "long": "y" * 1_000}, "value": 10**5_000}] * 1_000},
            attachments=(
                Attachment("../../etc/passwd\r\n", "text/csv; x\r\n", b"x"),
                Attachment("b", "no", b"x" * 2**24),
            ),
        )
        assert box.add(hostile) == 1
        assert box.add(hostile) == 0
        found = box.claim().message
        assert len(found.subject) <= BOUNDS.subject_chars
        assert "\n" not in found.subject
        assert len(found.text) <= BOUNDS.text_chars
        assert "1 file(s) are too large and left out." in found.text
        assert found.html == ""
        assert len(found.payload["alerts"]) + found.payload["truncatedAlerts"] == 1_000
        assert [(f.name, f.media_type) for f in found.attachments] == [(".._.._etc_passwd", "text/csv")]

    def test_names_may_be_as_long_as_they_like(self, box: Box):
        long = "".join(map(chr, random.Random(1).sample(range(0x20000, 0x2A6D6), 5_000)))  # four bytes each
        assert box.add(message(long, receiver=long, ordering=long, kind=long)) == 1
        (receiver,) = box.outbox.due()
        assert box.claim(receiver).message.ordering

    def test_claimers_at_once_take_each_message_once_and_in_order(self, box: Box):
        box.add(*(message(f"{group}{i}", ordering=group) for i in range(5) for group in ("a", "b", "c")))
        taken: list[str] = []

        def work(_: int) -> None:
            misses = 0
            while misses < 20:
                claimed = box.outbox.claim("desk")
                if claimed is None:
                    misses += 1
                    continue
                taken.append(claimed.message.key)
                box.outbox.sent(claimed)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))
        while (left := box.outbox.claim("desk")) is not None:
            taken.append(left.message.key)
            box.outbox.sent(left)
        assert len(taken) == 15
        for group in ("a", "b", "c"):
            assert [key for key in taken if key[0] == group] == [f"{group}{i}" for i in range(5)]

    def test_adders_of_one_key_at_once_add_it_once(self, box: Box):
        with ThreadPoolExecutor(4) as pool:
            added = list(pool.map(lambda _: box.add(message("a"), message("b")), range(4)))
        assert sum(added) == 2

    def test_an_unknown_id_is_not_found(self, box: Box):
        with pytest.raises(NotFound):
            box.outbox.find(1)
