"""A ledger that counts what goes through it: bookings, refusals, and when its database does not answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Booking, Receipt, Refusals, Source
from trueup.errors import LedgerUnavailable
from trueup.ports import Ledger, PredictionFilter, UnderWay
from trueup.telemetry.metrics import Metrics


class ObservedBooking:
    """A booking under way whose receipt is observed."""

    def __init__(self, under_way: UnderWay, told: Callable[[UnderWay], Receipt]) -> None:
        self._under_way = under_way
        self._told = told
        self.fileno, self.wanted = under_way.fileno, under_way.wanted

    @property
    def blocks(self) -> bool:
        """As the booking says."""
        return self._under_way.blocks

    def advance(self) -> int:
        """As the booking does."""
        self.wanted = self._under_way.advance()
        return self.wanted

    def receipt(self) -> Receipt:
        """The booking's own, recorded."""
        return self._told(self._under_way)


class ObservedLedger:
    """Any ledger, observed. Every door's scoring path goes through here, so no door counts by itself."""

    def __init__(self, ledger: Ledger, metrics: Metrics) -> None:
        self._ledger = ledger
        self._metrics = metrics

    def book(self, booking: Booking) -> Receipt:
        """Books, and records the batch: its rows, their steps, what became of them."""
        try:
            receipt = self._ledger.book(booking)
        except LedgerUnavailable:
            self._metrics.ledger_unavailable(booking.deployment_id)
            raise
        self._observe(booking, receipt)
        return receipt

    def begin(self, booking: Booking) -> ObservedBooking | None:
        """The same for an event loop."""
        under_way = self._ledger.begin(booking)
        return None if under_way is None else ObservedBooking(under_way, partial(self._told, booking))

    def _told(self, booking: Booking, under_way: UnderWay) -> Receipt:
        try:
            receipt = under_way.receipt()
        except LedgerUnavailable:
            self._metrics.ledger_unavailable(booking.deployment_id)
            raise
        self._observe(booking, receipt)
        return receipt

    def _observe(self, booking: Booking, receipt: Receipt) -> None:
        roles = [scored.role for scored in booking.scored]
        self._metrics.booked(booking.deployment_id, booking.steps_us, receipt.book_us, receipt.booked, roles)

    def claim_event_times(
        self, deployment_id: int, source: Source, moments: NDArray[np.datetime64]
    ) -> NDArray[np.datetime64]:
        """As the ledger does."""
        try:
            return self._ledger.claim_event_times(deployment_id, source, moments)
        except LedgerUnavailable:
            self._metrics.ledger_unavailable(deployment_id)
            raise

    def refuse(self, refusals: Refusals) -> int:
        """Books refusals, and counts them by reason."""
        try:
            added = self._ledger.refuse(refusals)
        except LedgerUnavailable:
            self._metrics.ledger_unavailable(refusals.deployment_id)
            raise
        self._metrics.refused(refusals.deployment_id, (row.reason for row in refusals.rows))
        return added

    def prediction(self, prediction_id: UUID) -> dict[str, Any]:
        """As the ledger does."""
        return self._ledger.prediction(prediction_id)

    def predictions(self, where: PredictionFilter) -> list[dict[str, Any]]:
        """As the ledger does."""
        return self._ledger.predictions(where)
