"""How reports are run and kept."""

from __future__ import annotations

from pydantic import BaseModel


class Reporting(BaseModel):
    """How reports are run and kept."""
