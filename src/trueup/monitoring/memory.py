"""The store of measurements without PostgreSQL; both pass ``tests/contract/test_measurements_contract.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Any

from trueup.domain.monitoring import Changed, KnownBy, Measurement, MeasurementFilter, Run, WindowKind
from trueup.errors import InvalidQuery

_FIGURE = ("model_version", "role", "metric", "field", "slice", "window_kind", "window_first")


class MemoryMeasurements:
    """Runs and figures in lists. ``names`` are deployments by id, ``played`` the versions (name, version) by id."""

    def __init__(self, names: dict[int, str], played: dict[int, tuple[str, str]], most_listed: int = 10_000) -> None:
        self._names, self._played, self._most_listed = names, played, most_listed
        self._runs: list[Run] = []
        self._rows: list[dict[str, Any]] = []
        self.days: dict[date, tuple[int, datetime]] = {}
        self.outcomes: dict[date, Changed] = {}

    def versions(self, deployment_id: int) -> Sequence[tuple[str, str]]:
        """All that it was told of."""
        return sorted(self._played.values())

    def counted(self, deployment_id: int) -> dict[date, tuple[int, datetime]]:
        """What it was told."""
        return dict(self.days)

    def changed(self, contract: str, first: date, last: date, known_by: KnownBy, at: datetime) -> dict[date, Changed]:
        """What it was told of these days, and is known."""
        return {day: c for day, c in self.outcomes.items() if first <= day <= last and c.known_at <= at}

    def measured(self, deployment_id: int, known_by: KnownBy, at: datetime) -> dict[tuple[WindowKind, date], Run]:
        """The last run of each window."""
        fits = [r for r in self._runs if r.deployment_id == deployment_id and r.known_by is known_by and not r.error]
        ordered = sorted((r for r in fits if r.known_at <= at), key=lambda r: r.known_at)
        return {(r.window.kind, r.window.first): r for r in ordered}

    def record(self, run: Run, measurements: Sequence[Measurement]) -> int:
        """Adds the run, and the figures that are new."""
        self._runs.append(run)
        before = len(self._rows)
        for one in measurements:
            row = self._row(run, one)
            same = (*_FIGURE, "deployment", "known_at", "known_by")
            if not any(all(row[name] == known[name] for name in same) for known in self._rows):
                self._rows.append(row)
        return len(self._rows) - before

    def listed(self, where: MeasurementFilter) -> list[dict[str, Any]]:
        """Figures, latest windows first."""
        if not 1 <= where.limit <= self._most_listed:
            raise InvalidQuery(f"a listing has 1 to {self._most_listed} measurements")
        rows = [r for r in self._rows if r["deployment"] == where.deployment and r["known_by"] == str(where.known_by)]
        if not where.history:
            known = [r for r in rows if where.at is None or r["known_at"] <= where.at]
            ordered = sorted(known, key=lambda r: (r["known_at"], r["measurement_id"]))
            rows = list({tuple(r[name] for name in _FIGURE): r for r in ordered}.values())
        for name in ("metric", "field", "slice", "role", "verdict", "window_kind"):
            wanted = getattr(where, name)
            rows = [r for r in rows if wanted is None or r[name] == wanted]
        rows = [r for r in rows if where.first is None or r["window_first"] >= where.first]
        rows = [r for r in rows if where.last is None or r["window_last"] <= where.last]
        rows.sort(key=lambda r: (r["known_at"], r["measurement_id"]), reverse=True)
        rows.sort(key=lambda r: (r["window_kind"], r["role"], r["metric"], r["field"], r["slice"]))
        rows.sort(key=lambda r: (r["window_last"], r["window_first"]), reverse=True)
        return rows[: where.limit]

    def _row(self, run: Run, one: Measurement) -> dict[str, Any]:
        plain = asdict(one) | {"verdict": one.verdict and str(one.verdict)}
        del plain["model_version_id"]
        return {
            **plain,
            "measurement_id": len(self._rows) + 1,
            "run_id": len(self._runs),
            "deployment": self._names[run.deployment_id],
            "model_version": self._played[one.model_version_id][1],
            "window_kind": str(run.window.kind),
            "window_first": run.window.first,
            "window_last": run.window.last,
            "known_at": run.known_at,
            "known_by": str(run.known_by),
            "computed_at": datetime.now(UTC),
        }
