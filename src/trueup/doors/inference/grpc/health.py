"""``grpc.health.v1``: what Kubernetes and load balancers ask, without a key.

The empty service name stands for the process, the inference service's name also for what a prediction depends
on. Both are NOT_SERVING from the moment the server drains.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as health

from trueup.doors.inference.grpc.calls import Bound, Call, Context, answering_faults, open_to_all, parsed, read
from trueup.doors.readiness import Readiness
from trueup.errors import InvalidInput, NotFound

SERVICE = "grpc.health.v1.Health"
INFERENCE = "inference.GRPCInferenceService"
WATCH_S = 0.25  # a watcher hears of a change within so long
WATCHERS = 64


class Health:
    """Check and Watch."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._watchers = Bound(WATCHERS, "watchers")
        self._stopped = False

    def methods(self) -> dict[str, Any]:
        """Handlers by the methods' names."""
        return {
            "Check": open_to_all(health.HealthCheckRequest, self._check),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch),
        }

    def stop(self) -> None:
        """Ends every watch."""
        self._stopped = True

    async def _check(self, request: health.HealthCheckRequest, _: Call) -> health.HealthCheckResponse:
        status = await self._status(request.service)
        if status == health.HealthCheckResponse.SERVICE_UNKNOWN:
            raise NotFound("no such service", next_step=f'ask for "" or "{INFERENCE}"')
        return health.HealthCheckResponse(status=status)

    async def _watch(self, _: Any, context: Context) -> None:
        with answering_faults(context) as fault:
            with self._watchers.one():
                raw = await read(context)
                if raw is None:
                    raise InvalidInput("the call ended without a message")
                request = parsed(health.HealthCheckRequest, raw)
                told = None
                while not self._stopped:
                    status = await self._status(request.service)
                    if status != told:
                        await context.write(health.HealthCheckResponse(status=status).SerializeToString())
                        told = status
                    await asyncio.sleep(WATCH_S)
            return
        await fault.abort()

    async def _status(self, service: str) -> Any:
        if service not in ("", INFERENCE):
            return health.HealthCheckResponse.SERVICE_UNKNOWN
        good = not self._readiness.draining() if service == "" else await self._readiness.ready()
        return health.HealthCheckResponse.SERVING if good else health.HealthCheckResponse.NOT_SERVING
