"""What every ledger must do for streams: rows and positions move together, whoever lost a partition is fenced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

import trueup
from rooms import Desk, trade
from trueup.bootstrap import wired
from trueup.domain.batch import Booked, Booking, Channel, Receipt, Refusal, RefusalReason, Refusals, Source
from trueup.domain.stream import Letter, Place, Portion, Read, Replay, Unanswered
from trueup.errors import Fenced, NotFound
from trueup.ledger.memory import MemoryStreams
from trueup.ledger.streaming import PostgresStreams
from trueup.outcomes.memory import MemoryOutcomes
from trueup.ports import PredictionFilter, StreamLedger
from trueup.registry.memory import MemoryRegistry
from trueup.scoring.service import Instances
from trueup.settings import Limits

NOW = datetime(2026, 11, 20, 9, tzinfo=UTC)


class Streaming(Desk):
    """A desk that reads a topic."""

    @property
    def streams(self) -> StreamLedger:
        return self.ledger  # type: ignore[return-value]

    def place(self) -> Place:
        number = self.registry.deployment("trades").deployment_id
        assert number is not None
        return Place(number, "c1", "trades")

    def booking(self, rows: list[dict[str, Any]], keys: Sequence[str], source: str) -> Booking | None:
        resolved = self.scoring.resolve("trades")
        decoded = resolved.decoder.records(rows)
        instances = Instances.of(decoded, Source(Channel.KAFKA, source, keys), received_at=NOW)
        return self.scoring.booking(self.scoring.predict(resolved, instances))

    def read(
        self,
        rows: list[dict[str, Any]],
        *,
        start: int = 0,
        expected: int | None = None,
        partition: int = 0,
        ids: Sequence[str] | None = None,
        bad: int = 0,
        owes: bool = False,
    ) -> Receipt | None:
        """Rows of one partition from ``start`` on, then ``bad`` records that nobody can read."""
        offsets = list(range(start, start + len(rows) + bad))
        source = "kafka:c1/trades" if ids is None else "event:c1/trades"
        keys = list(ids or [f"{partition}/{offset}" for offset in offsets[: len(rows)]])
        refused = [Refusal(f"{partition}/{o}", RefusalReason.UNDECODABLE, "not JSON") for o in offsets[len(rows) :]]
        number = self.place().deployment_id

        def letters(unanswered: Sequence[Unanswered]) -> list[Letter]:
            lost = [Letter(partition, o, None, "undecodable", "not JSON", b"k", b"\x00{", [("h", b"\xff"), ("n", None)])
                    for o in offsets[len(rows) :]]  # fmt: skip
            more = [Letter(partition, offsets[at], (0,), str(why), text, None, b"{}", [])
                    for at, why, text in unanswered]  # fmt: skip
            return [*more, *lost]

        return self.streams.book_read(
            self.booking(rows, keys, source) if rows else None,
            Read(
                place=self.place(),
                portions=[Portion(partition, expected, start, offsets[-1] + 1, len(offsets), 0, len(offsets))],
                received_at=NOW,
                partitions=np.full(len(rows), partition),
                refused=[Refusals(number, Source(Channel.KAFKA, "kafka:c1/trades", []), NOW, NOW, refused)] * bool(bad),
                letters=letters,
                owes_replies=owes,
            ),
        )

    def count(self) -> int:
        return len(self.ledger.predictions(PredictionFilter(limit=1000)))


@pytest.fixture(params=["memory", "postgres"])
def desk(request: pytest.FixtureRequest, settings: trueup.Settings) -> Iterator[Streaming]:
    if request.param == "memory":
        registry = MemoryRegistry()
        made = Streaming(registry, MemoryStreams(registry, Limits()), MemoryOutcomes())
        made.deploy()
        yield made
        return
    with wired(settings, request.getfixturevalue("fresh_database")) as services:
        made = Streaming(services.registry, services.ledger, services.outcomes)
        made.deploy()
        yield made


class TestEveryStreamLedger:
    def test_rows_and_position_move_together(self, desk: Streaming):
        receipt = desk.read([trade(i) for i in range(5)])
        assert receipt is not None
        assert receipt.booked.tolist() == [Booked.NEW] * 5
        assert desk.streams.positions(desk.place()) == {0: 5}
        assert desk.count() == 5
        desk.read([trade(9)], start=5, expected=5)
        assert desk.streams.positions(desk.place()) == {0: 6}

    @pytest.mark.parametrize("expected", [None, 3, 6])
    def test_who_believes_another_position_books_nothing(self, desk: Streaming, expected: int | None):
        desk.read([trade(i) for i in range(5)])
        with pytest.raises(Fenced):
            desk.read([trade(7)], start=expected or 0, expected=expected, bad=1)
        assert desk.streams.positions(desk.place()) == {0: 5}
        assert desk.count() == 5
        assert desk.streams.letters(desk.place(), [0], 10) == []

    def test_of_two_owners_at_once_one_books(self, desk: Streaming):
        def own(_: int) -> bool:
            try:
                desk.read([trade(i) for i in range(20)])
            except Fenced:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(own, range(4))) == [False, False, False, True]
        assert desk.count() == 20

    def test_a_read_without_answers_moves_the_position_too(self, desk: Streaming):
        assert desk.read([], bad=3) is None
        assert desk.streams.positions(desk.place()) == {0: 3}
        letters = desk.streams.letters(desk.place(), [0], 10)
        assert [(x.offset, x.places, x.reason, x.key, x.value) for x in letters] == [
            (offset, None, "undecodable", b"k", b"\x00{") for offset in range(3)
        ]
        assert [list(map(tuple, x.headers)) for x in letters] == [[("h", b"\xff"), ("n", None)]] * 3
        desk.streams.letters_sent([x.letter_id for x in letters[:2] if x.letter_id is not None])
        assert [x.offset for x in desk.streams.letters(desk.place(), [0], 10)] == [2]
        assert desk.streams.letters(desk.place(), [1], 10) == []

    def test_an_event_that_comes_twice_is_one_row_and_other_content_a_letter(self, desk: Streaming):
        first = desk.read([trade(1), trade(2)], ids=["a", "b"])
        again = desk.read([trade(1), trade(2, amount=7.0), trade(3)], start=2, expected=2, ids=["a", "b", "c"])
        assert first is not None
        assert again is not None
        assert again.booked.tolist() == [Booked.REPEATED, Booked.CONFLICT, Booked.NEW]
        assert again.ids[0].tobytes() == first.ids[0].tobytes()
        assert desk.count() == 3
        assert [(x.offset, x.reason) for x in desk.streams.letters(desk.place(), [0], 10)] == [(3, "conflict")]

    def test_an_event_that_comes_twice_in_one_read(self, desk: Streaming):
        receipt = desk.read([trade(1), trade(1), trade(1, amount=7.0)], ids=["a", "a", "a"])
        assert receipt is not None
        assert receipt.booked.tolist() == [Booked.NEW, Booked.REPEATED, Booked.CONFLICT]
        assert [(x.offset, x.reason) for x in desk.streams.letters(desk.place(), [0], 10)] == [(2, "conflict")]
        assert desk.streams.positions(desk.place()) == {0: 3}

    def test_replies_are_owed_until_they_are_sent(self, desk: Streaming):
        receipt = desk.read([trade(4), trade(6)], owes=True)
        desk.read([trade(1)], partition=1, owes=True)
        assert receipt is not None
        owed = desk.streams.owed(desk.place(), [0], 10)
        assert [o.batch_id for o in owed] == [receipt.batch_id]
        found = list(desk.streams.replies(desk.place(), owed))
        assert [(r["business_key"], r["source_key"], r["status"], r["score"], r["decision"]) for r in found] == [
            ("T4", "0/0", "abstained", 0.4, None),
            ("T6", "0/1", "scored", 0.6, "chase"),
        ]
        assert {(r["source"], r["model_version"]) for r in found} == {("kafka:c1/trades", "1")}
        desk.streams.replies_sent([o.batch_id for o in owed])
        assert desk.streams.owed(desk.place(), [0], 10) == []
        assert len(desk.streams.owed(desk.place(), [0, 1], 10)) == 1

    def test_a_partition_that_was_never_read_begins_where_it_is_told_and_others_stay(self, desk: Streaming):
        desk.read([trade(1)])
        desk.streams.begin_at(desk.place(), {0: 7, 1: 9})
        assert desk.streams.positions(desk.place()) == {0: 1, 1: 9}
        desk.read([trade(2)], partition=1, start=9, expected=9)
        assert desk.streams.positions(desk.place()) == {0: 1, 1: 10}

    def test_places_do_not_mix(self, desk: Streaming):
        desk.read([trade(1)])
        other = Place(desk.place().deployment_id, "c2", "trades")
        assert desk.streams.positions(other) == {}
        assert desk.streams.owed(other, [0], 10) == []


class TestReplay:
    """Dead letters that are scored again."""

    def replay(self, desk: Streaming, letters: Sequence[int], rows: list[dict[str, Any]], **more: Any) -> Any:
        """Rows of partition 0 from offset 5 on, booked as what became of ``letters``; ``left`` stay refused."""
        left: set[int] = set(more.pop("left", ()))
        keys = [f"0/{5 + i}" for i in range(len(rows))]

        def answered(unanswered: Sequence[Unanswered]) -> list[int]:
            return [n for i, n in enumerate(letters) if n not in left and i not in {at for at, _, _ in unanswered}]

        return desk.streams.book_read(
            desk.booking(rows, keys, "kafka:c1/trades") if rows else None,
            Read(
                place=desk.place(),
                portions=(),
                received_at=NOW,
                partitions=np.zeros(len(rows), np.int64),
                refused=[],
                letters=lambda _: (),
                owes_replies=True,
                replay=Replay("trades", "user:ann", letters, answered),
            ),
        )

    def numbers(self, desk: Streaming) -> list[int]:
        return [x.letter_id for x in desk.streams.letters(desk.place(), [0], 10) if x.letter_id is not None]

    def marked(self, desk: Streaming) -> tuple[set[int], list[tuple[str, str, tuple[int, ...]]]]:
        if isinstance(desk.ledger, MemoryStreams):
            return desk.ledger.replayed, desk.ledger.audit
        assert isinstance(desk.ledger, PostgresStreams)
        with desk.ledger._writer.transaction() as connection:
            found = connection.execute("SELECT letter_id FROM ledger.dead_letters WHERE replayed_at IS NOT NULL")
            letters = {int(row[0]) for row in found}
            rows = connection.execute(
                "SELECT actor, subject, detail -> 'letters' FROM ledger.audit"
                " WHERE action = 'replay dead letters' ORDER BY audit_id"
            ).fetchall()
        return letters, [(actor, subject, tuple(numbers)) for actor, subject, numbers in rows]

    def test_what_is_answered_is_a_row_and_marked_and_its_reply_is_owed(self, desk: Streaming):
        desk.read([trade(i) for i in range(5)], bad=2)
        first, second = self.numbers(desk)
        receipt = self.replay(desk, [first, second], [trade(8)], left=[second])
        assert receipt is not None
        assert receipt.booked.tolist() == [Booked.NEW]
        assert desk.count() == 6
        assert desk.streams.positions(desk.place()) == {0: 7}
        assert self.marked(desk) == ({first}, [("user:ann", "trades", (first, second))])
        assert [o.batch_id for o in desk.streams.owed(desk.place(), [0], 10)] == [receipt.batch_id]

    def test_twice_is_one_row_and_the_first_answer(self, desk: Streaming):
        desk.read([trade(i) for i in range(5)], bad=1)
        letters = self.numbers(desk)
        self.replay(desk, letters, [trade(8)])
        again = self.replay(desk, letters, [trade(8)])
        assert again.booked.tolist() == [Booked.REPEATED]
        assert desk.count() == 6
        assert self.marked(desk)[0] == set(letters)

    def test_at_once_is_one_row(self, desk: Streaming):
        desk.read([trade(i) for i in range(5)], bad=4)
        letters = self.numbers(desk)
        rows = [trade(8 + i) for i in range(4)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: self.replay(desk, letters, rows), range(4)))
        assert desk.count() == 9
        assert self.marked(desk)[0] == set(letters)

    def test_an_identity_that_holds_other_content_stays(self, desk: Streaming):
        desk.read([trade(i) for i in range(5)], bad=2)
        letters = self.numbers(desk)
        self.replay(desk, letters[:1], [trade(8)])
        again = self.replay(desk, letters, [trade(8, amount=1.0), trade(9)], left=[])
        assert again.booked.tolist() == [Booked.CONFLICT, Booked.NEW]
        assert desk.count() == 7

    def test_nothing_to_book_is_audited_too(self, desk: Streaming):
        desk.read([trade(i) for i in range(5)], bad=1)
        letters = self.numbers(desk)
        assert self.replay(desk, letters, [], left=letters) is None
        assert self.marked(desk) == (set(), [("user:ann", "trades", tuple(letters))])

    def test_a_letter_is_found_with_its_content(self, desk: Streaming):
        desk.read([trade(1)], bad=1)
        (number,) = self.numbers(desk)
        place, letter = desk.streams.letter(number)
        assert (place, letter.offset, letter.value) == (desk.place(), 1, b"\x00{")
        with pytest.raises(NotFound):
            desk.streams.letter(number + 1)
