"""Every setting of trueup: one typed tree, read once, from the environment.

``TRUEUP_DATABASE_URL=...`` sets ``database_url``; ``TRUEUP_LIMITS__BATCH_ROWS=1000``
sets ``limits.batch_rows``. Secrets come from the environment or from files named in
``TRUEUP_SECRETS_DIR`` (one file a setting, as Kubernetes mounts them), nowhere else.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from trueup.settings.alerting import Alerting
from trueup.settings.clock import Clock
from trueup.settings.limits import Limits
from trueup.settings.monitoring import Monitoring
from trueup.settings.notifying import Notifying
from trueup.settings.pulling import Pulling
from trueup.settings.reporting import Reporting
from trueup.settings.security import ALGORITHMS, Oidc, OidcRole, Rates, Tls, is_confidential
from trueup.settings.streaming import Streaming

__all__ = [
    "ALGORITHMS",
    "Alerting",
    "Clock",
    "Limits",
    "Monitoring",
    "Notifying",
    "Oidc",
    "OidcRole",
    "Pulling",
    "Rates",
    "Reporting",
    "Settings",
    "Streaming",
    "Tls",
    "default_data_dir",
    "is_confidential",
]


def default_data_dir() -> Path:
    """The user's data directory by the XDG convention."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "trueup"


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
    grpc_port: int | None = Field(None, ge=0, le=65_535, description="port of the gRPC door; unset: closed")
    admin_port: int | None = Field(
        None, ge=0, le=65_535, description="port on which alone deploy, load, unload and metrics answer; unset: `port`"
    )
    admin_host: str = Field("127.0.0.1", description="address of the admin port")
    invocations_deployment: str | None = Field(
        None, description="who answers MLflow's /invocations; unset: the only one"
    )
    workers: int = Field(1, ge=1, le=64, description="processes that share the port")
    ready_within_s: float = Field(60.0, ge=0, description="ready after so long though models are still loading")
    log_level: str = Field("warning", pattern="^(debug|info|warning|error)$", description="lowest level logged")
    log_json: bool = Field(False, description="log as JSON lines")
    metrics_open: bool = Field(False, description="whether GET /metrics needs no key")
    metrics_token: SecretStr | None = Field(None, min_length=32, description="a bearer token for GET /metrics alone")
    limits: Limits = Field(default_factory=Limits)
    stream: Streaming = Field(default_factory=Streaming)
    oidc: Oidc = Field(default_factory=Oidc)
    rates: Rates = Field(default_factory=Rates)
    tls: Tls = Field(default_factory=Tls)
    monitoring: Monitoring = Field(default_factory=Monitoring)
    alerts: Alerting = Field(default_factory=Alerting)
    notify: Notifying = Field(default_factory=Notifying)
    reports: Reporting = Field(default_factory=Reporting)
    clock: Clock = Field(default_factory=Clock)
    pulls: dict[str, Pulling] = Field(default_factory=dict, description="databases that outcomes are pulled from")
