"""Who is calling, and what they may do: API keys, roles and permissions.

A key reads ``tu_<key id>_<secret>``. Only a SHA-256 of the secret is stored; the secret
is shown once, when the key is made.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from trueup.errors import Forbidden, InvalidInput, LedgerUnavailable, NotFound, Unauthenticated
from trueup.postgres import Connection, Pool

CACHE_S = 5.0  # how long a revoked key may still be taken by a server that knew it
AWAY_S = 3_600.0  # how long a key that a server knew is taken while the database is away
AGAIN_S = 1.0  # then the database is asked again after so long
CACHED_KEYS = 1_024
MAX_NAME = 100
_TOKEN = re.compile(r"tu_([0-9a-f]{16})_([A-Za-z0-9_-]{43})\Z")
_LOCK = "SELECT pg_advisory_xact_lock(7238149)"  # two first starts must not both make an admin key
_FIELDS = "key_id, name, role, created_at, revoked_at"


class ApiRole(StrEnum):
    """What a key is for; each role may all that the one before it may."""

    READER = "reader"
    SCORER = "scorer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Permission(StrEnum):
    """One thing that can be allowed."""

    READ = "read"
    SCORE = "score"
    RECORD_OUTCOMES = "record outcomes"
    DEPLOY = "deploy"
    MANAGE_KEYS = "manage keys"


PERMISSIONS: dict[ApiRole, frozenset[Permission]] = {
    ApiRole.READER: frozenset({Permission.READ}),
    ApiRole.SCORER: frozenset({Permission.READ, Permission.SCORE}),
    ApiRole.OPERATOR: frozenset({Permission.READ, Permission.SCORE, Permission.RECORD_OUTCOMES, Permission.DEPLOY}),
    ApiRole.ADMIN: frozenset(Permission),
}


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key; never its secret. ``revoked_at`` None while it works."""

    key_id: str
    name: str
    role: ApiRole
    created_at: datetime
    revoked_at: datetime | None = None

    @property
    def actor(self) -> str:
        """How the audit names whoever holds the key."""
        return f"key:{self.key_id}"

    def require(self, permission: Permission) -> None:
        """Raises Forbidden where the role does not allow it."""
        if permission not in PERMISSIONS[self.role]:
            enough = next(role for role in ApiRole if permission in PERMISSIONS[role])
            raise Forbidden(
                f"a key of role {self.role} may not {permission}", next_step=f"use a key of role {enough} or higher"
            )


class ApiKeys(Protocol):
    """The keys there are."""

    def create(self, name: str, role: ApiRole, *, by: str) -> tuple[ApiKey, str]:
        """A new key and its full text, which is not kept. Raises InvalidInput for a bad name."""
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

    def authenticate(self, text: str) -> ApiKey:
        """The key that ``text`` is. Raises Unauthenticated."""
        ...

    def known(self, text: str) -> ApiKey | None:
        """The same from memory alone, None where only ``authenticate`` can tell: never blocks."""
        ...


class PostgresApiKeys:
    """Keys as rows of ``ledger.api_keys``; every change is a row of ``ledger.audit`` in the same commit."""

    def __init__(self, owner: Pool) -> None:
        self._owner = owner
        self._cache: dict[str, tuple[float, ApiKey, bytes, float]] = {}  # until, key, hash, when it was looked up
        self._lock = threading.Lock()

    def create(self, name: str, role: ApiRole, *, by: str) -> tuple[ApiKey, str]:
        """A new key and its full text."""
        checked = _checked_name(name)
        with self._owner.transaction() as connection:
            return _insert(connection, checked, role, by)

    def create_first(self, *, by: str) -> tuple[ApiKey, str] | None:
        """An admin key where no working one exists."""
        with self._owner.transaction() as connection:
            connection.execute(_LOCK)
            known = connection.execute(
                "SELECT 1 FROM ledger.api_keys WHERE role = 'admin' AND revoked_at IS NULL LIMIT 1"
            ).fetchone()
            return None if known else _insert(connection, "first admin", ApiRole.ADMIN, by)

    def listed(self) -> Sequence[ApiKey]:
        """All keys, oldest first."""
        with self._owner.transaction() as connection:
            rows = connection.execute(f"SELECT {_FIELDS} FROM ledger.api_keys ORDER BY created_at, key_id").fetchall()  # noqa: S608 - a constant
        return [_key(row) for row in rows]

    def revoke(self, key_id: str, *, by: str) -> ApiKey:
        """Ends a key for good."""
        with self._owner.transaction() as connection:
            row = connection.execute(
                f"UPDATE ledger.api_keys SET revoked_at = now() WHERE key_id = %s AND revoked_at IS NULL "  # noqa: S608
                f"RETURNING {_FIELDS}",
                (key_id,),
            ).fetchone()
            if row is not None:
                _audit(connection, by, "revoke key", key_id, {})
            else:
                row = connection.execute(
                    f"SELECT {_FIELDS} FROM ledger.api_keys WHERE key_id = %s",  # noqa: S608
                    (key_id,),
                ).fetchone()
        with self._lock:
            self._cache.pop(key_id, None)
        if row is None:
            raise _unknown_key()
        return _key(row)

    def authenticate(self, text: str) -> ApiKey:
        """The key that ``text`` is."""
        key_id, presented = _parts(text)
        known = self._known(key_id)
        return _matching(known, presented)

    def known(self, text: str) -> ApiKey | None:
        """From memory alone."""
        key_id, presented = _parts(text)
        held = self._cache.get(key_id)
        if held is None or time.monotonic() >= held[0]:
            return None
        return _matching((held[1], held[2]), presented)

    def _known(self, key_id: str) -> tuple[ApiKey, bytes] | None:
        """Key and hash, from memory for at most ``CACHE_S``. Unknown ids are not kept: a flood
        of made-up ids must not push out the keys that work."""
        now = time.monotonic()
        with self._lock:
            held = self._cache.get(key_id)
        if held is not None and now < held[0]:
            return held[1], held[2]
        try:
            with self._owner.transaction() as connection:
                row = connection.execute(
                    f"SELECT {_FIELDS}, key_hash FROM ledger.api_keys WHERE key_id = %s",  # noqa: S608
                    (key_id,),
                ).fetchone()
        except LedgerUnavailable:
            # A deployment that spools goes on without its database, so its callers must stay known.
            if held is None or now > held[3] + AWAY_S:
                raise
            with self._lock:
                self._cache[key_id] = (now + AGAIN_S, *held[1:])
            return held[1], held[2]
        with self._lock:
            self._cache.pop(key_id, None)
            if row is None:
                return None
            while len(self._cache) >= CACHED_KEYS:
                del self._cache[next(iter(self._cache))]
            found = _key(row[:-1]), bytes(row[-1])
            self._cache[key_id] = (now + CACHE_S, *found, now)
            return found


@contextmanager
def open_keys(owner_url: str) -> Iterator[PostgresApiKeys]:
    """The keys of a database, for as long as the block lasts."""
    pool = Pool(owner_url, size=2, application="trueup-keys")
    try:
        yield PostgresApiKeys(pool)
    finally:
        pool.close()


class MemoryApiKeys:
    """The fake beside the adapter: keys for as long as the process lives. ``audit`` holds (actor, action, key id)."""

    def __init__(self) -> None:
        self._keys: dict[str, tuple[ApiKey, bytes]] = {}
        self._lock = threading.Lock()
        self.audit: list[tuple[str, str, str]] = []

    def create(self, name: str, role: ApiRole, *, by: str) -> tuple[ApiKey, str]:
        """A new key and its full text."""
        checked = _checked_name(name)
        with self._lock:
            return self._add(checked, role, by)

    def create_first(self, *, by: str) -> tuple[ApiKey, str] | None:
        """An admin key where no working one exists."""
        with self._lock:
            if any(k.role is ApiRole.ADMIN and k.revoked_at is None for k, _ in self._keys.values()):
                return None
            return self._add("first admin", ApiRole.ADMIN, by)

    def listed(self) -> Sequence[ApiKey]:
        """All keys, oldest first."""
        return [key for key, _ in self._keys.values()]

    def revoke(self, key_id: str, *, by: str) -> ApiKey:
        """Ends a key for good."""
        with self._lock:
            if key_id not in self._keys:
                raise _unknown_key()
            key, key_hash = self._keys[key_id]
            if key.revoked_at is None:
                key = replace(key, revoked_at=datetime.now(UTC))
                self._keys[key_id] = (key, key_hash)
                self.audit.append((by, "revoke key", key_id))
            return key

    def authenticate(self, text: str) -> ApiKey:
        """The key that ``text`` is."""
        key_id, presented = _parts(text)
        return _matching(self._keys.get(key_id), presented)

    def known(self, text: str) -> ApiKey | None:
        """Everything is in memory."""
        return self.authenticate(text)

    def _add(self, name: str, role: ApiRole, by: str) -> tuple[ApiKey, str]:
        key_id, text, key_hash = _fresh()
        key = ApiKey(key_id, name, role, datetime.now(UTC))
        self._keys[key_id] = (key, key_hash)
        self.audit.append((by, "create key", key_id))
        return key, text


def _fresh() -> tuple[str, str, bytes]:
    """Key id, full text, hash of the secret."""
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    return key_id, f"tu_{key_id}_{secret}", _hash(secret)


def _hash(secret: str) -> bytes:
    # Not argon2: slow hashes protect secrets that people choose. This one is 256 random bits, which
    # nobody can search, and it is checked on every request, where a slow hash would be a way to
    # overload the server.
    return hashlib.sha256(secret.encode()).digest()


_NO_HASH = _hash("")


def _parts(text: str) -> tuple[str, bytes]:
    found = _TOKEN.match(text)
    if found is None:
        raise _refused()
    return found[1], _hash(found[2])


def _matching(known: tuple[ApiKey, bytes] | None, presented: bytes) -> ApiKey:
    """The key if the secret is its own and it works; one answer for all other cases."""
    key, key_hash = known if known is not None else (None, _NO_HASH)
    same = hmac.compare_digest(key_hash, presented)
    if key is None or not same or key.revoked_at is not None:
        raise _refused()
    return key


def _refused() -> Unauthenticated:
    return Unauthenticated(
        "the API key is missing, unknown or revoked",
        next_step="send `Authorization: Bearer tu_...`; `trueup keys create` makes a key",
    )


def _unknown_key() -> NotFound:
    return NotFound("no such key", next_step="`trueup keys list` shows the ids")


def _checked_name(name: str) -> str:
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidInput(f"a key needs a printable name of at most {MAX_NAME} characters", next_step="name its user")
    return name.strip()


def _insert(connection: Connection, name: str, role: ApiRole, by: str) -> tuple[ApiKey, str]:
    key_id, text, key_hash = _fresh()
    row = connection.execute(
        f"INSERT INTO ledger.api_keys (key_id, name, role, key_hash) VALUES (%s, %s, %s, %s) RETURNING {_FIELDS}",  # noqa: S608
        (key_id, name, str(role), key_hash),
    ).fetchone()
    assert row is not None
    _audit(connection, by, "create key", key_id, {"name": name, "role": str(role)})
    return _key(row), text


def _audit(connection: Connection, actor: str, action: str, subject: str, detail: dict[str, Any]) -> None:
    connection.execute(
        "INSERT INTO ledger.audit (actor, action, subject, detail) VALUES (%s, %s, %s, %s)",
        (actor, action, subject, json.dumps(detail)),
    )


def _key(row: Sequence[Any]) -> ApiKey:
    key_id, name, role, created_at, revoked_at = row
    return ApiKey(key_id, name, ApiRole(role), created_at, revoked_at)
