"""Steps of truth.feature, through the Python door on a ledger of the scenario's own."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from pytest_bdd import given, parsers, scenarios, then, when

import trueup
from trueup.scoring.deciding import in_slice

scenarios("truth.feature")

CONTRACT = """
name: settlement
version: 1
event_time: trade_date
fields:
  trade: {type: string, role: key}
  trade_date: {type: date, role: context}
  amount: {type: float64, minimum: 0, unit: EUR}
output: {kind: probability}
labels:
  - {name: failed, type: bool, horizon: {business_days: 1, calendar: target}, never_after: 10}
  - {name: days_late, type: int64, horizon: {days: 30}, positive: {at_least: 2}}
  - {name: penalty, type: float64, horizon: when published, positive: {above: 0}}
decision: {threshold: 0.5, at_or_above: chase, below: watch}
"""
MODEL = "python:small_models:share_of_a_million"
SLICE = trueup.Untreated(0.5, "autumn")
WORDS = {"failed": True, "settled": False}


class Desk:
    """What the scenario's people hold on to."""

    def __init__(self, up: trueup.Trueup) -> None:
        self.up = up
        self.up.deploy("settlement", contract=CONTRACT, model=MODEL, version="1")

    def score(self, numbers: range, dataset: str) -> trueup.Scores:
        rows = [{"trade": f"T{i}", "trade_date": "2026-11-02", "amount": 1000.0 * i} for i in numbers]
        return self.up.score("settlement", rows, dataset=dataset)

    def say(self, number: int, **what: Any) -> None:
        self.up.outcomes("settlement", [{"trade": f"T{number}", "event_day": "2026-11-02", **what}], source="CSD")

    def truth(self, number: int, columns: str, day: int | None = None) -> tuple[Any, ...]:
        """Of the primary label; as the sources had said it at the end of the day."""
        source = "truth" if day is None else "truth_as_known(%(at)s, 'observed')"
        at = datetime(2026, 11, day or 1, 23, 59, tzinfo=UTC)
        rows = self.up.query(f"SELECT {columns} FROM {source} WHERE business_key = %(key)s", key=f"T{number}", at=at)
        (row,) = rows.rows()
        return tuple(row.values())


@given("a desk whose contract asks whether a trade failed, how many days late it was and what it cost",
       target_fixture="desk")  # fmt: skip
def _desk(up: trueup.Trueup) -> Desk:
    return Desk(up)


@given("the morning's 4 trades are scored")
def _scored(desk: Desk) -> None:
    desk.score(range(1, 5), "morning")


@given("half of the trades are left alone at random")
def _sliced(desk: Desk) -> None:
    desk.up.deploy("settlement", contract=CONTRACT, model=MODEL, version="1", serving=trueup.Serving(untreated=SLICE))


@when(parsers.parse("the CSD says on the {day:d}th that trade {number:d} {what}"))
def _says(desk: Desk, day: int, number: int, what: str) -> None:
    desk.say(number, failed=WORDS[what], observed_at=f"2026-11-0{day}T12:00:00Z")


@when(parsers.parse("the correction of the {day:d}th arrives, that trade {number:d} {what}"))
@when(parsers.parse("then the message of the {day:d}th, that trade {number:d} {what}"))
def _arrives(desk: Desk, day: int, number: int, what: str) -> None:
    _says(desk, day, number, what)


@when(parsers.parse("the CSD takes back on the {day:d}th what it said of trade {number:d}"))
def _takes_back(desk: Desk, day: int, number: int) -> None:
    desk.say(number, label="failed", state="retracted", observed_at=f"2026-11-0{day}T12:00:00Z")


@when(parsers.parse("trade {number:d} is cancelled on the {day:d}th"))
def _cancelled(desk: Desk, number: int, day: int) -> None:
    desk.say(number, state="censored", observed_at=f"2026-11-0{day}T12:00:00Z")


@when(parsers.parse("the penalty of trade {number:d} is {amount:f}"))
def _penalty(desk: Desk, number: int, amount: float) -> None:
    desk.say(number, penalty=amount)


@when(parsers.parse("ann borrows the securities for trade {number:d} because {why}"))
def _borrows(desk: Desk, number: int, why: str) -> None:
    done = trueup.Action("1", "borrowed", "ann", f"T{number}", date(2026, 11, 2), reason=why)
    assert desk.up.act("settlement", [done], by="workflow").added == 1
    assert desk.up.act("settlement", [done], by="workflow").repeated == 1


@when(parsers.parse("{count:d} more trades are scored"))
def _more(desk: Desk, count: int) -> None:
    desk.score(range(100, 100 + count), "noon")


@then(parsers.parse("on the {day:d}rd the desk was waiting for trade {number:d}"))
def _was_waiting(desk: Desk, day: int, number: int) -> None:
    assert desk.truth(number, "outcome_state, has_outcome", day) == ("awaited", False)


@then(parsers.parse("on the {day:d}th the desk knew that trade {number:d} {what}"))
@then(parsers.parse("on the {day:d}th, by the sources, trade {number:d} had {what}"))
def _was_known(desk: Desk, day: int, number: int, what: str) -> None:
    assert desk.truth(number, "outcome_state, is_positive", day) == ("known", WORDS[what])


@then(parsers.parse("trade {number:d} settled"))
def _settled(desk: Desk, number: int) -> None:
    assert desk.truth(number, "outcome_state, is_positive") == ("known", False)


@then(parsers.parse("nobody knows what happened to trade {number:d}"))
def _not_known(desk: Desk, number: int) -> None:
    assert desk.truth(number, "outcome_state, outcome, has_outcome") == ("retracted", None, False)


@then(parsers.parse("trade {number:d} is counted as censored"))
def _censored(desk: Desk, number: int) -> None:
    assert desk.truth(number, "outcome_state, is_positive") == ("censored", None)


@then(parsers.parse("the maturity of the day is {known:d} of {due:d}"))
def _maturity(desk: Desk, known: int, due: int) -> None:
    (row,) = desk.up.query("SELECT due_with_outcome, due, maturity, never FROM maturity").rows()
    assert (row["due_with_outcome"], row["due"]) == (known, due)
    assert row["maturity"] == (known / due if due else None)


@then(parsers.parse("on the {day:d}th the maturity of the day was {known:d} of {due:d}"))
def _maturity_then(desk: Desk, day: int, known: int, due: int) -> None:
    at = datetime(2026, 11, day, 23, 59, tzinfo=UTC)
    sql = "SELECT due_with_outcome, due FROM maturity_as_known(%(at)s, 'observed')"
    assert desk.up.query(sql, at=at).rows() == [{"due_with_outcome": known, "due": due}]


@then("today trades 2, 3 and 4 are counted as never known")
def _never(desk: Desk) -> None:
    assert [desk.truth(number, "outcome_state") for number in (2, 3, 4)] == [("never",)] * 3


@then(parsers.parse("the truth of trade {number:d} is failed, with a penalty of {amount:f} and unknown days late"))
def _several(desk: Desk, number: int, amount: float) -> None:
    sql = "SELECT label, outcome, is_positive FROM truth_by_label WHERE business_key = %(key)s ORDER BY label"
    found = {row["label"]: (row["outcome"], row["is_positive"]) for row in desk.up.query(sql, key=f"T{number}")}
    assert found == {"failed": (1.0, True), "penalty": (amount, True), "days_late": (None, None)}


@then("performance counts trade 1 as treated and trade 2 as left alone")
def _apart(desk: Desk) -> None:
    sql = "SELECT business_key FROM performance_as_known(%(at)s, 'recorded', %(items)s) WHERE is_primary ORDER BY 1"

    def items(which: str) -> list[str]:
        return [row["business_key"] for row in desk.up.query(sql, at=datetime.now(UTC), items=which)]

    assert (items("treated"), items("left_alone"), items("untreated")) == (["T1"], ["T2"], [])
    assert items("all") == ["T1", "T2"]
    assert desk.up.query("SELECT treated FROM maturity").rows() == [{"treated": 1}]


@then("the ledger says what ann did to trade 1, when and why")
def _did(desk: Desk) -> None:
    (row,) = desk.up.query("SELECT * FROM actions").rows()
    assert (row["action"], row["actor"], row["recorded_by"]) == ("borrowed", "ann", "workflow")
    assert row["reason"] == "it is first on her list"
    assert row["acted_at"] <= datetime.now(UTC)


@then(parsers.parse('about half of them are decided "{decision}", the same ones when they are scored again under '
                    "another name"))  # fmt: skip
def _drawn(desk: Desk, decision: str) -> None:
    first, again = (desk.score(range(100, 300), name).decision.tolist() for name in ("noon", "evening"))
    assert first == again
    assert 60 <= first.count(decision) <= 140  # more than five standard deviations


@then("anyone who knows the salt finds the same ones")
def _found_again(desk: Desk) -> None:
    sql = "SELECT business_key, is_untreated FROM truth WHERE business_key LIKE 'T___' ORDER BY prediction_id"
    rows = desk.up.query(sql).rows()
    assert [row["is_untreated"] for row in rows] == in_slice(SLICE, [row["business_key"] for row in rows]).tolist()
    (recorded,) = desk.up.query("SELECT serving FROM deployment_history ORDER BY revision DESC LIMIT 1").rows()
    assert recorded["serving"]["untreated"] == {"share": 0.5, "salt": "autumn"}
