"""What `trueup demo` calls: generate where no data is given, replay, report."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import trueup
from trueup_examples.settlement_fails.market import Market, write_files
from trueup_examples.settlement_fails.replay import Replay
from trueup_examples.settlement_fails.screen import Screen


def main(up: trueup.Trueup, *, data: Path | None, train_until: date | None, out: Path | None, html: Path | None) -> int:
    """Replays, reports, and says what to look at next. Returns the exit code."""
    screen = Screen()
    folder = data
    if folder is None:
        folder = up.services.settings.data_dir / "generated-fails"
        screen.say("No DATA given: generating a market of 2,000 securities over six months.")
        write_files(Market(), folder)
    with screen.progress() as progress:
        totals = Replay(up, folder, train_until, progress, screen.first_booked).run()
    screen.report(up, totals, out=out, html=html)
    return 0
