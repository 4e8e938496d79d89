"""The adapters behind each port, real and fake."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import trueup
from rooms import Desk
from trueup.bootstrap import wired
from trueup.ledger.memory import MemoryLedger
from trueup.ledger.urls import Urls
from trueup.outcomes.memory import MemoryOutcomes
from trueup.registry.memory import MemoryRegistry
from trueup.settings import Limits


@pytest.fixture(params=["memory", "postgres"])
def desk(request: pytest.FixtureRequest, settings: trueup.Settings) -> Iterator[Desk]:
    if request.param == "memory":
        registry = MemoryRegistry()
        yield Desk(registry, MemoryLedger(registry, Limits()), MemoryOutcomes())
        return
    database: Urls = request.getfixturevalue("fresh_database")
    with wired(settings, database) as services:
        yield Desk(services.registry, services.ledger, services.outcomes)
