"""The main job: the queue day by day, through the real scoring path.

1. *train* on what was closed by the end of the training days.
2. *score* the day's tickets with what was known at the moment of each, and book.
3. *outcomes* of the incidents that were closed on the day are recorded: days after their opening or
   months, in the order of their closing; what is opened again and closed anew is said anew.

4. *measure*, at the end of each week and of the replay, all weeks of which something new is known.

The replay ends when the last ticket is due. What is open then has no outcome: that is censored, and
maturity shows it. A rerun repeats every step under the same names, so the ledger gains no row.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

import trueup
from trueup.domain.monitoring import Breach, KnownBy, Monitoring, ReferenceRows, WindowKind
from trueup.errors import InvalidInput
from trueup_examples.exception_sla.features import History
from trueup_examples.exception_sla.files import read_log
from trueup_examples.exception_sla.train import contract, examples, train

OPENINGS = "exception-sla"  # scored once, when opened
EVENTS = "exception-sla-events"  # scored anew after every event
TRAIN_SHARE = 0.4  # of the days with openings, when no day is given

REFERENCE_DAYS = 7  # with openings, the version's first; before they are over there is nothing to compare with
SERVING = trueup.Serving(
    threads=1,
    fallback=trueup.Fallback("group_record", 0.1, low=0.25, high=0.6),
    monitoring=Monitoring(
        reference=ReferenceRows(days=REFERENCE_DAYS),
        windows=(WindowKind.WEEK,),
        segments=("priority", "assignment_group"),
        maturity_floor=0.9,
        top_k=30,
        breaches={"ece": Breach(above=0.1)},
        metrics=("psi", "rows", "late_share", "auc", "brier", "ece", "base_rate", "precision_at_k", "maturity"),
    ),
)

Progress = Callable[[str, int, int], None]


@dataclass
class Totals:
    """What the run did, for the progress display only: the report reads the ledger."""

    booked: int = 0
    repeated: int = 0
    dirty: dict[str, int] = field(default_factory=dict)
    scored: int = 0
    score_s: float = 0.0


class Replay:
    """One pass over the log of a folder. ``every_event``: score again after each event, as a deployment of its own."""

    def __init__(
        self,
        up: trueup.Trueup,
        folder: Path,
        train_until: date | None,
        progress: Progress,
        first_booked: Callable[[UUID], None],
        *,
        every_event: bool = False,
    ) -> None:
        self._up = up
        self._progress = progress
        self._first_booked = first_booked
        self._every_event = every_event
        self.deployment = EVENTS if every_event else OPENINGS
        log = read_log(folder)
        self.totals = Totals(dirty=dict(log.dirty))
        if not len(log):
            raise InvalidInput("the incident log holds no usable row", next_step="look at the reasons with read_log")
        self._history = History(log)
        opened = log.opened_at.astype("datetime64[D]")
        first, self._last = opened.min(), opened.max()
        share = np.timedelta64(int((self._last - first).astype(int) * TRAIN_SHARE) - 1, "D")
        self._trained = first + share if train_until is None else np.datetime64(train_until, "D")
        if not first <= self._trained < self._last:
            raise InvalidInput(
                "TRAIN_UNTIL must lie between the first and the last day of openings",
                next_step=f"choose a day from {first} to before {self._last}",
            )
        self._day_of = log.moment.astype("datetime64[D]")
        self._scored = np.zeros(len(log.first), bool)  # incidents

    def run(self) -> Totals:
        """Trains and goes through all days until the last ticket is due."""
        self._train()
        label = contract().label
        assert label is not None
        days = np.arange(self._trained + 1, self._last + label.horizon.length + 1)
        for done, day in enumerate(days):
            self._score(day)
            self._true_up(day)
            if day == days[-1] or (_is_sunday(day) and day >= self._trained + REFERENCE_DAYS):
                self._measure(day)
            self._progress("score", done + 1, len(days))
        return self.totals

    def _train(self) -> None:
        """Trains on what was closed by then, unless an earlier run has deployed this version."""
        version = f"{'events' if self._every_event else 'openings'}-{self._trained}"
        self._progress("train", 0, 0)
        if version in self._known_versions():
            return
        rows = examples(self._history, self._trained + 1, every_event=self._every_event)
        if not len(rows):
            raise InvalidInput("no incident was closed by TRAIN_UNTIL", next_step="choose a later day")
        model, libraries = train(self._history, rows, self._up.services.settings.data_dir / "mlflow")
        self._up.deploy(
            self.deployment,
            contract=contract(),
            model=model,
            version=version,
            libraries=libraries,
            serving=replace(SERVING, monitoring=None) if self._every_event else SERVING,
            by="exception-sla demonstration",
        )

    def _score(self, day: np.datetime64) -> None:
        rows = self._rows(day)
        if not len(rows):
            return
        columns = self._history.features(rows)
        keys = [f"{n}/{e}" for n, e in zip(columns["incident"], columns["event_number"].tolist(), strict=True)]
        began = time.perf_counter()
        scores = self._up.score(
            self.deployment, columns, dataset=self.deployment, keys=keys, channel=trueup.Channel.BATCH
        )
        self.totals.score_s += time.perf_counter() - began
        if scores.new and not self.totals.booked:
            self._first_booked(UUID(bytes=scores.id_bytes[0].tobytes()))
        self.totals.scored += len(scores)
        self.totals.booked += scores.new
        self.totals.repeated += scores.repeated
        self._scored[self._history.incident[rows]] = True

    def _rows(self, day: np.datetime64) -> NDArray[np.intp]:
        """The day's events to score, in the order in which they were known: of incidents opened after the training."""
        log = self._history.log
        due = (self._day_of == day) & (log.opened_at.astype("datetime64[D]") > self._trained)
        if self._every_event:
            due &= ~self._history.is_closing  # what was just closed needs no answer
        else:
            due &= log.place == 0
        rows = np.flatnonzero(due)
        return rows[np.argsort(log.moment[rows], kind="stable")]

    def _true_up(self, day: np.datetime64) -> None:
        """Records the day's closings in their order; what is closed again is said anew."""
        history, log = self._history, self._history.log
        rows = np.flatnonzero(history.is_closing & (self._day_of == day) & self._scored[history.incident])
        if not len(rows):
            return
        newest = dict(zip(history.incident[rows].tolist(), rows.tolist(), strict=True))
        rows = np.array(sorted(newest.values(), key=lambda row: log.moment[row]), np.intp)
        self._up.outcomes(
            contract().name,
            {
                "incident": log.number[rows],
                "event_day": log.opened_at[rows].astype("datetime64[D]"),
                "missed_sla": log.numbers["made_sla"][rows] == 0,
                "days_to_close": (log.moment[rows] - log.opened_at[rows]).astype(np.int64) / 1440,
                "observed_at": log.moment[rows].astype("datetime64[us]"),
            },
            source=f"incident log of {day}",
        )

    def _measure(self, day: np.datetime64) -> None:
        """Measures the weeks of which something new is known at the end of the day, as its source knew it.

        Scored after every event, an incident's predictions are no independent rows, and no week of them is measured.
        """
        if self._every_event:
            return
        at = datetime.fromisoformat(f"{day + 1}T00:00:00+00:00")
        self._up.monitor(self.deployment, at=at, known_by=KnownBy.OBSERVED)

    def _known_versions(self) -> set[str]:
        rows = self._up.query("SELECT champion FROM deployment_history WHERE name = %(name)s", name=self.deployment)
        return {row["champion"] for row in rows}


def _is_sunday(day: np.datetime64) -> bool:
    return bool((day.astype("datetime64[D]").astype(np.int64) + 3) % 7 == 6)
