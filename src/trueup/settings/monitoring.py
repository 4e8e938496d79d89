"""How predictions are measured against their reference and their outcomes."""

from __future__ import annotations

from pydantic import BaseModel


class Monitoring(BaseModel):
    """How predictions are measured against their reference and their outcomes."""
