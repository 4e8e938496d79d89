"""Whether a server can answer: one question to what it depends on, however many ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from trueup.bootstrap import Services

PING_S = 1.0  # dependencies are asked at most so often


class Readiness:
    """Whether what a prediction depends on answers, and the server is not draining."""

    def __init__(self, services: Services, draining: Callable[[], bool]) -> None:
        self._services = services
        self._draining = draining
        self._asking = asyncio.Lock()
        # Of its own: a database that hangs must not take the threads in which callers are looked up.
        self._thread = ThreadPoolExecutor(1, "trueup-readiness")
        self._until = 0.0
        self._checks: dict[str, bool] = {}

    async def checks(self) -> dict[str, bool]:
        """What each dependency said, at most ``PING_S`` ago."""
        async with self._asking:
            if time.monotonic() >= self._until:
                self._checks = await asyncio.get_running_loop().run_in_executor(self._thread, self._services.ping)
                self._until = time.monotonic() + PING_S
            return self._checks

    async def ready(self) -> bool:
        """Whether requests can be answered."""
        return not self._draining() and self._services.is_ready(await self.checks()) and not self._draining()

    def draining(self) -> bool:
        """Whether the server takes leave."""
        return self._draining()
