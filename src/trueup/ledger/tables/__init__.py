"""The ledger's tables. Migrations applied in order must equal this (tests/integration/test_migrations.py).

Each CHECK has a sentence that says which contradiction it makes impossible.
"""

from trueup.ledger.tables import (
    access,
    alerts,
    clock,
    gauges,
    messages,
    monitoring,
    outcomes,
    predictions,
    reports,
    streams,
)
from trueup.ledger.tables.common import metadata

__all__ = [
    "access",
    "alerts",
    "clock",
    "gauges",
    "messages",
    "metadata",
    "monitoring",
    "outcomes",
    "predictions",
    "reports",
    "streams",
]
