"""A booking under way, followed by the event loop to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from select import POLLOUT

from trueup.ports import UnderWay

LOOK_S = 0.5  # an event of the database's that is lost costs no more


class Watch:
    """Goes on with a booking whenever the database has something to say; ``ended`` when it has ended.

    It looks by itself every ``LOOK_S``, in case that an event was lost.
    """

    def __init__(self, under_way: UnderWay, ended: Callable[[], None]) -> None:
        self._under_way = under_way
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._looking: asyncio.TimerHandle | None = None
        self._writing = False

    def start(self) -> None:
        """Begins; what has ended already is told at once."""
        if not self._under_way.wanted:
            self._ended()
            return
        self._loop.add_reader(self._under_way.fileno, self._ready)
        self._looking = self._loop.call_later(LOOK_S, self._look)
        self._mind_writing()

    def _ready(self) -> None:
        self._under_way.advance()
        self._mind_writing()
        if not self._under_way.wanted:
            if self._looking is not None:
                self._looking.cancel()
            self._loop.remove_reader(self._under_way.fileno)
            self._ended()

    def _look(self) -> None:
        self._looking = self._loop.call_later(LOOK_S, self._look)
        self._ready()

    def _mind_writing(self) -> None:
        """The socket's room for more is of interest only while something waits to be written."""
        if bool(self._under_way.wanted & POLLOUT) == self._writing:
            return
        self._writing = not self._writing
        if self._writing:
            self._loop.add_writer(self._under_way.fileno, self._ready)
        else:
            self._loop.remove_writer(self._under_way.fileno)
