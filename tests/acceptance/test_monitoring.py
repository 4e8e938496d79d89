"""Steps of monitoring.feature, through the Python door on a ledger of the scenario's own."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

import trueup
from monitored import deployed, outcomes_of, rows_of
from trueup.domain.monitoring import Breach, Monitoring, ReferenceRows

scenarios("monitoring.feature")

DECLARED = Monitoring(
    reference=ReferenceRows(rows=500), metrics=("psi", "auc", "maturity"), breaches={"auc": Breach(below=0.6)}
)


class Desk:
    """What the scenario's people hold on to."""

    def __init__(self, up: trueup.Trueup) -> None:
        self.up = up
        self.trades: dict[int, dict[str, Any]] = {}

    def morning(self, day: int, n: int, *, shift: float = 0.0, wild: bool = False) -> None:
        rows = rows_of(np.random.default_rng(day), n, f"2026-11-{day:02d}", shift=shift)
        if wild:
            rows["amount"][0] = 1e12
        self.trades[day] = rows
        self.up.score("fails", rows, dataset=f"morning of {day}")

    def outcomes(self, day: int, arrive: int, part: slice, *, by_chance: bool = False) -> None:
        rows = self.trades[day]
        score = 1 / (1 + np.exp(-np.asarray(rows["amount"])))
        drawn = np.random.default_rng(3).random(len(score))
        failed = drawn < (0.5 if by_chance else score)
        self.up.outcomes(
            "fails", outcomes_of(rows, failed, f"2026-11-{arrive:02d}T09:00:00Z")[part], source="custodian"
        )

    def figure(self, day: int, metric: str, field: str = "", *, at: int = 30) -> dict[str, Any]:
        found = self.up.measurements(
            deployment="fails", metric=metric, field=field, known_by="observed", first=date(2026, 11, day),
            last=date(2026, 11, day), at=datetime(2026, 11, at, tzinfo=UTC),
        )  # fmt: skip
        assert len(found) == 1
        return found[0]


@given("a desk whose first 500 trades are what its model is compared with", target_fixture="desk")
def _desk(up: trueup.Trueup) -> Desk:
    deployed(up, DECLARED)
    return Desk(up)


@given(
    parsers.re(r"the morning of (?P<day>\d) November brings (?P<n>\d+) ordinary trades(?P<wild>, one of them wild)?")
)
@when(parsers.re(r"the morning of (?P<day>\d) November brings (?P<n>\d+) ordinary trades(?P<wild>, one of them wild)?"))
def _ordinary(desk: Desk, day: str, n: str, wild: str | None) -> None:
    desk.morning(int(day), int(n), wild=bool(wild))


@when(
    parsers.parse(
        "the morning of {day:d} November brings {n:d} trades whose amounts are larger by one standard deviation, "
        "one of them wild"
    )
)
def _larger(desk: Desk, day: int, n: int) -> None:
    desk.morning(day, n, shift=1.0, wild=True)


@when(parsers.parse("the outcomes of a third of the trades of {day:d} November arrive on {arrive:d} November"))
def _some(desk: Desk, day: int, arrive: int) -> None:
    desk.outcomes(day, arrive, slice(0, len(desk.trades[day]["trade"]) // 3))


@when(parsers.parse("the other outcomes of {day:d} November arrive on {arrive:d} November"))
def _others(desk: Desk, day: int, arrive: int) -> None:
    desk.outcomes(day, arrive, slice(len(desk.trades[day]["trade"]) // 3, None))


@when(parsers.parse("on {arrive:d} November the outcomes of {day:d} November turn out as chance would have them"))
def _chance(desk: Desk, day: int, arrive: int) -> None:
    desk.outcomes(day, arrive, slice(None), by_chance=True)


@when(parsers.parse("the desk measures on {day:d} November"))
def _measures(desk: Desk, day: int) -> None:
    done = desk.up.monitor("fails", at=datetime(2026, 11, day, tzinfo=UTC), known_by="observed")
    assert done.failed == []


@then(parsers.parse("nothing has drifted on {day:d} November"))
def _nothing(desk: Desk, day: int) -> None:
    fields = [f.name for f in desk.up.contract("fails").features]
    assert {desk.figure(day, "psi", field)["verdict"] for field in (*fields, "score")} == {"ok"}


@then(parsers.parse('"{field}" has drifted on {day:d} November'))
def _drifted(desk: Desk, field: str, day: int) -> None:
    assert desk.figure(day, "psi", field)["verdict"] in ("drift", "breach")


@then(parsers.parse('"{field}" has not drifted on {day:d} November'))
def _not_drifted(desk: Desk, field: str, day: int) -> None:
    assert desk.figure(day, "psi", field)["verdict"] == "ok"


@then(parsers.parse("the AUC of {day:d} November is provisional"))
def _provisional(desk: Desk, day: int) -> None:
    assert desk.figure(day, "auc")["verdict"] == "provisional"


@then(parsers.parse("as known on {at:d} November the AUC of {day:d} November is provisional"))
def _was_provisional(desk: Desk, day: int, at: int) -> None:
    assert desk.figure(day, "auc", at=at)["verdict"] == "provisional"


@then(parsers.parse("the AUC of {day:d} November rests on {n:d} outcomes"))
def _rests(desk: Desk, day: int, n: int) -> None:
    found = desk.figure(day, "auc")
    assert (found["n"], found["maturity"], found["verdict"]) == (n, 1.0, "ok")


@then(parsers.parse("the AUC of {day:d} November is a breach of the desk's floor of {floor:f}"))
def _breach(desk: Desk, day: int, floor: float) -> None:
    found = desk.figure(day, "auc")
    assert (found["verdict"], found["floor"]) == ("breach", floor)
    assert found["high"] == pytest.approx(0.5, abs=0.1)


@then(parsers.parse("each figure of {day:d} November is there once"))
def _once(desk: Desk, day: int) -> None:
    rows = desk.up.query(
        "SELECT count(*) AS n, count(DISTINCT (metric, field, slice, role)) AS figures FROM measurements"
        " WHERE window_first = %(day)s", day=date(2026, 11, day),
    ).rows()  # fmt: skip
    assert rows[0]["n"] == rows[0]["figures"] > 0
