"""The gRPC door: starting, draining and stopping its server, in the event loop and process of the HTTP door."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from trueup.bootstrap import Services
from trueup.doors.auth import Authenticator, Permission
from trueup.doors.inference.asking import Inference
from trueup.doors.inference.grpc import health
from trueup.doors.inference.grpc.calls import Calls, open_to_all
from trueup.doors.inference.grpc.generated import open_inference_pb2 as pb
from trueup.doors.inference.grpc.handlers import Handlers
from trueup.doors.inference.grpc.reflection import SERVICES, Reflection
from trueup.doors.inference.grpc.streaming import Streams
from trueup.doors.readiness import Readiness
from trueup.errors import Unavailable
from trueup.settings import Limits

PROBES = 128  # calls beyond the setting's bound that health checks may be
CONNECTIONS = 1_000
HEADER_BYTES = 16 * 1024
_SECOND = 1_000


class GrpcServer:
    """The door. ``start`` and ``stop`` belong to one event loop, the one that ``inference`` gathers in.

    ``credentials`` make it TLS. With ``share_port`` several processes may listen on one port.
    """

    def __init__(
        self,
        services: Services,
        keys: Authenticator,
        draining: Callable[[], bool],
        *,
        host: str,
        port: int,
        credentials: grpc.ServerCredentials | None = None,
        share_port: bool = False,
    ) -> None:
        self._services = services
        self._draining = draining
        self._host = f"[{host}]" if ":" in host else host
        self._credentials = credentials
        self._share_port = share_port
        self.port = port
        self._server: Any = None
        self._calls = Calls(keys, services.settings.limits, services.telemetry)
        self._streams: Streams | None = None
        self._health: health.Health | None = None

    async def start(self, inference: Inference) -> None:
        """Listens; ``port`` is then what was bound, also where it was 0. Raises Unavailable where it is taken."""
        limits = self._services.settings.limits
        options = _options(limits, share_port=self._share_port)
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=limits.grpc_calls + PROBES)
        self._add_services(inference)
        try:
            if self._credentials is None:
                self.port = self._server.add_insecure_port(self.address)
            else:
                self.port = self._server.add_secure_port(self.address, self._credentials)
        except RuntimeError:
            raise Unavailable(
                "the address of the gRPC door cannot be listened on", next_step="set TRUEUP_GRPC_PORT to a free port"
            ) from None
        await self._server.start()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{self._host}:{self.port}"

    @property
    def open_calls(self) -> int:
        """Calls being answered, health probes apart."""
        return self._calls.open.held

    async def stop(self, grace_s: float) -> None:
        """Takes no more calls, answers what has arrived, and gives up on it after ``grace_s``."""
        if self._server is None or self._streams is None or self._health is None:
            return
        self._streams.stop()
        self._health.stop()
        await self._server.stop(grace_s)

    def _add_services(self, inference: Inference) -> None:
        limits = self._services.settings.limits
        readiness = Readiness(self._services, self._draining)
        calls, handlers = self._calls, Handlers(inference, readiness)
        self._streams = Streams(handlers, calls, limits.stream_requests_in_flight)
        self._health = health.Health(readiness)
        reflection = Reflection(health.INFERENCE, health.SERVICE)
        services = {
            health.INFERENCE: {
                **_methods(calls, handlers, admin=self._services.settings.admin_port is None),
                "ModelStreamInfer": calls.stream(self._streams.serve, Permission.SCORE),
            },
            health.SERVICE: self._health.methods(),
            **{n: {"ServerReflectionInfo": calls.stream(reflection.serve, Permission.READ)} for n in SERVICES},
        }
        self._server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items())
        )


def _methods(calls: Calls, do: Handlers, *, admin: bool) -> dict[str, Any]:
    """The methods of one message and one answer, with the permission that each needs.

    Without ``admin`` what changes which models answer is left to the admin port.
    """
    read, score, deploy = Permission.READ, Permission.SCORE, Permission.DEPLOY
    changing = {
        "RepositoryModelLoad": calls.unary(pb.RepositoryModelLoadRequest, do.repository_load, deploy),
        "RepositoryModelUnload": calls.unary(pb.RepositoryModelUnloadRequest, do.repository_unload, deploy),
    }
    return {
        **(changing if admin else {}),
        "ServerLive": open_to_all(pb.ServerLiveRequest, do.server_live),
        "ServerReady": open_to_all(pb.ServerReadyRequest, do.server_ready),
        "ModelReady": calls.unary(pb.ModelReadyRequest, do.model_ready, read),
        "ServerMetadata": calls.unary(pb.ServerMetadataRequest, do.server_metadata, read),
        "ModelMetadata": calls.unary(pb.ModelMetadataRequest, do.model_metadata, read),
        "ModelInfer": calls.unary(pb.ModelInferRequest, do.model_infer, score),
        "RepositoryIndex": calls.unary(pb.RepositoryIndexRequest, do.repository_index, read),
    }


def _options(limits: Limits, *, share_port: bool) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.body_bytes),
        ("grpc.max_send_message_length", limits.body_bytes),
        ("grpc.max_metadata_size", HEADER_BYTES // 2),
        ("grpc.absolute_max_metadata_size", HEADER_BYTES),
        ("grpc.max_concurrent_streams", limits.grpc_calls + PROBES),
        ("grpc.max_allowed_incoming_connections", CONNECTIONS),
        ("grpc.so_reuseport", int(share_port)),
        # A peer that is gone is noticed within 40 s, and one that pings without pause is sent away.
        ("grpc.keepalive_time_ms", 30 * _SECOND),
        ("grpc.keepalive_timeout_ms", 10 * _SECOND),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10 * _SECOND),
        ("grpc.max_connection_idle_ms", 300 * _SECOND),
    ]
