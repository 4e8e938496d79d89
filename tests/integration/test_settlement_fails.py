"""The use case as a whole: its figures, and its rows scored live."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from starlette.testclient import TestClient

import trueup
from databases import create_database
from trueup.bootstrap import wired
from trueup.doors.api.server import create_app
from trueup.doors.auth import ApiRole, MemoryApiKeys
from trueup.doors.inference.server import Front
from trueup.ledger.embedded import EmbeddedPostgres
from trueup_examples.settlement_fails.features import History
from trueup_examples.settlement_fails.figures import figures
from trueup_examples.settlement_fails.files import list_files, read_file
from trueup_examples.settlement_fails.market import Market, write_files
from trueup_examples.settlement_fails.replay import DEPLOYMENT, Replay
from trueup_examples.settlement_fails.train import Examples, train

TRUTH = """
    SELECT to_char(t.event_day, 'YYYY-MM') AS month, t.event_day, t.prediction_id::text AS id, t.score,
           t.outcome, p.last_value, t.expected_cost
    FROM truth t JOIN settlement_fails_v1 p USING (prediction_id, event_day)
"""


@pytest.fixture(scope="module")
def replayed(
    server: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[trueup.Trueup, Path]]:
    folder = tmp_path_factory.mktemp("fails")
    write_files(Market(securities=600, months=3, seed=9), folder / "files")
    settings = trueup.Settings(data_dir=folder / "data")
    with trueup.Trueup(wired(settings, create_database(server, template))) as up:
        Replay(up, folder / "files", None, lambda *_: None, lambda _: None).run()
        yield up, folder / "files"


class TestFigures:
    """The report's SQL agrees with scikit-learn and with plain sorting."""

    def test_outcomes_that_come_with_the_next_file_are_not_late(self, replayed: tuple[trueup.Trueup, Path]):
        found = figures(replayed[0])
        assert {row["maturity"] >= 0.95 for row in found["half_months"]} == {True, False}
        assert "MaturityLate" not in {alert["alert"] for alert in found["alerts"]}

    def test_each_months_statistics(self, replayed: tuple[trueup.Trueup, Path]):
        up, _ = replayed
        rows = up.query(TRUTH).rows()
        months = figures(up)["months"]
        assert [m["month"] for m in months] == sorted({r["month"] for r in rows})
        for found in months:
            mine = [r for r in rows if r["month"] == found["month"]]
            known = [r for r in mine if r["outcome"] is not None]
            score = np.array([r["score"] for r in known])
            fails = np.array([r["outcome"] > 100_000 for r in known])
            assert (found["rows"], found["with_outcome"]) == (len(mine), len(known))
            assert found["maturity"] == pytest.approx(len(known) / len(mine), abs=1e-12)
            assert found["base_rate"] == pytest.approx(fails.mean(), abs=1e-12)
            assert found["auc"] == pytest.approx(roc_auc_score(fails, score), abs=1e-9)
            assert found["average_precision"] == pytest.approx(average_precision_score(fails, score), abs=1e-9)
            assert found["brier"] == pytest.approx(brier_score_loss(fails, score), abs=1e-9)
            for name, ranking in (("cost", "expected_cost"), ("probability", "score"), ("balance", "last_value")):
                top = top_of_each_day(known, ranking)
                caught = [r["outcome"] for r in top if r["outcome"] > 100_000]
                assert found[f"caught_by_{name}"] == pytest.approx(sum(caught), rel=1e-9)
                assert found[f"precision_by_{name}"] == pytest.approx(len(caught) / len(top), abs=1e-9)

    def test_the_whole(self, replayed: tuple[trueup.Trueup, Path]):
        up, _ = replayed
        rows = up.query(TRUTH).rows()
        known = [r for r in rows if r["outcome"] is not None]
        fails = [r["outcome"] > 100_000 for r in known]
        overall = figures(up)["overall"]
        assert overall["rows_booked"] == len(rows)
        assert overall["outcomes_joined"] == len(known)
        assert overall["auc"] == pytest.approx(roc_auc_score(fails, [r["score"] for r in known]), abs=1e-9)

    def test_calibration_bins_hold_everything_known(self, replayed: tuple[trueup.Trueup, Path]):
        up, _ = replayed
        found = figures(up)
        assert sum(b["rows"] for b in found["calibration"]) == found["overall"]["outcomes_joined"]
        assert all((b["bin"] - 1) / 10 <= b["predicted"] <= b["bin"] / 10 for b in found["calibration"])


def test_a_row_scored_live_equals_the_row_of_the_back_test(replayed: tuple[trueup.Trueup, Path]):
    up, files = replayed
    history = History()
    for published, path in list_files(files):
        history.add(read_file(published, path))
    place = len(history.days) - 1
    members = history.universe(place)
    keys = MemoryApiKeys()
    http = TestClient(Front(create_app(up.services, keys), up.services, keys, lambda: False))
    headers = {"Authorization": f"Bearer {keys.create('live', ApiRole.SCORER, by='test')[1]}"}
    for member in members[:: max(1, len(members) // 8)].tolist():
        alone = history.features(place, np.array([member]))
        instance = {name: plain(values[0]) for name, values in alone.items()}
        sent = http.post(
            f"/v1/deployments/{DEPLOYMENT}/score",
            json={"instance": instance, "key": f"live-{member}", "reasons": True},
            headers=headers,
        )
        assert sent.status_code == 200, sent.text
        live = up.prediction(sent.json()["prediction_id"])
        where = {"day": history.days[place].item(), "key": live["business_key"]}
        (row,) = up.query(
            "SELECT prediction_id FROM predictions WHERE event_day = %(day)s AND business_key = %(key)s"
            " AND channel = 'batch' AND role = 'champion'",
            **where,
        )
        back_test = up.prediction(row["prediction_id"])
        for name in ("fields", "score", "expected_cost", "decision", "status", "content_digest", "model_version"):
            assert live[name] == back_test[name]


def test_a_half_made_mlflow_store_is_made_anew(tmp_path: Path):
    store = tmp_path / "mlflow"
    store.mkdir()
    with closing(sqlite3.connect(store / "mlflow.db")) as half:
        half.execute("CREATE TABLE experiments (cut_off INTEGER)")
        half.execute("CREATE TABLE alembic_version (version_num TEXT)")
        half.commit()
    rng = np.random.default_rng(2)
    examples = Examples()
    examples.matrices.append(rng.normal(size=(200, 46)).astype(np.float32))
    examples.labels.append(rng.random(200) > 0.5)
    train(examples, store)
    with closing(sqlite3.connect(store / "mlflow.db")) as whole:
        assert whole.execute("SELECT count(*) FROM runs").fetchone() == (1,)


def top_of_each_day(rows: list[dict[str, Any]], ranking: str, size: int = 200) -> list[dict[str, Any]]:
    days: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        days.setdefault(row["event_day"], []).append(row)
    return [r for day in days.values() for r in sorted(day, key=lambda r: (-r[ranking], r["id"]))[:size]]


def plain(value: Any) -> Any:
    """A cell as JSON has it."""
    if isinstance(value, np.datetime64):
        return str(value.astype("datetime64[D]"))
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and np.isnan(value) else value
