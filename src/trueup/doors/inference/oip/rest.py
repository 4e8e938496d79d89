"""The Open Inference Protocol over REST: translate a request, have it scored, translate back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from trueup.domain.batch import Channel
from trueup.domain.contract import Contract
from trueup.doors.api.edge import more_than
from trueup.doors.inference.asking import Arrival, Asked, Inference, check_whole, parameter, terms_of
from trueup.doors.inference.gather import Part
from trueup.doors.inference.oip import tensors
from trueup.doors.inference.oip.schemas import (
    InferRequest,
    InferResponse,
    InputTensor,
    NestedRequest,
    NestedTensor,
    OutputTensor,
    TensorMetadata,
)
from trueup.doors.inference.wire import Reply
from trueup.errors import InvalidInput
from trueup.scoring.service import Resolved

EXTENSIONS = ["binary_tensor_data", "model_repository"]
AnyRequest = InferRequest | NestedRequest
COUNTED_FROM = 64 * 2**10  # bytes: what is shorter cannot hold many elements
FURTHER = 10_000  # values of a request beside its elements
_REQUEST = msgspec.json.Decoder(InferRequest)
_NESTED = msgspec.json.Decoder(NestedRequest)


@dataclass(slots=True)
class Call:
    """What a request says beside its tensors."""

    header_bytes: int | None  # length of the JSON in front of binary tensors
    key: str | None  # of the header Idempotency-Key
    spend: Callable[[int], None]  # told the number of instances; raises RateLimited


def asked(inference: Inference, call: Call, body: bytes, resolved: Resolved, arrival: Arrival) -> Asked:
    """An inference request over REST, JSON or binary. Raises InvalidInput, RateLimited."""
    most = inference.limits.request_rows
    request, raw, single = _parsed(call, body, resolved.contract, most)
    inputs = tensors.checked(request.inputs, raw, most)
    call.spend(inputs.rows)
    parameters = request.parameters if isinstance(request.parameters, dict) else {}
    wanted = _wanted(request, resolved, binary=single)
    ask = inference.ask(
        resolved,
        terms_of(Channel.REST, parameters, key=call.key),
        rows=inputs.rows,
        decode=tensors.decoded,
        form=inputs.form,
        payload=inputs,
        arrival=arrival,
    )
    return Asked([ask], partial(_written, request, resolved, wanted))


def _written(
    request: AnyRequest,
    resolved: Resolved,
    wanted: list[tuple[TensorMetadata, bool]] | None,
    parts: Sequence[Part],
) -> Reply:
    check_whole(parts)
    rows = parts[0].rows
    if wanted is None and rows.stop - rows.start == 1 and len(parts) == 1 and tensors.mapping(resolved).flat:
        return _encoded_row(request, resolved, parts[0])
    return _encoded(request, resolved, wanted, parts)


def _parsed(
    call: Call, body: bytes, contract: Contract, most_rows: int
) -> tuple[AnyRequest, Sequence[memoryview | None], bool]:
    """The request's JSON, each tensor's bytes, and whether it is the form of one raw input."""
    if call.header_bytes == 0:
        return _single_raw(contract, body), [memoryview(body)], True
    length = len(body) if call.header_bytes is None else call.header_bytes
    if not 0 < length <= len(body):
        raise InvalidInput("the length of the JSON header does not fit the body")
    document = memoryview(body)[:length]
    most = most_rows * 2 * len(contract.fields) + FURTHER  # a field's elements and its .is_null
    if length > COUNTED_FROM and more_than(bytes(document), b",", most):
        raise InvalidInput("the request has more elements than its instances can have")
    request = _read(document)
    return request, _binary(request.inputs, memoryview(body)[length:]), False


def _read(document: memoryview) -> AnyRequest:
    """The JSON of a request. Raises InvalidInput."""
    try:
        try:
            return _REQUEST.decode(document)
        except msgspec.ValidationError:
            return _NESTED.decode(document)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the request does not fit the protocol: {_place(error)}") from None
    except (msgspec.DecodeError, UnicodeError, ValueError):
        raise InvalidInput("the body is not valid JSON") from None
    except RecursionError:
        raise InvalidInput("the body is nested too deeply") from None


def _single_raw(contract: Contract, body: bytes) -> InferRequest:
    """The whole body is the one input of a batch of one."""
    inputs = tensors.inputs_of(contract)
    if len(inputs) != 1:
        raise InvalidInput("a raw body stands for a single input, and the model has several")
    return InferRequest([InputTensor(inputs[0].name, [1], inputs[0].datatype)])


def _binary(inputs: Sequence[InputTensor | NestedTensor], data: memoryview) -> Sequence[memoryview | None]:
    """Each tensor's bytes; together they end where the body ends."""
    found: list[memoryview | None] = []
    at = 0
    for tensor in inputs:
        size = tensor.parameters.get("binary_data_size") if isinstance(tensor.parameters, dict) else None
        if size is None:
            found.append(None)
            continue
        if isinstance(size, bool) or not isinstance(size, int) or size < 0 or at + size > len(data):
            raise InvalidInput("binary_data_size does not fit the body")
        if tensor.data is not msgspec.UNSET:
            raise InvalidInput("an input has its data both in the JSON and behind it")
        found.append(data[at : at + size])
        at += size
    if at != len(data):
        raise InvalidInput("bytes are left behind the last tensor")
    return found


def _wanted(request: AnyRequest, resolved: Resolved, *, binary: bool) -> list[tuple[TensorMetadata, bool]] | None:
    """The outputs to send, and whether each is sent as bytes; None for all of them as JSON.

    Raises InvalidInput for an output that the model has not.
    """
    parameters = request.parameters if isinstance(request.parameters, dict) else {}
    all_binary = binary or parameter(parameters, "binary_data_output", bool) is True
    if not isinstance(request.outputs, list):
        return [(output, True) for output in tensors.mapping(resolved).outputs] if all_binary else None
    about = {output.name: output for output in tensors.mapping(resolved).outputs}
    found = []
    for output in request.outputs:
        if output.name not in about:
            raise InvalidInput("an output is asked for that the model has not")
        own = parameter(output.parameters, "binary_data", bool) if isinstance(output.parameters, dict) else None
        found.append((about[output.name], all_binary if own is None else own))
    return found


def _encoded_row(request: AnyRequest, resolved: Resolved, part: Part) -> Reply:
    """One row with all of its outputs as JSON; the rows of a batch are written at once, by the first who asks."""
    head, rows = part.booked.once("oip rows", lambda response: tensors.written(resolved, response))
    row, repeated = rows[part.rows.start]
    body = head + row + repeated
    if request.id is not msgspec.UNSET:
        body += b',"id":' + msgspec.json.encode(request.id)
    return Reply(200, body + b"}")


def _encoded(
    request: AnyRequest,
    resolved: Resolved,
    wanted: Sequence[tuple[TensorMetadata, bool]] | None,
    parts: Sequence[Part],
) -> Reply:
    made = [part.booked.once("oip", lambda response: tensors.answered(resolved, response)) for part in parts]
    outputs, tails = [], []
    for about, binary in wanted or [(output, False) for output in tensors.mapping(resolved).outputs]:
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
    version = resolved.champion.version.version
    head = msgspec.json.encode(
        InferResponse(resolved.deployment.name, version, outputs, request.id, {"repeated": repeated})
    )
    if not tails:
        return Reply(200, head)
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"inference-header-content-length", str(len(head)).encode()),
    ]
    return Reply(200, b"".join([head, *tails]), headers)


def _place(error: msgspec.ValidationError) -> str:
    """Where the fault is. msgspec quotes the caller's own text only for unknown names, which are allowed here."""
    return str(error).rpartition(" - at ")[2] if " - at " in str(error) else "$"
