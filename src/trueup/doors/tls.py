"""TLS and mutual TLS of the network doors, from files that may change while they are served.

A client certificate admits a connection, nothing more: who is calling and what they may do is told by
their key or token.
"""

from __future__ import annotations

import ssl
from importlib import import_module
from pathlib import Path
from typing import Any

from trueup.errors import InvalidInput, MissingExtra
from trueup.settings import Tls
from trueup.telemetry import log

# What TLS 1.2 may use; TLS 1.3 has safe suites only.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_ASKED = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


class Certificates:
    """The context that new connections take. ``refresh`` gives it the certificate that the files hold now."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self.context = _context(tls)
        self._seen = _changed_at(tls)

    def refresh(self) -> bool:
        """Whether there was another certificate; one that cannot be used is logged, and the old one stays.

        The client CA is read once: an authority cannot be taken away from a context, so that needs a restart.
        """
        now = _changed_at(self._tls)
        if now == self._seen:
            return False
        self._seen = now
        try:
            _context(self._tls)  # tried apart: half a change must not reach the context that serves
            _load(self.context, self._tls)
        except InvalidInput as error:
            log("tls").error("certificate_not_reloaded", why=error.message)
            return False
        log("tls").info("certificate_reloaded")
        return True


def grpc_credentials(tls: Tls) -> Any:
    """Credentials (grpc.ServerCredentials) of a gRPC server, None without TLS.

    The certificate is read again when the files change. gRPC knows no optional client certificates: with
    ``optional`` it asks for none.
    Raises InvalidInput, MissingExtra.
    """
    if tls.certificate is None:
        return None
    try:
        grpc: Any = import_module("grpc")
    except ImportError:
        raise MissingExtra("grpc", "serving gRPC") from None
    _context(tls)  # raises what gRPC would only log
    required = tls.client_certificates == "required"
    seen: list[tuple[int, ...]] = [_changed_at(tls)]

    def configuration() -> Any:
        assert tls.certificate is not None
        chain = tls.certificate.read_bytes()
        authorities = tls.client_ca.read_bytes() if required and tls.client_ca is not None else None
        return grpc.ssl_server_certificate_configuration([(_plain_key(tls), chain)], authorities)

    def changed() -> Any:
        """Asked at every handshake; None keeps what there is."""
        now = _changed_at(tls)
        if now == seen[0]:
            return None
        seen[0] = now
        try:
            _context(tls)
            return configuration()
        except (InvalidInput, OSError) as error:
            log("tls").error("certificate_not_reloaded", why=type(error).__name__)
            return None

    return grpc.dynamic_ssl_server_credentials(configuration(), changed, require_client_authentication=required)


def _context(tls: Tls) -> ssl.SSLContext:
    """A server's context: TLS 1.2 or later. Raises InvalidInput, whose text names settings and no paths."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    _load(context, tls)
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(tls.client_ca)
        except (OSError, ssl.SSLError):
            raise _unusable("CLIENT_CA") from None
    context.verify_mode = _ASKED[tls.client_certificates]
    return context


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    assert tls.certificate is not None
    try:
        password = _password(tls)
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: password or b"")
    except (OSError, ssl.SSLError, ValueError):
        raise _unusable("CERTIFICATE, KEY or PASSWORD_FILE") from None


def _password(tls: Tls) -> bytes | None:
    return None if tls.password_file is None else tls.password_file.read_bytes().rstrip(b"\r\n")


def _plain_key(tls: Tls) -> bytes:
    """The key as PEM without a password, as gRPC takes it."""
    file = tls.key or tls.certificate
    assert file is not None
    password = _password(tls)
    if password is None:
        return file.read_bytes()
    try:
        from cryptography.hazmat.primitives import serialization as form
    except ImportError:
        raise MissingExtra("oidc", "a key with a password for gRPC") from None
    key = form.load_pem_private_key(file.read_bytes(), password)
    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())


def _changed_at(tls: Tls) -> tuple[int, ...]:
    """When each file changed last, ns; 0 where it is not there."""
    files = [f for f in (tls.certificate, tls.key, tls.password_file) if f is not None]
    return tuple(_modified(file) for file in files)


def _modified(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _unusable(settings: str) -> InvalidInput:
    return InvalidInput(
        f"the files of TRUEUP_TLS__{settings} cannot be used",
        next_step="check that they exist, are PEM and go together",
    )
