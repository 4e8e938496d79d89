"""A run as PDF, from its page and the page's print style. Nothing is fetched."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from trueup.domain.report import ReportRun
from trueup.errors import MissingExtra
from trueup.reports.formats.html import html_of

logging.getLogger("weasyprint").setLevel(logging.ERROR)  # it warns of what only screens know


def pdf_of(run: ReportRun, public_url: str = "") -> bytes:
    """The document's bytes. Raises MissingExtra."""
    try:
        from weasyprint import HTML
        from weasyprint.urls import URLFetcher
    except (ImportError, OSError):  # the package, or the system's libraries that it draws with
        raise MissingExtra("pdf", "a PDF document") from None

    class Refusing(URLFetcher):  # type: ignore[misc]
        def fetch(self, url: str, headers: Any = None) -> Any:
            """The page brings all it needs."""
            raise ValueError("nothing is fetched")

    page = html_of(run, public_url, with_links=bool(public_url))  # a document has no server of its own
    identity = hashlib.sha256(page).digest()[:16]  # the same run is the same document
    made = HTML(string=page.decode(), url_fetcher=Refusing()).write_pdf(pdf_identifier=identity)
    return bytes(made or b"")
