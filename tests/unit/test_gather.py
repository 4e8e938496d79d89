"""Whoever cannot be told keeps nobody else from being told."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from trueup.doors.inference.asks import Ask
from trueup.doors.inference.gather import Gather
from trueup.doors.inference.waiting import Line
from trueup.errors import ScoringError
from trueup.scoring.service import Scoring
from trueup.settings import Limits
from trueup.telemetry.requests import Telemetry


class Waiting:
    """Notes what it is told, and breaks where it is told to."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.told: list[Any] = []
        self._breaks = breaks

    def done(self) -> bool:
        return False

    def set_result(self, part: Any) -> None:
        if self._breaks:
            raise ValueError("broken")
        self.told.append(part)

    def set_exception(self, error: BaseException) -> None:
        self.told.append(error)


def test_one_that_breaks_is_alone():
    async def done() -> None:
        gather = Gather(cast(Scoring, None), Limits(), Telemetry())
        waiting = [Waiting(), Waiting(breaks=True), Waiting(), Waiting()]
        asks = [cast(Ask, SimpleNamespace(answer=one, rows=1, source=SimpleNamespace(keys=[]))) for one in waiting]
        line = Line()
        line.started(asks)
        error = ScoringError("no")
        gather._done(line, asks, cast(Any, ["a", "b", error, "d"]))
        assert [one.told for one in waiting] == [["a"], [], [error], ["d"]]
        assert (line.in_flight, line.booking) == (0, 0)

    asyncio.run(done())
