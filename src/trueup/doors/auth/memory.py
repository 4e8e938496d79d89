"""The fake beside the adapter: keys for as long as the process lives."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

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


class MemoryApiKeys(ApiKeys):
    """Keys in memory. ``audit`` holds (actor, action, key id)."""

    def __init__(self) -> None:
        self._keys: dict[str, tuple[ApiKey, bytes]] = {}
        self._callers: dict[str, Caller] = {}  # whose keys work
        self._lock = threading.Lock()
        self.audit: list[tuple[str, str, str]] = []

    def create(
        self, name: str, role: ApiRole, *, by: str, deployments: Iterable[str] | None = None
    ) -> tuple[ApiKey, str]:
        """A new key and its full text."""
        checked, limited = checked_name(name), checked_deployments(deployments, role)
        with self._lock:
            return self._add(checked, role, by, limited)

    def create_first(self, *, by: str) -> tuple[ApiKey, str] | None:
        """An admin key where no working one exists."""
        with self._lock:
            if any(k.role is ApiRole.ADMIN and k.revoked_at is None for k, _ in self._keys.values()):
                return None
            return self._add("first admin", ApiRole.ADMIN, by, None)

    def listed(self) -> Sequence[ApiKey]:
        """All keys, oldest first."""
        return [key for key, _ in self._keys.values()]

    def revoke(self, key_id: str, *, by: str) -> ApiKey:
        """Ends a key for good."""
        with self._lock:
            if key_id not in self._keys:
                raise unknown_key()
            key, key_hash = self._keys[key_id]
            if key.revoked_at is None:
                key = replace(key, revoked_at=datetime.now(UTC))
                self._keys[key_id] = (key, key_hash)
                del self._callers[key_id]
                self.audit.append((by, "revoke key", key_id))
            return key

    def authenticate(self, text: str, peer: str | None = None) -> Caller:
        """Who holds the key."""
        key_id, presented = parts(text)
        _, key_hash = self._keys.get(key_id, (None, None))
        return matching(self._callers.get(key_id), key_hash, presented)

    def known(self, text: str) -> Caller | None:
        """Everything is in memory."""
        return self.authenticate(text)

    def _add(self, name: str, role: ApiRole, by: str, deployments: tuple[str, ...] | None) -> tuple[ApiKey, str]:
        key_id, text, key_hash = fresh()
        key = ApiKey(key_id, name, role, datetime.now(UTC), deployments=deployments)
        self._keys[key_id] = (key, key_hash)
        self._callers[key_id] = key.caller
        self.audit.append((by, "create key", key_id))
        return key, text
