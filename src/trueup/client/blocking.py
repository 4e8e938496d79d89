"""The client for ordinary code: safe to share between threads, one per process."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from types import TracebackType
from typing import Self, TypeVar
from uuid import UUID

from trueup.client import answers, calls
from trueup.client.calls import Call, Instance
from trueup.client.connecting import FAILURES, Collecting, Key, Options, Path, Reply, Trace, outcome, tls
from trueup.client.retrying import Attempts, Failed, Retries

T = TypeVar("T")


class Client:
    """Asks a trueup server. Close it, or use it as a context manager.

    ``key`` is an API key, or a function that returns the token to send now. ``timeout`` is the longest that one call
    may take in seconds, with all attempts and pauses; ``attempt_timeout`` the longest wait of one attempt. Every
    method raises the error of :mod:`trueup.errors` that the server answered with, ``Unreachable`` or ``TimedOut``
    where nobody answered, and InvalidInput for what cannot be sent.
    """

    def __init__(
        self,
        url: str,
        *,
        key: Key = None,
        timeout: float = 15.0,
        attempt_timeout: float = 5.0,
        retries: Retries | None = None,
        ca: Path | None = None,
        certificate: Path | tuple[Path, Path] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        connections: int = 100,
        answer_bytes: int = 64 * 2**20,
        traceparent: Trace = None,
    ) -> None:
        allowed = retries or Retries()
        self._options = Options(url, key, timeout, attempt_timeout, allowed, connections, answer_bytes, traceparent)
        self._http = self._options.blocking(tls(ca, certificate, ssl_context))

    def __repr__(self) -> str:
        return f"Client({self._options.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def score(
        self,
        deployment: str,
        instance: Instance,
        *,
        key: str | None = None,
        event_time: datetime | None = None,
        reasons: bool = False,
    ) -> answers.Answer:
        """Scores one instance; it is booked when this returns. The same ``key`` again gets the first answer.

        Without a key one is drawn, which keeps the attempts of this call one prediction, but not two calls.
        """
        return self._ask(calls.score(deployment, instance, key=key, event_time=event_time, reasons=reasons))

    def score_many(
        self,
        deployment: str,
        instances: Iterable[Instance],
        *,
        keys: Sequence[str] | None = None,
        event_times: Sequence[datetime] | None = None,
        reasons: bool = False,
    ) -> answers.Answers:
        """Scores many instances; each is answered or refused on its own."""
        return self._ask(calls.score_many(deployment, instances, keys=keys, event_times=event_times, reasons=reasons))

    def prediction(self, prediction_id: str | UUID) -> answers.Prediction:
        """Everything about one prediction."""
        return self._ask(calls.prediction(prediction_id))

    def predictions(
        self,
        *,
        deployment: str | None = None,
        business_key: str | None = None,
        event_from: date | None = None,
        event_until: date | None = None,
        status: str | None = None,
        decision: str | None = None,
        min_score: float | None = None,
        limit: int = 50,
    ) -> tuple[answers.PredictionSummary, ...]:
        """Predictions that fulfil all conditions, newest events first."""
        return self._ask(
            calls.predictions(
                deployment=deployment,
                business_key=business_key,
                event_from=event_from,
                event_until=event_until,
                status=status,
                decision=decision,
                min_score=min_score,
                limit=limit,
            )
        )

    def record_outcomes(
        self,
        contract: str,
        outcomes: Iterable[Instance],
        *,
        source: str,
        label: str | None = None,
        state: str | None = None,
        all_or_none: bool = True,
    ) -> answers.OutcomesReceipt:
        """Records real outcomes: business-key fields, ``event_day``, ``value`` (of ``label``, else of the primary one)
        and, where wanted, ``observed_at`` and ``state``. ``state`` here is that of rows that name none: known,
        retracted, censored. All or none; or, without ``all_or_none``, those that fit, and the receipt says of each
        other what is wrong with it."""
        call = calls.record_outcomes(
            contract, outcomes, source=source, label=label, state=state, all_or_none=all_or_none
        )
        return self._ask(call)

    def record_actions(self, deployment: str, actions: Iterable[Instance]) -> answers.ActionsReceipt:
        """Records what was done about items: ``action``, ``business_key`` with ``event_day`` or ``prediction_id``, and
        where wanted ``key``, ``reason``, ``actor``, ``acted_at``, ``is_treatment``. All or none."""
        return self._ask(calls.record_actions(deployment, actions))

    def deployments(self) -> tuple[answers.Deployment, ...]:
        """Every deployment that the caller may read."""
        return self._ask(calls.deployments())

    def deployment(self, name: str) -> answers.DeploymentState:
        """What answers under the name now, and whether the process that was asked has it loaded."""
        return self._ask(calls.deployment(name))

    def contract(self, name: str, version: int | None = None) -> answers.Contract:
        """A contract, its newest version unless one is named."""
        return self._ask(calls.contract(name, version))

    def live(self) -> answers.Health:
        """Whether the process answers. Asked once; ``unreachable`` where nobody answers."""
        return self._probe(calls.health("live"))

    def ready(self) -> answers.Health:
        """Whether it can score now. Asked once; ``unreachable`` where nobody answers."""
        return self._probe(calls.health("ready"))

    def _ask(self, call: Call[T]) -> T:
        attempts = Attempts(self._options.retries, self._options.timeout, time.monotonic)
        while True:
            found = self._attempt(call, attempts.seconds(self._options.attempt_timeout))
            if not isinstance(found, Failed):
                return found
            time.sleep(attempts.pause(found))

    def _probe(self, call: Call[answers.Health]) -> answers.Health:
        found = self._attempt(call, min(self._options.timeout, self._options.attempt_timeout))
        return answers.Health(status="unreachable") if isinstance(found, Failed) else found

    def _attempt(self, call: Call[T], seconds: float) -> T | Failed:
        found: Reply | Exception
        try:
            found = self._send(call, seconds)
        except FAILURES as error:
            found = error
        return outcome(call, found)

    def _send(self, call: Call[T], seconds: float) -> Reply:
        with self._http.stream(**self._options.request(call, seconds)) as response:
            body = Collecting(response, self._options.answer_bytes, time.monotonic, seconds)
            for piece in response.iter_raw():
                body.add(piece)
            return body.reply()
