"""Every setting of trueup: one typed tree, read once, from the environment.

``TRUEUP_DATABASE_URL=...`` sets ``database_url``; ``TRUEUP_LIMITS__BATCH_ROWS=1000``
sets ``limits.batch_rows``. Secrets come from the environment or from files named in
``TRUEUP_SECRETS_DIR`` (one file a setting, as Kubernetes mounts them), nowhere else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator
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
    bodies_bytes: int = Field(2**28, ge=1024, description="bytes of all inference bodies in memory; 503 beyond")
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
    connections: int = Field(1_000, ge=1, description="open connections of the HTTP door; more are closed with 503")
    header_bytes: int = Field(32 * 2**10, ge=1_024, description="bytes of one HTTP request's first line and headers")
    headers: int = Field(100, ge=10, description="headers of one HTTP request")
    header_read_s: float = Field(10.0, gt=0, description="seconds in which the headers of an HTTP request arrive")
    pipelined_requests: int = Field(32, ge=1, description="requests that wait behind another on one connection")
    grpc_calls: int = Field(1_024, ge=1, description="open gRPC calls, a stream is one; RESOURCE_EXHAUSTED beyond")
    stream_requests_in_flight: int = Field(
        32, ge=1, description="requests of one gRPC stream being answered; the next is read after"
    )
    metric_deployments: int = Field(64, ge=1, le=1_000, description="deployments with metrics of their own")
    worker_restarts: int = Field(10, ge=0, description="restarts in a row of a worker that ends within a minute")
    loads_at_once: int = Field(2, ge=1, le=16, description="deployments loaded at once beside those that answer")
    load_retry_s: float = Field(
        60.0, gt=0, description="longest wait before a model that failed to load is tried again"
    )
    pool_connections: int = Field(8, ge=1, le=100, description="connections of one process per role")
    database_connect_s: float = Field(2.0, ge=1, le=60, description="seconds a connection may take to be made")
    database_probe_s: float = Field(0.25, gt=0, description="seconds between looks whether an absent database is back")
    spool_bytes: int = Field(2**30, ge=4096, description="bytes of one process's spool with its dead letters")
    spool_rows: int = Field(1_000_000, ge=1, description="undrained instances and refusals of one process's spool")
    spool_remembered: int = Field(100_000, ge=0, description="keyed answers remembered after they are drained")
    spool_lookup_s: float = Field(0.25, gt=0, description="seconds the ledger is asked for a key's first answer")


class Streaming(BaseModel):
    """How streams are read and answered."""

    bootstrap: str = Field("localhost:9092", description="addresses of brokers, separated by commas")
    cluster: str | None = Field(
        None, max_length=100, description="the cluster's name in identities; unset: its own id, which a move changes"
    )
    group: str | None = Field(None, max_length=200, description="consumer group; unset: `trueup.<deployment>`")
    start: Literal["earliest", "latest"] = Field("earliest", description="where a partition begins that was never read")
    client: dict[str, str] = Field(
        default_factory=dict, description="further settings of the Kafka client, such as security.protocol"
    )
    client_secrets: dict[str, SecretStr] = Field(
        default_factory=dict, description="the same for secrets, such as sasl.password"
    )
    registry: dict[str, str] = Field(
        default_factory=dict, description="settings of the schema registry's client, such as url"
    )
    registry_secrets: dict[str, SecretStr] = Field(
        default_factory=dict, description="the same for secrets, such as basic.auth.user.info"
    )
    batch_rows: int = Field(10_000, ge=1, le=1_000_000, description="records of one commit")
    least_rows: int = Field(256, ge=1, description="records of one commit that are not fewer though the ledger is slow")
    batch_ms: float = Field(250.0, gt=0, description="how long a commit may take; batches become smaller beyond")
    wait_s: float = Field(0.5, gt=0, le=10, description="seconds that an idle stream waits for a record")
    session_ms: int = Field(6_000, ge=1_000, description="milliseconds after which a silent member is given up")
    retry_s: float = Field(0.1, gt=0, description="first wait after a fault that may pass; doubled each time")
    retry_most_s: float = Field(5.0, gt=0, description="longest wait after a fault that may pass")
    replies_in_flight: int = Field(50_000, ge=1, description="replies not confirmed yet; beyond, nothing more is read")
    drain_s: float = Field(20.0, ge=0, description="seconds in which a stopping stream sends what it owes")
    port: int | None = Field(None, ge=0, le=65_535, description="port of a stream's health and metrics; unset: none")

    record_bytes: int = Field(2**20, ge=1_024, description="bytes of one record of a stream; larger are refused")
    record_instances: int = Field(1_000, ge=1, description="instances of one record of a stream; more are refused")


class OidcRole(BaseModel):
    """What one value of the roles claim stands for."""

    role: Literal["reader", "scorer", "operator", "admin"] = Field(description="the role")
    deployments: list[str] | None = Field(None, max_length=100, description="names it is limited to; unset: all")

    @model_validator(mode="after")
    def _admins_are_not_limited(self) -> Self:
        if self.role == "admin" and self.deployments is not None:
            raise ValueError("an admin cannot be limited to deployments")
        return self


ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA")


class Oidc(BaseModel):
    """Tokens (JWT) of an OpenID Connect issuer, beside API keys."""

    issuer: str | None = Field(None, description="issuer whose tokens are taken, as in `iss`; unset: API keys only")
    audience: str = Field("trueup", min_length=1, description="a token must be meant for it, as in `aud`")
    jwks_url: str | None = Field(None, description="the issuer's keys; unset: where its discovery document says")
    algorithms: list[str] = Field(
        ["RS256", "PS256", "ES256"], min_length=1, description="signatures taken; asymmetric ones only"
    )
    roles_claim: str = Field("roles", min_length=1, description="claim with roles or groups; dots lead into objects")
    roles: dict[str, OidcRole] = Field(default_factory=dict, description="what each value of that claim stands for")
    required_claims: list[str] = Field([], description="claims a token must have beside iss, aud, sub, exp")
    skew_s: int = Field(30, ge=0, le=300, description="seconds that the issuer's clock may differ from ours")
    refetch_s: float = Field(30.0, ge=1, description="seconds at least between two fetches of the issuer's keys")
    fresh_s: float = Field(300.0, ge=1, description="seconds for which fetched keys are taken without another look")
    stale_s: float = Field(86_400.0, ge=1, description="seconds for which keys are taken while the issuer is away")
    fetch_timeout_s: float = Field(5.0, gt=0, le=60, description="seconds that one fetch may take")
    fetch_bytes: int = Field(512 * 1024, ge=1_024, description="bytes of one document of the issuer")
    token_chars: int = Field(8_192, ge=256, le=65_536, description="characters of one token")
    tokens: int = Field(10_000, ge=1, description="verified tokens remembered")
    token_s: float = Field(60.0, ge=0, description="seconds for which one is remembered, never beyond its end")

    @field_validator("algorithms")
    @classmethod
    def _asymmetric(cls, value: list[str]) -> list[str]:
        if not set(value) <= set(ALGORITHMS):
            raise ValueError("only asymmetric signatures can be taken")
        return value

    @field_validator("issuer", "jwks_url")
    @classmethod
    def _confidential(cls, value: str | None) -> str | None:
        if value is not None and not is_confidential(value):
            raise ValueError("an address of the issuer must be https, or http on this machine")
        return value

    @model_validator(mode="after")
    def _stale_after_fresh(self) -> Self:
        if self.stale_s < self.fresh_s:
            raise ValueError("keys cannot be too stale before they are no longer fresh")
        return self


def is_confidential(url: str) -> bool:
    """Whether nobody on the way can change what comes from the address: https, or http that stays on this machine."""
    try:
        found = urlsplit(url)
        host = found.hostname or ""
    except ValueError:
        return False
    return bool(host) and (
        found.scheme == "https" or (found.scheme == "http" and host in ("127.0.0.1", "::1", "localhost"))
    )


class Rates(BaseModel):
    """How often someone may call. Each process counts for itself, so N workers allow N times as much."""

    requests_per_s: float = Field(0.0, ge=0, description="requests a second of one caller; 0: no bound")
    requests_burst: float = Field(0.0, ge=0, description="requests that may come at once; 0: those of one second")
    instances_per_s: float = Field(0.0, ge=0, description="instances a second of one caller; 0: no bound")
    instances_burst: float = Field(0.0, ge=0, description="instances that may come at once; 0: those of one second")
    failures_per_s: float = Field(
        10.0, ge=0, description="unknown keys and tokens a second looked up for one address; 0: no bound"
    )
    failures_burst: float = Field(100.0, ge=0, description="of these that may come at once; 0: those of one second")
    callers: int = Field(10_000, ge=1, description="callers, and addresses, of which the rate is remembered")


class Tls(BaseModel):
    """TLS of every network door. Files are read again when they change."""

    certificate: Path | None = Field(None, description="file with the server's certificate chain; unset: no TLS")
    key: Path | None = Field(None, description="file with its key; unset: it is in the certificate's file")
    password_file: Path | None = Field(None, description="file with the key's password")
    client_ca: Path | None = Field(None, description="file with the authorities that client certificates come from")
    client_certificates: Literal["none", "optional", "required"] = Field(
        "none", description="whether callers show a certificate (mutual TLS): none, optional or required"
    )
    reload_s: int = Field(60, ge=1, description="seconds between two looks at whether the files have changed")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        others = (self.key, self.password_file, self.client_ca)
        if self.certificate is None and (any(others) or self.client_certificates != "none"):
            raise ValueError("TLS needs a certificate")
        if (self.client_ca is None) != (self.client_certificates == "none"):
            raise ValueError("client certificates need a client CA, and a client CA needs client certificates")
        return self


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
