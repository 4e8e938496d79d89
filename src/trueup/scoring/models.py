"""Which revision of each deployment answers here, and how a newer one takes its place.

1. *notice* a newer revision: the watch reads all revisions every ``WATCH_S``, without it a request does, at most
   once in ``REFRESH_S``
2. *load* it beside the one that answers, its digest checked, in a thread of its own
3. *warm* it up: an instance alone, a batch, reasons
4. *swap* one reference
5. *unload* the old one when the last batch that holds it has ended

A revision that fails at 2 or 3 is logged, counted and tried again, later and later; the old one goes on answering.
Nothing waits for a load but who has nothing else to be answered by, or asked to.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from trueup.domain.deployment import Deployment, Mode
from trueup.errors import TrueupError, Unavailable
from trueup.ports import ModelRegistry
from trueup.scoring.loading import Load, Loading, Resolved, await_release
from trueup.settings import Limits
from trueup.telemetry import log
from trueup.telemetry.metrics import Metrics

REFRESH_S = 1.0
WATCH_S = 0.5


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a revision (or a part of it) is not in memory, and when that is tried again (of time.monotonic)."""

    revision: int
    error: TrueupError
    attempts: int
    retry_at: float


@dataclass(slots=True)
class _Slot:
    """One deployment. ``lock`` is held while it is loaded, ``looking`` while a request looks it up."""

    name: str
    current: Resolved | None = None
    newest: int = 0
    checked_at: float = 0.0
    loaded_at: datetime | None = None
    failure: Failure | None = None
    loading: bool = False
    released: bool = False  # on request: loaded again by whoever needs it
    lock: threading.Lock = field(default_factory=threading.Lock)
    looking: threading.Lock = field(default_factory=threading.Lock)

    def has(self, revision: int) -> bool:
        """Whether it answers with this revision or a newer one, and all of its models."""
        current = self.current
        if current is None or current.deployment.revision < revision:
            return False
        return all(one.scorer is not None for one in current.models)

    def waits(self, revision: int) -> bool:
        """Whether the revision has failed and is not to be tried again yet."""
        failure = self.failure
        return failure is not None and failure.revision == revision and time.monotonic() < failure.retry_at

    def saw(self, revision: int, at: float) -> None:
        """The registry's newest revision, as of then."""
        self.newest = max(self.newest, revision)
        self.checked_at = max(self.checked_at, at)


class Models:
    """What is in memory, by deployment. Safe to call from several threads."""

    def __init__(self, registry: ModelRegistry, load: Load, limits: Limits, metrics: Metrics | None = None) -> None:
        self._registry = registry
        self._metrics = metrics or Metrics(1)
        self._limits = limits
        self._loading = Loading(load, limits)
        self._slots: dict[str, _Slot] = {}
        self._lock = threading.Lock()
        self._at_once = threading.BoundedSemaphore(limits.loads_at_once)
        self._watch: threading.Thread | None = None
        self._stopped = threading.Event()
        self._all_loaded = threading.Event()
        self._ready_by = 0.0
        self._away = False
        self.swaps = 0
        self.failures = 0

    def resolve(self, name: str, *, fresh: bool = False) -> Resolved:
        """What answers under the name; a newer revision is loaded behind it.

        Waits for a load only where nothing is in memory. ``fresh``: looks the newest revision up and loads it now.
        Raises NotFound, Unavailable, and what a load raises.
        """
        slot = self._slots.get(name)
        current = None if slot is None or fresh else slot.current
        if slot is None or current is None:
            deployment = self._registry.deployment(name)
            slot = self._slot(name)
            with slot.lock:
                return self._loaded(slot, deployment, patient=not fresh)
        if time.monotonic() - slot.checked_at >= REFRESH_S and slot.looking.acquire(blocking=False):
            try:
                with suppress(Unavailable):  # booking decides
                    self._follow(slot, self._registry.deployment(name))
            finally:
                slot.looking.release()
        return slot.current or current

    def held(self, name: str) -> tuple[Resolved, float] | None:
        """What is in memory under the name and how many seconds ago it was looked up; never blocks."""
        slot = self._slots.get(name)
        current = None if slot is None else slot.current
        return None if slot is None or current is None else (current, time.monotonic() - slot.checked_at)

    def release(self, name: str) -> None:
        """Lets go of a deployment's models; batches that hold them finish. Raises NotFound."""
        self._registry.deployment(name)
        slot = self._slot(name)
        with slot.lock:
            slot.released, slot.failure = True, None
            self._swap(slot, None)
        self._metrics.released(name)

    def start(self, ready_within_s: float) -> None:
        """Loads every deployment, then follows the registry until ``close``; ``ready`` after all or so many seconds."""
        self._ready_by = time.monotonic() + ready_within_s
        self._watch = threading.Thread(target=self._watching, name="trueup-models", daemon=True)
        self._watch.start()

    def ready(self) -> bool:
        """Whether all deployments were tried, or their time is over; True where ``start`` was not called."""
        return self._watch is None or self._all_loaded.is_set() or time.monotonic() >= self._ready_by

    def close(self) -> None:
        """Stops following, and lets go of all models."""
        self._stopped.set()
        if self._watch is not None:
            self._watch.join(WATCH_S + 1)
        for slot in list(self._slots.values()):
            slot.current = None

    @property
    def unloaded(self) -> int:
        """How many models were closed so far."""
        return self._loading.unloaded

    def state(self, name: str) -> dict[str, Any]:
        """Which revision answers here, and why not the newest."""
        slot = self._slots.get(name)
        failure = None if slot is None else slot.failure
        current = None if slot is None else slot.current
        return {
            "serving_revision": None if current is None else current.deployment.revision,
            "load_failure": None
            if failure is None
            else {
                "revision": failure.revision,
                "message": failure.error.message,
                "attempts": failure.attempts,
                "retry_in_s": round(max(0.0, failure.retry_at - time.monotonic()), 1),
            },
        }

    def in_memory(self, mode: Mode) -> list[str]:
        """The deployments of a mode whose models are loaded."""
        loaded = [(slot.name, slot.current) for slot in list(self._slots.values())]
        return [name for name, found in loaded if found is not None and found.deployment.serving.mode is mode]

    def counts(self) -> dict[str, int]:
        """Deployments in memory, those whose newest revision does not answer yet, and those with a failed load."""
        slots = list(self._slots.values())
        return {
            "loaded": sum(s.current is not None for s in slots),
            "behind": sum(s.current is not None and s.current.deployment.revision < s.newest for s in slots),
            "failed": sum(s.failure is not None for s in slots),
        }

    def listed(self) -> list[dict[str, Any]]:
        """Every model in memory, with the memory that the process took while it was loaded."""
        found = []
        for slot in sorted(self._slots.values(), key=lambda s: s.name):
            current = slot.current
            for one in () if current is None else current.models:
                assert current is not None
                found.append(
                    {
                        "deployment": slot.name,
                        "revision": current.deployment.revision,
                        "role": str(one.role),
                        "model": one.version.name,
                        "version": one.version.version,
                        "loaded": one.scorer is not None,
                        "memory_bytes": 0 if one.model is None else one.model.rss_bytes,
                        "loaded_at": None if slot.loaded_at is None else slot.loaded_at.isoformat(),
                    }
                )
        return found

    def _slot(self, name: str) -> _Slot:
        """Made for names that the registry knows only."""
        with self._lock:
            return self._slots.setdefault(name, _Slot(name))

    def _loaded(self, slot: _Slot, deployment: Deployment, *, patient: bool) -> Resolved:
        """Steps 2 to 5, under the slot's lock. ``patient``: not before a failed one is to be tried again."""
        revision, current = deployment.revision, slot.current
        slot.saw(revision, time.monotonic())
        if current is not None and (slot.has(revision) or (patient and slot.waits(revision))):
            return current
        if patient and slot.failure is not None and slot.waits(revision):
            raise _bare(slot.failure.error)
        try:
            found = self._loading.revision(deployment, current)
        except TrueupError as error:
            self._fail(slot, deployment, error)
            raise
        slot.failure = None
        slot.released = False
        self._swap(slot, found)
        held = [one.model.rss_bytes for one in found.models if one.model is not None]
        self._metrics.loaded(slot.name, deployment.deployment_id, len(held), sum(held))
        if not slot.has(revision):
            self._fail(slot, deployment, TrueupError("a model of the revision could not be loaded"))
        return found

    def _swap(self, slot: _Slot, found: Resolved | None) -> None:
        """Steps 4 and 5."""
        released = threading.Event()
        if slot.current is not None:
            weakref.finalize(slot.current, released.set).atexit = False
            threading.Thread(target=await_release, args=(slot.name, released), daemon=True).start()
        slot.current = found
        if found is not None:
            slot.loaded_at = datetime.now(UTC)
            self.swaps += 1
            log("scoring").info("revision_answers", deployment=slot.name, revision=found.deployment.revision)

    def _fail(self, slot: _Slot, deployment: Deployment, error: TrueupError) -> None:
        before, revision = slot.failure, deployment.revision
        attempts = before.attempts + 1 if before is not None and before.revision == revision else 1
        wait = min(self._limits.load_retry_s, 2.0 ** min(attempts - 1, 20))
        slot.failure = Failure(revision, _bare(error), attempts, time.monotonic() + wait)
        self.failures += 1
        self._metrics.load_failed(slot.name, deployment.deployment_id)
        answers = None if slot.current is None else slot.current.deployment.revision
        log("scoring").error(
            "revision_not_loaded", deployment=slot.name, revision=revision, answers=answers, error=error.message
        )

    def _follow(self, slot: _Slot, deployment: Deployment) -> None:
        """Step 1: has the newest revision loaded where it is not in memory."""
        slot.saw(deployment.revision, time.monotonic())
        with self._lock:
            if slot.loading or slot.has(deployment.revision) or slot.waits(deployment.revision):
                return
            slot.loading = True
        threading.Thread(target=self._behind, args=(slot, deployment), name="trueup-loading", daemon=True).start()

    def _behind(self, slot: _Slot, deployment: Deployment) -> None:
        try:
            with self._at_once, slot.lock:
                if not self._stopped.is_set():
                    self._loaded(slot, deployment, patient=True)
        except TrueupError:
            pass  # the slot holds it
        finally:
            slot.loading = False

    def _watching(self) -> None:
        there = self._revisions()
        while self._away and not self._stopped.wait(WATCH_S):
            there = self._revisions()
        with ThreadPoolExecutor(self._limits.loads_at_once, "trueup-loading") as pool:
            for _ in pool.map(self._at_start, there):
                pass
        self._all_loaded.set()
        while not self._stopped.wait(WATCH_S):
            began = time.monotonic()
            try:
                for name, revision in self._revisions().items():
                    self._watched(name, revision, began)
            except Exception as error:  # whatever it is, the watch goes on
                log("scoring").error("watch_failed", kind=type(error).__name__)

    def _at_start(self, name: str) -> None:
        try:
            while not self._stopped.is_set():
                with suppress(Unavailable):  # the registry is away just now
                    self.resolve(name)
                    return
                self._stopped.wait(WATCH_S)
        except Exception as error:  # one that fails does not stop the others
            log("scoring").error("not_loaded_at_start", deployment=name, kind=type(error).__name__)

    def _watched(self, name: str, revision: int, at: float) -> None:
        slot = self._slot(name)
        if slot.released:
            return
        if not slot.has(revision) and not slot.waits(revision) and not slot.loading:
            try:
                self._follow(slot, self._registry.deployment(name))
            except TrueupError as error:
                log("scoring").warning("not_followed", deployment=name, kind=type(error).__name__)
                return
        slot.saw(revision, at)

    def _revisions(self) -> Mapping[str, int]:
        """The registry's newest; nothing while it does not answer."""
        try:
            found = self._registry.revisions()
        except TrueupError as error:
            if not self._away and not self._stopped.is_set():
                log("scoring").warning("registry_away", kind=type(error).__name__)
            self._away = True
            return {}
        self._away = False
        return found


def _bare(error: TrueupError) -> TrueupError:
    """The same error without the frames that it came through: they hold models."""
    made: TrueupError = error.__class__.__new__(error.__class__)
    made.args = error.args
    made.__dict__.update(error.__dict__)
    return made
