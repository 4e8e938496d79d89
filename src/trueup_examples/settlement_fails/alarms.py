"""Which alerts the replayed history would have raised: rules of trueup and of this example, day by day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib.resources import as_file, files
from typing import Any

import trueup
from trueup.bootstrap import open_alerts
from trueup_examples.settlement_fails.replay import DEPLOYMENT

RULES: dict[str, dict[str, object]] = {
    "squeeze": {},
    "feature_drift": {},
    "score_drift": {},
    "performance_below_floor": {},
    "calibration_off": {},
    "maturity_late": {"grace_days": 31},  # a half-month's last outcome stands in the next file, published as much later
}
_AFTER = timedelta(days=30)  # the last files are published so much later


def alarms(up: trueup.Trueup) -> list[dict[str, Any]]:
    """One row an alert, oldest first; ``ended`` null: it lasts at the end."""
    found = up.query(
        "SELECT min(event_day) AS first, max(event_day) AS last FROM predictions WHERE deployment = %(name)s",
        name=DEPLOYMENT,
    ).rows()[0]
    if found["first"] is None:
        return []
    first, last = (datetime.combine(found[day], datetime.min.time(), UTC) for day in ("first", "last"))
    with as_file(files("trueup_examples.settlement_fails").joinpath("sql", "alerts")) as folder:
        engine = open_alerts(up.services, [folder])
        lives = [
            {
                "alert": one.labels["alertname"],
                "of": one.labels.get("symbol") or one.labels.get("model_version", ""),
                "fired": one.fired_at,
                "ended": one.ended_at,
                "value": one.value,
            }
            for rule, given in RULES.items()
            for one in engine.backtest(
                rule, first, last + _AFTER, every=timedelta(days=1), known_by="observed", given=given
            ).intervals
            if one.fired_at is not None
        ]
    return sorted(lives, key=lambda life: (life["fired"], life["alert"], life["of"]))
