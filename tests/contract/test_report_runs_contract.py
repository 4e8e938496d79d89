"""What everything that keeps runs of reports must do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trueup.domain.message import Message
from trueup.domain.report import (
    Asked,
    Behind,
    CellKind,
    Chart,
    ChartKind,
    Column,
    FigureFormat,
    Look,
    ReportRun,
    Result,
    Shown,
)
from trueup.errors import InvalidInput, NotFound
from trueup.notifying.memory import MemoryOutbox
from trueup.notifying.outbox import SendingOutbox
from trueup.notifying.postgres import PostgresOutbox
from trueup.postgres import Pool
from trueup.reports.memory import MemoryRuns
from trueup.reports.postgres import PostgresRuns
from trueup.reports.store import RunStore
from trueup.settings import Notifying

AT = datetime(2026, 11, 21, 6, 0, 0, 5, tzinfo=UTC)
LOOK = Look(
    "Daily figures",
    "the desk",
    charts=(Chart("by_day", ChartKind.BAR, "day", ("n",)),),
    columns={"n": Shown(FigureFormat.INTEGER, "items")},
    tiles=("total",),
    links={"id": "/v1/predictions/{id}"},
    rows={"by_day": Behind("items", ("day",))},
)
RESULT = Result(
    "by_day",
    "By day",
    "a" * 64,
    (Column("day", CellKind.DATE), Column("n", CellKind.INTEGER), Column("x", CellKind.NUMBER)),
    (("2026-11-20", 3, 0.1), ("2026-11-21", 2**53 + 1, None), ("Ü", 0, -0.0)),
    is_cut=True,
)
MESSAGE = Message("report/daily/1/desk", "desk", "report", "subject", "text")


def made(store: RunStore, name: str = "daily", due_at: datetime | None = None, **changes: Any) -> ReportRun:
    asked = Asked(name, {"z": 1, "a": "x", "day": None}, AT, "observed", "key:1", due_at)
    return replace(ReportRun(store.next_id(), asked, LOOK, "b" * 64, AT, 12, (RESULT,)), **changes)


@pytest.fixture(params=["memory", "postgres"])
def kept(request: pytest.FixtureRequest) -> Iterator[tuple[RunStore, RunStore, SendingOutbox]]:
    """A store, one that has no outbox, and the outbox of the first."""
    if request.param == "memory":
        memory = MemoryOutbox(Notifying())
        yield MemoryRuns(memory), MemoryRuns(), memory
        return
    pool = Pool(request.getfixturevalue("fresh_database").writer, size=8, application="test")
    outbox = PostgresOutbox(pool, Notifying())
    yield PostgresRuns(pool, outbox), PostgresRuns(pool), outbox
    pool.close()


@pytest.fixture
def store(kept: tuple[RunStore, RunStore, SendingOutbox]) -> RunStore:
    return kept[0]


class TestEveryStoreOfRuns:
    def test_a_run_is_shown_as_it_was(self, store: RunStore):
        run = made(store)
        assert store.add(run)
        found = store.run(run.run_id)
        assert found == run
        assert list(found.asked.parameters) == ["z", "a", "day"], "in the order of the file"

    def test_numbers_rise_and_none_comes_twice(self, store: RunStore):
        with ThreadPoolExecutor(4) as threads:
            numbers = list(threads.map(lambda _: store.next_id(), range(40)))
        assert len(set(numbers)) == 40
        assert store.next_id() > max(numbers)

    @pytest.mark.parametrize("run_id", [0, -1, 999_999, 2**63])
    def test_what_was_never_run_is_not_found(self, store: RunStore, run_id: int):
        with pytest.raises(NotFound):
            store.run(run_id)

    def test_a_due_moment_has_one_run_with_figures(self, store: RunStore):
        assert not store.is_done("daily", AT)
        assert store.add(made(store, due_at=AT))
        assert store.is_done("daily", AT)
        again = made(store, due_at=AT)
        assert not store.add(again)
        with pytest.raises(NotFound):
            store.run(again.run_id)
        assert not store.is_done("other", AT)
        assert not store.is_done("daily", AT + timedelta(days=1))
        assert store.add(made(store, "other", AT))
        assert all(store.add(made(store)) for _ in range(2)), "whoever asks gets a run each time"

    def test_of_many_at_once_one_is_kept(self, store: RunStore):
        with ThreadPoolExecutor(4) as threads:
            added = list(threads.map(lambda _: store.add(made(store, due_at=AT)), range(8)))
        assert sum(added) == 1

    def test_a_run_that_failed_leaves_its_moment_to_another(self, store: RunStore):
        failed = made(store, due_at=AT, results=(), error="it took too long")
        assert store.add(failed)
        assert not store.is_done("daily", AT)
        found = store.run(failed.run_id)
        assert (found.error, found.look, found.results) == ("it took too long", Look("Daily figures"), ())
        assert store.add(made(store, due_at=AT))
        assert store.add(made(store, due_at=AT, results=(), error="again")), "what failed is kept beside it"

    def test_messages_are_kept_with_their_run_or_not_at_all(self, kept: tuple[RunStore, RunStore, SendingOutbox]):
        store, without, outbox = kept
        assert store.add(made(store, due_at=AT), [MESSAGE])
        assert not store.add(made(store, due_at=AT), [replace(MESSAGE, key="another")])
        claimed = outbox.claim("desk")
        assert claimed is not None
        assert claimed.message.key == MESSAGE.key
        assert outbox.claim("desk") is None
        unsent = made(without)
        with pytest.raises(InvalidInput, match="recipients"):
            without.add(unsent, [MESSAGE])
        with pytest.raises(NotFound):
            without.run(unsent.run_id)
