"""Sending what is due: *claim, send, mark*, a receiver beside another.

1. *claim*  one message of the receiver, committed as taken for ``lease_s``
2. *send*   it, within ``timeout_s``
3. *mark*   it as sent, due again later, or given up

A process that is killed after 1 has sent nothing, and the message comes again when its lease ends. Killed after 2, the
message comes again as well, under the same id: this is the only way in which one is sent twice by itself. Killed after
3, it has ended.

A receiver has one turn at a time in a process, in a thread of its own, so that a slow one holds up nobody else: a sweep
waits for its turns only so long, and leaves a receiver alone whose turn goes on.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

from trueup.errors import TrueupError, Undelivered
from trueup.notifying.outbox import Claimed, SendingOutbox, wait_s
from trueup.ports import Notifier
from trueup.settings import Notifying
from trueup.telemetry import log

Opened = Callable[[], Notifier]
"""Makes the notifier of a receiver. Raises MissingExtra, InvalidInput."""


class Sending:
    """Sends to the receivers that are declared. Close it, or use it as a context manager."""

    def __init__(self, outbox: SendingOutbox, receivers: Mapping[str, Opened], bounds: Notifying) -> None:
        self._outbox = outbox
        self._receivers = receivers
        self._bounds = bounds
        self._notifiers: dict[str, Notifier] = {}  # each used by its receiver's turn alone
        self._turns: dict[str, Future[Counter[str]]] = {}
        self._threads = ThreadPoolExecutor(max(1, len(receivers)), "notifying")
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def sweep(self) -> Counter[str]:
        """Gives a turn to each receiver of which something is due, and waits for them for ``sweep_s`` at most.

        Counts messages ``sent``, ``failed`` (to be tried again) and ``given_up`` by turns that have ended, receivers
        that are ``busy`` still, and messages that wait for receivers that are ``undeclared``. Raises LedgerUnavailable.
        """
        due = self._outbox.due()
        for receiver in due:
            if receiver in self._receivers and receiver not in self._turns:
                self._turns[receiver] = self._threads.submit(self._turn, receiver)
        wait(self._turns.values(), self._bounds.sweep_s)
        undeclared = {receiver: n for receiver, n in due.items() if receiver not in self._receivers}
        if undeclared:
            log("notifying").warning("receivers_undeclared", receivers=sorted(undeclared), messages=undeclared)
        return self._ended() + Counter(busy=len(self._turns), undeclared=sum(undeclared.values()))

    def drain(self) -> Counter[str]:
        """Sweeps until one sends nothing more, and waits for every turn. Counts as ``sweep``; nobody is busy."""
        total: Counter[str] = Counter()
        while True:
            counted = self.sweep()
            wait(self._turns.values())
            counted += self._ended()
            states = {state: counted[state] for state in ("undeclared", "unopened")}
            total += Counter({end: counted[end] for end in ("sent", "failed", "given_up")})
            if not counted["sent"]:
                return total + Counter(states)

    def close(self) -> None:
        """Ends turns after the message they are at, and waits for them."""
        self._stopping.set()
        self._threads.shutdown()

    def _ended(self) -> Counter[str]:
        """What the turns came to that have ended since this was last asked. Raises LedgerUnavailable of any of them."""
        found: Counter[str] = Counter()
        failure: BaseException | None = None
        for receiver, turn in list(self._turns.items()):
            if turn.done():
                del self._turns[receiver]
                failure = turn.exception() or failure
                found += turn.result() if turn.exception() is None else Counter()
        if failure is not None:
            raise failure
        return found

    def _turn(self, receiver: str) -> Counter[str]:
        """Sends until nothing is due, the turn is over, or the receiver has failed ``turn_faults`` times."""
        counted: Counter[str] = Counter()
        notifier = self._notifier(receiver)
        if notifier is None:
            return Counter(unopened=1)
        until = time.monotonic() + self._bounds.turn_s
        while not self._stopping.is_set() and time.monotonic() < until:
            if counted["failed"] + counted["given_up"] >= self._bounds.turn_faults:
                break
            claimed = self._outbox.claim(receiver)
            if claimed is None:
                break
            counted[self._sent(notifier, claimed)] += 1
        return counted

    def _sent(self, notifier: Notifier, claimed: Claimed) -> str:
        """Sends one message and marks it; says how it ended."""
        try:
            notifier.send(claimed.message)
        except Undelivered as error:
            return self._failed(claimed, error)
        except Exception as error:  # a fault of ours must not hold up what waits behind it
            return self._failed(claimed, Undelivered(f"sending failed ({type(error).__name__})", is_passing=True))
        self._outbox.sent(claimed)
        return "sent"

    def _failed(self, claimed: Claimed, error: Undelivered) -> str:
        passing = error.is_passing and claimed.attempt < self._bounds.attempts
        after = wait_s(claimed.attempt, self._bounds, error.retry_after_s) if passing else None
        self._outbox.failed(claimed, error.message, after)
        told = {"message_id": claimed.message_id, "receiver": claimed.message.receiver, "attempt": claimed.attempt}
        if passing:
            log("notifying").warning("message_not_sent", **told, why=error.message)
            return "failed"
        log("notifying").error("message_given_up", **told, why=error.message)
        return "given_up"

    def _notifier(self, receiver: str) -> Notifier | None:
        """None where it cannot be made: its messages wait, without an attempt, until the settings are mended."""
        if receiver not in self._notifiers:
            try:
                self._notifiers[receiver] = self._receivers[receiver]()
            except TrueupError as error:
                log("notifying").error("receiver_not_opened", receiver=receiver, why=error.message)
                return None
        return self._notifiers[receiver]
