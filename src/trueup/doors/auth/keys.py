"""API keys: what is known of one, its text, and what every store of keys promises.

A key reads ``tu_<key id>_<secret>``. Only a SHA-256 of the secret is stored; the secret
is shown once, when the key is made.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from trueup.doors.auth.authenticator import Authenticator
from trueup.doors.auth.roles import ApiRole, Caller, Grant, Permission
from trueup.errors import InvalidInput, NotFound, Unauthenticated

PREFIX = "tu_"
MAX_NAME = 100
MAX_DEPLOYMENTS = 100  # that one key can be limited to
_TOKEN = re.compile(r"tu_([0-9a-f]{16})_([A-Za-z0-9_-]{43})\Z")
_DEPLOYMENT = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}\Z")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key; never its secret. ``revoked_at`` None while it works, ``deployments`` None for all."""

    key_id: str
    name: str
    role: ApiRole
    created_at: datetime
    revoked_at: datetime | None = None
    deployments: tuple[str, ...] | None = None

    @property
    def actor(self) -> str:
        """How the audit names whoever holds the key."""
        return f"key:{self.key_id}"

    @property
    def caller(self) -> Caller:
        """Whoever holds the key."""
        names = None if self.deployments is None else frozenset(self.deployments)
        return Caller(self.actor, (Grant(self.role, names),))

    def require(self, permission: Permission, deployment: str | None = None) -> None:
        """As :meth:`Caller.require`."""
        self.caller.require(permission, deployment)


class ApiKeys(Authenticator, Protocol):
    """The keys there are."""

    def create(
        self, name: str, role: ApiRole, *, by: str, deployments: Iterable[str] | None = None
    ) -> tuple[ApiKey, str]:
        """A new key and its full text, which is not kept; limited to ``deployments`` unless None.

        Raises InvalidInput for a bad name, and for an admin's key that is limited.
        """
        ...

    def create_first(self, *, by: str) -> tuple[ApiKey, str] | None:
        """An admin key where no working one exists, else None; of two callers one makes it."""
        ...

    def listed(self) -> Sequence[ApiKey]:
        """All keys, oldest first, revoked ones too."""
        ...

    def revoke(self, key_id: str, *, by: str) -> ApiKey:
        """Ends a key for good; again changes nothing. Servers notice within ``CACHE_S``. Raises NotFound."""
        ...


def fresh() -> tuple[str, str, bytes]:
    """Key id, full text, hash of the secret."""
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    return key_id, f"{PREFIX}{key_id}_{secret}", _hash(secret)


def _hash(secret: str) -> bytes:
    # Not argon2: slow hashes protect secrets that people choose. This one is 256 random bits, which
    # nobody can search, and it is checked on every request, where a slow hash would be a way to
    # overload the server.
    return hashlib.sha256(secret.encode()).digest()


_NO_HASH = _hash("")


def parts(text: str) -> tuple[str, bytes]:
    """Key id and hash of the secret. Raises Unauthenticated for a text that is no key."""
    found = _TOKEN.match(text)
    if found is None:
        raise refused()
    return found[1], _hash(found[2])


def matching(caller: Caller | None, key_hash: bytes | None, presented: bytes) -> Caller:
    """The caller if the secret is the key's own; ``caller`` None stands for an unknown or revoked key.
    One answer for all other cases."""
    same = hmac.compare_digest(key_hash or _NO_HASH, presented)
    if caller is None or not same:
        raise refused()
    return caller


def refused() -> Unauthenticated:
    """Nobody that we know."""
    return Unauthenticated(
        "the API key is missing, unknown or revoked",
        next_step="send `Authorization: Bearer tu_...`; `trueup keys create` makes a key",
    )


def unknown_key() -> NotFound:
    """There is no key of that id."""
    return NotFound("no such key", next_step="`trueup keys list` shows the ids")


def checked_name(name: str) -> str:
    """The name without space around it. Raises InvalidInput."""
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidInput(f"a key needs a printable name of at most {MAX_NAME} characters", next_step="name its user")
    return name.strip()


def checked_deployments(deployments: Iterable[str] | None, role: ApiRole) -> tuple[str, ...] | None:
    """The names sorted, each once. Raises InvalidInput. They need not exist yet."""
    if deployments is None:
        return None
    names = tuple(sorted(set(deployments)))
    if role is ApiRole.ADMIN:
        raise InvalidInput(
            "an admin key cannot be limited to deployments", next_step="choose the role operator, or no deployment"
        )
    if not 1 <= len(names) <= MAX_DEPLOYMENTS:
        raise InvalidInput(f"a key is limited to between 1 and {MAX_DEPLOYMENTS} deployments, or to none")
    if not all(_DEPLOYMENT.match(name) for name in names):
        raise InvalidInput(
            "a deployment's name starts with a letter and has at most 100 letters, digits, `_`, `.` or `-`"
        )
    return names
