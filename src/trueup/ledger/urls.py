"""Addresses of the ledger's database for its three roles."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from trueup.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Urls:
    """libpq addresses: ``owner`` migrates and deploys, ``writer`` books, ``reader`` reads views."""

    owner: str
    writer: str
    reader: str


def external_urls(owner: str, writer: str | None = None, reader: str | None = None) -> Urls:
    """Addresses at a PostgreSQL of the user's own.

    Where no login for the writer or the reader is given, the owner's login is used and takes
    the role at the start of each session: enough against mistakes, not against a program
    that sets its role back; give the two their own logins in production.
    """
    if not owner.startswith(("postgresql://", "postgres://")):
        raise InvalidInput(
            "TRUEUP_DATABASE_URL is no PostgreSQL address", next_step="write postgresql://user@host/database"
        )
    return Urls(owner, writer or _in_role(owner, "trueup_writer"), reader or _in_role(owner, "trueup_reader"))


def _in_role(url: str, role: str) -> str:
    joiner = "&" if "?" in url else "?"
    return f"{url}{joiner}options={quote(f'-c role={role}')}"
