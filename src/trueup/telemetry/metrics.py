"""Recording: a request costs a few cell updates, a batch a few array operations for all of its rows.

Counted are facts (requests answered, rows committed); what is a state (how many wait) is asked of
whoever knows it when somebody looks. Label values never come from a caller: a deployment gets its
series when it is resolved, and whatever else a caller names is counted without a name.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Booked, RefusalReason, Role
from trueup.telemetry.layout import (
    BOOKED,
    DOORS,
    FAMILIES,
    FIRST,
    NAME_BYTES,
    OTHER,
    OUTCOMES,
    ROWS,
    SECONDS,
    STEPS,
    UNRESOLVED,
    Cells,
    Layout,
    State,
)

Observation = Callable[[], Mapping[str, float] | float]
"""A gauge now: by deployment, or one number for what belongs to none."""

_OUTCOME = {code: place for place, code in enumerate(OUTCOMES)}
_REASON = {reason: place for place, reason in enumerate(RefusalReason)}
_ROLE = {role: place for place, role in enumerate(Role)}
_SECONDS_NS = tuple(round(bound * 1e9) for bound in SECONDS)
_FEW_US = tuple(round(bound * 1e6) for bound in SECONDS)
_SECONDS_US = np.array(_FEW_US, np.int32)
_SECONDS_LONG_US = np.array(_FEW_US, np.int64)
FEW_ROWS = 32
_CELLS, _SIZES = len(SECONDS) + 2, len(ROWS) + 2  # buckets, +Inf, sum
_FAILED = _OUTCOME["failed"]
_STEP_STARTS = np.arange(len(STEPS) - 1) * _CELLS
_OBSERVED = {f.name.removeprefix("trueup_"): f for f in FAMILIES if f.kind == "gauge" and f.per_deployment}


class Metrics:
    """What one process has counted since its start. Safe to call from several threads."""

    def __init__(self, deployments: int = 64) -> None:
        self.state = State.in_memory(Layout(deployments))
        self._requests = threading.Lock()
        self._batches = threading.Lock()
        self._naming = threading.Lock()
        self._places: dict[str, int] = {}
        self._ids: dict[int, int] = {}
        self._observations: dict[str, list[Observation]] = {}
        self._adopt(self.state)
        self.in_flight = [0] * len(DOORS)  # of each door, which alone writes to it
        self.state.views["process"][0] = time.time()

    def _adopt(self, state: State) -> None:
        at = {family: start for family, (start, _) in state.layout.at.items()}
        self.state = state
        self._cells = state.flat.data.cast("B").cast("d")
        self._steps = state.views["trueup_step_seconds"].reshape(state.layout.places, -1)
        self._at_requests, self._at_seconds = at["trueup_requests"], at["trueup_request_seconds"]
        self._at_received, self._at_unbooked = at["trueup_instances_received"], at["trueup_instances_unbooked"]
        self._at_answered, self._at_refused = at["trueup_instances_answered"], at["trueup_instances_refused"]
        self._at_steps = at["trueup_step_seconds"]
        self._at_sizes, self._at_rows = at["trueup_batch_rows"], at["trueup_rows_booked"]

    def share(self, state: State) -> None:
        """Goes on in ``state``, which other processes see: what was counted so far is added to it."""
        before, places, ids = self.state, dict(self._places), dict(self._ids)
        state.clear_gauges()
        self._adopt(state)
        self._places = {name: place for place, name in enumerate(named(state)) if place >= FIRST and name}
        moved = {UNRESOLVED: UNRESOLVED, OTHER: OTHER} | {old: self.deployment(name) for name, old in places.items()}
        self._ids = {deployment_id: moved[place] for deployment_id, place in ids.items()}
        for family in FAMILIES:
            into, cells = state.views[family.name], before.views[family.name]
            if family.per_deployment:
                for old, new in moved.items():
                    into[new] += cells[old]
            else:
                into += cells
        state.views["process"][:] = before.views["process"]

    def deployment(self, name: str, deployment_id: int | None = None) -> int:
        """The place of a deployment that was resolved; a new one gets the next place, or ``OTHER``.

        Never to be called with a name that only a caller says.
        """
        place = self._places.get(name)
        if place is None:
            with self._naming:
                place = self._places.get(name) or self._new_place(name)
        if deployment_id is not None and len(self._ids) < 100 * self.state.layout.places:
            self._ids[deployment_id] = place
        return place

    def _new_place(self, name: str) -> int:
        place, written = FIRST + len(self._places), name.encode()
        if place >= self.state.layout.places or not 0 < len(written) <= NAME_BYTES:
            return OTHER
        self.state.names[place] = written
        self._places[name] = place
        return place

    def request(self, door: int, place: int, outcome: str, ns: int, rows: int = 0, *, unbooked: bool = False) -> None:
        """A request was answered: ``door`` counts in ``DOORS``, ``outcome`` is a code of ``OUTCOMES``.

        ``ns`` nanoseconds after it came, with ``rows`` instances that reached the scoring path; ``unbooked``
        where the ledger knows nothing of them.
        """
        row = place * len(DOORS) + door
        count = self._at_requests + row * len(OUTCOMES) + _OUTCOME.get(outcome, _FAILED)
        start = self._at_seconds + row * _CELLS
        bucket = start + bisect_left(_SECONDS_NS, ns)
        cells = self._cells
        with self._requests:
            cells[count] += 1.0
            cells[bucket] += 1.0
            cells[start + _CELLS - 1] += ns * 1e-9
            if rows:
                cells[self._at_received + place] += rows
                if unbooked:
                    cells[self._at_unbooked + place] += rows

    def unbooked(self, place: int, rows: int) -> None:
        """Refusals were lost: the ledger knows nothing of these instances."""
        with self._requests:
            self._cells[self._at_unbooked + place] += rows

    def booked(
        self,
        deployment_id: int,
        steps_us: NDArray[np.int32],
        book_us: int,
        booked: NDArray[np.int8],
        roles: Iterable[Role] = (),
    ) -> None:
        """A batch was booked: ``steps_us`` (n, 4) and ``booked`` (n,) as in Booking and Receipt."""
        place = self._ids.get(deployment_id, OTHER)
        n = len(booked)
        steps = step_cells(steps_us, book_us) if n > FEW_ROWS else None
        new, repeated, conflicts, withheld = n, 0, 0, 0
        if booked.any():  # Booked.NEW is 0
            new, repeated, conflicts, withheld, *_ = np.bincount(booked, minlength=len(Booked)).tolist()
        sizes, answered = self._at_sizes + place * _SIZES, self._at_answered + place * len(BOOKED)
        refused, rows = self._at_refused + place * len(_REASON), self._at_rows + place * len(_ROLE)
        cells = self._cells
        with self._batches:
            if steps is None:
                count_steps(cells, self._at_steps + place * len(STEPS) * _CELLS, steps_us, book_us)
            else:
                self._steps[place] += steps
            cells[sizes + bisect_left(ROWS, n)] += 1.0
            cells[sizes + _SIZES - 1] += n
            cells[answered] += new
            cells[answered + 1] += repeated
            cells[refused + _REASON[RefusalReason.CONFLICT]] += conflicts
            cells[refused + _REASON[RefusalReason.REQUEST]] += withheld
            for role in roles:
                cells[rows + _ROLE[role]] += new

    def stream_booked(self, deployment_id: int, ages_us: NDArray[np.int64], *, received: int, letters: int) -> None:
        """Records of a stream were booked with ``received`` instances, each so many microseconds after its append."""
        place = self._ids.get(deployment_id, OTHER)
        views = self.state.views
        ages = ages_us.clip(min=0)
        counted = np.bincount(_SECONDS_LONG_US.searchsorted(ages), minlength=_CELLS - 1)
        with self._batches:
            views["trueup_stream_booked_seconds"][place][: _CELLS - 1] += counted
            views["trueup_stream_booked_seconds"][place][_CELLS - 1] += float(ages.sum()) * 1e-6
            views["trueup_stream_dead_letters"][place] += letters
        with self._requests:
            self._cells[self._at_received + place] += received

    def stream_turned(self, deployment_id: int, *, rebalances: int = 0, restarts: int = 0) -> None:
        """Partitions were given or taken, or a stream looked anew where it stands."""
        place = self._ids.get(deployment_id, OTHER)
        with self._batches:
            self.state.views["trueup_stream_rebalances"][place] += rebalances
            self.state.views["trueup_stream_restarts"][place] += restarts

    def refused(self, deployment_id: int, reasons: Iterable[RefusalReason]) -> None:
        """Refusals were booked."""
        refused = self.state.views["trueup_instances_refused"][self._ids.get(deployment_id, OTHER)]
        counted = Counter(reasons)
        with self._batches:
            for reason, n in counted.items():
                refused[_REASON[reason]] += n

    def ledger_unavailable(self, deployment_id: int) -> None:
        """The ledger did not answer a call."""
        with self._batches:
            self.state.views["trueup_ledger_unavailable"][self._ids.get(deployment_id, OTHER)] += 1

    def model_failed(self, name: str, role: Role) -> None:
        """A model could not score a batch."""
        with self._batches:
            self.state.views["trueup_model_failures"][self.deployment(name), _ROLE[role]] += 1

    def loaded(self, name: str, deployment_id: int | None, models: int, memory_bytes: int) -> None:
        """A revision answers, with so many models in memory."""
        place = self.deployment(name, deployment_id)
        self.state.views["trueup_models_loaded"][place] = models
        self.state.views["trueup_model_memory_bytes"][place] = memory_bytes

    def load_failed(self, name: str, deployment_id: int | None) -> None:
        """A revision, or one of its models, could not be loaded."""
        with self._batches:
            self.state.views["trueup_load_failures"][self.deployment(name, deployment_id)] += 1

    def released(self, name: str) -> None:
        """A deployment's models were let go of."""
        for gauge in ("trueup_models_loaded", "trueup_model_memory_bytes"):
            self.state.views[gauge][self.deployment(name)] = 0

    def observe(self, name: str, observation: Observation) -> None:
        """Has a gauge asked whenever somebody looks: ``queue_rows``, ``spool_rows`` ... as named in ``FAMILIES``.

        Several observations of one gauge are added up, of an age the oldest counts.
        """
        if name not in _OBSERVED:
            raise ValueError(f"there is no gauge {name}")
        self._observations.setdefault(name, []).append(observation)

    def sample(self) -> None:
        """Asks every observation, and writes down that this process lives."""
        for name, observations in list(self._observations.items()):
            merge = np.maximum if _OBSERVED[name].merge == "max" else np.add
            found = np.zeros_like(self.state.views[f"trueup_{name}"])
            for observation in observations:
                value = observation()
                for deployment, one in value.items() if isinstance(value, Mapping) else [("", value)]:
                    place = self.deployment(deployment) if deployment else UNRESOLVED
                    found[place] = merge(found[place], one)
            self.state.views[f"trueup_{name}"][...] = found
        self.state.views["trueup_requests_in_flight"][:] = self.in_flight
        self.state.views["process"][1:] = time.time(), resident_bytes()


def step_cells(steps_us: NDArray[np.int32], book_us: int) -> Cells:
    """Cells (5 x buckets and sum) that n rows add: ``steps_us`` (n, 4) each its own, ``book_us`` all the same."""
    n, others = steps_us.shape
    buckets = _SECONDS_US.searchsorted(steps_us)
    buckets += _STEP_STARTS
    cells = np.bincount(buckets.reshape(-1), minlength=(others + 1) * _CELLS).astype(np.float64)
    cells[_CELLS - 1 : others * _CELLS : _CELLS] = steps_us.sum(axis=0) * 1e-6
    book = others * _CELLS
    cells[book + bisect_left(_SECONDS_NS, book_us * 1000)] = n
    cells[-1] = n * book_us * 1e-6
    return cells


def count_steps(cells: memoryview[float], at: int, steps_us: NDArray[np.int32], book_us: int) -> None:
    """Adds the same to the cells from ``at``, one by one: for few rows that costs less than numpy's calls."""
    n = len(steps_us)
    for step in steps_us.T.tolist():
        for us in step:
            cells[at + bisect_left(_FEW_US, us)] += 1.0
        cells[at + _CELLS - 1] += sum(step) * 1e-6
        at += _CELLS
    cells[at + bisect_left(_FEW_US, book_us)] += n
    cells[at + _CELLS - 1] += n * book_us * 1e-6


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    import psutil

    return int(psutil.Process(os.getpid()).memory_info().rss)


def named(state: State) -> Sequence[str]:
    """The deployment at each place; without a name where none was resolved."""
    names = [name.decode("utf-8", "replace") for name in state.names.tolist()]
    names[UNRESOLVED], names[OTHER] = "", "other"
    return names
