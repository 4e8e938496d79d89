"""How scheduled work is run."""

from __future__ import annotations

from pydantic import BaseModel


class Clock(BaseModel):
    """How scheduled work is run."""
