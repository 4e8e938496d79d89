"""The service's methods: translate a message, have it scored, translate back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import TypeVar

from trueup.domain.batch import Channel
from trueup.doors.auth import Permission
from trueup.doors.inference.asking import Inference, Terms, terms_of
from trueup.doors.inference.gather import Part
from trueup.doors.inference.grpc import contents
from trueup.doors.inference.grpc.calls import Bound, Call
from trueup.doors.inference.grpc.generated import open_inference_pb2 as pb
from trueup.doors.inference.oip import tensors
from trueup.doors.inference.oip.schemas import TensorMetadata
from trueup.doors.readiness import Readiness
from trueup.scoring.service import Resolved

EXTENSIONS = ["model_repository", "model_stream_infer"]
_Found = TypeVar("_Found")


class Handlers:
    """What each method does. ``inference`` belongs to the running event loop."""

    def __init__(self, inference: Inference, readiness: Readiness) -> None:
        self._inference = inference
        self._readiness = readiness
        self._inferences = Bound(inference.limits.inferences_in_flight, "requests")

    async def server_live(self, _: pb.ServerLiveRequest, __: Call) -> pb.ServerLiveResponse:
        """The process answers."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, _: pb.ServerReadyRequest, __: Call) -> pb.ServerReadyResponse:
        """Everything a prediction depends on answers, and the server is not stopping."""
        return pb.ServerReadyResponse(ready=await self._readiness.ready())

    async def model_ready(self, request: pb.ModelReadyRequest, call: Call) -> pb.ModelReadyResponse:
        """Whether the model can answer. Raises NotFound, Forbidden."""
        call.caller.require(Permission.READ, request.name)
        found = await self._inference.resolved(request.name, request.version or None)
        can = found.champion.scorer is not None or found.deployment.serving.fallback is not None
        return pb.ModelReadyResponse(ready=can)

    async def server_metadata(self, _: pb.ServerMetadataRequest, __: Call) -> pb.ServerMetadataResponse:
        """Name, version, extensions."""
        return pb.ServerMetadataResponse(name=tensors.SERVER, version=version("trueup"), extensions=EXTENSIONS)

    async def model_metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        """What the model takes and gives. Raises NotFound, Forbidden."""
        call.caller.require(Permission.READ, request.name)
        found = tensors.metadata(await self._inference.resolved(request.name, request.version or None))
        return pb.ModelMetadataResponse(
            name=found.name,
            versions=found.versions,
            platform=found.platform,
            inputs=[_described(t) for t in found.inputs],
            outputs=[_described(t) for t in found.outputs],
        )

    async def model_infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        """Scores, books, answers: raw when asked raw. Raises Forbidden, Overloaded, and as ``Inference.score``."""
        call.caller.require(Permission.SCORE, request.model_name)
        with self._inferences.one():
            resolved = await self._inference.resolved(request.model_name, request.model_version or None)
            payload = contents.payload_of(request, self._inference.limits.request_rows)
            call.spend(payload.rows)
            outputs = contents.wanted(request, tensors.mapping(resolved).outputs)
            terms = terms_of(Channel.GRPC, contents.parameters_of(request.parameters), key=call.key)
            ask = self._inference.ask(
                resolved,
                _within(terms, call.deadline),
                rows=payload.rows,
                decode=payload.decode,
                form=payload.form,
                payload=payload.payload,
                arrival=call.arrival,
            )
            parts = await self._inference.score(ask)
        return _answer(request, resolved, outputs, parts)

    async def repository_index(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        """Every deployment that the caller may read, and its state."""
        reads = partial(call.caller.may, Permission.READ)
        found = await _in_thread(lambda: self._inference.index(only_ready=request.ready, shown=reads))
        return pb.RepositoryIndexResponse(models=[pb.RepositoryIndexResponse.ModelIndex(**one) for one in found])

    async def repository_load(
        self, request: pb.RepositoryModelLoadRequest, call: Call
    ) -> pb.RepositoryModelLoadResponse:
        """Loads the newest revision now. Raises NotFound, Forbidden."""
        name = request.model_name or request.repository_name
        call.caller.require(Permission.DEPLOY, name)
        await _in_thread(lambda: self._inference.reload(name, load=True))
        return pb.RepositoryModelLoadResponse(model_name=name, is_loaded=True)

    async def repository_unload(
        self, request: pb.RepositoryModelUnloadRequest, call: Call
    ) -> pb.RepositoryModelUnloadResponse:
        """Lets go of the model until it is asked for again. Raises NotFound, Forbidden."""
        name = request.model_name or request.repository_name
        call.caller.require(Permission.DEPLOY, name)
        await _in_thread(lambda: self._inference.reload(name, load=False))
        return pb.RepositoryModelUnloadResponse(model_name=name, is_unloaded=True)


def _within(terms: Terms, deadline: float | None) -> Terms:
    """The terms with the call's own deadline, where that comes first."""
    if deadline is None or (terms.deadline is not None and terms.deadline <= deadline):
        return terms
    return replace(terms, deadline=deadline)


def _answer(
    request: pb.ModelInferRequest, resolved: Resolved, outputs: Sequence[TensorMetadata], parts: Sequence[Part]
) -> pb.ModelInferResponse:
    made = [p.booked.once("grpc", lambda response: tensors.answered(resolved, response)) for p in parts]
    answer = pb.ModelInferResponse(
        model_name=resolved.deployment.name, model_version=resolved.champion.version.version, id=request.id
    )
    repeated = sum(p.booked.response.receipt.booked[p.rows].tolist().count(1) for p in parts)
    answer.parameters["repeated"].int64_param = repeated
    for about in outputs:
        values = [value for one, part in zip(made, parts, strict=True) for value in one[about.name][part.rows]]
        contents.add_output(answer, about, values, raw=len(request.raw_input_contents) > 0)
    return answer


def _described(tensor: TensorMetadata) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


async def _in_thread(call: Callable[[], _Found]) -> _Found:
    return await asyncio.get_running_loop().run_in_executor(None, call)
