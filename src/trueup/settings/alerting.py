"""How alert rules are evaluated."""

from __future__ import annotations

from pydantic import BaseModel


class Alerting(BaseModel):
    """How alert rules are evaluated."""
