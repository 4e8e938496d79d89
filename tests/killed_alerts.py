"""A watch that evaluates and looks on a real ledger, and kills itself right after a step, the n-th time it is taken.

Run as a program: ``python killed_alerts.py WRITER_URL FOLDER DONE [step:n]``. ``DONE`` counts the moments that
were finished, as a clock's runs would: whoever starts again begins with the first that was not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from alerting import Rows, at, postgres_store
from killing import killed_after
from trueup.alerts.engine import AlertEngine
from trueup.alerts.handling import Handling
from trueup.alerts.postgres import PostgresAlerts, _PostgresWork
from trueup.alerts.reading import RuleFolders
from trueup.alerts.routing import Routing
from trueup.notifying.postgres import PostgresOutbox
from trueup.postgres import Pool
from trueup.settings import Alerting

STEPS: dict[str, tuple[Any, str]] = {
    "asked": (AlertEngine, "ask"),
    "locked": (_PostgresWork, "rule"),
    "stepped": (AlertEngine, "_stepped"),
    "remembered": (_PostgresWork, "put_alerts"),
    "recorded": (_PostgresWork, "record"),
    "held": (AlertEngine, "_hold"),
    "ended": (_PostgresWork, "end"),
    "evaluated": (AlertEngine, "evaluate"),
    "found": (_PostgresWork, "due_group"),
    "let": (_PostgresWork, "let_go"),
    "told": (PostgresOutbox, "add"),
    "flushed": (AlertEngine, "_flush"),
    "looked": (AlertEngine, "look"),
    "escalated": (AlertEngine, "_escalate"),
    "handled": (_PostgresWork, "audit"),
    "acknowledged": (Handling, "acknowledge"),
}
# What is there at each minute; at the third and eighth the SELECT gives equal labels.
PRESENT = ["a", "ab", "ab", "bb", "b", "", "a", "a", "aa", "a", "", "", "c", "c", ""]


def live(writer: str, folder: Path, done: Path) -> None:
    pool = Pool(writer, size=2, application="killed")
    store, rows = postgres_store(pool), Rows([[]])
    settings = Alerting(receivers=["ops"], group_interval_s=60)
    now = at(0)
    engine = AlertEngine(store, rows, RuleFolders([folder]), Routing, settings, lambda: now)
    handling = Handling(store, settings, lambda: now)
    finished = int(done.read_text()) if done.exists() else 0
    for number in range(finished, 2 * len(PRESENT)):
        minute, is_look = divmod(number, 2)
        now = at(minute + is_look / 2)
        if is_look:
            engine.look(now)
        else:
            rows.answers = [[{"deployment": name, "value": 1.0} for name in PRESENT[minute]]]
            engine.evaluate("drift", now)
            if minute == 2:
                _acknowledge(store, handling)
        done.write_text(str(number + 1))
    pool.close()


def _acknowledge(store: PostgresAlerts, handling: Handling) -> None:
    """Somebody has alert b in hand; told to do it twice, it is done once."""
    with store.work() as work:
        (one,) = [key for key, alert in work.alerts("drift").items() if alert.labels["deployment"] == "b"]
    handling.acknowledge(one, by="user:ann")


if __name__ == "__main__":
    _, to, rules, counted, *kill = sys.argv
    if kill:
        killed_after(STEPS, kill[0])
    live(to, Path(rules), Path(counted))
