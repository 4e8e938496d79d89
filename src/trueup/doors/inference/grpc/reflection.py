"""Server reflection, so that tools such as grpcurl need no .proto file. For callers who may read."""

from __future__ import annotations

from collections.abc import AsyncIterator

from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha import reflection_pb2 as messages

from trueup.doors.inference.grpc.calls import Context, parsed, read

V1 = "grpc.reflection.v1.ServerReflection"  # the same messages under the name that newer tools ask for first
IDLE_S = 5.0  # a tool that asks nothing for so long is done
SERVICES = (reflection.SERVICE_NAME, V1)


class Reflection:
    """Answers what the descriptors of ``services`` say."""

    def __init__(self, *services: str) -> None:
        self._servicer = reflection.aio.ReflectionServicer((*services, *SERVICES))

    async def serve(self, context: Context) -> None:
        """One stream of questions."""
        async for answer in self._servicer.ServerReflectionInfo(_questions(context), context):
            await context.write(answer.SerializeToString())


async def _questions(context: Context) -> AsyncIterator[messages.ServerReflectionRequest]:
    while (raw := await read(context, IDLE_S)) is not None:
        yield parsed(messages.ServerReflectionRequest, raw)
