"""Windows are measured as other libraries measure the same rows, again when something new is known, and never twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

import trueup
from monitored import DECLARED, deployed, outcomes_of, rows_of
from trueup.domain.batch import Role
from trueup.domain.deployment import Serving
from trueup.domain.monitoring import Breach, KnownBy, Monitoring, ReferenceRows, Window, WindowKind
from trueup.errors import InvalidInput, LedgerUnavailable, NotFound
from trueup.monitoring.distances import psi
from trueup.monitoring.jobs import monitor_jobs

PLAIN = replace(DECLARED, segments=())
FEW = ("psi", "ks", "auc", "brier", "log_loss", "average_precision", "maturity", "base_rate", "missing_share", "rows")


def booked(up: trueup.Trueup, seed: int, n: int, day: str, **changes: Any) -> dict[str, Any]:
    rows = rows_of(np.random.default_rng(seed), n, day, **changes)
    up.score("fails", rows, dataset=f"{day} {seed}")
    return rows


def happened(up: trueup.Trueup, rows: dict[str, Any], at: str, *, part: slice = slice(None), seed: int = 0) -> Any:
    """Records outcomes that come as often as the score says; returns the score and what came, of all rows."""
    score = 1 / (1 + np.exp(-np.asarray(rows["amount"])))
    came = np.random.default_rng(seed).random(len(score)) < score
    up.outcomes("fails", outcomes_of(rows, came, at)[part], source="custodian")
    return score, came


def observed(up: trueup.Trueup, day: int, **more: Any) -> Any:
    return up.monitor("fails", at=datetime(2026, 11, day, tzinfo=UTC), known_by="observed", **more)


def figures(up: trueup.Trueup, *, history: bool = False, **where: Any) -> dict[Any, dict[str, Any]]:
    wanted = {"slice": "", "role": "champion", "limit": 10_000, **where}
    found = up.measurements(deployment="fails", known_by=KnownBy.OBSERVED, history=history, **wanted)
    return {
        (m["window_first"].day, m["metric"], m["field"], *([m["known_at"].day] if history else [])): m for m in found
    }


def test_figures_are_those_of_other_libraries_on_the_same_rows(up: trueup.Trueup):
    deployed(up, PLAIN)
    booked(up, 1, 600, "2026-11-02")
    rows = booked(up, 2, 700, "2026-11-03", shift=0.4)
    score, came = happened(up, rows, "2026-11-04T09:00:00Z")
    observed(up, 9)
    found = figures(up, first=date(2026, 11, 3))

    def value(metric: str, field: str = "") -> float:
        return float(found[3, metric, field]["value"])

    assert value("auc") == pytest.approx(roc_auc_score(came, score), abs=1e-9)
    assert value("average_precision") == pytest.approx(average_precision_score(came, score), abs=1e-9)
    assert value("brier") == pytest.approx(brier_score_loss(came, score), abs=1e-9)
    assert value("log_loss") == pytest.approx(log_loss(came, score), abs=1e-9)
    assert value("base_rate") == pytest.approx(came.mean(), abs=1e-12)
    assert value("maturity") == 1.0
    body = up.query("SELECT body, counts FROM profiles WHERE field = 'amount' AND slice = ''").rows()[0]
    edges, groups = np.array(body["body"]["edges"]), np.array(body["body"]["groups"])

    def grouped(values: Any) -> Any:
        place = 1 + np.searchsorted(edges, values, "right")
        return np.bincount(groups, np.bincount(place, minlength=len(groups)))

    frozen = np.array(up.query("SELECT counts FROM profiles WHERE field = 'amount' AND slice = ''").rows()[0]["counts"])
    assert frozen.sum() == 500
    expected = psi(np.bincount(groups, frozen), grouped(rows["amount"]))
    assert value("psi", "amount") == pytest.approx(expected, abs=1e-12)
    assert found[3, "psi", "amount"]["verdict"] in ("drift", "breach")
    missing = np.mean([v is None or v != v for v in rows["history"]])
    assert value("missing_share", "history") == pytest.approx(missing)
    assert value("rows") == 700


def test_late_outcomes_make_a_window_provisional_then_measured_again_and_the_old_figure_stays(up: trueup.Trueup):
    deployed(up, replace(PLAIN, metrics=("auc", "maturity", "base_rate")))
    rows = booked(up, 1, 600, "2026-11-02")
    _, came = happened(up, rows, "2026-11-03T09:00:00Z", part=slice(0, 200))
    observed(up, 5)
    early = figures(up)
    assert early[2, "maturity", ""]["value"] == pytest.approx(200 / 600)
    assert early[2, "base_rate", ""]["value"] == pytest.approx(came[:200].mean())
    assert early[2, "base_rate", ""]["verdict"] == "provisional"
    low, high = came[:200].sum() / 600, (came[:200].sum() + 400) / 600
    assert (early[2, "base_rate", ""]["low"], early[2, "base_rate", ""]["high"]) == (low, high)
    assert early[2, "estimated_auc", ""]["verdict"] == "provisional"
    assert observed(up, 6).windows == 0  # nothing new is known
    happened(up, rows, "2026-11-07T09:00:00Z", part=slice(200, None))
    assert observed(up, 7).windows == 0  # recorded, but its source said it later that day
    assert observed(up, 8).windows == 1
    late = figures(up)
    assert late[2, "maturity", ""]["value"] == 1.0
    assert late[2, "base_rate", ""]["value"] == pytest.approx(came.mean())
    assert late[2, "base_rate", ""]["verdict"] is None
    assert late[2, "estimated_base_rate", ""]["verdict"] == "ok"
    then = figures(up, at=datetime(2026, 11, 6, tzinfo=UTC))
    assert then[2, "base_rate", ""]["value"] == early[2, "base_rate", ""]["value"]
    assert {key[3] for key in figures(up, history=True)} == {5, 8}


def test_a_window_is_measured_again_when_predictions_come_or_outcomes_fall_due(up: trueup.Trueup):
    deployed(up, replace(PLAIN, metrics=("rows", "maturity")))
    booked(up, 1, 600, "2026-11-02")
    assert observed(up, 3).windows == 1
    assert figures(up)[2, "maturity", ""]["value"] == 0.0  # due on the third, and nothing is known
    assert observed(up, 4).windows == 0
    booked(up, 2, 50, "2026-11-02")
    done = observed(up, 5)
    assert (done.counted, done.windows) == (50, 1)
    assert figures(up)[2, "rows", ""]["value"] == 650
    booked(up, 3, 10, "2026-11-05")
    assert observed(up, 6).windows == 1
    assert observed(up, 6).windows == 0


def test_the_same_knowledge_is_one_figure_however_many_measure_it(up: trueup.Trueup):
    deployed(up, replace(PLAIN, metrics=FEW))
    happened(up, booked(up, 1, 600, "2026-11-02"), "2026-11-03T09:00:00Z")
    window = [Window(WindowKind.DAY, date(2026, 11, 2), date(2026, 11, 2))]
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: observed(up, 9, windows=window), range(3)))
    rows = up.query("SELECT count(*) AS n, count(DISTINCT (metric, field, slice, role)) AS figures FROM measurements")
    assert rows.rows()[0]["n"] == rows.rows()[0]["figures"] == sum(d.measurements for d in done)
    assert up.query("SELECT count(*) AS n FROM measurement_runs WHERE error IS NULL").rows()[0]["n"] == 3


def test_slices_have_figures_of_their_own_when_they_are_large_enough(up: trueup.Trueup):
    deployed(up, replace(DECLARED, smallest_slice=100, metrics=("psi", "auc", "rows")))
    rows = booked(up, 1, 500, "2026-11-02")
    small = booked(up, 2, 300, "2026-11-03")
    scored = [(r, *happened(up, r, "2026-11-05T09:00:00Z")) for r in (rows, small)]
    observed(up, 9)
    data, score, came = scored[1]
    desk = np.array(data["desk"])
    sizes = {name: int((desk == name).sum()) for name in ("rates", "credit", "equity")}
    assert min(sizes.values()) < 100 <= max(sizes.values())
    for name, n in sizes.items():
        found = figures(up, slice=f"desk={name}", first=date(2026, 11, 3))
        if n < 100:
            assert found == {}
            continue
        mask = desk == name
        assert found[3, "rows", ""]["value"] == n
        assert found[3, "auc", ""]["value"] == pytest.approx(roc_auc_score(came[mask], score[mask]), abs=1e-9)
        assert found[3, "psi", "amount"]["n"] == n


def test_a_challenger_is_compared_on_the_same_rows(up: trueup.Trueup):
    deployed(up, replace(PLAIN, metrics=("auc",)))
    deployed(
        up, replace(PLAIN, metrics=("auc",)), version="2", model="python:monitored:inverse_share", role=Role.CHALLENGER
    )
    score, came = happened(up, booked(up, 1, 600, "2026-11-02"), "2026-11-03T09:00:00Z")
    observed(up, 9)
    found = figures(up, role="challenger")[2, "challenger_auc_difference", ""]
    assert found["value"] == pytest.approx(roc_auc_score(came, 1 - score) - roc_auc_score(came, score), abs=1e-9)
    assert found["high"] < 0
    assert found["p_value"] < 1e-6
    assert found["model_version"] == "2"


def test_a_shift_with_an_outlier_is_drift_and_an_outlier_alone_is_none(up: trueup.Trueup):
    deployed(up, replace(PLAIN, metrics=("psi", "ks", "wasserstein")))
    booked(up, 1, 600, "2026-11-02")
    for day, shift in (("2026-11-03", 0.0), ("2026-11-04", 1.0)):
        rows = rows_of(np.random.default_rng(9), 600, day, shift=shift)
        rows["amount"][0] = 1e12
        up.score("fails", rows, dataset=day)
    observed(up, 9)
    found = figures(up)
    for metric in ("psi", "ks", "wasserstein"):
        assert found[3, metric, "amount"]["verdict"] == "ok", metric
        assert found[4, metric, "amount"]["verdict"] in ("drift", "breach"), metric
        assert found[4, metric, "lots"]["verdict"] == "ok", metric


def test_days_without_drift_raise_no_more_alarms_than_alpha_says(up: trueup.Trueup):
    deployed(up, replace(PLAIN, metrics=("psi", "ks"), alpha=0.05, floors={"psi": 0.0, "ks": 0.0}))
    booked(up, 1, 500, "2026-11-01")
    for day in range(2, 22):
        booked(up, 100 + day, 300, f"2026-11-{day:02d}")
    observed(up, 28)
    false = [key for key, m in figures(up).items() if m["verdict"] in ("drift", "breach") and key[0] > 1]
    alarming = {(day, metric, field == "score") for day, metric, field in false}
    assert len(alarming) <= 12  # of 80 families at 5 %, all beside one reference: 4 expected; 12 has p < 0.001


def test_a_breach_is_a_figure_beyond_its_bound_that_chance_does_not_explain(up: trueup.Trueup):
    bounds = {"auc": Breach(below=0.99), "ece": Breach(above=0.5), "rows": Breach(below=1_000)}
    deployed(up, replace(PLAIN, breaches=bounds, metrics=("auc", "ece", "rows")))
    happened(up, booked(up, 1, 600, "2026-11-02"), "2026-11-03T09:00:00Z")
    observed(up, 9)
    found = figures(up)
    assert (found[2, "auc", ""]["verdict"], found[2, "auc", ""]["floor"]) == ("breach", 0.99)
    assert found[2, "ece", ""]["verdict"] == "ok"
    assert found[2, "rows", ""]["verdict"] == "breach"


def test_longer_windows_hold_their_days_together(up: trueup.Trueup):
    kinds = (WindowKind.WEEK, WindowKind.HALF_MONTH)
    deployed(up, replace(PLAIN, windows=kinds, metrics=("rows",)))
    for day in ("2026-11-02", "2026-11-05", "2026-11-12"):
        booked(up, 1, 300, day)
    observed(up, 20)
    rows = "SELECT window_kind, window_first, value FROM measurements WHERE slice = '' ORDER BY 1, 2"
    assert [(r["window_kind"], r["window_first"].day, r["value"]) for r in up.query(rows)] == [
        ("half-month", 1, 900.0),
        ("week", 2, 600.0),
        ("week", 9, 300.0),
    ]


def test_a_window_that_fails_is_a_run_with_its_error_and_is_measured_next_time(
    up: trueup.Trueup, monkeypatch: pytest.MonkeyPatch
):
    deployed(up, replace(PLAIN, metrics=("rows", "auc")))
    booked(up, 1, 500, "2026-11-02")
    booked(up, 2, 300, "2026-11-03")
    truth = up.services.measuring._truth
    whole = truth.read

    def away(asked: Any) -> Any:
        if asked.window.first.day == 2:
            raise LedgerUnavailable("the ledger's database does not answer")
        return whole(asked)

    monkeypatch.setattr(truth, "read", away)
    done = observed(up, 9)
    assert (done.windows, len(done.failed)) == (2, 2)  # the calibration needs the second's truth, too
    monkeypatch.undo()
    assert observed(up, 9).windows == 2
    errors = up.query("SELECT error, count(*) AS n FROM measurement_runs GROUP BY error ORDER BY 2, 1").rows()
    assert {row["error"]: row["n"] for row in errors} == {None: 2, "the ledger's database does not answer": 2}


def test_training_data_can_be_the_reference(up: trueup.Trueup):
    declared = replace(DECLARED, reference=ReferenceRows(training=True), metrics=("psi",))
    deployed(up, declared)
    booked(up, 3, 400, "2026-11-03")
    assert observed(up, 9).without_reference == ["1"]
    rows = rows_of(np.random.default_rng(1), 2_000)
    training = {name: rows[name] for name in ("amount", "history", "lots", "price", "urgent", "desk", "venue")}
    references = up.reference("fails", training)
    assert references.origin == "2000 rows of training"
    assert "score" not in references.fields
    assert up.reference("fails", {**training, "amount": np.zeros(2_000)}).fields["amount"].deviation > 0.5  # it stays
    observed(up, 9)
    assert figures(up)[3, "psi", "amount"]["verdict"] == "ok"
    assert figures(up)[3, "psi", "amount"]["reference_n"] == 2_000


def test_what_does_not_fit_is_said(up: trueup.Trueup):
    with pytest.raises(NotFound):
        up.monitor("fails")
    with pytest.raises(InvalidInput, match="amount is no field"):
        deployed(up, replace(DECLARED, segments=("amount",)))
    up.deploy(
        "fails", contract=deployed(up).champion.contract, model="python:monitored:share", version="1", serving=Serving()
    )
    with pytest.raises(InvalidInput, match="does not say how it is measured"):
        up.monitor("fails")


def test_the_clock_measures_what_is_declared(up: trueup.Trueup):
    deployed(up, replace(PLAIN, metrics=("rows",)))
    booked(up, 1, 500, "2026-11-02")
    jobs = list(monitor_jobs(up.services.registry, up.services.measuring, up.services.settings.monitoring))
    assert [(job.name, job.subject) for job in jobs] == [("monitor", "fails")]
    due = datetime(2030, 1, 1, tzinfo=UTC)
    assert jobs[0].run(due).startswith("500 rows counted, ")
    assert Monitoring().reference.rows == 10_000


def test_a_declaration_survives_the_registry(up: trueup.Trueup):
    declared = Monitoring(
        reference=ReferenceRows(first=date(2026, 1, 1), last=date(2026, 6, 30)), breaches={"auc": Breach(below=0.8)}
    )
    deployed(up, declared)
    assert up.services.registry.deployment("fails").serving.monitoring == declared


def test_of_too_many_rows_a_part_is_taken_and_nothing_is_said_of_the_top(
    up: trueup.Trueup, monkeypatch: pytest.MonkeyPatch
):
    limits = up.services.settings.monitoring
    monkeypatch.setattr(limits, "exact_rows", 300)
    monkeypatch.setattr(limits, "reference_rows", 200)
    deployed(up, replace(PLAIN, metrics=("auc", "precision_at_k", "maturity")))
    score, came = happened(up, booked(up, 1, 900, "2026-11-02"), "2026-11-03T09:00:00Z")
    observed(up, 9)
    found = figures(up)
    assert 200 <= found[2, "auc", ""]["n"] <= 400  # a third of the rows, by their ids
    assert found[2, "auc", ""]["low"] < roc_auc_score(came, score) < found[2, "auc", ""]["high"]
    assert (2, "precision_at_k", "") not in found
    reference = up.query("SELECT n FROM profiles WHERE field = 'amount' AND slice = ''").rows()[0]["n"]
    assert 100 <= reference <= 200  # a third of the 500 that it is made of


DAYS_LATE = """
name: delays
version: 1
event_time: trade_date
fields:
  trade: {type: string, role: key}
  trade_date: {type: date, role: context}
  amount: float64
  lots: {type: int64, nullable: true}
  desk: {type: category, categories: [rates, credit]}
output: {kind: value}
label: {name: days_late, type: float64, horizon: {days: 1}}
"""


def test_errors_of_numbers_are_estimated_until_they_are_known_and_whether_that_held_is_said(up: trueup.Trueup):
    """Errors grow with the amount, so that a day of large amounts is known to be worse beforehand."""
    declared = Monitoring(reference=ReferenceRows(rows=800), metrics=("mae", "rmse"))
    up.deploy("delays", contract=DAYS_LATE, model="python:monitored:amount", version="1",
              serving=replace(Serving(), monitoring=declared))  # fmt: skip
    random = np.random.default_rng(8)

    def day(text: str, low: float, *, errors: float | None) -> Any:
        amounts = random.uniform(low, 2.0, 800)
        rows = {
            "trade": [f"{text}-{i}" for i in range(800)], "trade_date": [text] * 800, "amount": amounts,
            "lots": [None if i % 9 == 0 else i for i in range(800)], "desk": ["rates", "credit"] * 400,
        }  # fmt: skip
        up.score("delays", rows, dataset=text)
        if errors is not None:
            known(rows, came(amounts, errors))
        return rows

    def came(amounts: Any, errors: float) -> Any:
        return amounts * (1 + errors * random.normal(size=800))

    def known(rows: Any, values: Any) -> None:
        data = {"trade": rows["trade"], "event_day": rows["trade_date"], "value": values,
                "observed_at": ["2026-11-06T09:00:00Z"] * 800}  # fmt: skip
        up.outcomes("delays", data, source="custodian")

    def found(at: int) -> dict[Any, Any]:
        up.monitor("delays", at=datetime(2026, 11, at, tzinfo=UTC), known_by="observed")
        told = up.measurements(deployment="delays", known_by=KnownBy.OBSERVED, limit=1_000)
        return {(m["window_first"].day, m["metric"]): m for m in told}

    day("2026-11-02", 0.0, errors=0.5)
    rows = day("2026-11-03", 1.0, errors=None)
    day("2026-11-04", 1.0, errors=2.0)  # what an error depends on is another now
    early = found(9)
    expected = early[3, "estimated_mae"]
    assert (expected["verdict"], expected["reference_n"]) == ("provisional", 800)
    assert (3, "mae") not in early or early[3, "mae"]["value"] is None
    assert expected["value"] > 1.3 * early[2, "mae"]["value"]
    known(rows, came(rows["amount"], 0.5))
    late = found(10)
    assert late[3, "estimated_mae"]["verdict"] == "ok"
    assert late[3, "estimated_mae"]["low"] <= late[3, "mae"]["value"] <= late[3, "estimated_mae"]["high"]
    assert late[4, "estimated_mae"]["verdict"] == "drift"
    assert late[4, "estimated_rmse"]["verdict"] == "drift"
