"""Groups of alerts in the ledger, as part of a transaction of ``postgres.py``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from trueup.domain.alert import Group, Member
from trueup.postgres import Connection

_COLUMNS = "group_key, receiver, labels, next_at, has_looked, sequence, told_at, firing, resolved"
_ENTER = f"""
    INSERT INTO ledger.alert_groups ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (group_key) DO UPDATE SET receiver = excluded.receiver RETURNING {_COLUMNS}
"""  # noqa: S608 - constants. The update changes nothing: it locks the row, also where it is being forgotten just now
_HOLD = """
    INSERT INTO ledger.alert_group_members AS m
        (group_key, fingerprint, rule, labels, annotations, value, starts_at, ends_at, mute)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (group_key, fingerprint) DO UPDATE SET
        (annotations, value, starts_at, ends_at, mute)
        = (excluded.annotations, excluded.value, excluded.starts_at, excluded.ends_at, excluded.mute)
    WHERE (m.annotations, m.value, m.starts_at, m.ends_at, m.mute)
        IS DISTINCT FROM (excluded.annotations, excluded.value, excluded.starts_at, excluded.ends_at, excluded.mute)
"""


class PostgresGroups:
    """Groups and what they hold."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def enter(self, group: Group) -> Group:
        """The group as it is remembered, locked."""
        (row,) = self._connection.execute(_ENTER, _cells(group)).fetchall()
        return _group(row)

    def put_group(self, group: Group) -> None:
        """Remembers it."""
        key, _, _, *changing = _cells(group)
        self._connection.execute(
            "UPDATE ledger.alert_groups SET next_at = %s, has_looked = %s, sequence = %s, told_at = %s, firing = %s,"
            " resolved = %s WHERE group_key = %s",
            (*changing, key),
        )

    def drop_group(self, key: str) -> None:
        """Forgets it."""
        self._connection.execute("DELETE FROM ledger.alert_groups WHERE group_key = %s", (key,))

    def hold(self, key: str, members: Sequence[Member]) -> None:
        """Adds or changes members."""
        with self._connection.cursor() as cursor:
            cursor.executemany(
                _HOLD,
                [
                    (
                        key,
                        one.fingerprint,
                        one.rule,
                        Jsonb(dict(one.labels)),
                        Jsonb(dict(one.annotations)),
                        one.value,
                        one.starts_at,
                        one.ends_at,
                        list(one.mute),
                    )
                    for one in members
                ],
            )

    def end(self, fingerprints: Sequence[str], at: datetime) -> None:
        """Marks members of any group as ended."""
        self._connection.execute(
            "UPDATE ledger.alert_group_members SET ends_at = greatest(%s, starts_at)"
            " WHERE fingerprint = ANY (%s) AND ends_at IS NULL",
            (at, list(fingerprints)),
        )

    def due_group(self, now: datetime) -> Group | None:
        """One that is due, locked."""
        row = self._connection.execute(
            f"SELECT {_COLUMNS} FROM ledger.alert_groups WHERE next_at <= %s ORDER BY next_at, group_key"  # noqa: S608
            " LIMIT 1 FOR UPDATE SKIP LOCKED",
            (now,),
        ).fetchone()
        return None if row is None else _group(row)

    def resting_groups(self, most: int) -> Sequence[Group]:
        """Some that rest, locked."""
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM ledger.alert_groups WHERE next_at IS NULL ORDER BY told_at LIMIT %s"  # noqa: S608
            " FOR UPDATE SKIP LOCKED",
            (most,),
        )
        return [_group(row) for row in rows.fetchall()]

    def members(self, key: str) -> list[Member]:
        """With whether somebody has acknowledged them."""
        rows = self._connection.execute(
            "SELECT m.rule, m.labels, m.starts_at, m.ends_at, m.annotations, m.value, m.mute,"
            " i.acknowledged_at IS NOT NULL"
            " FROM ledger.alert_group_members m LEFT JOIN ledger.alert_instances i USING (fingerprint)"
            " WHERE m.group_key = %s ORDER BY m.starts_at, m.fingerprint",
            (key,),
        )
        return [
            Member(rule, labels, starts_at, ends_at, annotations, value, tuple(mute), is_acknowledged)
            for rule, labels, starts_at, ends_at, annotations, value, mute, is_acknowledged in rows.fetchall()
        ]

    def let_go(self, key: str, fingerprints: Sequence[str]) -> None:
        """Takes members away."""
        self._connection.execute(
            "DELETE FROM ledger.alert_group_members WHERE group_key = %s AND fingerprint = ANY (%s)",
            (key, list(fingerprints)),
        )


def _cells(group: Group) -> tuple[Any, ...]:
    return (
        group.key,
        group.receiver,
        Jsonb(dict(group.labels)),
        group.next_at,
        group.has_looked,
        group.sequence,
        group.told_at,
        sorted(group.firing),
        sorted(group.resolved),
    )


def _group(row: tuple[Any, ...]) -> Group:
    key, receiver, labels, next_at, has_looked, sequence, told_at, firing, resolved = row
    return Group(key, receiver, labels, next_at, has_looked, sequence, told_at, frozenset(firing), frozenset(resolved))
