"""What a process says of itself, so that a rule of SQL can ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gauge:
    """One number as it is now. ``name`` says what is measured and in which unit; ``labels`` of which thing."""

    name: str
    labels: Mapping[str, str]
    value: float
