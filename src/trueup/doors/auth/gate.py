"""The one authenticator of a server: API keys and tokens behind one question, with bounds on how often.

1. a text that is known from memory is a caller, and takes a token of the caller's bucket
2. any other costs a look-up or a signature: an address that failed too often is refused before that
3. a failure is counted against the address, a success takes a token of the caller's bucket

A text that was good within memory is never held against its address: other people's failures behind one
proxy do not lock out whoever calls from there already.
"""

from __future__ import annotations

import hashlib
import ipaddress
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from trueup.bootstrap import Services
from trueup.doors.auth.authenticator import Authenticator
from trueup.doors.auth.keys import PREFIX
from trueup.doors.auth.postgres import open_keys
from trueup.doors.auth.rates import Buckets, Rate
from trueup.doors.auth.roles import Caller
from trueup.errors import RateLimited, Unauthenticated
from trueup.settings import Rates


class Gate(Authenticator):
    """``keys`` know texts that begin with ``tu_``; all others go to ``tokens``, where there are any."""

    def __init__(self, keys: Authenticator, tokens: Authenticator | None = None, rates: Rates | None = None) -> None:
        rates = rates or Rates()
        self._keys = keys
        self._tokens = tokens or keys
        self._requests = _buckets(rates.requests_per_s, rates.requests_burst, rates.callers)
        self._instances = _buckets(rates.instances_per_s, rates.instances_burst, rates.callers)
        self._failures = _buckets(rates.failures_per_s, rates.failures_burst, rates.callers)
        self._were_good: OrderedDict[bytes, None] = OrderedDict()
        self._most = rates.callers
        self._lock = threading.Lock()
        self.unauthenticated = 0  # texts looked up in vain, since the start

    @property
    def refused(self) -> dict[str, int]:
        """How many requests were refused by which bound, since the start."""
        named = {"requests": self._requests, "instances": self._instances, "failures": self._failures}
        return {name: buckets.refused if buckets else 0 for name, buckets in named.items()}

    def known(self, text: str) -> Caller | None:
        """From memory alone."""
        caller = (self._keys if text.startswith(PREFIX) else self._tokens).known(text)
        if caller is not None and self._requests is not None:
            _admit(self._requests, caller.actor, 1, "requests")
        return caller

    def authenticate(self, text: str, peer: str | None = None) -> Caller:
        """Who it is; may block."""
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        stranger = None if peer is None or digest in self._were_good else network_of(peer)
        self._check(stranger)
        try:
            caller = (self._keys if text.startswith(PREFIX) else self._tokens).authenticate(text)
        except Unauthenticated:
            self._count(stranger, digest)
            raise
        self._remember(digest)
        if self._requests is not None:
            _admit(self._requests, caller.actor, 1, "requests")
        return caller

    def spend(self, caller: Caller, instances: int) -> None:
        """Counts instances against the caller's rate."""
        if self._instances is not None:
            _admit(self._instances, caller.actor, instances, "instances")

    def _check(self, stranger: str | None) -> None:
        if self._failures is not None and stranger is not None:
            wait = self._failures.wait(stranger)
            if wait:
                raise RateLimited("too many unknown keys or tokens came from this address", retry_after_s=wait)

    def _count(self, stranger: str | None, digest: bytes) -> None:
        with self._lock:
            self.unauthenticated += 1
            self._were_good.pop(digest, None)
        if self._failures is not None and stranger is not None:
            self._failures.take(stranger)

    def _remember(self, digest: bytes) -> None:
        with self._lock:
            self._were_good[digest] = None
            self._were_good.move_to_end(digest)
            if len(self._were_good) > self._most:
                self._were_good.popitem(last=False)


@contextmanager
def open_gate(services: Services) -> Iterator[Gate]:
    """The gate of a server, for as long as the block lasts. Raises MissingExtra where OIDC needs it."""
    settings = services.settings
    with open_keys(services.urls.owner) as keys:
        if settings.oidc.issuer is None:
            yield Gate(keys, rates=settings.rates)
            return
        from trueup.doors.auth.oidc import open_tokens

        with open_tokens(settings.oidc) as tokens:
            tokens.warm()
            yield Gate(keys, tokens, settings.rates)


def network_of(peer: str) -> str:
    """What counts as one address: of IPv6 the first 64 bits, which one customer is given."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer[:64]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    mapped = address.ipv4_mapped
    return str(ipaddress.IPv6Address(int(address) >> 64 << 64)) if mapped is None else str(mapped)


def _buckets(per_s: float, burst: float, most: int) -> Buckets | None:
    rate = Rate.of(per_s, burst)
    return None if rate is None else Buckets(rate, most)


def _admit(buckets: Buckets, name: str, tokens: int, what: str) -> None:
    wait = buckets.take(name, tokens)
    if wait:
        raise RateLimited(f"the caller's rate of {what} is reached", retry_after_s=wait)
