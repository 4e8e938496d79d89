"""A ledger that counts what goes through it: bookings, refusals, and when its database does not answer."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Booking, Receipt, Refusals, Source
from trueup.errors import LedgerUnavailable
from trueup.ports import Ledger, PredictionFilter
from trueup.telemetry.metrics import Metrics


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
        roles = [scored.role for scored in booking.scored]
        self._metrics.booked(booking.deployment_id, booking.steps_us, receipt.book_us, receipt.booked, roles)
        return receipt

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
