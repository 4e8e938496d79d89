"""What was done about an item, by whom, when and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that somebody did about one item.

    ``key`` is its identity within the deployment: the same key again is the same action. The item is named by
    ``business_key`` and ``event_day``, or by one of its predictions, which then says what the item is. ``acted_at``
    None means now. ``is_treatment``: it can have changed the outcome; looking at an item does not.
    """

    key: str
    action: str
    actor: str
    business_key: str | None = None
    event_day: date | None = None
    prediction_id: UUID | None = None
    reason: str = ""
    acted_at: datetime | None = None
    is_treatment: bool = True

    def __post_init__(self) -> None:
        if (self.business_key is None) != (self.event_day is None):
            raise ValueError("an item is named by its business key and its event day")
        if self.business_key is None and self.prediction_id is None:
            raise ValueError("an action names a prediction, or a business key and an event day")
        if not self.key or not self.action or not self.actor:
            raise ValueError("an action has a key, says what was done, and who did it")
        if self.acted_at is not None and self.acted_at.tzinfo is None:
            raise ValueError("a moment has a zone")


@dataclass(frozen=True, slots=True)
class ActionReceipt:
    """Actions added, and those that were known."""

    added: int
    repeated: int


@dataclass(frozen=True, slots=True)
class ActionsOf:
    """Actions of one deployment, whose items are those of one contract. ``recorded_by`` is who told of them."""

    deployment: str
    deployment_id: int
    contract_name: str
    recorded_by: str
    actions: Sequence[Action]
