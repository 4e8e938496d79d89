"""Who is told, and how."""

from __future__ import annotations

from pydantic import BaseModel


class Notifying(BaseModel):
    """Who is told, and how."""
