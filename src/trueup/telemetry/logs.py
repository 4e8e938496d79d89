"""Structured logs. Events are names, values are identifiers and counts, never features."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog

_lowest = logging.WARNING
_around: list[Callable[[], dict[str, Any]]] = []  # what events say of where they happen


def configure(level: str = "warning", *, as_json: bool = False) -> None:
    """Sends logs to standard error, as readable lines or as JSON. Call once, in a door's start."""
    global _lowest
    _lowest = getattr(logging, level.upper())
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _placed,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_lowest),
        logger_factory=structlog.PrintLoggerFactory(file=cast(TextIO, _StandardError())),
    )


class _StandardError:
    """Standard error as it is when something is written. Closed, it takes nothing and fails nobody."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return sys.stderr.write(text)
        return 0

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def log(name: str) -> Any:
    """A logger that carries the room's name."""
    return structlog.get_logger(room=name)


def describe_with(about: Callable[[], dict[str, Any]]) -> None:
    """Has every event carry what ``about`` says when it is written."""
    _around.append(about)


def _placed(_: Any, __: str, event: Any) -> Any:
    for about in _around:
        event = about() | event
    return event


def shows_info() -> bool:
    """Whether events of level info are written: what is written for every request asks first."""
    return _lowest <= logging.INFO
