"""An OpenID Connect issuer on a real socket: discovery, keys, and tokens it signs."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

_MADE: dict[str, RSAKey | ECKey | OKPKey] = {}  # making an RSA key takes a while


def key(kid: str, kind: str = "RSA") -> Any:
    """A key pair of that id, the same one whenever it is asked for."""
    if kid not in _MADE:
        makers = {
            "RSA": lambda: RSAKey.generate_key(2048, {"kid": kid}),
            "EC": lambda: ECKey.generate_key("P-256", {"kid": kid}),
            "OKP": lambda: OKPKey.generate_key("Ed25519", {"kid": kid}),
        }
        _MADE[kid] = makers[kind]()  # type: ignore[no-untyped-call]
    return _MADE[kid]


class Issuer:
    """What the issuer says now; tests change it. ``answers`` maps a path to (status, headers, body)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: list[Any] = [key("one")]
        self.extra: list[dict[str, Any]] = []  # further members of the key set
        self.asked: list[str] = []
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.away = False
        self.slow_s = 0.0

    def document(self, path: str) -> Any:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        return {"keys": [k.as_dict(private=False) for k in self.keys] + self.extra}

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        made = {"iss": self.url, "aud": "trueup", "sub": "anna", "iat": now, "nbf": now, "exp": now + 300,
                "realm_access": {"roles": ["desk"]}} | changes  # fmt: skip
        return {name: value for name, value in made.items() if value is not ...}

    def token(self, *, by: Any = None, alg: str = "RS256", header: dict[str, Any] | None = None, **changes: Any) -> str:
        """A token; ``by`` signs it. A claim of ``...`` is left out."""
        signer = by or self.keys[0]
        shown = {"alg": alg, "kid": signer.kid} | (header or {})
        shown = {name: value for name, value in shown.items() if value is not ...}
        return jwt.encode(shown, self.claims(**changes), signer, algorithms=[alg])

    def signed(self, header: dict[str, Any], by: Any) -> str:
        """A token with exactly this header and a right RS256 signature, as no library would make it."""
        signing = f"{b64(header)}.{b64(self.claims())}"
        signature = by.private_key.sign(signing.encode(), PKCS1v15(), SHA256())
        return f"{signing}.{b64(signature)}"

    def confused(self) -> str:
        """HS256 with the public key, which everybody knows, as its secret."""
        signing = f"{b64({'alg': 'HS256', 'kid': 'one'})}.{b64(self.claims())}"
        secret = key("one").as_pem(private=False)
        return f"{signing}.{b64(hmac.digest(secret, signing.encode(), 'sha256'))}"


def b64(value: Any) -> str:
    """A part of a token: bytes, or a value as JSON."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextmanager
def issuing() -> Iterator[Issuer]:
    """A running issuer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked.append(self.path)
            time.sleep(issuer.slow_s)
            if issuer.away:
                self.send_response(503)
                self.end_headers()
                return
            status, headers, body = issuer.answers.get(self.path) or (
                200,
                {},
                json.dumps(issuer.document(self.path)).encode(),
            )
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    issuer = Issuer(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
