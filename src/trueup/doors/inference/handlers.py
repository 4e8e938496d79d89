"""Translate an inference request, have it scored with others, translate back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4

import msgspec
import numpy as np

from trueup.bootstrap import Services
from trueup.domain.batch import REQUEST_SOURCE, Channel, Decoded, RefusalReason, Source
from trueup.domain.contract import Contract
from trueup.doors.inference import tensors
from trueup.doors.inference.gather import Ask, Gather
from trueup.doors.inference.schemas import (
    InferRequest,
    InferResponse,
    InputTensor,
    ModelMetadata,
    OutputTensor,
    Parameters,
    RequestedOutput,
)
from trueup.doors.inference.wire import Reply
from trueup.errors import Conflict, InstanceErrors, InvalidInput, NotFound, ScoringError, TrueupError
from trueup.scoring.service import Resolved, Response, RowRefusal

SERVER = "trueup"
EXTENSIONS = ["binary_tensor_data", "model_repository"]
UNKEYED_SOURCE = "unkeyed"  # rows that nobody can repeat: their keys are drawn here
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
        self._gather = gather
        self._limits = services.settings.limits

    def resolved(self, model: str, version: str | None) -> Resolved:
        """What answers under the name. Raises NotFound, also for a version that does not answer."""
        found = self._services.scoring.resolve(model)
        if version is not None and version != found.champion.version.version:
            raise NotFound("no such version of the model answers", next_step="the model's metadata lists the versions")
        return found

    def metadata(self, model: str, version: str | None) -> ModelMetadata:
        """What the model takes and gives."""
        found = self.resolved(model, version)
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
        resolved = self.resolved(call.model, call.version)
        request, raw, single = _parsed(call, body, resolved.contract)
        parsed = time.perf_counter_ns()
        decoded = tensors.decoded(resolved.decoder, request.inputs, raw, self._limits.request_rows)
        parameters = request.parameters if isinstance(request.parameters, dict) else {}
        ask = await self.ask(resolved, decoded, parameters, call.key, Channel.REST, received_at, began)
        ask.parse_us = (parsed - began) // 1000
        ask.validate_us = (time.perf_counter_ns() - parsed) // 1000
        response = whole(await self._gather.score(ask))
        return _encoded(request, resolved, response, single=single, reasons=ask.want_reasons)

    async def ask(
        self,
        resolved: Resolved,
        decoded: Decoded,
        parameters: Parameters,
        header_key: str | None,
        channel: Channel,
        received_at: datetime,
        began_ns: int,
    ) -> Ask:
        """The request as the gatherer takes it. Raises InstanceErrors after booking the refusal of every instance."""
        key = _parameter(parameters, "idempotency_key", str) or header_key
        source = _source(channel, key, decoded.received, self._limits.key_chars)
        if decoded.errors_total:
            await self._gather.refuse(resolved, source, refusals(decoded), received_at)
            raise InstanceErrors(decoded.errors, decoded.errors_total)
        timeout_us = _parameter(parameters, "timeout", int)
        return Ask(
            resolved,
            decoded.columns,
            source,
            received_at,
            began_ns,
            event_time=_event_time(parameters, resolved.contract, decoded.received, received_at, keyed=key is not None),
            want_reasons=bool(_parameter(parameters, "reasons", bool)),
            deadline=None if timeout_us is None or timeout_us <= 0 else time.monotonic() + timeout_us / 1e6,
        )


def whole(response: Response) -> Response:
    """The response, if every instance was answered. Raises Conflict, ScoringError."""
    for refused in response.refused:
        if refused.reason is RefusalReason.CONFLICT:
            raise Conflict("the key was used with other content", next_step="use a new key for new instances")
        raise ScoringError("the model could not answer")
    return response


def refusals(decoded: Decoded) -> list[RowRefusal]:
    """Every instance of a request that has a bad one: by the contract, or with its request."""
    bad: dict[int, list[str]] = {}
    for error in decoded.errors:
        bad.setdefault(error.row, []).append(f"{error.field}: {error.code}")
    good = set(decoded.rows.tolist())
    return [
        RowRefusal(row, RefusalReason.REQUEST, "another instance of the request breaks the contract")
        if row in good
        else RowRefusal(row, RefusalReason.CONTRACT, ", ".join(bad.get(row, [])[:20]) or "more field errors")
        for row in range(decoded.received)
    ]


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


def _encoded(request: InferRequest, resolved: Resolved, response: Response, *, single: bool, reasons: bool) -> Reply:
    values = tensors.answered(resolved.contract, response)
    about = {output.name: output for output in tensors.outputs_of(resolved.contract)}
    parameters = request.parameters if isinstance(request.parameters, dict) else {}
    all_binary = single or _parameter(parameters, "binary_data_output", bool) is True
    wanted: Sequence[RequestedOutput] = (
        request.outputs if isinstance(request.outputs, list) else [RequestedOutput(name) for name in about]
    )
    outputs, tails = [], []
    for output in wanted:
        if output.name not in about:
            raise InvalidInput("an output is asked for that the model has not")
        own = output.parameters if isinstance(output.parameters, dict) else {}
        binary = _parameter(own, "binary_data", bool)
        array = values[output.name]
        made = OutputTensor(output.name, list(array.shape), about[output.name].datatype)
        if all_binary if binary is None else binary:
            tail = tensors.binary_data(array)
            made.parameters = {"binary_data_size": len(tail)}
            tails.append(tail)
        else:
            made.data = tensors.json_data(array)
        outputs.append(made)
    document = InferResponse(
        resolved.deployment.name, resolved.champion.version.version, outputs, request.id, _said(response)
    )
    head = msgspec.json.encode(document)
    if not tails:
        return Reply(200, head)
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"inference-header-content-length", str(len(head)).encode()),
    ]
    return Reply(200, b"".join([head, *tails]), headers)


def _said(response: Response) -> Parameters:
    """How many instances got the first answer of an earlier request."""
    return {"repeated": int((response.receipt.booked == 1).sum())}


def _source(channel: Channel, key: str | None, n: int, most: int) -> Source:
    """One key a row: the request's own for a single instance, else with the row's number behind it."""
    if key is None:
        drawn = uuid4().hex
        return Source(channel, UNKEYED_SOURCE, [f"{drawn}/{row}" for row in range(n)])
    if not 1 <= len(key) <= most - 8 or not key.isprintable():
        raise InvalidInput(f"an idempotency key is printable text of at most {most - 8} characters")
    return Source(channel, REQUEST_SOURCE, [key] if n == 1 else [f"{key}/{row}" for row in range(n)])


def _event_time(parameters: Parameters, contract: Contract, n: int, received_at: datetime, *, keyed: bool) -> Any:
    given = _parameter(parameters, "event_time", str)
    if given is None:
        if keyed or contract.event_time:
            return None
        return np.full(n, received_at.replace(tzinfo=None), "datetime64[us]")
    if contract.event_time:
        raise InvalidInput(f"the contract takes the event time from the field {contract.event_time}")
    try:
        moment = datetime.fromisoformat(given)
        if moment.tzinfo is None:
            raise ValueError
        return np.full(n, moment.astimezone(UTC).replace(tzinfo=None), "datetime64[us]")
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
