"""Admin routes apart: calls that change what answers, and metrics, on a listener of their own."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from trueup.doors.prompt import AnswersAtOnce, Respond

_DEPLOY = re.compile(r"/v1/deployments/?\Z")
_ADMIN = re.compile(r"/metrics(?:/.*)?\Z|/v2/repository/models/.*\Z", re.DOTALL)


class AdminApart:
    """ASGI: away from the admin listener, an admin route answers what an unknown path does.

    Which listener it is, the socket says, not the request.
    """

    def __init__(self, app: ASGIApp, admin_port: int) -> None:
        self._app = app
        self._admin_port = admin_port

    def at_once(self, scope: Scope, body: bytes, respond: Respond) -> bool:
        """As the application does: no admin route is answered at once."""
        return isinstance(self._app, AnswersAtOnce) and self._app.at_once(scope, body, respond)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http" and is_admin(scope["method"], scope["path"]):
            server = scope.get("server")
            if server is None or server[1] != self._admin_port:
                hidden = "/v2/hidden" if scope["path"].startswith("/v2") else "/hidden"
                scope = {**scope, "path": hidden, "raw_path": hidden.encode()}
        await self._app(scope, receive, send)


def is_admin(method: str, path: str) -> bool:
    """Whether the call changes what answers, or shows metrics. Reading is not."""
    return _ADMIN.match(path) is not None or (method not in ("GET", "HEAD") and _DEPLOY.match(path) is not None)
