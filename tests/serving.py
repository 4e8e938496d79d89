"""The HTTP door on a real socket, in a thread of the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

import trueup
from trueup.doors.api.server import Server, configured, create_app
from trueup.doors.auth import ApiRole, Authenticator, Gate, MemoryApiKeys
from trueup.doors.inference.grpc.server import GrpcServer
from trueup.doors.inference.server import Front
from trueup.doors.serving import Beside


@dataclass
class Served:
    """A running server, its ledger and a key of every role."""

    up: trueup.Trueup
    front: Front
    address: str  # host:port
    keys: dict[ApiRole, str]
    server: Server
    grpc: GrpcServer
    gate: Gate
    api_keys: MemoryApiKeys
    http: httpx2.Client = field(default_factory=lambda: httpx2.Client(timeout=60))

    def headers(self, role: ApiRole = ApiRole.ADMIN) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[role]}"}

    def infer(self, body: Any, *, model: str = "t", headers: dict[str, str] | None = None, **more: Any) -> Any:
        sent = {"content": body} if isinstance(body, bytes) else {"json": body}
        url = f"http://{self.address}/v2/models/{model}/infer"
        return self.http.post(url, headers=self.headers(ApiRole.SCORER) | (headers or {}), **sent, **more)

    def get(self, path: str, role: ApiRole | None = ApiRole.READER, method: str = "GET") -> Any:
        return self.http.request(
            method, f"http://{self.address}{path}", headers={} if role is None else self.headers(role)
        )

    def revoke(self, role: ApiRole) -> None:
        """Ends the role's key."""
        self.api_keys.revoke(self.keys[role].split("_")[1], by="test")

    def count(self, table: str = "predictions", where: str = "true") -> int:
        return int(self.up.query(f"SELECT count(*) AS n FROM {table} WHERE {where}").rows()[0]["n"])


@contextmanager
def serving(up: trueup.Trueup, tokens: Authenticator | None = None, *, drain_s: float = 0) -> Iterator[Served]:
    """Serves until the block is left, then drains. ``tokens`` know callers that come without a key."""
    keys = MemoryApiKeys()
    settings = up.services.settings
    up.services.open_spool()
    gate = Gate(keys, tokens, settings.rates)
    app = create_app(up.services, gate)
    front = Front(app, up.services, gate, lambda: bool(app.state.draining))
    grpc = GrpcServer(up.services, gate, lambda: bool(app.state.draining), host="127.0.0.1", port=0)
    beside = Beside(lambda: grpc.start(front.inference), grpc.stop)
    server = Server(configured(front, settings), app.state, front.drain, drain_s, beside)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    texts = {role: keys.create(role, role, by="test")[1] for role in ApiRole}
    served = Served(up, front, f"127.0.0.1:{listening.getsockname()[1]}", texts, server, grpc, gate, keys)
    try:
        yield served
    finally:
        served.http.close()
        server.should_exit = True
        thread.join(30)
