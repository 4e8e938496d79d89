"""The Python door: what a data scientist calls from a notebook, and the command line from a shell.

>>> import trueup
>>> with trueup.connect() as up:                                        # doctest: +SKIP
...     up.deploy("fails", contract="contract.yaml", model="model.ubj", version="1")
...     scores = up.score("fails", frame, dataset="fails/2026-11-20")
...     up.outcomes("settlement_fails", outcomes, source="cnsfails202611a")
...     up.query("SELECT * FROM truth WHERE deployment = %(name)s", name="fails").to_pandas()
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

import numpy as np
from numpy.typing import NDArray

from trueup.bootstrap import Services, open_services
from trueup.contracts.decoding import Decoder
from trueup.contracts.reading import load_contract
from trueup.domain.action import Action, ActionReceipt, ActionsOf
from trueup.domain.batch import (
    NOTHING_RECORDED,
    REQUEST_SOURCE,
    Booked,
    Channel,
    Columns,
    Decoded,
    OutcomeReceipt,
    OutcomeState,
    RefusalReason,
    Role,
    Source,
)
from trueup.domain.contract import Contract
from trueup.domain.deployment import Deployment, Serving
from trueup.domain.monitoring import KnownBy, MeasurementFilter, Window
from trueup.domain.profiling import References
from trueup.doors.windows import known_by_of
from trueup.errors import InstanceErrors, InvalidQuery, MissingExtra, NotFound
from trueup.monitoring.references import check_fits, reference_contract, sample_of
from trueup.monitoring.service import Measured, Told
from trueup.outcomes.decoding import fitting, outcome_batches, outcome_contract, stated
from trueup.ports import PredictionFilter
from trueup.scoring.service import Instances, Predicted, Response
from trueup.settings import Settings


def connect(settings: Settings | None = None) -> Trueup:
    """Opens trueup; without configuration that starts (or joins) its own PostgreSQL.

    Use as a context manager, or call ``close``. Raises LedgerUnavailable.
    """
    return Trueup(open_services(settings or Settings()))


class Trueup:
    """Deploy, score, true up and query, in process. Safe to use from several threads."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes connections and, when it is the last user, the embedded PostgreSQL."""
        self.services.close()

    def deploy(
        self,
        name: str,
        *,
        contract: Contract | str | Path,
        model: Any,
        version: str,
        serving: Serving | None = None,
        libraries: Mapping[str, str] | None = None,
        role: Role = Role.CHAMPION,
        by: str = "",
    ) -> Deployment:
        """Makes ``version`` of a model answer under ``name`` in ``role``; the same again changes nothing.

        ``model`` is a file (.onnx, .ubj, .json, .txt, .skops, .pkl), an MLflow folder or
        ``models:/`` address, ``python:module:attribute``, an in-memory booster or
        estimator, or a list of those: one model for several runtimes, checked for parity.
        Raises ContractError, ModelRefused, ParityError, Conflict.
        """
        agreed = contract if isinstance(contract, Contract) else load_contract(contract)
        if role is Role.CHAMPION:
            self._check_stream(name, agreed, serving)
        if serving is not None and serving.monitoring is not None:
            check_fits(serving.monitoring, agreed)
        deployed = self.services.deploying.deploy(
            name,
            contract=agreed,
            models=model if isinstance(model, list) else [model],
            version=version,
            serving=serving,
            libraries=dict(libraries or {}),
            role=role,
            by=by,
        )
        self.services.scoring.resolve(name, fresh=True)  # what this process scores next, it scores with this
        return deployed

    def _check_stream(self, name: str, contract: Contract, serving: Serving | None) -> None:
        """Raises InvalidInput where the stream that it will have does not fit the contract."""
        if serving is None:
            try:
                serving = self.services.registry.deployment(name).serving
            except NotFound:
                return
        if serving.stream is not None:
            from trueup.doors.kafka.opening import check_fits

            check_fits(serving.stream, contract, self.services.settings)

    def score(
        self,
        deployment: str,
        data: Any,
        *,
        dataset: str | None = None,
        keys: Sequence[str] | None = None,
        event_time: NDArray[np.datetime64] | None = None,
        channel: Channel = Channel.PYTHON,
        reasons: bool = False,
    ) -> Scores:
        """Scores and books instances; returns once the ledger has committed all of them.

        ``data`` is a list of records, a mapping of columns (lists or numpy arrays), a
        pandas or polars frame or an Arrow table. ``dataset`` is a name that stays the same
        when the same data is scored again: then nothing is booked twice and the first
        answers come back. ``keys`` (one a row) are used instead of row numbers; without a
        dataset they are idempotency keys. ``event_time`` is datetime64[us] (n,) in UTC.
        Instances that break the contract are refused, booked as refusals and reported in
        ``Scores.refused``. Raises NotFound, LedgerUnavailable.
        """
        total = row_count(data)
        name, all_keys = _identity(dataset, keys, total)
        step = self.services.settings.limits.batch_rows
        batches = (
            Batch(
                row_slice(data, start, start + step),
                name,
                all_keys[start : start + step],
                None if event_time is None else event_time[start : start + step],
            )
            for start in range(0, max(total, 1), step)
        )
        return Scores.join(list(self._responses(deployment, batches, channel, reasons=reasons, alone=total <= step)))

    def score_batches(
        self, deployment: str, batches: Iterable[Batch], *, channel: Channel = Channel.BATCH, reasons: bool = False
    ) -> Iterator[Scores]:
        """The answers to each batch, in order; one batch is scored while those before it are being booked.

        For much data: memory holds ``limits.batches_ahead`` batches, whatever their number. Each
        batch is committed before its answers appear. Raises as ``score``.
        """
        for response in self._responses(deployment, batches, channel, reasons=reasons):
            yield Scores.join([response])

    def _responses(
        self, deployment: str, batches: Iterable[Batch], channel: Channel, *, reasons: bool, alone: bool = False
    ) -> Iterator[Response]:
        predicted = (self._predicted(deployment, batch, channel, reasons=reasons) for batch in batches)
        if alone:  # no thread for one batch
            yield from map(self.services.scoring.book, predicted)
            return
        ahead = self.services.settings.limits.batches_ahead
        with ThreadPoolExecutor(1, "trueup-booking") as booker:
            waiting: deque[Future[Response]] = deque()
            for one in predicted:
                waiting.append(booker.submit(self.services.scoring.book, one))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _predicted(self, deployment: str, batch: Batch, channel: Channel, *, reasons: bool) -> Predicted:
        resolved = self.services.scoring.resolve(deployment)
        if batch.event_time is not None and resolved.contract.event_time:
            raise InvalidQuery(
                f"the contract's field {resolved.contract.event_time} says when an event happened",
                next_step="leave out event_time",
            )
        received_at, began = datetime.now(UTC), time.perf_counter_ns()
        instances = Instances.of(
            decode(resolved.decoder, batch.data),
            Source(channel, batch.source, batch.keys),
            received_at=received_at,
            event_time=batch.event_time,
            want_reasons=reasons,
            parse_us=(time.perf_counter_ns() - began) // 1000,
        )
        return self.services.scoring.predict(resolved, instances)

    def outcomes(
        self,
        contract_name: str,
        data: Any,
        *,
        source: str,
        label: str | None = None,
        state: OutcomeState | None = None,
    ) -> OutcomeReceipt:
        """Records real outcomes; one that was said before changes nothing.

        ``data`` as for ``score``, with the business-key fields, ``event_day``, ``value`` (of ``label``, else of the
        primary label) and optionally ``observed_at`` and ``state`` (known, retracted, censored; ``state`` here is that
        of rows that name none). Of a contract with several labels a row may hold some or all under their own names.
        All or nothing: raises InstanceErrors when any row is wrong, NotFound for an unknown label.
        """
        contract = self.services.registry.contract(contract_name)
        decoder = Decoder(outcome_contract(contract, label), self.services.settings.limits)
        step = self.services.settings.limits.batch_rows * 10
        total = row_count(data)
        pieces = [
            fitting(stated(decode(decoder, row_slice(data, start, start + step)), state), contract, label)
            for start in range(0, total, step)
        ]
        _refuse_any(pieces, step)
        batches = (
            outcome_batches(contract, piece.columns, source=source, now=datetime.now(UTC), label=label)
            for piece in pieces
        )
        return sum((self.services.outcomes.record_all(batch) for batch in batches), NOTHING_RECORDED)

    def monitor(
        self,
        deployment: str,
        *,
        at: datetime | None = None,
        known_by: KnownBy | str = KnownBy.RECORDED,
        windows: Sequence[Window] | None = None,
        told: Told = lambda what, done: None,
    ) -> Measured:
        """Counts what was booked and measures every window of which something new is known, or the given windows.

        ``at`` is the instant (with zone) whose knowledge counts, now unless given; ``known_by`` says what makes a fact
        known. ``told`` hears what is going on. Raises NotFound, InvalidInput, InvalidQuery, LedgerUnavailable.
        """
        moment = datetime.now(UTC) if at is None else at
        return self.services.measuring.measure(deployment, moment, known_by_of(known_by), windows, told)

    def measurements(self, where: MeasurementFilter | None = None, **filters: Any) -> list[dict[str, Any]]:
        """Measurements, latest windows first; filters are the fields of MeasurementFilter. Raises NotFound."""
        return self.services.measuring.listed(where or MeasurementFilter(**filters))

    def reference(self, deployment: str, *data: Any, version: str | None = None) -> References:
        """Freezes training data as the reference of a version, the champion's unless one is named.

        ``data`` as for ``score``, in one or several pieces: the contract's features, the fields that slices are made
        of, and ``score`` where the model's answers are known. A version keeps the reference that it has. Raises
        NotFound, InvalidInput, InstanceErrors.
        """
        measuring, limits = self.services.measuring, self.services.settings.limits
        contract, declared = measuring.declared(deployment, version)
        decoder = Decoder(reference_contract(contract, declared), limits)
        pieces = [decode(decoder, piece) for piece in data]
        _refuse_any(pieces, 0)
        most = self.services.settings.monitoring.reference_rows
        rows = Columns.joined([piece.columns for piece in pieces])
        return measuring.reference(deployment, version, sample_of(contract, declared, rows, most))

    def act(self, deployment: str, actions: Sequence[Action], *, by: str = "") -> ActionReceipt:
        """Records what was done about items; the same key again changes nothing.

        ``by`` is who tells of it, where that is another than each action's ``actor``.
        Raises NotFound for an unknown deployment or prediction, Conflict where a key has another action.
        """
        found = self.services.registry.deployment(deployment)
        assert found.deployment_id is not None
        teller = by or (actions[0].actor if actions else "")
        contract = found.champion.contract.name
        return self.services.actions.record(ActionsOf(found.name, found.deployment_id, contract, teller, actions))

    def query(self, sql: str, **parameters: Any) -> Table:
        """Runs one SELECT under the read-only role; parameters are written ``%(name)s``."""
        return Table(self.services.queries.rows(sql, parameters))

    def prediction(self, prediction_id: UUID | str) -> dict[str, Any]:
        """One prediction with named features, reasons and its outcome. Raises NotFound."""
        try:
            wanted = prediction_id if isinstance(prediction_id, UUID) else UUID(prediction_id)
        except ValueError:
            raise InvalidQuery(
                "a prediction id is a UUID", next_step="copy it from `trueup predictions` or from an answer"
            ) from None
        return self.services.ledger.prediction(wanted)

    def predictions(self, where: PredictionFilter | None = None, **filters: Any) -> list[dict[str, Any]]:
        """Predictions, newest events first; filters are the fields of PredictionFilter."""
        return self.services.ledger.predictions(where or PredictionFilter(**filters))

    def deployments(self) -> Sequence[Deployment]:
        """The newest revision of every deployment."""
        return self.services.registry.deployments()

    def contract(self, name: str, version: int | None = None) -> Contract:
        """The named contract version, or the newest. Raises NotFound."""
        return self.services.registry.contract(name, version)


@dataclass(frozen=True, slots=True)
class Batch:
    """Instances of one commit, as ``score`` takes them, and their identity.

    ``source`` is ``batch:<dataset>``; ``keys`` (one a row) are unique within it.
    """

    data: Any
    source: str
    keys: Sequence[str]
    event_time: NDArray[np.datetime64] | None = None

    @classmethod
    def of(cls, dataset: str, data: Any, *, start: int = 0, event_time: NDArray[np.datetime64] | None = None) -> Batch:
        """Rows ``start`` and following of the named dataset."""
        keys = [str(row) for row in range(start, start + row_count(data))]
        return cls(data, f"batch:{dataset}", keys, event_time)


@dataclass(frozen=True, slots=True)
class Scores:
    """Answers in the order of the rows that were given; what was refused has no answer.

    ``score`` float64 (n,), ``classes``, ``decision`` and ``status`` object (n,), ``outputs``
    float64 (n, k) (k = 0 unless the contract's output is a class or a vector), ``booked`` int8
    (n,) of Booked (-1 where refused), ``id_bytes`` uint8 (n, 16).
    """

    id_bytes: NDArray[np.uint8]
    score: NDArray[np.float64]
    decision: NDArray[np.object_]
    status: NDArray[np.object_]
    expected_cost: NDArray[np.float64]
    booked: NDArray[np.int8]
    classes: NDArray[np.object_]
    outputs: NDArray[np.float64]
    refused: list[tuple[int, RefusalReason, str]]

    def __len__(self) -> int:
        return len(self.score)

    @property
    def ids(self) -> list[UUID | None]:
        """Prediction ids, None where refused."""
        pairs = zip(self.id_bytes, self.booked.tolist(), strict=True)
        return [None if how < 0 else UUID(bytes=one.tobytes()) for one, how in pairs]

    @property
    def new(self) -> int:
        """Rows booked for the first time."""
        return int((self.booked == Booked.NEW).sum())

    @property
    def repeated(self) -> int:
        """Rows that were booked before and got their first answer again."""
        return int((self.booked == Booked.REPEATED).sum())

    @classmethod
    def join(cls, responses: Sequence[Response]) -> Scores:
        """The answers of several batches, one after another."""
        offsets = np.cumsum([0] + [r.received for r in responses])
        return cls(
            id_bytes=np.concatenate([r.id_bytes() for r in responses]),
            score=np.concatenate([r.aligned(r.receipt.answers.score, np.nan) for r in responses]),
            decision=np.concatenate([r.aligned(r.receipt.answers.decision, None) for r in responses]),
            status=np.concatenate([r.aligned(r.receipt.answers.status, None) for r in responses]),
            expected_cost=np.concatenate([r.aligned(r.receipt.answers.expected_cost, np.nan) for r in responses]),
            booked=np.concatenate([r.aligned(r.receipt.booked, -1) for r in responses]),
            classes=np.concatenate([r.aligned(r.receipt.answers.classes, None) for r in responses]),
            outputs=_stacked([r.outputs() for r in responses]),
            refused=[
                (int(offset) + x.row, x.reason, x.detail)
                for offset, r in zip(offsets, responses, strict=False)
                for x in r.refused
            ],
        )

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict a row."""
        plain = [
            {
                "prediction_id": None if i is None else str(i),
                "score": None if np.isnan(s) else float(s),
                "decision": d,
                "status": None if t is None else str(t),
                "expected_cost": None if np.isnan(c) else float(c),
            }
            for i, s, d, t, c in zip(self.ids, self.score, self.decision, self.status, self.expected_cost, strict=True)
        ]
        if self.outputs.shape[1]:
            for row, class_, outputs in zip(plain, self.classes, self.outputs.tolist(), strict=True):
                row |= {"class": class_, "outputs": outputs}
        return plain

    def to_pandas(self) -> Any:
        """As a pandas frame (extra `pandas`)."""
        return Table(self.rows()).to_pandas()


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a query."""

    _rows: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows)

    def rows(self) -> list[dict[str, Any]]:
        """One dict a row."""
        return self._rows

    def to_pandas(self) -> Any:
        """As a pandas frame (extra `pandas`)."""
        return _optional("pandas", "a pandas frame").DataFrame(self._rows)

    def to_polars(self) -> Any:
        """As a polars frame (extra `polars`)."""
        return _optional("polars", "a polars frame").DataFrame(self._rows, infer_schema_length=None)

    def to_arrow(self) -> Any:
        """As an Arrow table (extra `arrow`)."""
        return _optional("pyarrow", "an Arrow table", extra="arrow").Table.from_pylist(self._rows)


def decode(decoder: Decoder, data: Any) -> Decoded:
    """Decodes whatever table-like thing a Python caller holds."""
    if isinstance(data, Mapping):
        return decoder.columns(data)
    if isinstance(data, Sequence):
        return decoder.records(data)
    readers: dict[str, Callable[[Any], Decoded]] = {
        "pandas": decoder.pandas,
        "pyarrow": decoder.arrow,
        "polars": lambda frame: decoder.arrow(frame.to_arrow()),
    }
    reader = readers.get(type(data).__module__.partition(".")[0])
    if reader is None:
        raise InvalidQuery(
            "instances must be records, columns, or a pandas, polars or Arrow table",
            next_step="pass a list of dicts or a dict of columns",
        )
    return reader(data)


def row_count(data: Any) -> int:
    """Number of instances in any of the forms ``decode`` takes."""
    if isinstance(data, Mapping):
        return max((len(column) for column in data.values()), default=0)
    return len(data)


def row_slice(data: Any, start: int, stop: int) -> Any:
    """Instances ``start`` to ``stop`` in the same form, without copying arrays."""
    if isinstance(data, Mapping):
        return {name: column[start:stop] for name, column in data.items()}
    if hasattr(data, "iloc"):
        return data.iloc[start:stop]
    if isinstance(data, Sequence):
        return data[start:stop]
    return data.slice(start, stop - start) if hasattr(data, "slice") else data


def _identity(dataset: str | None, keys: Sequence[str] | None, total: int) -> tuple[str, Sequence[str]]:
    """Source name and one key a row; without dataset and keys each call is a source of its own."""
    if keys is not None and len(keys) != total:
        raise InvalidQuery(f"{total} instances came with {len(keys)} keys", next_step="give one key a row")
    numbered = keys if keys is not None else [str(i) for i in range(total)]
    if dataset is not None:
        return f"batch:{dataset}", numbered
    return (REQUEST_SOURCE if keys is not None else f"batch:{uuid4()}"), numbered


def _stacked(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Rows of all parts; a part in which everything was refused has no columns of its own."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate([part if part.shape[1] else np.full((len(part), width), np.nan) for part in parts])


def _refuse_any(pieces: Sequence[Decoded], step: int) -> None:
    from dataclasses import replace

    errors = tuple(replace(e, row=e.row + i * step) for i, p in enumerate(pieces) for e in p.errors)
    if errors:
        raise InstanceErrors(errors, sum(p.errors_total for p in pieces))


def _optional(module: str, purpose: str, *, extra: str | None = None) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise MissingExtra(extra or module, purpose) from None
