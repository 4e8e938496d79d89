"""The spool in front of a real PostgreSQL that goes away, holds other answers, or will not take a row."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from typer.testing import CliRunner

import trueup
from databases import away
from rooms import Desk, StubScorer, trade
from trueup.bootstrap import Services, wired
from trueup.domain.batch import Booked, Channel, Columns, Refusal, RefusalReason, Refusals, Source
from trueup.domain.deployment import ModelVersion
from trueup.doors.cli.server import application
from trueup.errors import InvalidQuery, LedgerUnavailable
from trueup.ledger.draining import ATTEMPTS, OTHER_CONTENT, OTHERWISE, Drainer
from trueup.ledger.embedded import EmbeddedPostgres
from trueup.ledger.spool import SpooledLedger
from trueup.ledger.spool_files import SpoolFolder
from trueup.ledger.spool_frames import Frame, framed, scan
from trueup.ledger.spool_lookup import Lookup
from trueup.ledger.spool_records import dead_of
from trueup.ledger.urls import Urls
from trueup.ports import PredictionFilter
from trueup.settings import Limits

REQUEST = "request"
UNDATED = trueup.load_contract("""
name: trades
version: 2
fields:
  trade_id: {type: string, role: key}
  trade_date: {type: date, role: context}
  amount: {type: float64, minimum: 0}
  history: {type: float64, nullable: true, allow_nan: true, allow_infinity: true}
  lots: {type: int64, nullable: true}
output: {kind: probability}
label: {name: failed, type: bool, join_key: [trade_id], horizon: {days: 1}}
decision: {threshold: 0.5}
""")


class Half(StubScorer):
    """Another model."""

    def score(self, columns: Columns) -> Any:
        return np.full((len(columns), 1), 0.5)


class Server:
    """One process that serves: its own services and spool on a shared database."""

    def __init__(self, services: Services, root: Path) -> None:
        self.services = services
        self.root = root
        self.spool = self._open()
        self.desk = Desk(services.registry, self.spool, services.outcomes)

    def _open(self) -> SpooledLedger:
        limits = self.services.settings.limits
        return SpooledLedger(self.services.ledger, Lookup(self.services._pools[1], 5.0), self.root, limits)

    def restart(self) -> None:
        """The spool is opened anew, by what might be another process."""
        self.spool.close()
        self.spool = self.desk.scoring._ledger = self.desk.ledger = self._open()

    def deploy(self, version: str = "1") -> None:
        stored = self.services.registry.add_version(ModelVersion("trades", version, (), UNDATED))
        self.services.registry.deploy(trueup.Deployment("trades", stored), by="test")
        self.desk.scoring.resolve("trades", fresh=True)

    def ask(self, key: str, amount: float = 100.0, **options: Any) -> Any:
        return self.desk.score([trade(1, amount=amount)], source=REQUEST, keys=[key], **options)

    def drain(self) -> int:
        """Everything, as soon as the database is known to be back."""
        until = time.monotonic() + 10
        while True:
            try:
                return Drainer(self.spool).drain()
            except LedgerUnavailable:
                assert time.monotonic() < until
                time.sleep(0.02)


@pytest.fixture
def servers(fresh_database: Urls, tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    """Makes servers by name; each has a disk of its own."""
    with ExitStack() as stack:

        def make(name: str) -> Server:
            settings = trueup.Settings(data_dir=tmp_path / name, limits=Limits(database_probe_s=0.05))
            made = Server(stack.enter_context(wired(settings, fresh_database)), tmp_path / name / "spool")
            stack.callback(lambda: made.spool.close())
            return made

        yield make


@pytest.fixture
def one(servers: Callable[[str], Server]) -> Server:
    made = servers("one")
    made.deploy()
    return made


def rows(server: Server, table: str = "predictions", columns: str = "source_key, score") -> list[dict[str, Any]]:
    return server.services.queries.rows(f"SELECT {columns} FROM trueup.{table} ORDER BY source_key")


def answer(response: Any) -> tuple[Any, float]:
    return response.ids()[0], float(response.receipt.answers.score[0])


def dead(server: Server) -> list[tuple[str, int, bytes]]:
    data = (server.spool.folder.path / "dead-letters").read_bytes()
    return [dead_of(item.payload) for item in scan(data) if isinstance(item, Frame)]


class TestWhileTheLedgerIsAway:
    def test_a_repeat_gets_the_first_answer_also_after_a_promotion_and_a_restart(
        self, one: Server, server: EmbeddedPostgres, fresh_database: Urls
    ):
        with away(server, fresh_database):
            first = one.ask("k")
            one.desk.scorers["1"].score = Half().score  # type: ignore[method-assign]  # answers otherwise from now on
            again = one.ask("k")
            one.restart()
            after = one.ask("k")
            other = one.ask("k2")
        assert answer(first) == answer(again) == answer(after)
        assert [r.receipt.booked.tolist() for r in (first, again, after)] == [[0], [1], [1]]
        assert answer(other)[1] == 0.5
        assert one.drain() >= 3  # two bookings, and their contract once a process
        assert rows(one) == [{"source_key": "k", "score": 0.1}, {"source_key": "k2", "score": 0.5}]

    def test_other_content_is_a_conflict_and_a_refusal_and_withholds_its_request(
        self, one: Server, server: EmbeddedPostgres, fresh_database: Urls
    ):
        with away(server, fresh_database):
            one.desk.score([trade(1), trade(2)], source=REQUEST, keys=["k/0", "k/1"], groups=[0, 0])
            sent = [trade(1), trade(2, amount=7.0), trade(3)]
            wrong = one.desk.score(sent, source=REQUEST, keys=["k/0", "k/1", "k/2"], groups=[0, 0, 0])
        assert wrong.receipt.booked.tolist() == [Booked.REPEATED, Booked.CONFLICT, Booked.WITHHELD]
        one.drain()
        assert [r["source_key"] for r in rows(one)] == ["k/0", "k/1"]
        assert rows(one, "refusals", "source_key, reason") == [
            {"source_key": "k/1", "reason": "conflict"},
            {"source_key": "k/2", "reason": "request"},
        ]

    def test_a_key_that_was_drained_a_moment_ago_is_remembered(
        self, one: Server, server: EmbeddedPostgres, fresh_database: Urls
    ):
        first = one.ask("k")
        one.drain()
        one.desk.scorers["1"].score = Half().score  # type: ignore[method-assign]
        with away(server, fresh_database):
            assert answer(one.ask("k")) == answer(first)
        assert one.drain() == 0

    def test_refusals_are_spooled_too(self, one: Server, server: EmbeddedPostgres, fresh_database: Urls):
        with away(server, fresh_database):
            bad = one.desk.score([trade(1, amount="x"), trade(2)], source=REQUEST, keys=["a", "b"])
        assert [r.reason for r in bad.refused] == [RefusalReason.CONTRACT]
        one.drain()
        assert rows(one, "refusals", "source_key, reason") == [{"source_key": "a", "reason": "contract"}]
        assert len(rows(one)) == 1

    def test_nothing_is_drained_and_nothing_is_lost(self, one: Server, server: EmbeddedPostgres, fresh_database: Urls):
        with away(server, fresh_database):
            for i in range(5):
                one.ask(str(i))
            with pytest.raises(LedgerUnavailable):
                Drainer(one.spool).drain()
            assert one.spool.stats()["depth_rows"] == 5
            assert one.spool.stats()["unasked_rows"] == 5
            assert one.spool.stats()["oldest_age_s"] > 0
        one.drain()
        assert one.spool.stats()["depth_rows"] == one.spool.stats()["depth_bytes"] == 0
        assert len(rows(one)) == 5

    def test_a_datasets_moment_is_proposed_and_the_ledgers_counts(
        self, one: Server, servers: Callable[[str], Server], server: EmbeddedPostgres, fresh_database: Urls
    ):
        early, late = (np.array([day], "datetime64[us]") for day in ("2026-11-20", "2026-11-21"))
        source = Source(Channel.BATCH, "batch:morning", ["0"])
        with away(server, fresh_database):
            assert one.spool.claim_event_times(1, source, late) == late
            assert one.spool.claim_event_times(1, source, early) == late  # the first one stays
            one.desk.score([trade(1)])
        assert servers("two").services.ledger.claim_event_times(1, source, early) == early
        one.drain()
        assert [str(r["event_day"]) for r in rows(one, columns="source_key, event_day")] == ["2026-11-20"]
        assert one.spool.claim_event_times(1, source, late) == early


class TestWhereTheLedgerAnswers:
    def test_a_key_that_another_server_booked_gets_that_answer(
        self, one: Server, servers: Callable[[str], Server], fresh_database: Urls
    ):
        two = servers("two")
        two.deploy("2")
        two.desk.scorers["2"] = Half()
        two.desk.scoring.resolve("trades", fresh=True)
        first = one.ask("k")
        one.drain()
        assert answer(two.ask("k")) == answer(first)
        assert two.ask("k", amount=7.0).receipt.booked.tolist() == [Booked.CONFLICT]
        two.drain()
        assert rows(one) == [{"source_key": "k", "score": 0.1}]

    def test_a_ledger_that_does_not_answer_in_time_is_not_waited_for(self, one: Server):
        one.spool._lookup = Lookup(one.services._pools[1], 0.2)
        with psycopg.connect(one.services.urls.owner) as blocking:
            blocking.execute("LOCK TABLE ledger.request_days IN ACCESS EXCLUSIVE MODE")
            assert one.ask("k").receipt.booked.tolist() == [Booked.NEW]
            assert one.spool.stats()["unasked_rows"] == 1
            blocking.rollback()
        one.drain()
        assert len(rows(one)) == 1


class TestTwoServersThatCouldNotAskEachOther:
    """What both have answered cannot be unsaid: one row, and the other answer is never silent."""

    @pytest.fixture
    def two(self, one: Server, servers: Callable[[str], Server]) -> Server:
        made = servers("two")
        made.desk.scoring.resolve("trades", fresh=True)
        return made

    def test_the_same_answer_is_one_row_and_no_conflict(
        self, one: Server, two: Server, server: EmbeddedPostgres, fresh_database: Urls
    ):
        with away(server, fresh_database):
            assert answer(one.ask("k")) == answer(two.ask("k"))
        for each in (one, two):
            each.drain()
        assert len(rows(one)) == 1
        assert rows(one, "refusals", "source_key, reason") == []
        assert two.spool.stats()["conflicts"] == 0

    def test_another_answer_is_a_refusal_a_dead_letter_and_a_count(
        self, one: Server, two: Server, server: EmbeddedPostgres, fresh_database: Urls
    ):
        two.desk.scorers["1"].score = Half().score  # type: ignore[method-assign]
        with away(server, fresh_database):
            first, second = one.ask("k"), two.ask("k")
        assert answer(first)[0] == answer(second)[0]
        one.drain()
        two.drain()
        two.drain()
        assert rows(one) == [{"source_key": "k", "score": 0.1}]
        assert rows(one, "refusals", "source_key, reason, detail") == [
            {"source_key": "k", "reason": "conflict", "detail": OTHERWISE}
        ]
        assert two.spool.stats()["conflicts"] == 1
        assert [reason for reason, _, _ in dead(two)] == [OTHERWISE]
        assert answer(two.ask("k")) == answer(first)  # from now on the ledger's

    def test_other_content_is_told_apart(
        self, one: Server, two: Server, server: EmbeddedPostgres, fresh_database: Urls
    ):
        with away(server, fresh_database):
            one.ask("k")
            two.ask("k", amount=300.0)
        one.drain()
        two.drain()
        assert rows(one) == [{"source_key": "k", "score": 0.1}]
        details = {r["detail"] for r in rows(one, "refusals", "source_key, detail")}
        assert OTHER_CONTENT in details

    def test_days_that_differ_leave_one_row(
        self, one: Server, two: Server, server: EmbeddedPostgres, fresh_database: Urls
    ):
        days = [np.array([day], "datetime64[us]") for day in ("2026-11-20", "2026-11-21")]
        with away(server, fresh_database):
            one.ask("k", event_time=days[0])
            two.ask("k", event_time=days[1])
        two.drain()
        one.drain()
        assert [str(r["event_day"]) for r in rows(one, columns="source_key, event_day")] == ["2026-11-21"]
        assert one.spool.stats()["conflicts"] == 0


class TestDraining:
    def test_a_record_booked_before_the_position_was_written_is_booked_once(self, one: Server):
        one.ask("k")
        items = [item for item, _ in one.spool.folder.waiting() if isinstance(item, Frame)]
        for item in items:  # booked, and then the process stopped
            Drainer(one.spool)._one(one.spool.folder, item)
        assert len(rows(one)) == 1
        one.restart()
        one.drain()
        assert rows(one) == [{"source_key": "k", "score": 0.1}]
        assert one.spool.stats()["conflicts"] == 0

    def test_a_record_the_ledger_will_never_take_is_set_aside_and_holds_up_nobody(self, one: Server):
        one.ask("a")
        nobody = Source(Channel.REST, REQUEST, ["x"])
        now = datetime.now(UTC)
        one.spool.refuse(Refusals(999, nobody, now, now, [Refusal("x", RefusalReason.CONTRACT, "amount: type")]))
        one.ask("b")
        drainer = Drainer(one.spool)
        for _ in range(ATTEMPTS - 1):
            with pytest.raises(psycopg.IntegrityError):
                drainer.drain()
        drainer.drain()
        assert [r["source_key"] for r in rows(one)] == ["a", "b"]
        assert one.spool.stats()["set_aside"] == one.spool.stats()["dead_letters"] == 1
        assert one.spool.stats()["depth_rows"] == 0
        assert dead(one)[0][0] == "the ledger refused it: ForeignKeyViolation"

    def test_small_bookings_are_one_commit_and_their_rows_their_own(self, one: Server):
        for i in range(50):
            one.ask(f"k{i:02d}", amount=10.0 * i)
        one.drain()
        assert rows(one) == [{"source_key": f"k{i:02d}", "score": i / 100} for i in range(50)]
        assert len(one.services.queries.rows("SELECT 1 AS n FROM trueup.batches")) == 1

    def test_a_row_answered_otherwise_among_many_is_told_alone(
        self, one: Server, servers: Callable[[str], Server], server: EmbeddedPostgres, fresh_database: Urls
    ):
        two = servers("two")
        two.desk.scoring.resolve("trades", fresh=True)
        with away(server, fresh_database):
            for i in range(10):
                one.ask(str(i))
            two.desk.scorers["1"].score = Half().score  # type: ignore[method-assign]
            two.ask("7")
        two.drain()
        one.drain()
        assert [r["source_key"] for r in rows(one, "refusals", "source_key")] == ["7"]
        assert {r["source_key"]: r["score"] for r in rows(one)} == {str(i): 0.5 if i == 7 else 0.1 for i in range(10)}
        assert len(dead(one)) == one.spool.stats()["conflicts"] == 1

    def test_one_that_the_ledger_refuses_spoils_none_of_those_booked_with_it(self, one: Server):
        one.ask("a")
        one.ask("zzz")
        one.ask("b")
        (path,) = one.spool.folder.path.glob("*.segment")
        one.spool.close()
        data = b"".join(
            framed(item.kind, item.rows, item.payload.replace(b"zzz", b"z\0z"))
            for item in scan(path.read_bytes())
            if isinstance(item, Frame)
        )
        path.write_bytes(data)
        one.spool = one.desk.scoring._ledger = one.desk.ledger = one._open()
        Drainer(one.spool).drain_patiently()
        assert [r["source_key"] for r in rows(one)] == ["a", "b"]
        assert one.spool.stats()["set_aside"] == 1

    def test_what_is_the_databases_fault_is_never_set_aside(self, one: Server):
        one.ask("a")
        with psycopg.connect(one.services.urls.owner, autocommit=True) as owner:
            owner.execute("REVOKE INSERT ON ledger.predictions FROM trueup_writer")
            drainer = Drainer(one.spool)
            for _ in range(ATTEMPTS + 2):
                with pytest.raises(psycopg.ProgrammingError):
                    drainer.drain()
            owner.execute("GRANT INSERT ON ledger.predictions TO trueup_writer")
            drainer.drain()
        assert len(rows(one)) == 1

    def test_a_damaged_record_is_set_aside_and_the_rest_is_drained(self, one: Server):
        for key in ("aaaa", "bbbb", "cccc"):
            one.ask(key)
        (path,) = one.spool.folder.path.glob("*.segment")
        one.spool.close()
        data = bytearray(path.read_bytes())
        data[data.index(b"bbbb")] ^= 1
        path.write_bytes(data)
        one.spool = one.desk.scoring._ledger = one.desk.ledger = one._open()
        one.drain()
        assert [r["source_key"] for r in rows(one)] == ["aaaa", "cccc"]
        assert one.spool.stats()["set_aside"] == 1
        assert one.spool.stats()["depth_bytes"] == 0

    def test_the_spool_of_a_process_that_died_is_drained_by_another(
        self, one: Server, servers: Callable[[str], Server], server: EmbeddedPostgres, fresh_database: Urls
    ):
        left = one.root / "777"
        left.mkdir()
        dying = SpoolFolder.adopt(left, one.spool.limits)
        assert dying is not None
        own, one.spool.folder = one.spool.folder, dying
        with away(server, fresh_database):
            one.ask("k")
            one.spool.folder = own
            dying.close()
            one.restart()
            with pytest.raises(LedgerUnavailable):
                Drainer(one.spool).drain()
            assert one.ask("k").receipt.booked.tolist() == [Booked.REPEATED]
        one.drain()
        assert rows(one) == [{"source_key": "k", "score": 0.1}]
        assert one.spool.adopted == []

    def test_the_thread_drains_when_the_ledger_is_back_and_stops_at_once(
        self, one: Server, server: EmbeddedPostgres, fresh_database: Urls
    ):
        drainer = Drainer(one.spool)
        with away(server, fresh_database):
            drainer.start()
            for i in range(20):
                one.ask(str(i))
        one.spool.arrived.set()
        while one.spool.stats()["depth_rows"]:
            one.spool.arrived.wait(0.01)
        drainer.stop()
        assert len(rows(one)) == 20


def test_an_event_out_of_bounds_is_refused_before_it_is_answered(one: Server):
    with pytest.raises(InvalidQuery):
        one.ask("k", event_time=np.array(["2226-01-01"], "datetime64[us]"))
    assert one.spool.stats()["depth_rows"] == 0


def test_rows_that_nobody_can_repeat_are_not_remembered(one: Server):
    now = np.array(["2026-11-20"], "datetime64[us]")
    one.desk.score([trade(1)], source="unkeyed", keys=["drawn"], event_time=now)
    assert one.spool.stats()["remembered"] == 0
    one.drain()
    assert len(one.services.ledger.predictions(PredictionFilter())) == 1


def test_the_command_line_shows_and_drains_what_is_left(
    one: Server, server: EmbeddedPostgres, fresh_database: Urls, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TRUEUP_DATA_DIR", str(one.root.parent))
    monkeypatch.setenv("TRUEUP_DATABASE_URL", fresh_database.owner)

    def shown() -> tuple[int, Any]:
        done = CliRunner().invoke(application(), ["spool", "status", "--json"])
        return done.exit_code, json.loads(done.stdout)

    with away(server, fresh_database):
        one.ask("k")
        one.spool.folder.set_aside("why", 2, b"")
        code, (held,) = shown()
        one.spool.close()
        _, (left,) = shown()
        assert (code, held["held"], left["held"], left["rows"], left["reasons"]) == (1, True, False, 1, {"why": 1})
    done = CliRunner().invoke(application(), ["spool", "drain", "--json"])
    assert json.loads(done.stdout) == {"drained_rows": 1, "conflicts": 0, "set_aside": 0, "left_rows": 0}
    assert shown()[1][0]["rows"] == 0
    assert len(rows(one)) == 1
    one.spool = one._open()


def test_a_deployment_is_declared_spooled_by_its_serving_file(
    fresh_database: Urls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TRUEUP_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TRUEUP_DATABASE_URL", fresh_database.owner)
    (tmp_path / "contract.yaml").write_text(trueup.dump_contract(UNDATED))
    (tmp_path / "serving.yaml").write_text("mode: spooled\n")
    model = "python:small_models:always_half"
    command = ["deploy", "t", "--contract", str(tmp_path / "contract.yaml"), "--model", model, "--version", "1"]
    done = CliRunner().invoke(application(), [*command, "--serving", str(tmp_path / "serving.yaml")])
    assert done.exit_code == 0, done.output
    with wired(trueup.Settings(data_dir=tmp_path), fresh_database) as services:
        assert services.registry.deployment("t").serving.mode is trueup.Mode.SPOOLED
