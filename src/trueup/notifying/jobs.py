"""The room's scheduled work."""

from __future__ import annotations

from datetime import datetime, timedelta

from trueup.domain.job import Job, Missed
from trueup.notifying.outbox import SendingOutbox
from trueup.notifying.sending import Sending
from trueup.settings import Notifying

MOST_COMMITS = 1_000  # of one retention run


def jobs(outbox: SendingOutbox, sending: Sending, bounds: Notifying) -> tuple[Job, ...]:
    """Sending what is due, and forgetting what ended long ago."""

    def send(due: datetime) -> str:
        return told(sending.sweep())

    def forget(due: datetime) -> str:
        before = due - timedelta(days=bounds.kept_days), due - timedelta(days=bounds.given_up_kept_days)
        forgotten = 0
        for _ in range(MOST_COMMITS):
            now = outbox.forget(*before)
            forgotten += now
            if now < bounds.forgotten_rows:
                break
        return f"{forgotten} messages forgotten"

    return (
        Job("notify", "", f"every {bounds.sweep_every_s}s", send, Missed.SKIP),
        Job("notify", "retention", "23 2 * * *", forget, Missed.LATEST),
    )


def told(counted: dict[str, int]) -> str:
    """A sweep in one line."""
    named = {
        "sent": "sent",
        "failed": "to be tried again",
        "given_up": "given up",
        "busy": "receivers still being told",
        "unopened": "receivers that cannot be opened",
        "undeclared": "waiting for undeclared receivers",
    }
    return ", ".join(f"{counted[end]} {word}" for end, word in named.items() if counted.get(end)) or "nothing was due"
