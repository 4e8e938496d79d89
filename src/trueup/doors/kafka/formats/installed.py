"""The formats by name: those of trueup, and those that other packages bring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Formats:
    """Makes the format that a stream names. ``client`` makes Confluent's schema registry client, when one is needed."""

    def __init__(self, client: Callable[[], Any] | None = None) -> None:
        self._client = client
