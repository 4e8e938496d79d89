"""What every table is made of."""

from __future__ import annotations

from sqlalchemy import MetaData, text
from sqlalchemy.dialects.postgresql import TIMESTAMP

metadata = MetaData(schema="ledger")

Moment = TIMESTAMP(timezone=True)
NOW = text("now()")
