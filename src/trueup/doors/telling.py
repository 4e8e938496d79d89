"""Health and metrics over HTTP of a process that serves no requests: no other path, no other method."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from hmac import compare_digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

from prometheus_client.registry import Collector

from trueup.bootstrap import Services
from trueup.telemetry.exposition import Exposition

READ_S = 5.0


class Telling:
    """Answers on ``host:port`` in threads of its own until it is closed."""

    def __init__(
        self,
        services: Services,
        host: str,
        port: int,
        ready: Callable[[], bool],
        beside: Collector | None = None,
    ) -> None:
        exposition = Exposition(services.telemetry.metrics, None, version("trueup"), beside)
        settings = services.settings
        token = "" if settings.metrics_token is None else settings.metrics_token.get_secret_value()

        def may_read(shown: str | None) -> bool:
            """Whoever has the token of the settings; without one nobody, unless metrics are open."""
            known = compare_digest((shown or "").encode(), f"Bearer {token}".encode())
            return settings.metrics_open or (known and bool(token))

        class Handler(BaseHTTPRequestHandler):
            timeout = READ_S

            def do_GET(self) -> None:
                """Health and metrics."""
                if self.path == "/health/live":
                    self._answer(200, {"status": "live"})
                elif self.path == "/health/ready":
                    good = ready()
                    self._answer(200 if good else 503, {"status": "ready" if good else "not ready"})
                elif self.path == "/metrics" and may_read(self.headers.get("Authorization")):
                    page, kind = exposition.page(self.headers.get("Accept", ""))
                    self._send(200, page, kind)
                else:
                    self._answer(404 if self.path != "/metrics" else 401, {"error": "nothing here for you"})

            def _answer(self, status: int, document: dict[str, str]) -> None:
                self._send(status, json.dumps(document).encode(), "application/json")

            def _send(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Not into the log."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.address = f"http://{host}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, name="trueup-telling", daemon=True).start()

    def close(self) -> None:
        """Stops answering."""
        self._server.shutdown()
        self._server.server_close()
