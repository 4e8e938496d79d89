"""Structured logs. Events are names, values are identifiers and counts, never features."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def configure(level: str = "warning", *, as_json: bool = False) -> None:
    """Sends logs to standard error, as readable lines or as JSON. Call once, in a door's start."""
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )


def log(name: str) -> Any:
    """A logger that carries the room's name."""
    return structlog.get_logger(room=name)
