"""scipy, asked for when a figure needs it: the extra ``monitoring``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from trueup.errors import MissingExtra


def scipy(module: str) -> Any:
    """The module of scipy, e.g. ``stats``. Raises MissingExtra."""
    try:
        return import_module(f"scipy.{module}")
    except ImportError:
        raise MissingExtra("monitoring", "measuring drift and performance") from None
