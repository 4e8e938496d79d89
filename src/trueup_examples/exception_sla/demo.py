"""What `trueup demo exception_sla` calls: generate where no data is given, replay, report."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import trueup
from trueup_examples.exception_sla.desk import Desk, write_log
from trueup_examples.exception_sla.replay import Replay
from trueup_examples.exception_sla.screen import Screen


def main(up: trueup.Trueup, *, data: Path | None, train_until: date | None, out: Path | None, html: Path | None) -> int:
    """Replays, reports, and says what to look at next. Returns the exit code."""
    screen = Screen()
    folder = data
    if folder is None:
        folder = up.services.settings.data_dir / "generated-incidents"
        screen.say("No DATA given: generating a desk of 90 incidents a day over ten weeks.")
        write_log(Desk(), folder)
    with screen.progress() as progress:
        totals = Replay(up, folder, train_until, progress, screen.first_booked).run()
    screen.report(up, totals, out=out, html=html)
    return 0
