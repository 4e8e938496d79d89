"""How predictions are measured against their reference and their outcomes."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Monitoring(BaseModel):
    """How predictions are measured against their reference and their outcomes."""

    rows_at_once: int = Field(10_000_000, ge=1_000, description="predictions counted in one transaction, about")
    block_rows: int = Field(65_536, ge=1_024, le=1_000_000, description="predictions counted at a time in memory")
    reference_rows: int = Field(200_000, ge=1_000, description="predictions that a reference is made of at most")
    exact_rows: int = Field(
        2_000_000, ge=1_000, description="predictions of a window whose performance is computed from all of them"
    )
    loss_rows: int = Field(
        100_000,
        ge=1_000,
        description="predictions of a reference or a window whose errors are learned or estimated",
    )
    windows_at_once: int = Field(1_000, ge=1, description="windows that one run measures; the rest is left to the next")
    days_back: int = Field(400, ge=1, description="how far back windows are measured again when outcomes change")
    wait_s: float = Field(60.0, gt=0, description="seconds to wait for another process that counts the same")
    statement_timeout_s: float = Field(
        600.0, gt=0, le=86_400, description="seconds that one read of the ledger may take"
    )
    resamples: int = Field(200, ge=100, le=10_000, description="resamples of a bootstrap interval")
    listed_measurements: int = Field(10_000, ge=1, description="measurements of one listing through a door")
    schedule: str = Field("17 * * * *", description="when deployments are measured: five cron fields in UTC")
