"""Who may call, how often, and over what: OpenID Connect, rates, TLS."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator, model_validator


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
