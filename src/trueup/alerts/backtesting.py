"""When would a rule have fired? The pure state machine over what its SELECT says for moments of the past."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from trueup.alerts.evaluating import Evaluated, stepped
from trueup.alerts.observing import Observed
from trueup.alerts.states import Bounds
from trueup.domain.alert import Alert, AlertRule, Labels, State, Transition
from trueup.errors import InvalidInput

Ask = Callable[[datetime], Observed]


@dataclass(frozen=True, slots=True)
class Interval:
    """One life of one alert. ``fired_at`` null: it never fired; ``ended_at`` null: it lasts at the end."""

    labels: Labels
    pending_at: datetime
    fired_at: datetime | None = None
    ended_at: datetime | None = None
    value: float | None = None  # when it fired, or began


@dataclass(slots=True)
class Backtest:
    """What happened, and at which moments the SELECT could not be answered."""

    evaluations: int = 0
    intervals: list[Interval] = field(default_factory=list)
    errors: list[tuple[datetime, str]] = field(default_factory=list)


class Replay:
    """A rule that is evaluated for one moment after the other, with nothing remembered anywhere else."""

    def __init__(self, name: str, rule: AlertRule, ask: Ask, bounds: Bounds) -> None:
        self._name = name
        self._rule = rule
        self._ask = ask
        self._bounds = bounds
        self._last: datetime | None = None
        self.alerts: dict[str, Alert] = {}
        self.error: str | None = None

    def evaluate(self, due: datetime) -> list[Transition]:
        """Raises LedgerUnavailable; a SELECT that fails is ``error``, and an alert, as it would be."""
        try:
            asked = Evaluated(self._name, due, self._rule, self._ask(due))
            after, transitions = stepped(asked, self.alerts, self._last, self._bounds)
            self.error = None
        except InvalidInput as error:
            self.error = error.message
            asked = Evaluated(self._name, due, self._rule, None, error.message)
            after, transitions = stepped(asked, self.alerts, self._last, self._bounds)
        self.alerts, self._last = after, due
        return transitions


def backtest(replay: Replay, due: Iterable[datetime], most: int) -> Backtest:
    """Evaluates at every moment of ``due``, oldest first. Raises InvalidInput where these are more than ``most``."""
    found = Backtest()
    going: dict[str, Interval] = {}
    for moment in due:
        if found.evaluations == most:
            raise InvalidInput(f"more than {most} evaluations", next_step="choose a shorter time, or a longer --every")
        found.evaluations += 1
        for transition in replay.evaluate(moment):
            _lived(going, found.intervals, transition)
        if replay.error is not None:
            found.errors.append((moment, replay.error))
    found.intervals += going.values()
    found.intervals.sort(key=lambda one: (one.pending_at, sorted(one.labels.items())))
    return found


def _lived(going: dict[str, Interval], done: list[Interval], moved: Transition) -> None:
    key = moved.fingerprint
    if moved.before is State.INACTIVE:
        going[key] = Interval(moved.labels, moved.at, value=moved.value)
    if moved.after is State.FIRING:
        going[key] = replace(going[key], fired_at=moved.at, value=moved.value)
    elif moved.after is State.INACTIVE:
        done.append(replace(going.pop(key), ended_at=moved.at))
