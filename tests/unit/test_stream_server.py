"""The stream's steps in their order, and whatever fault between two of them: every record ends once."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import trueup
from trueup.bootstrap import utc_now
from trueup.domain.batch import Booking, Columns, Receipt
from trueup.domain.deployment import ModelVersion
from trueup.domain.stream import Place, Read, Stream
from trueup.doors.kafka.handlers import Handlers
from trueup.doors.kafka.memory import MemoryBroker, MemoryTopics
from trueup.doors.kafka.replies import BATCHES_AT_ONCE, Replies
from trueup.doors.kafka.server import AHEAD, Pace, StreamServer
from trueup.errors import InvalidInput, LedgerUnavailable, ScoringError
from trueup.ledger.memory import MemoryStreams
from trueup.ports import PredictionFilter
from trueup.registry.memory import MemoryRegistry
from trueup.scoring.service import Scoring
from trueup.settings import Limits, Streaming
from trueup.telemetry.metrics import Metrics

CONTRACT = trueup.load_contract("""
name: trades
version: 1
fields:
  trade_id: {type: string, role: key}
  amount: {type: float64, minimum: 0}
output: {kind: probability}
decision: {threshold: 0.5, at_or_above: chase, below: pass}
""")
POISON = 666.0
QUICK: dict[str, Any] = {"wait_s": 0.001, "retry_s": 0.001, "retry_most_s": 0.002, "drain_s": 2}
PARTITIONS = 3


@dataclass
class Model:
    """amount / 1,000; fails on a batch that holds a poison."""

    rows: list[int] = field(default_factory=list)
    seconds: float = 0

    def score(self, columns: Columns) -> Any:
        self.rows.append(len(columns))
        time.sleep(self.seconds)
        amounts = columns.numeric("amount")
        if (amounts == POISON).any():
            raise ScoringError("the model failed")
        return np.clip(amounts / 1000, 0, 1)[:, None]

    def contributions(self, columns: Columns) -> Any:
        return None

    def close(self) -> None: ...


class FaultyStreams(MemoryStreams):
    """Fails when told to: before a commit, or after it, when nobody knows any more whether it was made."""

    def __init__(self, registry: MemoryRegistry, limits: Limits) -> None:
        super().__init__(registry, limits)
        self.fail_before = 0
        self.fail_after = 0
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self.seconds = 0.0
        self.bookings = 0

    def book_read(self, booking: Booking | None, read: Read) -> Receipt | None:
        self.begun.set()
        assert self.gate.wait(10)
        time.sleep(self.seconds)
        if self.fail_before:
            self.fail_before -= 1
            raise LedgerUnavailable("before the commit")
        receipt = super().book_read(booking, read)
        self.bookings += 1
        if self.fail_after:
            self.fail_after -= 1
            raise LedgerUnavailable("after the commit")
        return receipt


@dataclass
class Desk:
    """One topic, one ledger, and any number of servers between them."""

    stream: Stream = field(default_factory=lambda: Stream("trades", replies="scores", dead_letters="dead"))
    bounds: dict[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self.registry = MemoryRegistry()
        self.ledger = FaultyStreams(self.registry, self.limits)
        self.model = Model()
        self.topics = MemoryTopics()
        for name, partitions in (("trades", PARTITIONS), ("scores", 2), ("dead", 1)):
            self.topics.make(name, partitions)
        self.scoring = Scoring(self.registry, self.ledger, lambda version, serving: self.model, utc_now, self.limits)
        stored = self.registry.add_version(ModelVersion("trades", "1", (), CONTRACT))
        deployed = self.registry.deploy(trueup.Deployment("trades", stored), by="test")
        assert deployed.deployment_id is not None
        self.place = Place(deployed.deployment_id, "memory", "trades")
        self.servers: list[Member] = []
        self.written = 0

    def member(self, *partitions: int, **bounds: Any) -> Member:
        streaming = Streaming(**(QUICK | self.bounds | bounds))
        broker = MemoryBroker(self.topics, "trades", streaming, partitions or None)
        metrics = Metrics(1)
        handlers = Handlers(
            self.scoring, self.ledger, metrics, utc_now, self.limits, streaming, "trades", self.stream, self.place
        )
        replies = Replies("trades", self.stream, self.place, self.ledger, broker, streaming.replies_in_flight)
        server = StreamServer(handlers, broker, replies, self.ledger, self.place, streaming, metrics)
        made = Member(server, broker, replies, self.ledger)
        self.servers.append(made)
        return made

    def write(self, *amounts: float, partition: int = 0) -> None:
        for amount in amounts:
            value = json.dumps({"trade_id": f"T{self.written}", "amount": amount}).encode()
            self.topics.append("trades", value, partition=partition, key=b"%d" % self.written)
            self.written += 1

    def booked(self) -> list[str]:
        """Business keys of all predictions."""
        return sorted(
            (row["business_key"] for row in self.ledger.predictions(PredictionFilter(limit=1000))),
            key=lambda key: int(key[1:]),
        )

    def refused(self) -> list[str]:
        return [refusal.key for _, refusal in self.ledger.refused]

    def answers(self) -> dict[str, set[bytes]]:
        """What was said of each business key."""
        found: dict[str, set[bytes]] = {}
        for record in self.topics.records("scores"):
            assert record.value is not None
            found.setdefault(json.loads(record.value)["business_key"], set()).add(record.value)
        return found

    def all_keys(self) -> list[str]:
        return [f"T{i}" for i in range(self.written)]

    def ends(self) -> dict[int, int]:
        lengths = {p: len(self.topics.partition("trades", p)) for p in range(PARTITIONS)}
        return {p: length for p, length in lengths.items() if length}


@dataclass
class Member:
    """One server, moved on by hand."""

    server: StreamServer
    broker: MemoryBroker
    replies: Replies
    ledger: FaultyStreams

    def turns(self, done: Callable[[], bool], seconds: float = 5) -> None:
        """Until it is so."""
        limit = time.monotonic() + seconds
        while not done():
            self.server.turn()
            assert time.monotonic() < limit, "it did not happen"

    def opened(self) -> Member:
        self.broker.open(self.server)
        return self

    def settle(self, seconds: float = 5) -> None:
        """Until it has read, booked, sent and forgotten everything."""
        self.turns(lambda: self.is_settled, seconds)

    @property
    def is_settled(self) -> bool:
        mine = self.broker.ours
        server = self.server
        place = server._place
        known = self.ledger._positions
        return (
            not self.broker._coming
            and all(known.get((place, p), 0) == len(self.broker.topics.partition("trades", p)) for p in mine)
            and not server._booking
            and not self.replies.in_flight
            and not self.ledger.owed(place, mine, 1)
            and not self.ledger.letters(place, mine, 1)
        )


@contextmanager
def running(member: Member) -> Iterator[list[bool]]:
    """It runs in a thread until the block is left."""
    ends: list[bool] = []
    thread = threading.Thread(target=lambda: ends.append(member.server.run()))
    thread.start()
    try:
        yield ends
    finally:
        member.server.stop()
        thread.join(10)
        assert not thread.is_alive()


def wait_for(condition: Callable[[], bool], seconds: float = 5) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.002)


class TestSteps:
    def test_records_are_booked_answered_and_committed_in_this_order(self):
        desk = Desk()
        desk.write(100, 600)
        member = desk.member().opened()
        member.settle()
        member.server._commit_at = 0
        member.server.turn()
        assert desk.booked() == ["T0", "T1"]
        assert desk.ledger.positions(desk.place) == {0: 2}
        told = [step for step in member.broker.told if step in ("send", "commit")]
        assert told == ["send", "send", "commit"]
        assert member.broker.committed == {0: 2}
        assert sorted(desk.answers()) == ["T0", "T1"]
        (reply,) = desk.answers()["T1"]
        assert json.loads(reply) | {"prediction_id": ""} == {
            "deployment": "trades",
            "prediction_id": "",
            "model_version": "1",
            "business_key": "T1",
            "source": "kafka:memory/trades",
            "source_key": "0/1",
            "status": "scored",
            "score": 0.6,
            "decision": "chase",
        }

    def test_no_reply_is_sent_before_its_rows_are_booked(self):
        desk = Desk()
        desk.ledger.gate.clear()
        desk.write(1, 2, 3)
        member = desk.member().opened()
        member.turns(desk.ledger.begun.is_set)
        for _ in range(5):
            member.server.turn()
        assert "send" not in member.broker.told
        desk.ledger.gate.set()
        member.settle()
        assert sorted(desk.answers()) == ["T0", "T1", "T2"]

    def test_the_ledgers_position_counts_and_not_the_groups(self):
        desk = Desk()
        desk.write(*range(100, 110))
        desk.member().opened().settle()
        second = desk.member().opened()
        second.broker.committed = {0: 3}
        desk.write(500)
        second.settle()
        assert desk.booked() == desk.all_keys()

    def test_tombstones_move_the_position_and_ask_for_nothing(self):
        desk = Desk()
        desk.topics.append("trades", None, key=b"k")
        desk.write(1)
        desk.topics.append("trades", None)
        desk.member().opened().settle()
        assert desk.ledger.positions(desk.place) == {0: 3}
        assert desk.booked() == ["T0"]
        assert sum(p.tombstones for read in desk.ledger.reads for p in read.portions) == 2
        assert desk.topics.records("dead") == []

    def test_a_stop_drains_what_is_in_hand(self):
        desk = Desk()
        desk.ledger.seconds = 0.05
        desk.write(*range(50))
        member = desk.member()
        with running(member) as ends:
            assert desk.ledger.begun.wait(5)
        assert ends == [True]
        assert desk.booked() == desk.all_keys()
        assert sorted(desk.answers()) == sorted(desk.all_keys())
        assert desk.ledger.owed(desk.place, range(PARTITIONS), 1) == []

    def test_a_stop_that_leaves_replies_unsent_says_so(self):
        desk = Desk()
        desk.write(1)
        member = desk.member(drain_s=0.05)
        member.broker.confirms = False
        with running(member) as ends:
            wait_for(lambda: member.replies.in_flight == 1)
        assert ends == [False]

    def test_a_stop_whose_deliveries_were_given_up_says_so(self):
        desk = Desk()
        desk.write(1)
        member = desk.member(drain_s=0.05)
        member.broker.fails = 1_000
        with running(member) as ends:
            wait_for(lambda: member.broker.fails < 1_000)
        assert ends == [False]

    def test_a_member_without_partitions_stops_clean(self):
        member = Desk().member()
        member.broker.partitions = []
        with running(member) as ends:
            wait_for(lambda: "take" in member.broker.told)
        assert ends == [True]


class TestFaults:
    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize("times", [1, 3])
    def test_a_fault_around_the_commit_leads_to_the_same_rows(self, when: str, times: int):
        desk = Desk()
        setattr(desk.ledger, f"fail_{when}", times)
        desk.write(*range(20))
        desk.write(*range(100, 120), partition=1)
        desk.member().opened().settle()
        assert desk.booked() == desk.all_keys()
        assert desk.ledger.positions(desk.place) == {0: 20, 1: 20}
        assert {key: len(values) for key, values in desk.answers().items()} == dict.fromkeys(desk.all_keys(), 1)

    def test_a_ledger_that_is_away_is_waited_for(self):
        desk = Desk()
        desk.write(*range(5))
        desk.ledger.away = True
        member = desk.member()
        with running(member):
            wait_for(lambda: "hold" in member.broker.told)
            assert not member.server.is_ready
            desk.ledger.away = False
            wait_for(lambda: desk.booked() == desk.all_keys())
            wait_for(lambda: member.server.is_ready)
            desk.ledger.away = True
            desk.write(*range(5, 10))
            wait_for(lambda: not member.server.is_ready)
            time.sleep(0.02)
            desk.ledger.away = False
            wait_for(lambda: len(desk.answers()) == 10)
        assert desk.booked() == desk.all_keys()

    def test_each_wait_for_the_ledger_is_longer_than_the_one_before(self):
        desk = Desk()
        waits: list[float] = []
        desk.ledger.fail_before = 6
        desk.write(1)
        member = desk.member(retry_s=0.001, retry_most_s=0.008).opened()
        holding = member.broker.hold

        def noted(wait_s: float) -> None:
            waits.append(wait_s)
            holding(wait_s)

        member.broker.hold = noted  # type: ignore[method-assign]
        member.settle()
        assert [wait_s for wait_s in waits if wait_s] == [0.001, 0.002, 0.004, 0.008, 0.008, 0.008]

    def test_who_is_fenced_looks_anew_and_goes_on(self):
        desk = Desk()
        desk.write(*range(10))
        zombie, other = desk.member().opened(), desk.member().opened()
        zombie.turns(lambda: zombie.server._next != {})
        other.settle()
        desk.write(*range(10, 20))
        zombie.settle()
        assert desk.booked() == desk.all_keys()
        assert {len(values) for values in desk.answers().values()} == {1}

    def test_while_the_ledger_is_slow_the_stream_stays_a_member_and_then_goes_on(self):
        desk = Desk()
        desk.ledger.gate.clear()
        desk.write(*range(5))
        member = desk.member(batch_rows=5, least_rows=5)
        with running(member):
            assert desk.ledger.begun.wait(5)
            desk.write(*range(5, 30))
            wait_for(lambda: member.broker.told.count("hold") >= 1)
            desk.ledger.gate.set()
            wait_for(lambda: len(desk.answers()) == 30)
        assert desk.booked() == desk.all_keys()


class TestRebalances:
    def test_a_revoked_partitions_records_are_booked_before_it_is_given_away_and_none_after(self):
        desk = Desk()
        desk.ledger.seconds = 0.02
        desk.write(*range(10))
        member = desk.member(batch_rows=5, least_rows=5).opened()
        member.turns(desk.ledger.begun.is_set)
        desk.write(*range(100, 105), partition=1)
        member.broker.revoke(0)
        member.turns(lambda: member.broker.ours == [1, 2])
        at = desk.ledger.positions(desk.place)[0]
        assert at in (5, 10)
        member.settle()
        assert desk.ledger.positions(desk.place)[0] == at
        assert desk.ledger.positions(desk.place)[1] == 5
        desk.member(0).opened().settle()
        assert desk.booked() == desk.all_keys()

    def test_what_was_scored_of_a_partition_that_goes_meanwhile_is_not_booked(self):
        desk = Desk()
        desk.ledger.gate.clear()
        desk.write(*range(5))
        desk.write(*range(100, 105), partition=1)
        member = desk.member(batch_rows=10, least_rows=1).opened()
        member.turns(desk.ledger.begun.is_set)
        desk.write(*range(5, 8))
        member.turns(lambda: len(member.server._booking) == AHEAD)
        desk.write(*range(8, 10))
        desk.write(*range(105, 110), partition=1)

        def later() -> None:
            wait_for(lambda: "hold" in member.broker.told)  # a batch is scored, and those before are not booked
            member.broker.revoke(0)
            wait_for(lambda: not member.broker._coming)
            desk.ledger.gate.set()

        thread = threading.Thread(target=later)
        thread.start()
        member.turns(lambda: member.broker.ours == [1, 2])
        thread.join()
        member.settle()
        assert desk.ledger.positions(desk.place) == {0: 8, 1: 10}
        assert set(member.server._next) == {1, 2}
        desk.member(0).opened().settle()
        assert desk.booked() == desk.all_keys()

    def test_what_is_in_hand_does_not_jump_what_failed_before_a_partition_came_back(
        self, monkeypatch: pytest.MonkeyPatch
    ):
        """The first batch commits, the second fails, the third is in hand while the partition goes and comes."""
        monkeypatch.setattr("trueup.doors.kafka.server.HEARTBEAT_S", 0.02)
        desk, gates = Desk(), [threading.Event() for _ in range(3)]
        book, calls = desk.ledger.book_read, itertools.count()

        def booked(booking: Any, read: Any) -> Any:
            call = next(calls)
            if call < len(gates):
                assert gates[call].wait(10)
            if call == 1:
                raise LedgerUnavailable("the connection died")
            return book(booking, read)

        monkeypatch.setattr(desk.ledger, "book_read", booked)
        member = desk.member(0, batch_rows=10, least_rows=1).opened()
        desk.write(*range(5))
        member.turns(lambda: len(member.server._booking) == 1)
        desk.write(*range(5, 10))
        member.turns(lambda: len(member.server._booking) == 2)
        desk.write(*range(10, 15))

        def come_and_go() -> None:
            wait_for(lambda: "hold" in member.broker.told)
            member.broker.lose(0)
            wait_for(lambda: not member.broker._coming)
            gates[0].set()
            wait_for(lambda: desk.ledger.positions(desk.place).get(0) == 5)
            member.broker.give(0)
            wait_for(lambda: not member.broker._coming)
            gates[1].set()
            gates[2].set()

        thread = threading.Thread(target=come_and_go)
        thread.start()
        member.turns(lambda: desk.ledger.positions(desk.place).get(0) == 15)
        thread.join()
        assert desk.booked() == desk.all_keys()

    def test_the_batch_in_flight_of_a_lost_partition_is_fenced(self):
        desk = Desk()
        desk.write(*range(10))
        desk.ledger.gate.clear()
        zombie = desk.member().opened()
        zombie.turns(desk.ledger.begun.is_set)
        zombie.broker.lose(0)
        other = desk.member(0)
        other.server._streams = other.server._handlers._streams = other.replies._streams = ungated(desk.ledger)
        other.opened().settle()
        assert desk.booked() == desk.all_keys()
        desk.ledger.gate.set()
        zombie.turns(lambda: not zombie.server._booking and zombie.broker.ours == [1, 2])
        desk.write(7, partition=2)
        zombie.settle()
        assert desk.booked() == desk.all_keys()
        assert sum(p.records for read in desk.ledger.reads for p in read.portions) == 11

    def test_partitions_that_come_while_the_ledger_is_away_are_read_when_it_is_back(self):
        desk = Desk()
        desk.write(*range(5))
        desk.write(*range(5), partition=1)
        member = desk.member(0).opened()
        member.settle()
        desk.ledger.away = True
        member.broker.give(1)
        threading.Timer(0.05, lambda: setattr(desk.ledger, "away", False)).start()
        desk.write(8)
        member.turns(lambda: not desk.ledger.away)
        member.settle()
        assert desk.booked() == desk.all_keys()


def ungated(ledger: FaultyStreams) -> Any:
    """The same ledger for another process."""

    class Other:
        def book_read(self, booking: Booking | None, read: Read) -> Receipt | None:
            return MemoryStreams.book_read(ledger, booking, read)

        def __getattr__(self, name: str) -> Any:
            return getattr(ledger, name)

    return Other()


class TestPoison:
    def test_one_poison_among_many_is_refused_alone(self):
        desk = Desk()
        amounts = [float(100 + i) for i in range(40)]
        amounts[17] = POISON
        desk.write(*amounts[:20])
        desk.write(*amounts[20:], partition=1)
        desk.member().opened().settle()
        assert desk.booked() == [key for key in desk.all_keys() if key != "T17"]
        assert desk.refused() == ["0/17"]
        (letter,) = desk.topics.records("dead")
        assert json.loads(letter.value or b"") == {"trade_id": "T17", "amount": POISON}
        told = dict(letter.headers)
        assert (told["trueup_reason"], told["trueup_position"]) == (b"failed", b"memory/trades/0/17")
        assert len(desk.model.rows) < 2 * 7  # halves, not one by one

    def test_a_model_that_fails_on_everything_refuses_everything_and_goes_on(self):
        desk = Desk()
        desk.write(*[POISON] * 9)
        desk.member().opened().settle()
        assert sorted(desk.refused()) == [f"0/{i}" for i in range(9)]
        desk.write(5)
        desk.servers[-1].settle()
        assert desk.booked() == ["T9"]

    def test_bad_records_are_named_and_kept_and_the_stream_goes_on(self):
        desk = Desk()
        desk.write(1)
        headers = [("h", b"\xff"), ("trueup_reason", b"forged"), ("n", None)]
        desk.topics.append("trades", b"\x00{not json", key=b"k", headers=headers)
        desk.topics.append("trades", b'{"trade_id":"x","amount":-1}')
        desk.write(2)
        desk.member().opened().settle()
        assert desk.booked() == ["T0", "T1"]
        undecodable, wrong = desk.topics.records("dead")
        assert (undecodable.key, undecodable.value) == (b"k", b"\x00{not json")
        assert undecodable.headers[:2] == (("h", b"\xff"), ("n", None))
        assert dict(undecodable.headers)["trueup_reason"] == b"undecodable"
        assert (dict(wrong.headers)["trueup_reason"], dict(wrong.headers)["trueup_places"]) == (b"contract", b"0")
        assert desk.ledger.positions(desk.place) == {0: 4}

    def test_a_conflict_alone_in_its_batch_is_sent_to_the_dead_letters(self):
        desk = Desk(Stream("trades", identity="value.trade_id", replies="scores", dead_letters="dead"))
        desk.topics.append("trades", b'{"trade_id":"x","amount":1}')
        member = desk.member().opened()
        member.settle()
        member.replies._look_at = float("inf")
        desk.topics.append("trades", b'{"trade_id":"x","amount":2}')
        desk.topics.append("trades", b'{"trade_id":"x","amount":1}')
        member.settle()
        (letter,) = desk.topics.records("dead")
        assert letter.value == b'{"trade_id":"x","amount":2}'
        assert dict(letter.headers)["trueup_reason"] == b"conflict"
        assert len(desk.topics.records("scores")) == 1

    def test_a_stream_that_does_not_fit_its_contract_is_refused_before_it_starts(self):
        desk = Desk(Stream("trades", fields=(("amuont", "value.amount"),)))
        with pytest.raises(InvalidInput):
            desk.member().server._handlers.check()


class TestAppendTimes:
    @pytest.mark.parametrize("days", [-400, 400])
    def test_a_record_of_another_age_is_refused(self, days: int):
        desk = Desk(limits=Limits(event_past_days=366))
        moment = time.time_ns() // 1000 + days * 86_400_000_000
        desk.topics.append("trades", b'{"trade_id":"x","amount":1}', timestamp_us=moment)
        desk.topics.append("trades", b'{"trade_id":"y","amount":1}', timestamp_us=-1)
        desk.write(2)
        desk.member().opened().settle()
        assert desk.booked() == ["T0"]
        assert [dict(r.headers)["trueup_reason"] for r in desk.topics.records("dead")] == [b"contract", b"contract"]


class TestReplies:
    def test_with_too_many_unconfirmed_nothing_more_is_read_until_there_is_room(self):
        desk = Desk()
        desk.write(*range(10))
        member = desk.member(replies_in_flight=5).opened()
        member.broker.confirms = False
        member.turns(lambda: member.replies.in_flight == 10)
        desk.write(*range(10, 15))
        for _ in range(10):
            member.server.turn()
        assert len(desk.booked()) == 10
        assert member.broker.held
        member.broker.confirms = True
        member.settle()
        assert desk.booked() == desk.all_keys()
        assert len(desk.topics.records("scores")) == 15

    def test_a_delivery_that_fails_is_sent_again(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("trueup.doors.kafka.replies.RETRY_S", 0.01)
        desk = Desk()
        desk.write(*range(5))
        desk.topics.append("trades", b"{", partition=1)
        member = desk.member().opened()
        member.broker.fails = 4
        member.settle()
        assert sorted(desk.answers()) == desk.all_keys()
        assert {len(values) for values in desk.answers().values()} == {1}
        assert len(desk.topics.records("dead")) == 1

    def test_what_an_earlier_owner_owes_the_next_one_sends_alike(self):
        desk = Desk()
        desk.write(*range(5))
        desk.topics.append("trades", b"{")
        first = desk.member().opened()
        first.broker.confirms = False
        first.turns(lambda: first.replies.in_flight == 6)
        assert desk.answers() == {}
        desk.member().opened().settle()
        resent = desk.topics.records("scores")
        assert len(resent) == 5
        first.broker.confirms = True
        first.broker.serve()
        assert len(desk.topics.records("scores")) == 10
        assert {len(values) for values in desk.answers().values()} == {1}
        assert {(r.key, tuple(r.headers)) for r in resent} == {
            (r.key, tuple(r.headers)) for r in desk.topics.records("scores")
        }

    def test_an_earlier_owner_may_owe_more_than_is_read_at_once(self):
        desk = Desk(bounds={"batch_rows": 1, "least_rows": 1})
        desk.write(*range(BATCHES_AT_ONCE + 5))
        first = desk.member().opened()
        first.broker.confirms = False
        first.turns(lambda: first.replies.in_flight == BATCHES_AT_ONCE + 5)
        second = desk.member().opened()
        second.broker.confirms = False
        for _ in range(5):
            second.server.turn()
        second.broker.confirms = True
        second.settle()
        assert len(desk.answers()) == BATCHES_AT_ONCE + 5

    def test_resending_keeps_to_the_bound_of_replies_in_flight(self):
        desk = Desk(bounds={"batch_rows": 1, "least_rows": 1})
        desk.write(*range(30))
        first = desk.member().opened()
        first.broker.confirms = False
        first.turns(lambda: first.replies.in_flight == 30)
        second = desk.member(replies_in_flight=5).opened()
        second.broker.confirms = False
        for _ in range(20):
            second.server.turn()
        assert second.replies.in_flight == 5
        second.broker.confirms = True
        second.settle()
        assert len(desk.answers()) == 30

    def test_a_batch_found_in_the_ledger_before_it_is_answered_is_sent_once(self):
        desk = Desk()
        desk.ledger.gate.clear()
        desk.write(*range(3))
        member = desk.member().opened()
        member.turns(desk.ledger.begun.is_set)
        member.broker.confirms = False
        desk.ledger.gate.set()
        wait_for(lambda: desk.ledger.bookings == 1)
        member.replies.follow([0, 1, 2])
        member.replies.turn()  # as when the commit came between a look at the booking and this
        assert member.replies.in_flight == 3
        member.server.turn()
        member.broker.confirms = True
        member.settle()
        assert len(desk.topics.records("scores")) == 3

    def test_a_ledger_that_fails_while_replies_are_read_back_does_not_lose_them(self):
        desk = Desk()
        desk.write(*range(5))
        first = desk.member().opened()
        first.broker.confirms = False
        first.turns(lambda: first.replies.in_flight == 5)
        second = desk.member().opened()
        reading = desk.ledger.replies
        times = 0

        def breaks(*given: Any) -> Iterator[dict[str, Any]]:
            nonlocal times
            times += 1
            for place, row in enumerate(reading(*given)):
                if times == 1 and place == 2:
                    raise LedgerUnavailable("in the middle")
                yield row

        desk.ledger.replies = breaks  # type: ignore[method-assign]
        second.settle()
        assert len(desk.answers()) == 5

    def test_without_topics_to_answer_nothing_is_sent(self):
        desk = Desk(Stream("trades"))
        desk.write(1)
        desk.topics.append("trades", b"{")
        member = desk.member().opened()
        member.turns(lambda: desk.ledger.positions(desk.place) == {0: 2})
        assert "send" not in member.broker.told


class TestPace:
    def test_a_slow_ledger_makes_batches_smaller_and_a_quick_one_larger_again_within_the_bounds(self):
        pace = Pace(Streaming(batch_rows=1_000, least_rows=50, batch_ms=100))
        assert pace.rows == 1_000
        seen = []
        for _ in range(20):
            pace.took(pace.rows, pace.rows * 1e-3)  # a millisecond a row: 100 fit
            seen.append(pace.rows)
        assert seen[0] == seen[-1] == 100
        pace.took(100, 10)
        assert pace.rows == 50
        for _ in range(10):
            pace.took(pace.rows, pace.rows * 1e-6)
        assert pace.rows == 1_000

    def test_a_small_batch_that_keeps_to_its_time_says_nothing(self):
        pace = Pace(Streaming(batch_rows=1_000, least_rows=50, batch_ms=100))
        for _ in range(10):
            pace.took(1, 0.02)
        assert pace.rows == 1_000

    def test_never_more_than_the_settings_say(self):
        pace = Pace(Streaming(batch_rows=10, least_rows=256, batch_ms=100))
        for seconds in (1e-6, 1.0, 1e-6):
            pace.took(pace.rows, seconds)
            assert pace.rows == 10

    def test_the_stream_keeps_to_it(self):
        desk = Desk(bounds={"batch_rows": 64, "least_rows": 4, "batch_ms": 10})
        desk.ledger.seconds = 0.05
        desk.write(*range(400))
        member = desk.member().opened()
        member.turns(lambda: member.server._pace.rows < 20)
        desk.ledger.seconds = 0
        member.settle()
        assert desk.booked() == desk.all_keys()
        sizes = [sum(p.records for p in read.portions) for read in desk.ledger.reads]
        assert max(sizes) <= 64
        assert sizes[0] == 64


class Machine(RuleBasedStateMachine):
    """Two members share a topic; anything may fail or move at any moment."""

    @initialize()
    def begin(self) -> None:
        self.desk = Desk(bounds={"batch_rows": 8, "least_rows": 2})
        self.members = [self.desk.member(0, 1, 2).opened(), self.desk.member(2)]
        self.members[1].broker.partitions = []
        self.members[1].opened()
        self.owner = dict.fromkeys(range(PARTITIONS), 0)
        self.poisons = 0

    @rule(
        partition=st.integers(0, PARTITIONS - 1),
        amounts=st.lists(st.sampled_from([1.0, 2.0, 700.0, POISON, -1.0, None]), min_size=1, max_size=6),
    )
    def append(self, partition: int, amounts: list[float | None]) -> None:
        for amount in amounts:
            if amount is None:
                self.desk.topics.append("trades", b"{", partition=partition)
            else:
                self.desk.write(amount, partition=partition)

    @rule(number=st.integers(0, 1), times=st.integers(1, 4))
    def turn(self, number: int, times: int) -> None:
        for _ in range(times):
            self.members[number].server.turn()

    @rule(when=st.sampled_from(["before", "after"]))
    def fault(self, when: str) -> None:
        setattr(self.desk.ledger, f"fail_{when}", 1)

    @rule(partition=st.integers(0, PARTITIONS - 1), kind=st.sampled_from(["revoke", "lose"]))
    def moves(self, partition: int, kind: str) -> None:
        before = self.owner[partition]
        getattr(self.members[before].broker, kind)(partition)
        if kind == "revoke":
            self.members[before].server.turn()  # Kafka gives a partition when it was given back
        self.members[1 - before].broker.give(partition)
        self.owner[partition] = 1 - before

    @rule(partition=st.integers(0, PARTITIONS - 1))
    def comes_back(self, partition: int) -> None:
        broker = self.members[self.owner[partition]].broker
        broker.lose(partition)
        broker.give(partition)

    @rule(number=st.integers(0, 1))
    def killed(self, number: int) -> None:
        """Whatever it had in flight may still be booked; nothing that it sent arrives."""
        mine = [p for p, owner in self.owner.items() if owner == number]
        member = self.desk.member()
        member.broker.partitions = mine
        self.members[number] = member.opened()

    @rule(number=st.integers(0, 1), wait=st.booleans())
    def confirmations(self, number: int, wait: bool) -> None:
        self.members[number].broker.confirms = not wait

    @rule(number=st.integers(0, 1))
    def deliveries_fail(self, number: int) -> None:
        self.members[number].broker.fails = 2

    @invariant()
    def no_record_ends_twice(self) -> None:
        if hasattr(self, "desk"):
            ended = Counter(self._ended())
            assert not ended or max(ended.values()) == 1

    def _ended(self) -> list[str]:
        return [row["source_key"] for row in self.desk.ledger._rows.values()] + self.desk.refused()

    def teardown(self) -> None:
        if not hasattr(self, "desk"):
            return
        desk = self.desk
        desk.ledger.fail_before = desk.ledger.fail_after = 0
        for member in self.members:
            member.broker.fails, member.broker.confirms = 0, True
        limit = time.monotonic() + 10
        while not all(member.is_settled for member in self.members):
            for member in self.members:
                member.server.turn()
            assert time.monotonic() < limit
        everything = sorted(f"{r.partition}/{r.offset}" for r in desk.topics.records("trades"))
        assert sorted(self._ended()) == everything
        assert desk.ledger.positions(desk.place) == desk.ends()
        answers = desk.answers()
        assert sorted(answers) == sorted(desk.booked())
        assert {len(values) for values in answers.values()} <= {1}
        assert {dict(r.headers)["trueup_position"] for r in desk.topics.records("dead")} == {
            f"memory/trades/{key}".encode() for key in desk.refused()
        }
        for member in desk.servers:
            member.server._thread.shutdown()


TestAnything = Machine.TestCase
TestAnything.settings = hypothesis.settings(max_examples=25, stateful_step_count=30, deadline=None)
