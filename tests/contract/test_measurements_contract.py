"""What every store of measurements promises: PostgreSQL and its fake."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest

import trueup
from monitored import deployed
from trueup.domain.batch import Role
from trueup.domain.measuring import Verdict
from trueup.domain.monitoring import KnownBy, Measurement, MeasurementFilter, Run, Window, WindowKind
from trueup.errors import InvalidQuery
from trueup.monitoring.memory import MemoryMeasurements
from trueup.monitoring.postgres import PostgresMeasurements
from trueup.ports import MeasurementStore
from trueup.settings import Monitoring

DAY = Window(WindowKind.DAY, date(2026, 11, 2), date(2026, 11, 2))
NEXT = Window(WindowKind.DAY, date(2026, 11, 3), date(2026, 11, 3))


class Held:
    """A store, and the ids of what it measures."""

    def __init__(self, store: MeasurementStore, deployment: int, versions: tuple[int, int]) -> None:
        self.store, self.deployment, self.versions = store, deployment, versions

    def run(self, day: int, window: Window = DAY, *, by: KnownBy = KnownBy.RECORDED, error: str | None = None) -> Run:
        at = datetime(2026, 11, day, tzinfo=UTC)
        return Run(self.deployment, window, at, by, at, duration_ms=5, rows_read=10, error=error)

    def figure(self, metric: str, value: float | None, **more: Any) -> Measurement:
        return Measurement(self.versions[0], "champion", metric, value, 10, **more)

    def listed(self, **where: Any) -> list[dict[str, Any]]:
        return self.store.listed(MeasurementFilter("fails", **where))


@pytest.fixture(params=["memory", "postgres"])
def held(request: pytest.FixtureRequest) -> Iterator[Held]:
    if request.param == "memory":
        yield Held(MemoryMeasurements({7: "fails"}, {1: ("fails", "1"), 2: ("fails", "2")}), 7, (1, 2))
        return
    up: trueup.Trueup = request.getfixturevalue("up")
    first = deployed(up)
    both = deployed(up, version="2", model="python:monitored:inverse_share", role=Role.CHALLENGER)
    _, writer, reader = up.services._pools
    ids = first.champion.model_version_id or 0, both.challengers[0].model_version_id or 0
    yield Held(PostgresMeasurements(writer, reader, Monitoring()), first.deployment_id or 0, ids)


def test_a_figure_comes_back_as_it_was_measured(held: Held):
    full = held.figure("psi", 0.3, field="amount", slice="desk=rates", low=0.1, high=0.5, reference_n=500,
                       critical=0.02, p_value=0.001, q_value=0.01, floor=0.1, verdict=Verdict.BREACH,
                       maturity=0.5)  # fmt: skip
    assert held.store.record(held.run(5), [full, held.figure("auc", None)]) == 2
    auc, psi = held.listed()
    assert auc["value"] is None
    expected = {"deployment": "fails", "model_version": "1", "role": "champion", "metric": "psi", "field": "amount",
                "slice": "desk=rates", "window_kind": "day", "window_first": date(2026, 11, 2),
                "window_last": date(2026, 11, 2), "known_at": datetime(2026, 11, 5, tzinfo=UTC), "known_by": "recorded",
                "value": 0.3, "low": 0.1, "high": 0.5, "n": 10, "reference_n": 500, "critical": 0.02, "p_value": 0.001,
                "q_value": 0.01, "floor": 0.1, "verdict": "breach", "maturity": 0.5}  # fmt: skip
    assert {name: psi[name] for name in expected} == expected
    assert set(psi) == set(expected) | {"measurement_id", "run_id", "computed_at"}


def test_the_same_knowledge_adds_nothing_and_other_knowledge_does(held: Held):
    assert held.store.record(held.run(5), [held.figure("auc", 0.7)]) == 1
    assert held.store.record(held.run(5), [held.figure("auc", 0.6), held.figure("ece", 0.1)]) == 1
    assert held.store.record(held.run(6), [held.figure("auc", 0.8)]) == 1
    assert held.store.record(held.run(5, by=KnownBy.OBSERVED), [held.figure("auc", 0.9)]) == 1
    assert [m["value"] for m in held.listed(metric="auc")] == [0.8]
    assert [m["value"] for m in held.listed(metric="auc", history=True)] == [0.8, 0.7]
    assert [m["value"] for m in held.listed(metric="auc", at=datetime(2026, 11, 5, 12, tzinfo=UTC))] == [0.7]
    assert held.listed(metric="auc", at=datetime(2026, 11, 4, tzinfo=UTC)) == []
    assert [m["value"] for m in held.listed(metric="auc", known_by=KnownBy.OBSERVED)] == [0.9]


def test_listings_are_filtered_ordered_and_bounded(held: Held):
    slices = [held.figure("psi", 0.1, field="amount", slice=s) for s in ("", "desk=rates")]
    held.store.record(held.run(5), [*slices, held.figure("auc", 0.7, verdict=Verdict.OK)])
    held.store.record(held.run(5, NEXT), [held.figure("auc", 0.6, verdict=Verdict.BREACH)])
    assert [(m["window_first"].day, m["metric"], m["slice"]) for m in held.listed()] == [
        (3, "auc", ""), (2, "auc", ""), (2, "psi", ""), (2, "psi", "desk=rates"),
    ]  # fmt: skip
    assert [m["value"] for m in held.listed(verdict="breach")] == [0.6]
    assert len(held.listed(slice="", field="amount")) == 1
    assert len(held.listed(first=date(2026, 11, 3))) == len(held.listed(last=date(2026, 11, 2), metric="auc")) == 1
    assert len(held.listed(limit=2)) == 2
    assert held.listed(role="challenger") == held.listed(window_kind="week") == []
    for limit in (0, 10_001):
        with pytest.raises(InvalidQuery):
            held.listed(limit=limit)


def test_the_last_run_of_a_window_is_the_one_that_knew_most_and_did_not_fail(held: Held):
    for run in (
        held.run(5),
        held.run(7),
        held.run(8, error="the ledger's database does not answer"),
        held.run(6, NEXT),
    ):
        held.store.record(run, [])
    last = held.store.measured(held.deployment, KnownBy.RECORDED, datetime(2026, 11, 30, tzinfo=UTC))
    assert {key: run.known_at.day for key, run in last.items()} == {
        (WindowKind.DAY, date(2026, 11, 2)): 7,
        (WindowKind.DAY, date(2026, 11, 3)): 6,
    }
    early = held.store.measured(held.deployment, KnownBy.RECORDED, datetime(2026, 11, 5, tzinfo=UTC))
    assert [run.known_at.day for run in early.values()] == [5]
    assert held.store.measured(held.deployment, KnownBy.OBSERVED, datetime(2026, 11, 30, tzinfo=UTC)) == {}


def test_every_version_that_played_a_part_is_named(held: Held):
    assert list(held.store.versions(held.deployment)) == [("fails", "1"), ("fails", "2")]
