"""A revision of a deployment into memory: loaded beside what answers, warmed up, and unloaded when nobody holds it.

Who holds a :class:`Resolved` holds its models: a batch cannot outlive what scores it. With the last holder the
models go, closed in a thread of their own; two revisions that share a version share its model.
"""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from trueup.contracts.decoding import Decoder
from trueup.domain.batch import Role
from trueup.domain.contract import Contract
from trueup.domain.deployment import Deployment, ModelVersion, Serving
from trueup.errors import ModelRefused, ScoringError, TrueupError
from trueup.ports import Scorer
from trueup.scoring.deciding import answers_of
from trueup.scoring.parity import sample_columns
from trueup.scoring.reasons import reasons_of
from trueup.settings import Limits
from trueup.telemetry import log
from trueup.telemetry.metrics import resident_bytes

WARM_ROWS = 64
RELEASE_S = 30.0  # a replaced revision that is held for longer is logged

Load = Callable[[ModelVersion, Serving], Scorer]


class Model:
    """One model in memory. ``rss_bytes`` is by how much the process grew meanwhile: an estimate."""

    def __init__(self, scorer: Scorer, rss_bytes: int, unload: Callable[[Scorer], None]) -> None:
        self.scorer = scorer
        self.rss_bytes = rss_bytes
        weakref.finalize(self, unload, scorer).atexit = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """One version ready to score; ``scorer`` None where it could not be loaded."""

    role: Role
    version: ModelVersion
    scorer: Scorer | None
    model: Model | None = None


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Resolved:
    """One revision of a deployment with its models in memory."""

    deployment: Deployment
    decoder: Decoder
    champion: Loaded
    others: tuple[Loaded, ...]

    @property
    def contract(self) -> Contract:
        """The champion's contract: what callers must send."""
        return self.champion.version.contract

    @property
    def models(self) -> tuple[Loaded, ...]:
        """Champion, challengers, shadows."""
        return (self.champion, *self.others)


class Loading:
    """Makes revisions. ``unloaded`` counts models that were closed."""

    def __init__(self, load: Load, limits: Limits) -> None:
        self._load = load
        self._limits = limits
        self._closing: SimpleQueue[Scorer] = SimpleQueue()
        self._closer: threading.Thread | None = None
        self._starting = threading.Lock()
        self.unloaded = 0

    def revision(self, deployment: Deployment, beside: Resolved | None) -> Resolved:
        """The deployment's models, loaded and warmed up; those of ``beside`` that are the same are taken from it.

        A challenger or shadow that fails is left out, as is a champion where nothing answers yet but a fallback
        may: that is logged. Raises ModelRefused, ScoringError, MissingExtra for a champion that is needed.
        """
        plays = [(Role.CHAMPION, deployment.champion)]
        plays += [(Role.CHALLENGER, v) for v in deployment.challengers]
        plays += [(Role.SHADOW, v) for v in deployment.shadows]
        kept = _models_of(beside, deployment.serving)
        needed = deployment.serving.fallback is None or beside is not None
        loaded = [self._loaded(deployment, *play, kept, needed=needed) for play in plays]
        return Resolved(deployment, Decoder(deployment.champion.contract, self._limits), loaded[0], tuple(loaded[1:]))

    def _loaded(
        self, deployment: Deployment, role: Role, version: ModelVersion, kept: dict[str, Model], *, needed: bool
    ) -> Loaded:
        try:
            model = kept.get(_identity(version)) or self._model(version, deployment.serving)
        except TrueupError as error:
            if role is Role.CHAMPION and needed:
                raise
            log("scoring").error("model_not_loaded", deployment=deployment.name, role=str(role), error=error.message)
            return Loaded(role, version, None)
        return Loaded(role, version, model.scorer, model)

    def _model(self, version: ModelVersion, serving: Serving) -> Model:
        self._start_closer()
        before = resident_bytes()
        try:
            scorer = self._load(version, serving)
        except TrueupError:
            raise
        except Exception as error:  # whatever a runtime raises, what answers now goes on
            log("scoring").error("load_failed", kind=type(error).__name__)
            raise ModelRefused("the model could not be loaded") from None
        try:
            warm_up(version, scorer, serving)
        except BaseException:
            scorer.close()
            raise
        return Model(scorer, max(0, resident_bytes() - before), self._unload)

    def _unload(self, scorer: Scorer) -> None:
        """Called by whoever held the model last, wherever that is: closing is left to a thread."""
        self._closing.put(scorer)

    def _start_closer(self) -> None:
        """Before the first model: the collector may find the last holder, and may not start a thread."""
        with self._starting:
            if self._closer is None:
                self._closer = threading.Thread(target=self._close_all, name="trueup-unloading", daemon=True)
                self._closer.start()

    def _close_all(self) -> None:
        while True:
            scorer = self._closing.get()
            try:
                scorer.close()
            except Exception as error:  # it is somebody else's
                log("scoring").error("model_not_closed", kind=type(error).__name__)
            del scorer
            self.unloaded += 1
            _trim()


def warm_up(version: ModelVersion, scorer: Scorer, serving: Serving) -> None:
    """Scores instances made from the contract, one alone and a batch, and explains them where that is asked.

    Raises ScoringError.
    """
    rows = max([WARM_ROWS, *(p.switch_at for p in version.parity)])
    try:
        sample = sample_columns(version.contract, rows)
    except TrueupError as error:  # nothing can be said about the model
        log("scoring").warning("not_warmed_up", model=version.name, version=version.version, why=error.message)
        return
    try:
        for part in (sample.take(np.arange(1)), sample):
            answers_of(version.contract, scorer.score(part), part)
            if serving.reason_codes:
                reasons_of(scorer, part, np.ones(len(part), bool), serving.reason_codes)
    except TrueupError:
        raise
    except Exception as error:
        log("scoring").error("warm_up_failed", kind=type(error).__name__)
        raise ScoringError("the model failed its warm-up") from None


def await_release(name: str, released: threading.Event) -> bool:
    """Whether a replaced revision went within ``RELEASE_S``; called with no reference to it."""
    if released.wait(1.0):
        return True
    gc.collect()  # an error that was answered may hold it in a circle
    if released.wait(RELEASE_S):
        return True
    log("scoring").warning("revision_still_held", deployment=name, after_s=RELEASE_S)
    return False


def _identity(version: ModelVersion) -> str:
    return f"{version.name} {version.version} {version.digest}"


def _models_of(beside: Resolved | None, serving: Serving) -> dict[str, Model]:
    """Models in memory that a revision served like this may share, by version."""
    if beside is None or beside.deployment.serving != serving:
        return {}
    return {_identity(one.version): one.model for one in beside.models if one.model is not None}


def _trim() -> None:
    """Gives freed memory back to the system, where the C library can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return
