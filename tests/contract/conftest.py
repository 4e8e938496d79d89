"""The adapters behind each port, real and fake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

import trueup
from rooms import Desk
from trueup.bootstrap import wired
from trueup.ledger.draining import Drainer
from trueup.ledger.memory import MemoryLedger
from trueup.ledger.spool import SpooledLedger
from trueup.ledger.spool_lookup import Lookup
from trueup.ledger.urls import Urls
from trueup.outcomes.memory import MemoryOutcomes
from trueup.ports import PredictionFilter
from trueup.registry.memory import MemoryRegistry
from trueup.settings import Limits


class DrainedLedger(SpooledLedger):
    """Spooled, and drained before anyone looks."""

    def prediction(self, prediction_id: UUID) -> dict[str, Any]:
        Drainer(self).drain()
        return super().prediction(prediction_id)

    def predictions(self, where: PredictionFilter) -> list[dict[str, Any]]:
        Drainer(self).drain()
        return super().predictions(where)


@pytest.fixture(params=["memory", "postgres", "spooled"])
def desk(request: pytest.FixtureRequest, settings: trueup.Settings) -> Iterator[Desk]:
    if request.param == "memory":
        registry = MemoryRegistry()
        yield Desk(registry, MemoryLedger(registry, Limits()), MemoryOutcomes())
        return
    database: Urls = request.getfixturevalue("fresh_database")
    with wired(settings, database) as services:
        if request.param == "spooled":
            spool = DrainedLedger(
                services.ledger, Lookup(services._pools[1], 5.0), settings.data_dir / "spool", settings.limits
            )
            yield Desk(services.registry, spool, services.outcomes)
            spool.close()
            return
        yield Desk(services.registry, services.ledger, services.outcomes)
