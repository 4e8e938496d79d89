"""What every store of actions must do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

import trueup
from rooms import CONTRACT
from trueup.bootstrap import wired
from trueup.domain.action import Action, ActionReceipt, ActionsOf
from trueup.domain.deployment import ModelVersion
from trueup.errors import Conflict, InvalidInput, NotFound
from trueup.outcomes.acting import MemoryActions
from trueup.ports import ActionStore

CALLED = Action("call 1", "called", "desk/ann", "T1", date(2026, 11, 20), reason="lack of securities")


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest, settings: trueup.Settings) -> Iterator[ActionStore]:
    if request.param == "memory":
        yield MemoryActions()
        return
    with wired(settings, request.getfixturevalue("fresh_database")) as services:
        version = services.registry.add_version(ModelVersion("trades", "1", (), CONTRACT))
        assert services.registry.deploy(trueup.Deployment("trades", version), by="test").deployment_id == 1
        yield services.actions


def record(store: ActionStore, *actions: Action) -> ActionReceipt:
    return store.record(ActionsOf("trades", 1, "trades", "system", actions))


class TestEveryActionStore:
    def test_the_same_key_is_the_same_action(self, store: ActionStore):
        assert record(store, CALLED, replace(CALLED, key="call 2")) == ActionReceipt(2, 0)
        assert record(store, CALLED, replace(CALLED, key="call 3")) == ActionReceipt(1, 1)
        assert record(store) == ActionReceipt(0, 0)

    def test_another_action_under_a_key_refuses_all(self, store: ActionStore):
        record(store, CALLED)
        for changes in ({"action": "lent"}, {"actor": "bob"}, {"acted_at": datetime(2026, 1, 1, tzinfo=UTC)}):
            with pytest.raises(Conflict):
                record(store, replace(CALLED, key="new"), replace(CALLED, **changes))  # type: ignore[arg-type]
        assert record(store, replace(CALLED, key="new")) == ActionReceipt(1, 0)

    def test_what_is_no_action_is_refused(self, store: ActionStore):
        with pytest.raises(InvalidInput):
            record(store, CALLED, CALLED)
        with pytest.raises(InvalidInput):
            record(store, replace(CALLED, reason="\0"))

    def test_an_unknown_prediction_is_not_found(self, store: ActionStore):
        with pytest.raises(NotFound):
            record(store, replace(CALLED, prediction_id="00000000-0000-0000-0000-000000000000"))  # type: ignore[arg-type]


def test_an_action_names_its_item_its_doer_and_what_was_done():
    for changes in ({"business_key": None}, {"actor": ""}, {"action": ""}, {"event_day": None}, {"key": ""}):
        with pytest.raises(ValueError, match=r"action|item"):
            replace(CALLED, **changes)  # type: ignore[arg-type]
