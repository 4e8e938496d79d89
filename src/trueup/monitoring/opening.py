"""Putting the room's parts together."""

from __future__ import annotations

from trueup.monitoring.postgres import PostgresMeasurements
from trueup.monitoring.postgres_counting import PostgresCounting
from trueup.monitoring.postgres_references import PostgresReferences
from trueup.monitoring.postgres_truth import PostgresTruth
from trueup.monitoring.service import Measuring
from trueup.ports import Clock, ModelRegistry
from trueup.postgres import Pool
from trueup.settings import Monitoring


def open_measuring(
    registry: ModelRegistry, writer: Pool, reader: Pool, clock: Clock, settings: Monitoring
) -> Measuring:
    """Measuring on a ledger in PostgreSQL."""
    return Measuring(
        registry,
        PostgresReferences(writer, settings),
        PostgresCounting(writer, settings),
        PostgresTruth(writer, settings),
        PostgresMeasurements(writer, reader, settings),
        clock,
        settings,
    )
