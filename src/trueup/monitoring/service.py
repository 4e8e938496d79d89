"""Measuring a deployment: its predictions against their reference and their outcomes.

Measuring, step by step (``docs/explanation/monitoring.md`` has the same numbers):

1. *freeze*   the reference of each version that has none, once its rows are complete
2. *count*    what was booked since the last count, into the reference's bins
3. *choose*   windows that have ended and of which something is known now that was not when they were last measured
4. *measure*  drift and quality from the counts; performance, estimates and comparisons from the truth
5. *record*   all figures of a window in one commit, with the instant whose knowledge they are made of

A stop after any step loses nothing and doubles nothing: what was not recorded is stale still.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from trueup.domain.batch import Role
from trueup.domain.contract import Contract
from trueup.domain.deployment import Deployment, ModelVersion
from trueup.domain.monitoring import KnownBy, Measurement, MeasurementFilter, Monitoring, Run, Window, WindowKind
from trueup.domain.profiling import ROWS, Counted, References
from trueup.errors import InvalidInput, TrueupError
from trueup.monitoring import measuring
from trueup.monitoring.estimates import assumed
from trueup.monitoring.foreseeing import Expecting, can_foresee, expecting, foreseen, needed
from trueup.monitoring.measuring import Of
from trueup.monitoring.pairing import compared
from trueup.monitoring.postgres_counting import Counting, PostgresCounting
from trueup.monitoring.postgres_references import PostgresReferences
from trueup.monitoring.postgres_truth import Asked, PostgresTruth
from trueup.monitoring.references import Sample, references_of
from trueup.monitoring.staleness import stale
from trueup.monitoring.truths import Truth
from trueup.ports import Clock, MeasurementStore, ModelRegistry
from trueup.settings import Monitoring as Settings

MOST_KNOWN = 32  # references in memory
Told = Callable[[str, int], None]  # what is going on, and how many rows or windows of it are done


@dataclass(slots=True)
class Measured:
    """What measuring did."""

    counted: int = 0  # rows
    windows: int = 0
    measurements: int = 0
    left: int = 0  # windows that are stale still
    failed: list[str] = field(default_factory=list)
    without_reference: list[str] = field(default_factory=list)  # versions


class Measuring:
    """The one way by which figures come about."""

    def __init__(
        self,
        registry: ModelRegistry,
        references: PostgresReferences,
        counting: PostgresCounting,
        truth: PostgresTruth,
        measurements: MeasurementStore,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._registry = registry
        self._references = references
        self._counting = counting
        self._truth = truth
        self._measurements = measurements
        self._clock = clock
        self._settings = settings
        self._known: dict[tuple[int, int], References] = {}  # what is frozen never changes

    def measure(
        self,
        name: str,
        now: datetime,
        known_by: KnownBy = KnownBy.RECORDED,
        windows: Sequence[Window] | None = None,
        told: Told = lambda what, done: None,
    ) -> Measured:
        """Measures what is stale of a deployment, or the given windows, with the knowledge of ``now``.

        Raises NotFound, InvalidInput where the deployment does not say how it is measured, LedgerUnavailable. A window
        that cannot be measured is a run with its error, and the others go on.
        """
        deployment, declared = self._declared(name)
        versions, done = self._versions(deployment), Measured()
        done.counted = self._count(deployment, declared, versions, now, done, told)  # 1 freeze, 2 count
        chosen = list(windows) if windows is not None else self._stale(deployment, declared, now, known_by)  # 3 choose
        done.left = max(0, len(chosen) - self._settings.windows_at_once)
        learned: dict[int, Expecting] = {}
        for window in chosen[: self._settings.windows_at_once]:
            run = Run(_id(deployment), window, now, known_by, self._clock())
            try:
                run, found = self._measure(deployment, declared, versions, run, learned)  # 4 measure
                done.measurements += self._measurements.record(_timed(run, self._clock()), found)  # 5 record
            except TrueupError as error:
                self._measurements.record(replace(_timed(run, self._clock()), error=error.message), [])
                done.failed.append(f"{window.kind} {window.first}: {error.message}")
            done.windows += 1
            told("windows", done.windows)
        return done

    def profile(self, name: str, told: Told = lambda what, done: None) -> Measured:
        """Freezes references and counts what was booked, without measuring."""
        deployment, declared = self._declared(name)
        done = Measured()
        done.counted = self._count(deployment, declared, self._versions(deployment), self._clock(), done, told)
        return done

    def reference(self, name: str, version: str | None, sample: Sample) -> References:
        """Freezes columns that somebody hands over as a version's reference, the champion's unless one is named.

        A version keeps the reference that it has. Raises NotFound, InvalidInput."""
        deployment, declared = self._declared(name)
        of = self._version(deployment, version)
        assert of.model_version_id is not None
        made = references_of(of.contract, sample, declared)
        return self._references.freeze(_id(deployment), of.model_version_id, made)

    def declared(self, name: str, version: str | None) -> tuple[Contract, Monitoring]:
        """The contract of a version, the champion's unless one is named, and how the deployment is measured."""
        deployment, declared = self._declared(name)
        return self._version(deployment, version).contract, declared

    def listed(self, where: MeasurementFilter) -> list[dict[str, Any]]:
        """Measurements, latest windows first; an estimate with what it ``assumes``. Raises NotFound, InvalidQuery."""
        self._registry.deployment(where.deployment)
        return [{**one, "assumes": assumed(one["metric"])} for one in self._measurements.listed(where)]

    def _declared(self, name: str) -> tuple[Deployment, Monitoring]:
        deployment = self._registry.deployment(name)
        if deployment.serving.monitoring is None:
            raise InvalidInput(
                "the deployment does not say how it is measured",
                next_step="give its serving file a `monitoring` part and deploy it again",
            )
        return deployment, deployment.serving.monitoring

    def _version(self, deployment: Deployment, version: str | None) -> ModelVersion:
        if version is None:
            return deployment.champion
        return self._registry.version(deployment.champion.name, version)

    def _versions(self, deployment: Deployment) -> list[ModelVersion]:
        return [self._registry.version(*one) for one in self._measurements.versions(_id(deployment))]

    def _count(
        self,
        deployment: Deployment,
        declared: Monitoring,
        versions: Sequence[ModelVersion],
        now: datetime,
        done: Measured,
        told: Told,
    ) -> int:
        total = 0
        for version in versions:
            references = self._frozen(deployment, version, declared, now)
            if references is None:
                done.without_reference.append(version.version)
                continue
            assert version.model_version_id is not None
            assert version.contract_id is not None
            what = Counting(
                *(_id(deployment), version.model_version_id, version.contract_id, version.contract, references),
                declared.late_after_days,
            )
            total += self._counting.count(what, lambda rows: told("rows", rows))
        return total

    def _reference_of(self, deployment: Deployment, version: ModelVersion) -> References | None:
        """What the version is compared with, and all that was computed from it; None where it is not frozen yet."""
        assert version.model_version_id is not None
        which = _id(deployment), version.model_version_id
        if which not in self._known:
            found = self._references.frozen(*which)
            if found is None:
                return None
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[which] = found
        return self._known[which]

    def _frozen(
        self, deployment: Deployment, version: ModelVersion, declared: Monitoring, now: datetime
    ) -> References | None:
        """The version's reference, made now where its rows are complete."""
        assert version.model_version_id is not None
        known = self._reference_of(deployment, version)
        if known is not None or declared.reference.training:
            return known
        sample = self._references.sample(_id(deployment), version, declared, now.date())
        if sample is None:
            return None
        made = references_of(version.contract, sample, declared)
        return self._references.freeze(_id(deployment), version.model_version_id, made)

    def _stale(self, deployment: Deployment, declared: Monitoring, now: datetime, known_by: KnownBy) -> list[Window]:
        back = now.date() - timedelta(days=self._settings.days_back)
        counted = {day: n for day, n in self._measurements.counted(_id(deployment)).items() if back <= day < now.date()}
        if not counted:
            return []
        contract = deployment.champion.contract
        changed = self._measurements.changed(contract.name, min(counted), now.date(), known_by, now)
        measured = self._measurements.measured(_id(deployment), known_by, now)
        return list(stale(declared, contract.label, counted, measured, changed, now))

    def _measure(
        self,
        deployment: Deployment,
        declared: Monitoring,
        versions: Sequence[ModelVersion],
        run: Run,
        learned: dict[int, Expecting],
    ) -> tuple[Run, list[Measurement]]:
        found: list[Measurement] = []
        rows = 0
        for version in versions:
            assert version.model_version_id is not None
            references = self._reference_of(deployment, version)
            if references is None:
                continue
            for role, totals in self._totals(deployment, version, run.window).items():
                of = Of(version.model_version_id, role)
                n = totals[ROWS, ""].n
                rows += n
                found += measuring.drift(of, references, totals, declared)
                found += measuring.quality(of, totals, declared)
                found += self._performance(deployment, declared, run, version, references, of, n, learned)
        return replace(run, rows_read=rows), found

    def _totals(
        self, deployment: Deployment, version: ModelVersion, window: Window
    ) -> dict[str, dict[tuple[str, str], Counted]]:
        """Counts of the window by role."""
        assert version.model_version_id is not None
        days = self._references.counts(_id(deployment), version.model_version_id, window.first, window.last)
        by_role: dict[str, list[tuple[tuple[str, str], Counted]]] = {}
        for key, counted in days:
            by_role.setdefault(key.role, []).append(((key.field, key.slice), counted))
        return {role: measuring.total(counted) for role, counted in sorted(by_role.items())}

    def _performance(
        self,
        deployment: Deployment,
        declared: Monitoring,
        run: Run,
        version: ModelVersion,
        references: References,
        of: Of,
        rows: int,
        learned: dict[int, Expecting],
    ) -> list[Measurement]:
        if version.contract.label is None:
            return []
        draws = self._settings.resamples
        asked = Asked(
            *(deployment.name, version.version, of.role, version.contract, run.window, run.known_at, run.known_by),
            slices=references.slices,
            rows=rows,
        )
        truth = self._truth.read(asked)
        found = measuring.realised(of, version.contract, truth, declared, draws)
        if can_foresee(version.contract):
            if of.model_version_id not in learned:
                learned[of.model_version_id] = self._expecting(_id(deployment), asked, references, declared)
            expected = learned[of.model_version_id]
            estimates = expected.estimates(self._with_features(asked, truth, expected))
            found += foreseen(of, estimates, truth.maturity, found, declared, expected.known)
        if of.role != Role.CHAMPION:
            pairs = self._truth.pairs(asked, _id(deployment), of.model_version_id)
            found += compared(of, version.contract, pairs, declared, draws, truth.maturity)
        return found

    def _with_features(self, asked: Asked, truth: Truth, expected: Expecting) -> Truth:
        """Rows as the estimates need them: those at hand, or read again with their features."""
        if not expected.features:
            return truth
        return self._truth.read(replace(asked, slices=(), features=expected.features, most_rows=expected.most_rows))

    def _expecting(self, deployment_id: int, asked: Asked, references: References, declared: Monitoring) -> Expecting:
        """What the reference taught, of what is known of it now."""
        most, draws = self._settings.loss_rows, self._settings.resamples
        truth = None
        if references.first is not None and references.last is not None:
            days = Window(WindowKind.DAY, references.first, references.last)
            counted = self._measurements.counted(deployment_id)
            rows = sum(n for day, (n, _) in counted.items() if days.first <= day <= days.last)
            features = needed(asked.contract)
            bounded = replace(asked, features=features, most_rows=most if features else None)
            truth = self._truth.read(replace(bounded, window=days, rows=rows, slices=()))
        return expecting(asked.contract, truth, declared, draws, most)


def _id(deployment: Deployment) -> int:
    assert deployment.deployment_id is not None
    return deployment.deployment_id


def _timed(run: Run, ended: datetime) -> Run:
    return replace(run, duration_ms=round((ended - run.started_at).total_seconds() * 1000))
