"""The ledger's tables. Migrations applied in order must equal this (tests/integration/test_migrations.py).

Each CHECK has a sentence that says which contradiction it makes impossible.
"""

from trueup.ledger.tables import access, gauges, monitoring, outcomes, predictions, streams
from trueup.ledger.tables.common import metadata

__all__ = ["access", "gauges", "metadata", "monitoring", "outcomes", "predictions", "streams"]
from trueup.ledger.tables import access, messages, outcomes, predictions, streams
from trueup.ledger.tables import access, alerts, messages, outcomes, predictions, streams
from trueup.ledger.tables.common import metadata

__all__ = ["access", "alerts", "messages", "metadata", "outcomes", "predictions", "streams"]
from trueup.ledger.tables import access, monitoring, outcomes, predictions, reports, streams
from trueup.ledger.tables.common import metadata

__all__ = ["access", "metadata", "monitoring", "outcomes", "predictions", "reports", "streams"]
