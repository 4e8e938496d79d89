"""How streams are read and answered."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, SecretStr


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
