"""Every setting of trueup: one typed tree, read once, from the environment.

``TRUEUP_DATABASE_URL=...`` sets ``database_url``; ``TRUEUP_LIMITS__BATCH_ROWS=1000``
sets ``limits.batch_rows``. Secrets come from the environment or from files named in
``TRUEUP_SECRETS_DIR`` (one file a setting, as Kubernetes mounts them), nowhere else.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


def default_data_dir() -> Path:
    """The user's data directory by the XDG convention."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "trueup"


class Limits(BaseModel):
    """Every queue, loop, body and batch is bounded here."""

    batch_rows: int = Field(20_000, ge=1, le=1_000_000, description="instances of one booking transaction")
    batches_ahead: int = Field(1, ge=1, le=64, description="batches of a file scored while the one before is booked")
    body_bytes: int = Field(32 * 2**20, ge=1024, description="bytes of one HTTP request body")
    request_rows: int = Field(10_000, ge=1, description="instances of one HTTP request")
    field_errors: int = Field(1_000, ge=1, description="field errors reported for one request; the rest is counted")
    text_chars: int = Field(10_000, ge=1, description="characters of one text field")
    key_chars: int = Field(200, ge=1, description="characters of a source or business key")
    listed_rows: int = Field(10_000, ge=1, description="rows of one listing or query through a door")
    statement_timeout_s: float = Field(30.0, gt=0, description="seconds a read may take")
    book_retries: int = Field(5, ge=1, description="attempts to book a batch that races with another writer")
    partitions_ahead_days: int = Field(7, ge=0, description="event days whose partitions are made ahead")
    event_past_days: int = Field(36_525, ge=1, description="how far back an event may lie")
    event_future_days: int = Field(366, ge=0, description="how far ahead an event may lie")
    gathered_rows: int = Field(1_024, ge=1, description="instances of one batch of online requests")
    on_loop_ms: float = Field(2.0, ge=0, description="longest batch scored on the event loop, else in a thread")
    queued_rows: int = Field(20_000, ge=1, description="instances that wait for one deployment; 503 beyond")
    queued_refusals: int = Field(20_000, ge=1, description="refused requests that wait to be booked; older are lost")
    commits_in_flight: int = Field(2, ge=1, le=16, description="batches of one deployment being booked at once")
    requests_in_flight: int = Field(64, ge=1, description="HTTP requests being read or answered; 503 beyond")
    inferences_in_flight: int = Field(1_024, ge=1, description="inference requests being answered; 503 beyond")
    pool_connections: int = Field(8, ge=1, le=100, description="connections of one process per role")
    database_connect_s: float = Field(2.0, ge=1, le=60, description="seconds a connection may take to be made")
    database_probe_s: float = Field(0.25, gt=0, description="seconds between looks whether an absent database is back")
    spool_bytes: int = Field(2**30, ge=4096, description="bytes of one process's spool with its dead letters")
    spool_rows: int = Field(1_000_000, ge=1, description="undrained instances and refusals of one process's spool")
    spool_remembered: int = Field(100_000, ge=0, description="keyed answers remembered after they are drained")
    spool_lookup_s: float = Field(0.25, gt=0, description="seconds the ledger is asked for a key's first answer")


class Settings(BaseSettings):
    """The tree. Call once, in ``bootstrap.open_services`` or a door's start."""

    model_config = SettingsConfigDict(
        env_prefix="TRUEUP_",
        env_nested_delimiter="__",
        secrets_dir=os.environ.get("TRUEUP_SECRETS_DIR"),
        extra="ignore",
    )

    database_url: SecretStr | None = Field(None, description="PostgreSQL >= 15; unset: embedded")
    writer_url: SecretStr | None = Field(None, description="its own login for booking; unset: the owner in that role")
    reader_url: SecretStr | None = Field(None, description="its own login for reading; unset: the owner in that role")
    data_dir: Path = Field(default_factory=default_data_dir, description="embedded database and models")
    host: str = Field("127.0.0.1", description="address of the HTTP door")
    port: int = Field(8321, ge=0, le=65_535, description="port of the HTTP door")
    log_level: str = Field("warning", pattern="^(debug|info|warning|error)$", description="lowest level logged")
    log_json: bool = Field(False, description="log as JSON lines")
    limits: Limits = Field(default_factory=Limits)
