"""Steps of spine.feature, through the Python door on a ledger of the scenario's own."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

import trueup
from trueup.domain.batch import Status

scenarios("spine.feature")

CONTRACT = """
name: settlement
version: 1
event_time: trade_date
fields:
  trade: {type: string, role: key}
  trade_date: {type: date, role: context}
  amount: {type: float64, minimum: 0, unit: EUR}
  fails_before: {type: float64, nullable: true}
output: {kind: probability}
label: {name: failed, type: bool, horizon: {business_days: 1, calendar: target}}
decision: {threshold: 0.5, at_or_above: chase, below: watch}
expected_cost: probability x amount
"""
SERVING = trueup.Serving(required=("fails_before",), fallback=trueup.Fallback("amount", 500_000.0, low=0.1, high=0.9))


class Desk:
    """What the scenario's people hold on to."""

    def __init__(self, up: trueup.Trueup) -> None:
        self.up = up
        self.answers: list[trueup.Scores] = []
        self.known: Any = None

    def score(self, **changes: Any) -> None:
        rows = [
            {"trade": f"T{i}", "trade_date": "2026-11-20", "amount": 250_000.0 * i, "fails_before": float(i)}
            for i in (1, 2, 3)
        ]
        rows[1].update(changes)
        self.answers.append(self.up.score("settlement", rows, dataset="morning file", reasons=True))

    def rows(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        return self.up.query(sql, **parameters).rows()


@pytest.fixture
def booster() -> Any:
    import numpy as np
    import xgboost

    rng = np.random.default_rng(3)
    features = np.column_stack([rng.uniform(0, 1e6, 4000), rng.integers(0, 5, 4000)])
    label = features[:, 0] / 1e6 + features[:, 1] / 5 + rng.normal(0, 0.1, 4000) > 0.95
    return xgboost.train({"objective": "binary:logistic", "max_depth": 3}, xgboost.DMatrix(features, label), 30)


@given("a desk with its own empty ledger", target_fixture="desk")
def _desk(up: trueup.Trueup) -> Desk:
    return Desk(up)


@given(parsers.parse("the settlement-fails model version {version} is deployed"))
@when(parsers.parse("the settlement-fails model version {version} is deployed"))
def _deployed(desk: Desk, version: str, booster: Any) -> None:
    model = booster if version == "1" else "python:small_models:always_half"
    desk.up.deploy("settlement", contract=CONTRACT, model=model, version=version, serving=SERVING, by="validator")
    desk.up.services.scoring.resolve("settlement", fresh=True)


@when("the analyst scores the morning file with 3 trades")
def _scores(desk: Desk) -> None:
    desk.score()


@when("the analyst scores the morning file with trade 2 at another amount")
def _scores_other(desk: Desk) -> None:
    desk.score(amount=1.0)


@when("the analyst scores a file in which trade 2 has no amount")
def _scores_bad(desk: Desk) -> None:
    desk.score(amount=None)


@when("the analyst scores a file in which trade 2 has no history")
def _scores_without(desk: Desk) -> None:
    desk.score(fails_before=None)


@when(parsers.parse("trade {number} is reported failed"))
def _failed(desk: Desk, number: str) -> None:
    desk.up.outcomes("settlement", [{"trade": f"T{number}", "event_day": "2026-11-20", "value": True}], source="CSD")


@when(parsers.parse("trade {number} is corrected to settled"))
def _settled(desk: Desk, number: str) -> None:
    desk.known = desk.rows("SELECT clock_timestamp() AS at")[0]["at"]
    desk.up.outcomes("settlement", [{"trade": f"T{number}", "event_day": "2026-11-20", "value": False}], source="CSD")


@then(parsers.parse("{number:d} predictions are booked"))
def _booked(desk: Desk, number: int) -> None:
    assert desk.rows("SELECT count(*) AS n FROM predictions")[0]["n"] == number


@then(parsers.parse('the riskiest trade is decided "{decision}"'))
def _decided(desk: Desk, decision: str) -> None:
    riskiest = desk.rows("SELECT decision FROM predictions ORDER BY score DESC LIMIT 1")
    assert riskiest == [{"decision": decision}]


@then("the ledger names the reasons for the riskiest trade")
def _reasons(desk: Desk) -> None:
    prediction = desk.up.prediction(desk.answers[0].ids[2])  # type: ignore[arg-type]
    assert {r["field"] for r in prediction["reasons"]} == {"amount", "fails_before"}
    assert abs(prediction["reasons"][0]["contribution"]) >= abs(prediction["reasons"][1]["contribution"])
    assert [r["field"] for r in desk.rows("SELECT field FROM reasons WHERE rank = 1")]


@then("the second answers equal the first")
def _equal(desk: Desk) -> None:
    first, second = desk.answers
    assert first.ids == second.ids
    assert first.score.tolist() == second.score.tolist()
    assert first.decision.tolist() == second.decision.tolist()


@then(parsers.parse("every prediction was made by version {version}"))
def _by_version(desk: Desk, version: str) -> None:
    assert desk.rows("SELECT DISTINCT model_version FROM predictions") == [{"model_version": version}]
    assert desk.answers[0].score.tolist() == desk.answers[1].score.tolist()


@then(parsers.parse('1 refusal is booked for field "{field}" with code "{code}"'))
def _refused(desk: Desk, field: str, code: str) -> None:
    assert desk.rows("SELECT reason, detail FROM refusals") == [{"reason": "contract", "detail": f"{field}: {code}"}]


@then(parsers.parse('1 refusal is booked with reason "{reason}"'))
def _refused_for(desk: Desk, reason: str) -> None:
    assert [r["reason"] for r in desk.rows("SELECT reason FROM refusals")] == [reason]


@then(parsers.parse("the truth today says trade {number} settled"))
def _truth(desk: Desk, number: str) -> None:
    assert desk.rows("SELECT outcome FROM truth WHERE business_key = %(k)s", k=f"T{number}") == [{"outcome": 0.0}]


@then(parsers.parse("the truth as known before the correction says trade {number} failed"))
def _truth_before(desk: Desk, number: str) -> None:
    sql = "SELECT outcome FROM truth_as_known(%(at)s) WHERE business_key = %(k)s"
    assert desk.rows(sql, at=desk.known, k=f"T{number}") == [{"outcome": 1.0}]


@then(parsers.parse("the ledger holds 2 revisions of the outcome of trade {number}"))
def _revisions(desk: Desk, number: str) -> None:
    rows = desk.rows("SELECT revision FROM outcome_history WHERE business_key = %(k)s ORDER BY 1", k=f"T{number}")
    assert [r["revision"] for r in rows] == [1, 2]


@then("the writer may neither change nor delete a prediction")
def _append_only(desk: Desk) -> None:
    for statement in ("UPDATE ledger.predictions SET score = 0", "DELETE FROM ledger.predictions"):
        denied = pytest.raises(psycopg.errors.InsufficientPrivilege)
        with psycopg.connect(desk.up.services.urls.writer) as connection, denied:
            connection.execute(statement)


@then("the reader may read every view and no table")
def _reader(desk: Desk) -> None:
    with psycopg.connect(desk.up.services.urls.reader) as connection:
        assert connection.execute("SELECT count(*) FROM trueup.predictions").fetchone() == (3,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT count(*) FROM ledger.predictions")


@then(parsers.parse("trade {number:d} was answered by the fallback"))
def _fallback(desk: Desk, number: int) -> None:
    assert desk.answers[0].status[number - 1] == Status.FALLBACK
    rows = desk.rows("SELECT business_key FROM predictions WHERE status = 'fallback'")
    assert [r["business_key"] for r in rows] == [f"T{number}"]
