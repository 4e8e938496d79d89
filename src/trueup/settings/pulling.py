"""Where outcomes are pulled from."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field, SecretStr


class Pulling(BaseModel):
    """One source database that is asked for outcomes on a schedule; the variable is `TRUEUP_PULLS__<NAME>__<FIELD>`."""

    url: SecretStr = Field(description="the database's address, as SQLAlchemy writes it, with its password")
    query: Path = Field(description="file with one SELECT of outcome rows; it uses :since and gives observed_at")
    contract: str = Field(description="the contract whose outcomes these are")
    label: str | None = Field(None, description="whose values these are; unset: the first label, or columns by name")
    schedule: str = Field("every 15m", description="five cron fields in UTC, or `every 15m`")
    batch_rows: int = Field(10_000, ge=1, le=1_000_000, description="rows of one commit")
    most_rows: int = Field(5_000_000, ge=1, description="rows of one run; the next run goes on behind them")
    timeout_s: float = Field(300.0, gt=0, description="seconds that one run may take")
    overlap_s: float = Field(
        60.0,
        ge=0,
        description="seconds before the newest moment that are read again, for what was committed late",
    )
