"""The main job: history in the order in which it was published, through the real scoring path.

1. *publish* one of the regulator's files.
2. *outcomes* of the day before each of its days are recorded (the file says what happened).
3. *train* when the training period is over, and again after a gap in the files.
4. *score* each of the file's days with what is published by then, and book.
5. *measure* every half-month of which the file says something new, with what is known on that day.

A rerun repeats every step under the same names, so the ledger gains no row.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

import trueup
from trueup.contracts.horizon import holidays_of
from trueup.domain.monitoring import Breach, KnownBy, Monitoring, ReferenceRows, WindowKind
from trueup.errors import InvalidInput
from trueup_examples.settlement_fails.features import History
from trueup_examples.settlement_fails.files import FailsFile, list_files, read_file
from trueup_examples.settlement_fails.train import Examples, contract, reference, train

DEPLOYMENT = "settlement-fails"
GAP_DAYS = 60  # between published files: then the model is trained again
TRAIN_SHARE = 0.45  # of the files, when no day is given

SERVING = trueup.Serving(
    threads=1,
    required=("log_value",),
    fallback=trueup.Fallback("last_value", 100_000.0, low=0.05, high=0.8),
    monitoring=Monitoring(
        reference=ReferenceRows(training=True),
        windows=(WindowKind.HALF_MONTH,),
        top_k=200,
        breaches={"auc": Breach(below=0.85), "ece": Breach(above=0.05)},
        unjudged=("market_log_value", "market_large_share", "weekday"),  # the same for all rows of a day
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
    """One pass over the files of a folder."""

    def __init__(
        self,
        up: trueup.Trueup,
        folder: Path,
        train_until: date | None,
        progress: Progress,
        first_booked: Callable[[UUID], None],
    ) -> None:
        self._up = up
        self._first_booked = first_booked
        self._listed = list_files(folder)
        self._until = train_until or self._listed[max(0, int(len(self._listed) * TRAIN_SHARE) - 1)][0]
        if not self._listed[0][0] <= self._until < self._listed[-1][0]:
            raise InvalidInput(
                "TRAIN_UNTIL must lie between the first and the last publication day",
                next_step=f"choose a day from {self._listed[0][0]} to before {self._listed[-1][0]}",
            )
        self._progress = progress
        self._contract = contract()
        self._history = History()
        self._examples = Examples()
        self._store = up.services.settings.data_dir / "mlflow"
        self._waiting: dict[str, Any] | None = None  # features of the newest day, whose outcome is unknown
        self._scored: set[int] = set()
        self.totals = Totals()

    def run(self) -> Totals:
        """Goes through all files."""
        before: date | None = None
        version = 0
        for number, (published, path) in enumerate(self._listed):
            file = read_file(published, path)
            self._count_dirty(file)
            late = published > self._until
            if late and (version == 0 or (before and (published - before).days > GAP_DAYS)):
                version += 1
                self._train(version, published)
            self._publish(file, score=late, number=number)
            if late:
                self._measure(published)
            before = published
        return self.totals

    def _publish(self, file: FailsFile, *, score: bool, number: int) -> None:
        places = self._history.add(file)
        for done, place in enumerate(places):
            self._true_up(file, place)
            columns = self._history.features(place)
            if score:
                self._score(columns, place)
            self._waiting = {"columns": columns, "place": place}
            self._progress(
                "score" if score else "learn", number * 100 + done * 100 // len(places), len(self._listed) * 100
            )

    def _true_up(self, file: FailsFile, place: int) -> None:
        """The day at ``place`` is published: it is the outcome of the settlement day before it."""
        if self._waiting is None:
            return
        before, columns = self._waiting["place"], self._waiting["columns"]
        days = self._history.days
        if _next_settlement_day(days[before]) != days[place]:
            return
        balances = self._history.values(place)
        index = {c: i for i, c in enumerate(self._history.cusips)}
        outcome = balances[[index[c] for c in columns["cusip"]]]
        self._examples.add(columns, outcome)
        if before not in self._scored:
            return
        observed = np.full(len(outcome), np.datetime64(file.published), "datetime64[us]")
        self._up.outcomes(
            self._contract.name,
            {
                "cusip": columns["cusip"],
                "event_day": columns["settlement_date"],
                "value": outcome,
                "observed_at": observed,
            },
            source=f"cnsfails published {file.published}",
        )

    def _score(self, columns: dict[str, Any], place: int) -> None:
        began = time.perf_counter()
        dataset = f"{DEPLOYMENT}/{self._history.days[place]}"
        scores = self._up.score(DEPLOYMENT, columns, dataset=dataset, channel=trueup.Channel.BATCH)
        self.totals.score_s += time.perf_counter() - began
        if scores.new and not self.totals.booked:
            self._first_booked(UUID(bytes=scores.id_bytes[0].tobytes()))
        self.totals.scored += len(scores)
        self.totals.booked += scores.new
        self.totals.repeated += scores.repeated
        self._scored.add(place)

    def _measure(self, published: date) -> None:
        """As it was known in the evening of the day of publication."""
        self._progress("measure", 0, 0)
        evening = datetime.combine(published, time_of_day(23, 59), UTC)
        self._up.monitor(DEPLOYMENT, at=evening, known_by=KnownBy.OBSERVED)

    def _train(self, number: int, published: date) -> None:
        """Trains on what was published before, unless this version was deployed by an earlier run."""
        version = f"{number}-{published}"
        self._progress("train", 0, 0)
        if version in self._known_versions():
            return
        model, libraries = train(self._examples, self._store)
        self._up.deploy(
            DEPLOYMENT,
            contract=self._contract,
            model=model,
            version=version,
            libraries=libraries,
            serving=SERVING,
            by="settlement-fails demonstration",
        )
        self._up.reference(DEPLOYMENT, reference(model, self._examples), version=version)

    def _known_versions(self) -> set[str]:
        rows = self._up.query("SELECT champion FROM deployment_history WHERE name = %(name)s", name=DEPLOYMENT)
        return {row["champion"] for row in rows}

    def _count_dirty(self, file: FailsFile) -> None:
        for reason, lines in file.dirty.items():
            self.totals.dirty[reason] = self.totals.dirty.get(reason, 0) + lines


def _next_settlement_day(day: np.datetime64) -> np.datetime64:
    year = int(str(day)[:4])
    closed = holidays_of("us-settlement", year, year + 1)
    following: np.datetime64 = np.busday_offset(day.astype("datetime64[D]"), 1, roll="backward", holidays=closed)
    return following
