"""API keys as rows of ``ledger.api_keys``."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from trueup.doors.auth.keys import (
    ApiKey,
    ApiKeys,
    checked_deployments,
    checked_name,
    fresh,
    matching,
    parts,
    unknown_key,
)
from trueup.doors.auth.roles import ApiRole, Caller
from trueup.errors import LedgerUnavailable
from trueup.postgres import Connection, Pool

CACHE_S = 5.0  # how long a revoked key may still be taken by a server that knew it
AWAY_S = 3_600.0  # how long a key that a server knew is taken while the database is away
AGAIN_S = 1.0  # then the database is asked again after so long
CACHED_KEYS = 1_024
_LOCK = "SELECT pg_advisory_xact_lock(7238149)"  # two first starts must not both make an admin key
_FIELDS = "key_id, name, role, created_at, revoked_at, deployments"


class PostgresApiKeys(ApiKeys):
    """Keys as rows of ``ledger.api_keys``; every change is a row of ``ledger.audit`` in the same commit."""

    def __init__(self, owner: Pool) -> None:
        self._owner = owner
        # Until when it is taken, who it is, hash, when it was looked up.
        self._cache: dict[str, tuple[float, Caller | None, bytes, float]] = {}
        self._lock = threading.Lock()

    def create(
        self, name: str, role: ApiRole, *, by: str, deployments: Iterable[str] | None = None
    ) -> tuple[ApiKey, str]:
        """A new key and its full text."""
        checked, limited = checked_name(name), checked_deployments(deployments, role)
        with self._owner.transaction() as connection:
            return _insert(connection, checked, role, by, limited)

    def create_first(self, *, by: str) -> tuple[ApiKey, str] | None:
        """An admin key where no working one exists."""
        with self._owner.transaction() as connection:
            connection.execute(_LOCK)
            known = connection.execute(
                "SELECT 1 FROM ledger.api_keys WHERE role = 'admin' AND revoked_at IS NULL LIMIT 1"
            ).fetchone()
            return None if known else _insert(connection, "first admin", ApiRole.ADMIN, by, None)

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
            raise unknown_key()
        return _key(row)

    def authenticate(self, text: str, peer: str | None = None) -> Caller:
        """Who holds the key."""
        key_id, presented = parts(text)
        return matching(*self._looked_up(key_id), presented)

    def known(self, text: str) -> Caller | None:
        """From memory alone."""
        key_id, presented = parts(text)
        held = self._cache.get(key_id)
        if held is None or time.monotonic() >= held[0]:
            return None
        return matching(held[1], held[2], presented)

    def _looked_up(self, key_id: str) -> tuple[Caller | None, bytes | None]:
        """Caller and hash, from memory for at most ``CACHE_S``. Unknown ids are not kept: a flood
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
                return None, None
            while len(self._cache) >= CACHED_KEYS:
                del self._cache[next(iter(self._cache))]
            key, key_hash = _key(row[:-1]), bytes(row[-1])
            caller = None if key.revoked_at else key.caller
            self._cache[key_id] = (now + CACHE_S, caller, key_hash, now)
            return caller, key_hash


@contextmanager
def open_keys(owner_url: str) -> Iterator[PostgresApiKeys]:
    """The keys of a database, for as long as the block lasts."""
    pool = Pool(owner_url, size=2, application="trueup-keys")
    try:
        yield PostgresApiKeys(pool)
    finally:
        pool.close()


def _insert(
    connection: Connection, name: str, role: ApiRole, by: str, deployments: tuple[str, ...] | None
) -> tuple[ApiKey, str]:
    key_id, text, key_hash = fresh()
    limited = None if deployments is None else list(deployments)
    row = connection.execute(
        "INSERT INTO ledger.api_keys (key_id, name, role, key_hash, deployments) "  # noqa: S608
        f"VALUES (%s, %s, %s, %s, %s) RETURNING {_FIELDS}",
        (key_id, name, str(role), key_hash, limited),
    ).fetchone()
    assert row is not None
    _audit(connection, by, "create key", key_id, {"name": name, "role": str(role), "deployments": limited})
    return _key(row), text


def _audit(connection: Connection, actor: str, action: str, subject: str, detail: dict[str, Any]) -> None:
    connection.execute(
        "INSERT INTO ledger.audit (actor, action, subject, detail) VALUES (%s, %s, %s, %s)",
        (actor, action, subject, json.dumps(detail)),
    )


def _key(row: Sequence[Any]) -> ApiKey:
    key_id, name, role, created_at, revoked_at, deployments = row
    return ApiKey(
        key_id, name, ApiRole(role), created_at, revoked_at, None if deployments is None else tuple(deployments)
    )
