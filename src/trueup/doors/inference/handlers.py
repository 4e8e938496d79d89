"""Translate an inference request, have it scored with others, translate back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import TypeVar
from uuid import uuid4

import msgspec

from trueup.bootstrap import Services
from trueup.domain.batch import REQUEST_SOURCE, Channel, RefusalReason, Source
from trueup.domain.contract import Contract
from trueup.doors.inference import tensors
from trueup.doors.inference.gather import Ask, Gather, Part
from trueup.doors.inference.schemas import (
    InferRequest,
    InferResponse,
    InputTensor,
    ModelMetadata,
    OutputTensor,
    Parameters,
    TensorMetadata,
)
from trueup.doors.inference.wire import Reply
from trueup.errors import Conflict, InvalidInput, NotFound, ScoringError, TrueupError, Unavailable
from trueup.scoring.service import REFRESH_S, Resolved
from trueup.telemetry import log

SERVER = "trueup"
EXTENSIONS = ["binary_tensor_data", "model_repository"]
AGED_S = 5.0  # a revision older than this is looked up before it answers
UNKEYED_SOURCE = "unkeyed"  # rows that nobody can repeat: their keys are drawn here
_PROCESS, _NUMBERS = uuid4().hex, count()  # a key nobody has drawn before, without asking the system each time
_REQUEST = msgspec.json.Decoder(InferRequest)
_Known = TypeVar("_Known", str, int, float, bool)


@dataclass(frozen=True, slots=True)
class Call:
    """What a request says beside its tensors."""

    model: str
    version: str | None
    header_bytes: int | None  # length of the JSON in front of binary tensors
    key: str | None  # of the header Idempotency-Key


class Inference:
    """Everything the inference door answers. ``gather`` makes the batches."""

    def __init__(self, services: Services, gather: Gather) -> None:
        self._services = services
        self.gather = gather
        self._limits = services.settings.limits
        self._refreshing: dict[str, asyncio.Future[Resolved]] = {}

    async def resolved(self, model: str, version: str | None) -> Resolved:
        """What answers under the name, without ever blocking the event loop.

        What is in memory is taken if it was the newest ``AGED_S`` ago, and looked up again meanwhile. Older
        it is looked up first, and taken all the same while the registry does not answer: then booking decides.
        Raises NotFound, also for a version that does not answer.
        """
        held = self._services.scoring.held(model)
        if held is None:
            found = await asyncio.shield(self._refresh(model))
        else:
            found, age = held
            if age > AGED_S:
                with suppress(Unavailable):
                    found = await asyncio.shield(self._refresh(model))
            elif age > REFRESH_S:
                self._refresh(model)
        if version is not None and version != found.champion.version.version:
            raise NotFound("no such version of the model answers", next_step="the model's metadata lists the versions")
        return found

    def _refresh(self, model: str) -> asyncio.Future[Resolved]:
        """The newest revision, looked up in a thread; of many who ask at once, once."""
        running = self._refreshing.get(model)
        if running is None:
            running = asyncio.get_running_loop().run_in_executor(None, self._services.scoring.resolve, model)
            self._refreshing[model] = running
            running.add_done_callback(lambda done: self._forget(model, done))
        return running

    def _forget(self, model: str, done: asyncio.Future[Resolved]) -> None:
        self._refreshing.pop(model, None)
        if not done.cancelled() and done.exception() is not None:
            log("inference").warning("not_refreshed", kind=type(done.exception()).__name__)

    async def metadata(self, model: str, version: str | None) -> ModelMetadata:
        """What the model takes and gives."""
        found = await self.resolved(model, version)
        contract = found.contract
        platform = found.champion.version.artifacts[0].runtime if found.champion.version.artifacts else "none"
        return ModelMetadata(
            name=model,
            versions=[found.champion.version.version],
            platform=f"{SERVER}_{platform}",
            inputs=tensors.inputs_of(contract),
            outputs=tensors.outputs_of(contract),
            properties={"contract": f"{contract.name} {contract.version}", "contract_digest": contract.digest},
        )

    def index(self, *, only_ready: bool) -> list[dict[str, str]]:
        """Every deployment with the version that answers."""
        found = []
        for deployment in self._services.registry.deployments():
            try:
                self._services.scoring.resolve(deployment.name)
                state, reason = "READY", ""
            except TrueupError as error:
                state, reason = "UNAVAILABLE", error.message
            if state == "READY" or not only_ready:
                found.append(
                    {"name": deployment.name, "version": deployment.champion.version, "state": state, "reason": reason}
                )
        return found

    def reload(self, model: str, *, load: bool) -> None:
        """Loads the newest revision now, or lets go of it until it is asked for again. Raises NotFound."""
        if load:
            self._services.scoring.resolve(model, fresh=True)
        else:
            self._services.scoring.release(model)

    async def infer(self, call: Call, body: bytes) -> Reply:
        """One inference request over REST, JSON or binary."""
        began, received_at = time.perf_counter_ns(), datetime.now(UTC)
        resolved = await self.resolved(call.model, call.version)
        request, raw, single = _parsed(call, body, resolved.contract)
        inputs = tensors.checked(request.inputs, raw, self._limits.request_rows)
        parameters = request.parameters if isinstance(request.parameters, dict) else {}
        key = _parameter(parameters, "idempotency_key", str) or call.key
        timeout_us = _parameter(parameters, "timeout", int)
        ask = Ask(
            resolved,
            _source(Channel.REST, key, inputs.rows, self._limits.key_chars),
            inputs.rows,
            received_at,
            tensors.decoded,
            inputs.form,
            inputs,
            event_time=_event_time(parameters, resolved.contract, received_at, keyed=key is not None),
            want_reasons=bool(_parameter(parameters, "reasons", bool)),
            deadline=None if timeout_us is None or timeout_us <= 0 else time.monotonic() + timeout_us / 1e6,
            parse_us=(time.perf_counter_ns() - began) // 1000,
        )
        wanted = _wanted(request, resolved.contract, binary=single)
        parts = await self.gather.score(ask)
        _check_whole(parts)
        return _encoded(request, resolved, wanted, parts)


def _check_whole(parts: Sequence[Part]) -> None:
    """Raises Conflict or ScoringError where an instance was not answered."""
    for part in parts:
        for refused in part.refused:
            if refused.reason in (RefusalReason.CONFLICT, RefusalReason.REQUEST):
                raise Conflict("the key was used with other content", next_step="use a new key for new instances")
            raise ScoringError("the model could not answer")


def _parsed(call: Call, body: bytes, contract: Contract) -> tuple[InferRequest, Sequence[memoryview | None], bool]:
    """The request's JSON, each tensor's bytes, and whether it is the form of one raw input."""
    if call.header_bytes == 0:
        return _single_raw(contract, body), [memoryview(body)], True
    length = len(body) if call.header_bytes is None else call.header_bytes
    if not 0 < length <= len(body):
        raise InvalidInput("the length of the JSON header does not fit the body")
    try:
        request = _REQUEST.decode(memoryview(body)[:length])
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the request does not fit the protocol: {_place(error)}") from None
    except (msgspec.DecodeError, UnicodeError, ValueError):
        raise InvalidInput("the body is not valid JSON") from None
    except RecursionError:
        raise InvalidInput("the body is nested too deeply") from None
    return request, _binary(request.inputs, memoryview(body)[length:]), False


def _single_raw(contract: Contract, body: bytes) -> InferRequest:
    """The whole body is the one input of a batch of one."""
    inputs = tensors.inputs_of(contract)
    if len(inputs) != 1:
        raise InvalidInput("a raw body stands for a single input, and the model has several")
    return InferRequest([InputTensor(inputs[0].name, [1], inputs[0].datatype)])


def _binary(inputs: Sequence[InputTensor], data: memoryview) -> list[memoryview | None]:
    """Each tensor's bytes; together they end where the body ends."""
    found: list[memoryview | None] = []
    at = 0
    for tensor in inputs:
        parameters = tensor.parameters if isinstance(tensor.parameters, dict) else {}
        size = parameters.get("binary_data_size")
        if size is None:
            found.append(None)
            continue
        if isinstance(size, bool) or not isinstance(size, int) or size < 0 or at + size > len(data):
            raise InvalidInput("binary_data_size does not fit the body")
        if isinstance(tensor.data, msgspec.Raw):
            raise InvalidInput("an input has its data both in the JSON and behind it")
        found.append(data[at : at + size])
        at += size
    if at != len(data):
        raise InvalidInput("bytes are left behind the last tensor")
    return found


def _wanted(request: InferRequest, contract: Contract, *, binary: bool) -> list[tuple[TensorMetadata, bool]]:
    """The outputs to send, and whether each is sent as bytes. Raises InvalidInput for one that the model has not."""
    about = {output.name: output for output in tensors.outputs_of(contract)}
    parameters = request.parameters if isinstance(request.parameters, dict) else {}
    all_binary = binary or _parameter(parameters, "binary_data_output", bool) is True
    if not isinstance(request.outputs, list):
        return [(output, all_binary) for output in about.values()]
    found = []
    for output in request.outputs:
        if output.name not in about:
            raise InvalidInput("an output is asked for that the model has not")
        own = _parameter(output.parameters, "binary_data", bool) if isinstance(output.parameters, dict) else None
        found.append((about[output.name], all_binary if own is None else own))
    return found


def _encoded(
    request: InferRequest, resolved: Resolved, wanted: Sequence[tuple[TensorMetadata, bool]], parts: Sequence[Part]
) -> Reply:
    made = [part.booked.once("oip", lambda response: tensors.answered(resolved.contract, response)) for part in parts]
    outputs, tails = [], []
    for about, binary in wanted:
        values = made[0][about.name][parts[0].rows]
        for more, part in zip(made[1:], parts[1:], strict=True):
            values = values + more[about.name][part.rows]
        output = OutputTensor(about.name, [len(values), *about.shape[1:]], about.datatype)
        if about.shape[1:] == [-1]:
            output.shape = [len(values), len(values[0]) if values else 0]
        if binary:
            tails.append(tensors.binary_data(values, about.datatype))
            output.parameters = {"binary_data_size": len(tails[-1])}
        else:
            output.data = tensors.json_data(values)
        outputs.append(output)
    repeated = sum(part.booked.response.receipt.booked[part.rows].tolist().count(1) for part in parts)
    head = msgspec.json.encode(
        InferResponse(
            resolved.deployment.name,
            resolved.champion.version.version,
            outputs,
            request.id,
            {"repeated": repeated},
        )
    )
    if not tails:
        return Reply(200, head)
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"inference-header-content-length", str(len(head)).encode()),
    ]
    return Reply(200, b"".join([head, *tails]), headers)


def _source(channel: Channel, key: str | None, n: int, most: int) -> Source:
    """One key a row: the request's own for a single instance, else with the row's number behind it."""
    if key is None:
        drawn = f"{_PROCESS}-{next(_NUMBERS):x}"
        return Source(channel, UNKEYED_SOURCE, [f"{drawn}/{row}" for row in range(n)])
    if not 1 <= len(key) <= most - 8 or not key.isprintable():
        raise InvalidInput(f"an idempotency key is printable text of at most {most - 8} characters")
    return Source(channel, REQUEST_SOURCE, [key] if n == 1 else [f"{key}/{row}" for row in range(n)])


def _event_time(parameters: Parameters, contract: Contract, received_at: datetime, *, keyed: bool) -> datetime | None:
    """When all instances happened, in UTC; None where the contract or the key's first arrival says it."""
    given = _parameter(parameters, "event_time", str)
    if given is None:
        return None if keyed or contract.event_time else received_at
    if contract.event_time:
        raise InvalidInput(f"the contract takes the event time from the field {contract.event_time}")
    try:
        moment = datetime.fromisoformat(given)
        if moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput("event_time is an ISO 8601 instant with zone") from None


def _parameter(parameters: Parameters, name: str, kind: type[_Known]) -> _Known | None:
    value = parameters.get(name)
    if value is None:
        return None
    if type(value) is not kind:
        raise InvalidInput(f"the parameter {name} is a {kind.__name__}")
    return value


def _place(error: msgspec.ValidationError) -> str:
    """Where the fault is. msgspec quotes the caller's own text only for unknown names, which are allowed here."""
    return str(error).rpartition(" - at ")[2] if " - at " in str(error) else "$"
