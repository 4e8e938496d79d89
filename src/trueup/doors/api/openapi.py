"""The OpenAPI document without a server: what `/openapi.json` says, from the same application."""

from __future__ import annotations

from typing import Any

from trueup.bootstrap import wired
from trueup.doors.api.server import create_app
from trueup.doors.auth import MemoryApiKeys
from trueup.ledger.urls import Urls
from trueup.settings import Settings


def document() -> dict[str, Any]:
    """The document. Nothing is opened: connections are made when first used, and nobody uses them here."""
    with wired(Settings(), Urls("", "", "")) as services:
        return create_app(services, MemoryApiKeys()).openapi()
