"""How alert rules are evaluated and told of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field


class Alerting(BaseModel):
    """How alert rules are evaluated and told of."""

    folders: list[Path] = Field(
        default_factory=list, description="folders of alert rules beside the shipped ones; a later file replaces"
    )
    receivers: list[str] = Field(default_factory=list, description="who is told by rules that name no receivers")
    routing: Path | None = Field(None, description="YAML file with inhibitions and mute times; unset: none")
    parameters: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="values of rules' parameters, by rule; others have their defaults"
    )
    statement_timeout_s: float = Field(30.0, gt=0, le=3600, description="seconds that a rule's SELECT may take")
    max_rows: int = Field(1_000, ge=1, le=100_000, description="rows that a rule's SELECT may give")
    retention_s: float = Field(900.0, ge=0, description="seconds that a resolved alert stays in the list")
    outage_tolerance_s: float = Field(3600.0, ge=0, description="longest outage after which `for` goes on, in seconds")
    outage_grace_s: float = Field(600.0, ge=0, description="seconds after an outage in which no `for` ends")
    group_wait_s: float = Field(30.0, ge=0, description="seconds from a group's first alert to its first message")
    group_interval_s: float = Field(300.0, gt=0, description="seconds between two looks at a group")
    repeat_interval_s: float = Field(14_400.0, gt=0, description="seconds after which an unchanged group tells again")
    look_s: int = Field(10, ge=1, le=3600, description="seconds between two looks at whether a group is due")
    look_groups: int = Field(1_000, ge=1, description="groups told of in one look; others follow in the next")
    message_alerts: int = Field(100, ge=1, le=10_000, description="alerts of one message; others are counted in it")
    silence_days: float = Field(90.0, gt=0, description="longest silence in days")
    backtest_evaluations: int = Field(10_000, ge=1, description="evaluations of one backtest or fixture at most")
