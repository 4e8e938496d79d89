"""How reports are run and kept."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field


class Reporting(BaseModel):
    """How reports are run and kept."""

    folders: list[Path] = Field(
        default_factory=list, description="folders of report files, beside the shipped ones, which they may replace"
    )
    schedules: dict[str, str] = Field(
        default_factory=dict, description="schedules by report, in place of the file's; an empty one: only when asked"
    )
    recipients: dict[str, list[str]] = Field(
        default_factory=dict, description="receivers by report, in place of the file's"
    )
    rows: int = Field(10_000, ge=1, le=1_000_000, description="rows of a query that a run keeps")
    result_bytes: int = Field(16 * 2**20, ge=1_024, description="bytes of all rows that a run keeps")
    timeout_s: float = Field(60.0, gt=0, description="seconds that a query of a report may take, within the reader's")
    attachment_bytes: int = Field(5 * 2**20, ge=0, description="bytes of all files of one message; larger stay here")
    public_url: str = Field("", max_length=500, description="address of this server as readers of reports reach it")
