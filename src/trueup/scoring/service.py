"""THE scoring path. Every door calls it, and nothing else scores.

1. *resolve* name and role to loaded versions, from memory.
2. *validate* every instance against the contract; failures become refusals, never a failed batch.
3. *score* champion, then challengers and shadows.
4. *book* all rows of all versions in one commit; rows already there win and theirs are the answers.
5. *answer* each caller.

Ledger down: refuse, or spool where the deployment is declared so. A challenger or shadow down: count, log and go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from trueup.contracts.horizon import due_days, event_times
from trueup.contracts.identity import business_keys, content_digests
from trueup.domain.batch import (
    UNBOOKED,
    Answers,
    Booked,
    Booking,
    Columns,
    Decoded,
    Receipt,
    Refusal,
    RefusalReason,
    Refusals,
    Role,
    Scored,
    Source,
    claims_each_key,
)
from trueup.domain.contract import FieldError
from trueup.domain.deployment import Mode, ModelVersion
from trueup.errors import InvalidInput, ScoringError
from trueup.ports import Clock, Ledger, ModelRegistry, UnderWay
from trueup.scoring.deciding import answers_of, fallback_answers, left_alone, merged, needs_fallback
from trueup.scoring.loading import Load, Loaded, Resolved
from trueup.scoring.models import REFRESH_S, Models
from trueup.scoring.reasons import explained
from trueup.settings import Limits
from trueup.telemetry import log
from trueup.telemetry.metrics import Metrics

__all__ = ["REFRESH_S", "Begun", "Instances", "Loaded", "Predicted", "Resolved", "Response", "RowRefusal", "Scoring"]

MOST_DETAIL_BYTES = 500  # of a refusal, whose index holds it


@dataclass(frozen=True, slots=True)
class RowRefusal:
    """Why one received row (zero-based) got no answer."""

    row: int
    reason: RefusalReason
    detail: str
    errors: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class Instances:
    """A batch as it reaches the scoring path; arrays are for all n received rows.

    ``received_at`` datetime64[us] (n,) UTC; ``event_time`` datetime64[us] (n,) UTC, None where
    the contract or the first arrival says it; ``steps_us`` int32 (n, 4): microseconds of parse,
    validate, queue, model so far; ``groups`` int64 (n,): rows that are answered together or not at all.
    """

    decoded: Decoded
    source: Source
    received_at: NDArray[np.datetime64]
    steps_us: NDArray[np.int32]
    event_time: NDArray[np.datetime64] | None = None
    groups: NDArray[np.int64] | None = None
    want_reasons: bool = False

    @classmethod
    def of(
        cls,
        decoded: Decoded,
        source: Source,
        *,
        received_at: datetime,
        event_time: NDArray[np.datetime64] | None = None,
        want_reasons: bool = False,
        parse_us: int = 0,
    ) -> Instances:
        """Instances that arrived and were parsed together."""
        n = decoded.received
        steps = np.zeros((n, 4), np.int32)
        steps[:, 0] = min(parse_us, 2**31 - 1)
        arrived = np.full(n, received_at.astimezone(UTC).replace(tzinfo=None), "datetime64[us]")
        return cls(decoded, source, arrived, steps, event_time, None, want_reasons)


@dataclass(frozen=True, slots=True)
class Predicted:
    """A batch scored and not booked yet: ``columns``, ``scored`` and ``steps_us`` are of the answered ``rows``."""

    resolved: Resolved
    instances: Instances
    columns: Columns
    rows: NDArray[np.intp]
    scored: Sequence[Scored]
    refused: list[RowRefusal]
    steps_us: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Response:
    """Answers to one batch. ``rows`` (m,) are the received positions of the answered ones."""

    received: int
    rows: NDArray[np.intp]
    receipt: Receipt
    refused: tuple[RowRefusal, ...]

    def aligned(self, values: NDArray[Any] | None, empty: Any) -> NDArray[Any]:
        """Values of answered rows (m,) laid over all received rows, ``empty`` where refused."""
        kind: Any = object if values is None or values.dtype == object else values.dtype
        if values is None and isinstance(empty, float):
            kind = np.float64
        out = np.full(self.received, empty, kind)
        if values is not None:
            answered = self.receipt.booked < Booked.CONFLICT
            out[self.rows[answered]] = values[answered]
        return out

    def outputs(self) -> NDArray[np.float64]:
        """Class probabilities or vectors (received, k), NaN where refused; k = 0 where there are none."""
        values = self.receipt.answers.outputs
        out = np.full((self.received, 0 if values is None else values.shape[1]), np.nan)
        if values is not None:
            answered = self.receipt.booked < Booked.CONFLICT
            out[self.rows[answered]] = values[answered]
        return out

    def id_bytes(self) -> NDArray[np.uint8]:
        """Prediction ids (received, 16) uint8; zeros where refused."""
        out = np.zeros((self.received, 16), np.uint8)
        answered = self.receipt.booked < Booked.CONFLICT
        out[self.rows[answered]] = self.receipt.ids[answered]
        return out

    def ids(self) -> list[UUID | None]:
        """Prediction ids over all received rows, None where refused."""
        return [UUID(bytes=one.tobytes()) if one.any() else None for one in self.id_bytes()]


@dataclass(frozen=True, slots=True)
class Begun:
    """A batch whose booking is under way; ``response`` once it has ended."""

    under_way: UnderWay
    answer: Callable[[Receipt], Response]

    def response(self) -> Response:
        """Step 5 of ``Scoring.score``. Raises as ``Scoring.book``."""
        return self.answer(self.under_way.receipt())


_NOTHING = Receipt(None, np.empty((0, 16), np.uint8), np.empty(0, np.int8), Answers(np.empty(0, object), np.empty(0)))


class Scoring:
    """Resolves names to loaded models and scores batches. Safe to call from several threads."""

    def __init__(
        self,
        registry: ModelRegistry,
        ledger: Ledger,
        load: Load,
        clock: Clock,
        limits: Limits,
        metrics: Metrics | None = None,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._limits = limits
        self._metrics = metrics or Metrics(1)
        self.models = Models(registry, load, limits, self._metrics)
        self.spool: Ledger | None = None  # where this process books what is declared `spooled`; else it books durably

    def resolve(self, name: str, *, fresh: bool = False) -> Resolved:
        """What answers under the name, as ``Models.resolve``. Raises NotFound."""
        return self.models.resolve(name, fresh=fresh)

    def held(self, name: str) -> tuple[Resolved, float] | None:
        """What is in memory under the name and how many seconds ago it was looked up; never blocks."""
        return self.models.held(name)

    def release(self, name: str) -> None:
        """Lets go of a deployment's models; batches that hold them finish. Raises NotFound."""
        self.models.release(name)

    def score(self, resolved: Resolved, instances: Instances) -> Response:
        """Scores and books one batch (numbered steps in the module's docstring).

        Raises LedgerUnavailable: then nothing is answered.
        """
        return self.book(self.predict(resolved, instances))

    def predict(self, resolved: Resolved, instances: Instances) -> Predicted:
        """Steps 2 and 3 of ``score``: nobody may see the result before ``book`` has returned."""
        decoded = instances.decoded
        if len(instances.source.keys) != decoded.received:
            raise InvalidInput("every instance needs one key")
        began = time.perf_counter_ns()
        refused = contract_refusals(decoded)
        columns, rows = decoded.columns, decoded.rows
        validated = time.perf_counter_ns()
        scored = self._scored(resolved, columns, want_reasons=instances.want_reasons) if len(columns) else []
        if len(columns) and not scored:
            refused += [RowRefusal(int(r), RefusalReason.FAILED, "the model could not answer") for r in rows]
            columns, rows = columns.take(np.zeros(len(columns), bool)), rows[:0]
        steps = instances.steps_us[rows]
        steps[:, 1] += (validated - began) // 1000
        steps[:, 3] = (time.perf_counter_ns() - validated) // 1000
        return Predicted(resolved, instances, columns, rows, scored, refused, steps)

    def book(self, predicted: Predicted) -> Response:
        """Steps 4 and 5 of ``score``. Raises LedgerUnavailable: then nothing is answered."""
        booking = self.booking(predicted) if predicted.scored else None
        ledger = self._ledger_of(predicted.resolved)
        return self._response(predicted, _NOTHING if booking is None else ledger.book(booking))

    def begin(self, predicted: Predicted) -> Begun | None:
        """Step 4 for an event loop, which never waits; None where only ``book`` can do it."""
        booking = None if predicted.refused or not predicted.scored else self.booking(predicted, may_wait=False)
        if booking is None:
            return None
        under_way = self._ledger_of(predicted.resolved).begin(booking)
        return None if under_way is None else Begun(under_way, lambda receipt: self._response(predicted, receipt))

    def _response(self, predicted: Predicted, receipt: Receipt) -> Response:
        """Step 5."""
        instances = predicted.instances
        if predicted.refused:
            self.refuse(predicted.resolved, instances.source, predicted.refused, _utc(instances.received_at.min()))
        unbooked = [
            RowRefusal(int(predicted.rows[i]), *UNBOOKED[Booked(receipt.booked[i])])
            for i in np.flatnonzero(receipt.booked >= Booked.CONFLICT)
        ]
        return Response(instances.decoded.received, predicted.rows, receipt, tuple(predicted.refused + unbooked))

    def refuse(self, resolved: Resolved, source: Source, refused: Sequence[RowRefusal], received_at: datetime) -> None:
        """Books refusals of what never reached the model. Raises LedgerUnavailable."""
        if not refused:
            return
        deployment_id = resolved.deployment.deployment_id
        assert deployment_id is not None
        rows = [Refusal(source.keys[r.row], r.reason, r.detail) for r in refused]
        self._ledger_of(resolved).refuse(Refusals(deployment_id, source, received_at, received_at, rows))

    def _ledger_of(self, resolved: Resolved) -> Ledger:
        """Where the deployment's rows go before its callers are answered."""
        if self.spool is not None and resolved.deployment.serving.mode is Mode.SPOOLED:
            return self.spool
        return self._ledger

    def _scored(self, resolved: Resolved, columns: Columns, *, want_reasons: bool) -> list[Scored]:
        """Step 3; empty when not even the champion's fallback could answer."""
        champion = self._champion(resolved, columns, want_reasons=want_reasons)
        if champion is None:
            return []
        drawn = resolved.deployment.serving.untreated
        if drawn is not None:
            champion = left_alone(champion, drawn, business_keys(columns))
        scored = [Scored(Role.CHAMPION, _id(resolved.champion.version), champion)]
        for other in resolved.others:
            try:
                if other.scorer is None:
                    continue
                answers = answers_of(other.version.contract, other.scorer.score(columns), columns)
                scored.append(Scored(other.role, _id(other.version), answers))
            except ScoringError as error:
                self._metrics.model_failed(resolved.deployment.name, other.role)
                log("scoring").error("other_failed", role=str(other.role), error=error.message, rows=len(columns))
        return scored

    def _champion(self, resolved: Resolved, columns: Columns, *, want_reasons: bool) -> Answers | None:
        serving, contract, scorer = resolved.deployment.serving, resolved.contract, resolved.champion.scorer
        answers = None
        if scorer is not None:
            try:
                answers = answers_of(contract, scorer.score(columns), columns)
            except ScoringError as error:
                self._metrics.model_failed(resolved.deployment.name, Role.CHAMPION)
                log("scoring").error("champion_failed", deployment=resolved.deployment.name, error=error.message)
        if answers is not None and scorer is not None and serving.reason_codes:
            try:
                answers = explained(scorer, columns, answers, serving.reason_codes, want_reasons=want_reasons)
            except Exception as error:  # an answer without its reasons is better than none
                self._metrics.model_failed(resolved.deployment.name, Role.CHAMPION)
                log("scoring").error("not_explained", kind=type(error).__name__, rows=len(columns))
        if serving.fallback is None:
            return answers
        if answers is None:
            return fallback_answers(contract, serving.fallback, columns)
        missing = needs_fallback(serving, columns)
        if not missing.any():
            return answers
        return merged(answers, fallback_answers(contract, serving.fallback, columns), missing)

    def booking(self, predicted: Predicted, *, may_wait: bool = True) -> Booking | None:
        """What of step 4 is booked; None where the ledger would have to be asked first and may not be."""
        resolved, instances, columns, rows = predicted.resolved, predicted.instances, predicted.columns, predicted.rows
        deployment_id, contract_id = resolved.deployment.deployment_id, resolved.champion.version.contract_id
        assert deployment_id is not None
        assert contract_id is not None
        whole = len(rows) == instances.decoded.received
        keys = instances.source.keys if whole else [instances.source.keys[i] for i in rows.tolist()]
        source = instances.source if whole else replace(instances.source, keys=keys)
        received_at = _rows_of(instances.received_at, rows, whole=whole)
        when = (
            event_times(columns) if instances.event_time is None else _rows_of(instances.event_time, rows, whole=whole)
        )
        claims = claims_each_key(source.name)  # a caller's key stands for one event, whatever day its retry names
        if when is None:
            if not claims and not may_wait:
                return None
            when = (
                received_at
                if claims
                else self._ledger_of(resolved).claim_event_times(deployment_id, source, received_at)
            )
        return Booking(
            deployment_id=deployment_id,
            contract_id=contract_id,
            source=source,
            columns=columns,
            digests=content_digests(columns),
            business_keys=business_keys(columns),
            event_time=when.astype("datetime64[us]"),
            due_day=due_days(resolved.contract.label, when.astype("datetime64[D]")),
            received_at=received_at,
            scored=predicted.scored,
            steps_us=predicted.steps_us,
            groups=None if instances.groups is None else instances.groups[rows],
            claims=claims,
        )


def _rows_of(values: NDArray[Any], rows: NDArray[np.intp], *, whole: bool) -> NDArray[Any]:
    return values if whole else values[rows]


def _utc(moment: np.datetime64) -> datetime:
    found: datetime = moment.astype("datetime64[us]").item()
    return found.replace(tzinfo=UTC)


def _id(version: ModelVersion) -> int:
    assert version.model_version_id is not None
    return version.model_version_id


def contract_refusals(decoded: Decoded) -> list[RowRefusal]:
    """One refusal a bad row, with its field errors; rows beyond the error bound have none listed."""
    if len(decoded.rows) == decoded.received:
        return []
    errors: dict[int, list[FieldError]] = {}
    for error in decoded.errors:
        errors.setdefault(error.row, []).append(error)
    good = set(decoded.rows.tolist())
    bad = [row for row in range(decoded.received) if row not in good]
    return [
        RowRefusal(row, RefusalReason.CONTRACT, _detail(errors.get(row, [])), tuple(errors.get(row, []))) for row in bad
    ]


def _detail(errors: Sequence[FieldError]) -> str:
    told = ", ".join(f"{e.field}: {e.code}" for e in errors[:20]) or "more field errors than are reported"
    return told.encode()[:MOST_DETAIL_BYTES].decode(errors="ignore")
