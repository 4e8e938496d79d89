"""Actions in PostgreSQL, append only, and their fake: both pass ``tests/contract/test_actions_contract.py``.

1. look up  the items of actions that name a prediction
2. insert   those whose key is new
3. compare  the others with what is there: another action under a known key refuses all
"""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import date
from typing import Any

from psycopg.types.json import Jsonb

from trueup.domain.action import Action, ActionReceipt, ActionsOf
from trueup.errors import Conflict, InvalidInput, no_prediction
from trueup.postgres import Connection, Pool

_ITEMS = """
    SELECT p.prediction_id, p.business_key, p.event_day FROM ledger.predictions p
    WHERE p.prediction_id = ANY (%s) AND p.deployment_id = %s
"""
_INSERT = """
    INSERT INTO ledger.actions (deployment_id, key, contract_name, business_key, event_day, prediction_id, action,
                                is_treatment, reason, actor, recorded_by, acted_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, coalesce(%s, now()))
    ON CONFLICT (deployment_id, key) DO NOTHING
"""
_KNOWN = """
    SELECT key, business_key, event_day, prediction_id, action, is_treatment, reason, actor, acted_at
    FROM ledger.actions WHERE deployment_id = %s AND key = ANY (%s)
"""
_AUDIT = "INSERT INTO ledger.audit (actor, action, subject, detail) VALUES (%s, 'record actions', %s, %s)"


class PostgresActions:
    """Records through the writer role."""

    def __init__(self, writer: Pool) -> None:
        self._writer = writer

    def record(self, given: ActionsOf) -> ActionReceipt:
        """Adds those whose key is new, all in one commit with the audit's row. Raises Conflict, NotFound."""
        _check_keys(given)
        if not given.actions:
            return ActionReceipt(0, 0)
        with self._writer.transaction() as connection:
            actions = _with_items(connection, given)
            with connection.cursor() as cursor:
                # In the order of keys: two who record the same ones wait in turn.
                cursor.executemany(_INSERT, [_row(given, one) for one in sorted(actions, key=lambda one: one.key)])
                added = max(cursor.rowcount, 0)
            if added < len(actions):
                _check_known(connection, given.deployment_id, actions)
            if added:
                connection.execute(_AUDIT, (given.recorded_by, given.deployment, Jsonb({"actions": added})))
        return ActionReceipt(added, len(actions) - added)


class MemoryActions:
    """The fake: knows no predictions."""

    def __init__(self) -> None:
        self.held: dict[tuple[int, str], Action] = {}
        self._lock = threading.Lock()

    def record(self, given: ActionsOf) -> ActionReceipt:
        """Adds those whose key is new. Raises Conflict, NotFound."""
        _check_keys(given)
        with self._lock:
            known = [self.held.get((given.deployment_id, one.key)) for one in given.actions]
            if any(one.prediction_id is not None for one in given.actions):
                raise no_prediction()
            if any(k is not None and not _is_same(k, one) for k, one in zip(known, given.actions, strict=True)):
                raise _conflict()
            for one in given.actions:
                self.held.setdefault((given.deployment_id, one.key), one)
        added = known.count(None)
        return ActionReceipt(added, len(known) - added)


def _check_keys(given: ActionsOf) -> None:
    keys = [one.key for one in given.actions]
    if len(set(keys)) != len(keys):
        raise InvalidInput("two actions have one key", next_step="give each its own")
    texts = (text for one in given.actions for text in (one.key, one.action, one.actor, one.reason, one.business_key))
    if any(text is not None and "\0" in text for text in texts):
        raise InvalidInput("an action holds a character that no stored text can")


def _with_items(connection: Connection, given: ActionsOf) -> list[Action]:
    """The actions with the items of the predictions that they name. Raises NotFound."""
    wanted = [one.prediction_id for one in given.actions if one.prediction_id is not None]
    if not wanted:
        return list(given.actions)
    found = {row[0]: row[1:] for row in connection.execute(_ITEMS, (wanted, given.deployment_id)).fetchall()}
    if set(wanted) - set(found):
        raise no_prediction()
    return [one if one.prediction_id is None else _of_item(one, found[one.prediction_id]) for one in given.actions]


def _of_item(action: Action, item: tuple[str, date]) -> Action:
    return replace(action, business_key=item[0], event_day=item[1])


def _row(given: ActionsOf, one: Action) -> tuple[Any, ...]:
    return (
        *(given.deployment_id, one.key, given.contract_name, one.business_key, one.event_day, one.prediction_id),
        *(one.action, one.is_treatment, one.reason, one.actor, given.recorded_by, one.acted_at),
    )


def _check_known(connection: Connection, deployment_id: int, actions: list[Action]) -> None:
    rows = connection.execute(_KNOWN, (deployment_id, [one.key for one in actions])).fetchall()
    known = {row[0]: row[1:] for row in rows}
    for one in actions:
        key, day, prediction, action, treats, reason, actor, acted_at = known[one.key]
        same = (key, day, action, treats, reason, actor) == (
            *(one.business_key, one.event_day, one.action, one.is_treatment, one.reason, one.actor),
        )
        if not same or prediction != one.prediction_id or one.acted_at not in (None, acted_at):
            raise _conflict()


def _is_same(known: Action, one: Action) -> bool:
    return known == (one if one.acted_at is not None else replace(one, acted_at=known.acted_at))


def _conflict() -> Conflict:
    return Conflict("another action has one of the keys", next_step="give a new action a new key")
