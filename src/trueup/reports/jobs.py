"""Scheduled reports as work for the clock, and the messages that bring them to their receivers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape

from trueup.domain.job import Job
from trueup.domain.message import Attachment, Message
from trueup.domain.report import ReportFormat, ReportRun
from trueup.reports.formats import rendered
from trueup.reports.reading import Report
from trueup.reports.running import Reports
from trueup.reports.writing import day
from trueup.settings import Reporting

_ATTACHED = (ReportFormat.PDF, ReportFormat.HTML, ReportFormat.XLSX, ReportFormat.CSV, ReportFormat.JSON)


def jobs(reports: Reports, settings: Reporting) -> list[Job]:
    """One job for each report with a schedule. Raises InvalidFile."""
    return [_job(reports, report, settings) for report in reports.all().values() if report.schedule]


def _job(reports: Reports, report: Report, settings: Reporting) -> Job:
    def run(due: datetime) -> str:
        made = reports.run_due(report.name, due, lambda run: messages(run, report, settings))
        if made is None:
            return "was run before"
        return f"run {made.run_id}: {sum(made.row_counts.values())} rows"

    return Job("report", report.name, report.schedule, run, report.missed)


def messages(run: ReportRun, report: Report, settings: Reporting) -> tuple[Message, ...]:
    """One message for each receiver, with the report's formats as files as far as they fit."""
    if not report.recipients:
        return ()
    files = _files(run, report.formats, settings)
    return tuple(_message(run, receiver, files, settings.public_url.rstrip("/")) for receiver in report.recipients)


def _files(run: ReportRun, formats: Sequence[ReportFormat], settings: Reporting) -> tuple[Attachment, ...]:
    """The files, the ones for people first, until the bound on all of them is reached."""
    left, files = settings.attachment_bytes, []
    for format_ in sorted(formats, key=_ATTACHED.index):
        made = rendered(run, format_, settings.public_url)
        if len(made.content) <= left:
            left -= len(made.content)
            files.append(Attachment(made.name, made.media_type, made.content))
    return tuple(files)


def _message(run: ReportRun, receiver: str, files: tuple[Attachment, ...], public_url: str) -> Message:
    asked = run.asked
    due = asked.due_at or run.started_at
    subject = f"{run.look.title}, {day(asked.as_known_at)}"
    lines = [run.look.description] if run.look.description else []
    lines += [f"{result.title or result.query}: {len(result.rows)} rows" for result in run.results]
    lines.append(f"Shown again by: trueup report show {run.run_id}")
    link = f"{public_url}/v1/report-runs/{run.run_id}.html" if public_url else ""
    html = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return Message(
        key=f"report/{asked.name}/{due.isoformat()}/{receiver}",
        receiver=receiver,
        kind="report",
        subject=subject,
        text="\n".join([*lines, *filter(None, [link])]),
        html=html + (f'<p><a href="{escape(link)}">{escape(link)}</a></p>' if link else ""),
        payload={
            "version": "1",
            "report": asked.name,
            "run_id": run.run_id,
            "title": run.look.title,
            "as_known_at": asked.as_known_at.isoformat(),
            "row_counts": run.row_counts,
            "url": link,
        },
        attachments=files,
    )
