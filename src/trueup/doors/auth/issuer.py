"""The keys of an OpenID Connect issuer: fetched, rotated, and kept while the issuer is away.

1. a key that is held and was fetched within ``fresh_s`` is taken from memory
2. any other is a reason to fetch, at most once in ``refetch_s`` and one fetch at a time
3. where that fails, held keys go on being taken until they are ``stale_s`` old
A flood of made-up key ids so costs the issuer one fetch in ``refetch_s``, and a rotated key is known
``refetch_s`` after it is first used at the latest.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from trueup.errors import Unauthenticated, Unavailable
from trueup.settings import Oidc, is_confidential
from trueup.telemetry import log

MOST_KEYS = 100
LEAST_RSA_BITS = 2_048
WAITERS = 2  # threads that wait for a fetch of another one; more are told to come again
DISCOVERY = "/.well-known/openid-configuration"

_PLAIN_JSON = {"Accept": "application/json", "Accept-Encoding": "identity"}  # packed bytes could unpack to anything

PublicKey = RSAKey | ECKey | OKPKey
_KINDS = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}  # by the first letters of an algorithm


class IssuerAway(Exception):
    """The issuer's documents cannot be had, or are not what they must be. Its text is ours."""


class IssuerKeys:
    """The public keys by which an issuer signs. Safe for threads. ``clock`` is seconds that only grow."""

    def __init__(
        self, oidc: Oidc, fetch: Callable[[str], dict[str, Any]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._oidc = oidc
        self._fetch = fetch
        self._clock = clock
        self._keys: tuple[PublicKey, ...] = ()
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._away = False  # whether the last fetch failed
        self._fetching = threading.Lock()
        self._waiting = threading.BoundedSemaphore(WAITERS)

    def find(self, kid: str | None, algorithm: str) -> PublicKey:
        """The key of that id that may sign so; without an id the only one that may.

        Raises Unauthenticated where the issuer has none, Unavailable where that cannot be known.
        """
        found = self._held(kid, algorithm)
        if found is None:
            self._refetch(must=True)
            found = self._held(kid, algorithm)
        elif self._clock() - self._fetched_at >= self._oidc.fresh_s:
            self._refetch(must=False)
            found = self._held(kid, algorithm)
        if self._clock() - self._fetched_at >= self._oidc.stale_s or (found is None and self._away):
            raise Unavailable("the token's issuer does not answer", next_step="try again; or use an API key")
        if found is None:
            raise Unauthenticated("the token is not signed by a key of its issuer", next_step="ask for a new token")
        return found

    def warm(self) -> None:
        """Fetches the keys, as if one were asked for."""
        self._refetch(must=True)

    def _held(self, kid: str | None, algorithm: str) -> PublicKey | None:
        suiting = [key for key in self._keys if _suits(key, algorithm) and (kid is None or key.kid == kid)]
        return suiting[0] if len(suiting) == 1 or (suiting and kid is not None) else None

    def _refetch(self, *, must: bool) -> None:
        """One fetch, unless one was tried within ``refetch_s``. Of several threads one does it; others wait for it
        only where they ``must``."""
        if self._clock() - self._tried_at < self._oidc.refetch_s and not self._fetching.locked():
            return
        if not must:
            if self._fetching.acquire(blocking=False):
                self._fetch_held()
            return
        if not self._waiting.acquire(blocking=False):
            raise Unavailable("the issuer's keys are being fetched", next_step="try again after a moment")
        try:
            if self._fetching.acquire(timeout=2 * self._oidc.fetch_timeout_s):
                self._fetch_held()
        finally:
            self._waiting.release()

    def _fetch_held(self) -> None:
        """Fetches under the lock that the caller took, and lets go of it."""
        try:
            now = self._clock()
            if now - self._tried_at < self._oidc.refetch_s:
                return  # whoever had the lock before has just done it
            self._tried_at = now
            try:
                self._keys = self._fetched()
                self._fetched_at, self._away = self._clock(), False
            except IssuerAway as error:
                self._away = True
                log("auth").warning("issuer_away", why=str(error), held=len(self._keys))
        finally:
            self._fetching.release()

    def _fetched(self) -> tuple[PublicKey, ...]:
        document = self._fetch(self._oidc.jwks_url or self._discovered())
        listed = document.get("keys")
        if not isinstance(listed, list) or len(listed) > MOST_KEYS:
            raise IssuerAway("the key set is no list of at most 100 keys")
        keys = tuple(key for key in map(public_key, listed) if key is not None)
        if not keys:
            raise IssuerAway("the key set holds no key that can be used")
        return keys

    def _discovered(self) -> str:
        assert self._oidc.issuer is not None
        document = self._fetch(self._oidc.issuer.rstrip("/") + DISCOVERY)
        address = document.get("jwks_uri")
        if document.get("issuer") != self._oidc.issuer:
            raise IssuerAway("the discovery document is of another issuer")
        if not isinstance(address, str) or not is_confidential(address):
            raise IssuerAway("the discovery document names no https address of keys")
        return address


def public_key(document: Any) -> PublicKey | None:
    """A key that may check signatures, None for any other: secrets, keys for encryption, weak or broken ones."""
    if not isinstance(document, dict) or document.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    if document.get("use", "sig") != "sig" or "verify" not in document.get("key_ops", ["verify"]):
        return None
    public = {name: value for name, value in document.items() if name not in ("d", "p", "q", "dp", "dq", "qi", "oth")}
    try:
        if "n" in public and len(base64.urlsafe_b64decode(public["n"] + "==").lstrip(b"\0")) * 8 < LEAST_RSA_BITS:
            return None
        key = JWKRegistry.import_key(public)
        key.get_op_key("verify")
    except (JoseError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    return key if isinstance(key, RSAKey | ECKey | OKPKey) else None


def _suits(key: PublicKey, algorithm: str) -> bool:
    return key.key_type == _KINDS.get(algorithm[:2]) and key.get("alg", algorithm) == algorithm


def fetching(oidc: Oidc, client: httpx2.Client) -> Callable[[str], dict[str, Any]]:
    """A function that reads one JSON object from an address, bounded in bytes and in time. Raises IssuerAway."""

    def fetch(url: str) -> dict[str, Any]:
        until = time.monotonic() + oidc.fetch_timeout_s
        held = bytearray()
        try:
            with client.stream("GET", url, headers=_PLAIN_JSON) as answer:
                if answer.status_code != 200 or answer.headers.get("content-encoding", "identity") != "identity":
                    raise IssuerAway(f"the issuer answered {answer.status_code}")
                for chunk in answer.iter_raw():
                    held += chunk
                    if len(held) > oidc.fetch_bytes or time.monotonic() > until:
                        raise IssuerAway("the issuer's document is too large or too slow")
            document = json.loads(held)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise IssuerAway(f"the issuer does not answer ({type(error).__name__})") from None
        except (ValueError, RecursionError):
            raise IssuerAway("the issuer's document is no JSON") from None
        if not isinstance(document, dict):
            raise IssuerAway("the issuer's document is no object")
        return document

    return fetch
