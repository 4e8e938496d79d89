"""Tokens (JWT) of an OpenID Connect issuer.

1. *bound*   too long a text, or one that is no JWT, is refused before anything is decoded
2. *verify*  the signature, by a key of the issuer and an asymmetric algorithm of the allow-list
3. *check*   issuer, audience, subject, and the times, give or take the clock's skew
4. *map*     the values of one claim to roles
A verified token is remembered by its SHA-256 until it ends, for at most ``token_s``.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from trueup.doors.auth.authenticator import Authenticator
from trueup.doors.auth.roles import ApiRole, Caller, Grant
from trueup.errors import MissingExtra, Unauthenticated, Unavailable
from trueup.settings import Oidc, OidcRole
from trueup.telemetry import log

try:
    import httpx2
    from joserfc import jwt
    from joserfc.errors import JoseError
    from joserfc.jws import JWSRegistry
    from joserfc.jwt import ClaimsOption, JWTClaimsRegistry

    from trueup.doors.auth.issuer import IssuerKeys, fetching
except ImportError:
    raise MissingExtra("oidc", "taking tokens of an OpenID Connect issuer") from None

MOST_SUBJECT = 255  # characters, as the standard bounds it
MOST_VALUES = 1_000  # of the roles claim that are looked at
_HEADER_BYTES = 8_192


class OidcTokens(Authenticator):
    """Callers by their token. ``wall`` is seconds since 1970, ``clock`` seconds that only grow."""

    def __init__(
        self,
        oidc: Oidc,
        keys: IssuerKeys,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._oidc = oidc
        self._keys = keys
        self._wall = wall
        self._clock = clock
        self._grants = {value: grant_of(role) for value, role in oidc.roles.items()}
        self._signatures = JWSRegistry(algorithms=oidc.algorithms, strict_check_header=False)
        self._signatures.max_header_length = _HEADER_BYTES
        self._claims = JWTClaimsRegistry(
            now=lambda: int(wall()),
            leeway=oidc.skew_s,
            **_required(oidc),
        )
        self._verified: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()
        self._lock = threading.Lock()

    def warm(self) -> None:
        """Fetches the issuer's keys, so that the first callers need not wait. An issuer that is away is logged."""
        self._keys.warm()

    def known(self, text: str) -> Caller | None:
        """From memory alone."""
        held = self._verified.get(self._digest(text))
        return held[1] if held is not None and self._clock() < held[0] else None

    def authenticate(self, text: str, peer: str | None = None) -> Caller:
        """Who it is. Raises Unauthenticated, Unavailable."""
        digest = self._digest(text)
        held = self._verified.get(digest)
        if held is not None and self._clock() < held[0]:
            return held[1]
        claims = self._checked(text)
        caller = Caller(f"oidc:{_subject(claims)}", self._mapped(claims))
        self._remember(digest, claims["exp"], caller)
        return caller

    def _digest(self, text: str) -> bytes:
        if len(text) > self._oidc.token_chars or text.count(".") != 2 or not text.isascii():
            raise _refused("it is no token of the issuer")
        return hashlib.sha256(text.encode()).digest()

    def _checked(self, text: str) -> dict[str, Any]:
        try:
            token = jwt.decode(text, self._key_of, registry=self._signatures)
            self._claims.validate(token.claims)
        except (Unauthenticated, Unavailable):
            raise
        except JoseError as error:
            raise _refused(error.error.replace("_", " ")) from None
        except Exception as error:  # whatever a stranger's bytes bring about is no token
            log("auth").info("token_refused", kind=type(error).__name__)
            raise _refused("it cannot be read") from None
        return token.claims

    def _key_of(self, signature: Any) -> Any:
        header = signature.headers()
        kid, algorithm = header.get("kid"), header["alg"]
        if not isinstance(kid, str | None):
            raise _refused("it cannot be read")
        return self._keys.find(kid, algorithm)

    def _mapped(self, claims: dict[str, Any]) -> tuple[Grant, ...]:
        """One grant for each value that stands for a role; other values are other systems' business."""
        values = values_at(claims, self._oidc.roles_claim)
        return tuple(dict.fromkeys(self._grants[value] for value in values if value in self._grants))

    def _remember(self, digest: bytes, expires: float, caller: Caller) -> None:
        left = min(expires - int(self._wall()), self._oidc.token_s)
        if left <= 0:
            return
        with self._lock:
            self._verified[digest] = (self._clock() + left, caller)
            self._verified.move_to_end(digest)
            if len(self._verified) > self._oidc.tokens:
                self._verified.popitem(last=False)


@contextmanager
def open_tokens(oidc: Oidc) -> Iterator[OidcTokens]:
    """Tokens of the issuer that the settings name, for as long as the block lasts."""
    with httpx2.Client(timeout=oidc.fetch_timeout_s, follow_redirects=False) as client:
        yield OidcTokens(oidc, IssuerKeys(oidc, fetching(oidc, client)))


def grant_of(role: OidcRole) -> Grant:
    """A setting's role."""
    return Grant(ApiRole(role.role), None if role.deployments is None else frozenset(role.deployments))


def values_at(claims: dict[str, Any], path: str) -> list[str]:
    """The texts of a claim: of a list each, of a text its words. ``path`` is the claim's name, or leads
    through objects by dots. At most ``MOST_VALUES``; none where there is no such claim."""
    found: Any = claims.get(path)
    if found is None:
        found = claims
        for name in path.split("."):
            found = found.get(name) if isinstance(found, dict) else None
    if isinstance(found, str):
        found = found.split()
    return [value for value in found[:MOST_VALUES] if isinstance(value, str)] if isinstance(found, list) else []


def _required(oidc: Oidc) -> dict[str, ClaimsOption]:
    """What each claim must be. The times are checked wherever they are given, ``exp`` must be."""
    found: dict[str, ClaimsOption] = {name: {"essential": True} for name in ("sub", "exp", *oidc.required_claims)}
    found["iss"] = {"essential": True, "value": oidc.issuer or ""}
    found["aud"] = {"essential": True, "value": oidc.audience}
    return found


def _subject(claims: dict[str, Any]) -> str:
    subject: str = claims["sub"]
    if len(subject) > MOST_SUBJECT or not subject.isprintable():
        raise _refused("its subject cannot be used")
    return subject


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated(f"the token is not accepted: {why}", next_step="ask the issuer for a new token")
