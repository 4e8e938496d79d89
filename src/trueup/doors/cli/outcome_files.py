"""A file of outcomes: every row is read and judged before the first is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from trueup.contracts.decoding import Decoder
from trueup.domain.batch import NOTHING_RECORDED, Decoded, OutcomeReceipt, OutcomeState
from trueup.domain.contract import Contract, FieldError
from trueup.doors.cli.files import Chunk, Source
from trueup.doors.cli.output import json_line
from trueup.doors.cli.reading import progress
from trueup.doors.python import Trueup, decode, row_slice
from trueup.errors import InstanceErrors, InvalidFile
from trueup.outcomes.decoding import fitting, outcome_batches, outcome_contract, stated
from trueup.settings import Limits


@dataclass(frozen=True, slots=True)
class OutcomeFile:
    """Rows of ``source`` about ``label`` (the primary one for None); ``state`` is that of rows that name none."""

    source: Source
    contract: Contract
    limits: Limits
    label: str | None = None
    state: OutcomeState | None = None

    def check(self) -> int:
        """How many rows it has. Raises InstanceErrors when any is wrong, InvalidFile."""
        errors: list[FieldError] = []
        rows = total = 0
        for chunk, decoded in self._judged("checking"):
            rows, total = rows + chunk.rows, total + decoded.errors_total
            if len(errors) < self.limits.field_errors:
                errors.extend(replace(e, row=e.row + chunk.start) for e in decoded.errors)
        if total:
            raise InstanceErrors(tuple(errors[: self.limits.field_errors]), total)
        return rows

    def reject(self, rejects: TextIO) -> tuple[int, int]:
        """Writes every row that does not fit, with each of its faults; how many rows there are, and how many of them
        do not fit. Raises InvalidFile."""
        rows = rejected = 0
        for chunk, decoded in self._judged("checking"):
            for row, faults in self._faulty(chunk, decoded):
                told = [{"field": e.field, "code": e.code, "expected": e.expected} for e in faults]
                rejects.write(json_line({"row": row + chunk.start, "fields": told}) + "\n")
                rejected += 1
            rows += chunk.rows
        return rows, rejected

    def record(self, up: Trueup, source: str) -> OutcomeReceipt:
        """Records the rows that fit, chunk by chunk."""
        total = NOTHING_RECORDED
        for _, decoded in self._judged("recording"):
            batches = outcome_batches(
                self.contract, decoded.columns, source=source, now=datetime.now(UTC), label=self.label
            )
            total += up.services.outcomes.record_all(batches)
        return total

    def _judged(self, what: str) -> Iterator[tuple[Chunk, Decoded]]:
        rows_like = outcome_contract(self.contract, self.label)
        decoder = Decoder(rows_like, self.limits)
        with progress(self.source, what) as tick:
            for chunk in self.source.chunks(rows_like, self.limits):
                yield chunk, self._fitting(decoder, chunk.data)
                tick()

    def _fitting(self, decoder: Decoder, data: Any) -> Decoded:
        return fitting(stated(decode(decoder, data), self.state), self.contract, self.label)

    def _faulty(self, chunk: Chunk, decoded: Decoded) -> Iterator[tuple[int, list[FieldError]]]:
        """The rows of a chunk that do not fit, in their order. The decoder tells of so many faults at once; where there
        are more, each row is asked for its own."""
        if not decoded.errors_total:
            return
        told: dict[int, list[FieldError]] = {}
        for error in decoded.errors:
            told.setdefault(error.row, []).append(error)
        is_cut = decoded.errors_total > len(decoded.errors)
        decoder = Decoder(outcome_contract(self.contract, self.label), self.limits)
        good = set(decoded.rows.tolist())
        for row in range(chunk.rows):
            if row in good:
                continue
            alone = is_cut and self._fitting(decoder, row_slice(chunk.data, row, row + 1))
            yield row, list(alone.errors) if alone else told[row]


@contextmanager
def rejects_of(source: str, rejects: Path) -> Iterator[TextIO]:
    """Where the rows that do not fit go. Raises InvalidFile when that cannot be written or is the file itself."""
    try:
        if source != "-" and rejects.exists() and rejects.samefile(source):
            raise InvalidFile("rejects would overwrite the file itself", next_step="name another file")
        file = rejects.open("w", encoding="utf-8", newline="\n")
    except OSError:
        raise InvalidFile(f"{rejects.name} cannot be written", next_step="name another file with --rejects") from None
    with file:
        yield file
