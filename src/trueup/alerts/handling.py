"""What people do about alerts: acknowledge, assign, silence. Each is a row of the audit in the same commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from trueup.alerts.matching import checked
from trueup.alerts.store import AlertStore
from trueup.domain.alert import Alert, Matcher, Silence, State
from trueup.errors import Conflict, InvalidInput
from trueup.ports import Clock
from trueup.settings import Alerting

MOST_TEXT = 1_000
MOST_NAME = 200
May = Callable[[Alert], None]  # raises Forbidden or NotFound


class Handling:
    """``by`` is the audit's name for whoever does it; ``may`` is asked about the alert before it is changed."""

    def __init__(self, store: AlertStore, settings: Alerting, clock: Clock) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock

    def acknowledge(self, alert_id: str, *, by: str, comment: str = "", may: May | None = None) -> Alert:
        """Somebody has it in hand: it is neither repeated nor escalated. The first one stays it.

        Raises NotFound, Conflict where it has ended.
        """
        _text(comment, "comment", MOST_TEXT, is_needed=False)
        with self._store.work() as work:
            alert = work.alert(alert_id)
            if may is not None:
                may(alert)
            _must_last(alert)
            if alert.acknowledged_at is not None:
                return alert
            taken = replace(alert, acknowledged_at=self._clock(), acknowledged_by=by, escalate_at=None)
            work.put_alert(taken)
            work.audit(by, "acknowledge alert", alert_id, {"labels": dict(alert.labels), "comment": comment})
            return taken

    def assign(self, alert_id: str, to: str, *, by: str, may: May | None = None) -> Alert:
        """Says whose it is. Raises NotFound, InvalidInput, Conflict where it has ended."""
        _text(to, "assignee", MOST_NAME)
        with self._store.work() as work:
            alert = work.alert(alert_id)
            if may is not None:
                may(alert)
            _must_last(alert)
            given = replace(alert, assigned_to=to)
            if given != alert:
                work.put_alert(given)
                work.audit(by, "assign alert", alert_id, {"labels": dict(alert.labels), "to": to})
            return given

    def silence(
        self,
        matchers: Sequence[Matcher],
        *,
        lasting: timedelta,
        by: str,
        comment: str,
        starts_at: datetime | None = None,
    ) -> Silence:
        """Tells nobody of what all matchers match, from now (or ``starts_at``) on. Raises InvalidInput."""
        _text(comment, "comment", MOST_TEXT)
        now = self._clock()
        begins = max(now, starts_at or now)
        most = timedelta(days=self._settings.silence_days)
        if not timedelta() < lasting <= most or begins - now > most:
            raise InvalidInput(f"a silence lasts, and begins within, at most {self._settings.silence_days:g} days")
        if not matchers or all(m.value == "" for m in matchers):
            raise InvalidInput("a silence needs a matcher with a value", next_step='such as alertname="ScoreDrift"')
        silence = Silence(tuple(checked(m) for m in matchers), begins, begins + lasting, by, comment)
        with self._store.work() as work:
            number = work.add_silence(silence)
            detail = {
                "matchers": [str(m) for m in silence.matchers],
                "starts_at": silence.starts_at.isoformat(),
                "ends_at": silence.ends_at.isoformat(),
                "comment": comment,
            }
            work.audit(by, "silence alerts", str(number), detail)
        return replace(silence, silence_id=number)

    def unsilence(self, silence_id: int, *, by: str, may: Callable[[Silence], None] | None = None) -> Silence:
        """Ends a silence now; one that is over stays as it is. Raises NotFound."""
        with self._store.work() as work:
            silence = work.silence(silence_id)
            if may is not None:
                may(silence)
            now = self._clock()
            if silence.ends_at <= now:
                return silence
            work.end_silence(silence_id, now)
            work.audit(by, "end silence", str(silence_id), {"would_have_ended": silence.ends_at.isoformat()})
            return work.silence(silence_id)


def _must_last(alert: Alert) -> None:
    if alert.state is State.INACTIVE:
        raise Conflict("the alert has ended", next_step="`trueup alert list` lists what lasts")


def _text(text: str, what: str, most: int, *, is_needed: bool = True) -> None:
    if len(text) > most or "\0" in text or (is_needed and not text.strip()):
        raise InvalidInput(f"the {what} is a text of at most {most} characters")
