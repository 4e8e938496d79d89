"""Settings -> Services: makes every adapter, introduces the rooms to one another, closes all.

What a process that serves does not need is imported and made when it is first asked for: a worker is many times one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from socket import gethostname
from types import TracebackType
from typing import TYPE_CHECKING, Self

from trueup.domain.deployment import Mode, ModelVersion, Parity, Serving
from trueup.domain.gauge import Gauge
from trueup.errors import TrueupError
from trueup.ledger import migrating
from trueup.ledger.draining import Drainer
from trueup.ledger.embedded import EmbeddedPostgres
from trueup.ledger.gauges import PostgresGauges, Reporter
from trueup.ledger.observed import ObservedLedger
from trueup.ledger.spool import SpooledLedger
from trueup.ledger.spool_lookup import Lookup
from trueup.ledger.streaming import PostgresStreams
from trueup.ledger.urls import Urls, external_urls
from trueup.ledger.views import make_contract_view
from trueup.outcomes.acting import PostgresActions
from trueup.outcomes.postgres import PostgresOutcomes
from trueup.ports import Scorer
from trueup.postgres import Pool
from trueup.registry.artifacts import ArtifactFolder
from trueup.registry.deploying import Deploying
from trueup.registry.loader import Loader
from trueup.registry.postgres import PostgresRegistry
from trueup.scoring import parity, scorers
from trueup.scoring.service import Scoring
from trueup.settings import Limits, Settings
from trueup.sql.runner import PostgresQueries
from trueup.telemetry import configure
from trueup.telemetry.requests import Telemetry

if TYPE_CHECKING:
    from trueup.alerts.engine import AlertEngine
    from trueup.alerts.handling import Handling
    from trueup.domain.job import Job
    from trueup.monitoring.service import Measuring
    from trueup.notifying.postgres import PostgresOutbox
    from trueup.notifying.sending import Sending
    from trueup.outcomes.pulling import Pulls
    from trueup.reports.running import Reports

_SPOOL_GAUGES = {
    "spool_rows": "depth_rows",
    "spool_bytes": "depth_bytes",
    "spool_oldest_seconds": "oldest_age_s",
    "spool_dead_letters": "dead_letters",
    "spool_conflicts": "conflicts",
}


@dataclass
class Services:
    """Everything a door needs, wired. Close it, or use it as a context manager."""

    settings: Settings
    urls: Urls
    registry: PostgresRegistry
    ledger: PostgresStreams
    outcomes: PostgresOutcomes
    actions: PostgresActions
    queries: PostgresQueries
    gauges: PostgresGauges
    scoring: Scoring
    deploying: Deploying
    telemetry: Telemetry
    embedded: EmbeddedPostgres | None
    _pools: tuple[Pool, ...]
    spool: SpooledLedger | None = None
    drainer: Drainer | None = None
    _reporter: Reporter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def open_spool(self, *, draining: bool = True) -> SpooledLedger:
        """From now on this process spools what is declared `spooled`, and drains it unless told not to.

        For processes that serve: all others book such deployments durably. Raises LedgerUnavailable.
        """
        if self.spool is None:
            writer, limits = self._pools[1], self.settings.limits
            root = self.settings.data_dir / "spool"
            self.spool = SpooledLedger(self.ledger, Lookup(writer, limits.spool_lookup_s), root, limits)
            self.scoring.spool = ObservedLedger(self.spool, self.telemetry.metrics)
            for gauge, figure in _SPOOL_GAUGES.items():
                self.telemetry.metrics.observe(gauge, partial(self._figure, figure))
            self.drainer = Drainer(self.spool)
            if draining:
                self.drainer.start()
                self._reporter = Reporter(self.gauges, limits.gauges_every_s, self._spool_gauges)
        return self.spool

    def _figure(self, name: str) -> float:
        return 0.0 if self.spool is None else float(self.spool.stats()[name])

    @cached_property
    def outbox(self) -> PostgresOutbox:
        """Messages that wait to be sent."""
        from trueup.notifying.postgres import PostgresOutbox

        return PostgresOutbox(self._pools[1], self.settings.notify)

    @cached_property
    def sending(self) -> Sending:
        """The one of this process, closed with the services."""
        return open_sending(self)

    @cached_property
    def pulls(self) -> Pulls:
        """Outcomes from source databases."""
        from trueup.outcomes.pulling import Pulls

        settings = self.settings
        return Pulls(settings.pulls, self._pools[1], self.outcomes, self.registry.contract, settings.limits)

    @cached_property
    def measuring(self) -> Measuring:
        """Predictions against their reference and their outcomes."""
        from trueup.monitoring.opening import open_measuring

        _, writer, reader = self._pools
        return open_measuring(self.registry, writer, reader, utc_now, self.settings.monitoring)

    @cached_property
    def reports(self) -> Reports:
        """Reports and their runs, whose messages are committed with them."""
        from trueup.reports.postgres import PostgresRuns
        from trueup.reports.running import Reports

        return Reports(self.queries, PostgresRuns(self._pools[1], self.outbox), self.settings.reports, utc_now)

    def _spool_gauges(self) -> list[Gauge]:
        assert self.spool is not None
        stats, of = self.spool.stats(), {"spool": f"{gethostname()}/{self.spool.folder.path.name}"}
        return [Gauge(name, of, float(stats[figure])) for name, figure in _SPOOL_GAUGES.items()]

    def close(self) -> None:
        """Closes the spool (what is undrained stays on disk), models, telemetry and connections; then lets go of the
        embedded database."""
        if self._reporter is not None:
            self._reporter.close()
        if "sending" in vars(self):
            self.sending.close()
        if self.drainer is not None and self.spool is not None:
            self.drainer.stop()
            self.spool.close()
        self.scoring.models.close()
        self.telemetry.close()
        for pool in self._pools:
            pool.close()
        if self.embedded is not None:
            self.embedded.stop()

    def ping(self) -> dict[str, bool]:
        """Whether each thing a prediction depends on answers."""
        return {
            "ledger": _answers(lambda: self.queries.rows("SELECT 1")),
            "registry": _answers(self.registry.revisions),
            "models": self.scoring.models.ready(),
            **({"spool": self.spool.folder.has_room} if self.spool is not None and self._spools() else {}),
        }

    def is_ready(self, checks: dict[str, bool]) -> bool:
        """Whether requests can be answered: by a spool with room also while the database is away."""
        return all(checks.values()) or (checks.get("spool", False) and checks["models"])

    def _spools(self) -> bool:
        """Whether a deployment that is in memory answers from the spool."""
        return bool(self.scoring.models.in_memory(Mode.SPOOLED))


def open_services(settings: Settings) -> Services:
    """Starts or finds the database, brings it up to date, and wires the rooms. Raises LedgerUnavailable."""
    return wired(settings, *open_ledger(settings))


def open_ledger(settings: Settings) -> tuple[Urls, EmbeddedPostgres | None]:
    """Starts or finds the database and brings it up to date. Raises LedgerUnavailable."""
    configure(settings.log_level, as_json=settings.log_json)
    urls, embedded = open_database(settings)
    try:
        migrating.migrate(urls.owner)
    except TrueupError:
        if embedded:
            embedded.stop()
        raise
    return urls, embedded


def connections_of(settings: Settings) -> int:
    """The most connections that one serving process opens: owner, API keys, writer, reader."""
    return 4 + 2 * settings.limits.pool_connections


def open_worker(settings: Settings) -> Services:
    """The rooms on a database that another process has opened and holds."""
    configure(settings.log_level, as_json=settings.log_json)
    urls = _external(settings) if settings.database_url else EmbeddedPostgres(settings.data_dir).urls()
    return wired(settings, urls)


def open_database(settings: Settings) -> tuple[Urls, EmbeddedPostgres | None]:
    """Starts or finds the database and leaves it as it is; whoever calls stops the embedded one."""
    embedded = None if settings.database_url else EmbeddedPostgres(settings.data_dir)
    return (embedded.start() if embedded else _external(settings)), embedded


def wired(settings: Settings, urls: Urls, embedded: EmbeddedPostgres | None = None) -> Services:
    """The rooms on a database that is there and up to date."""
    limits = settings.limits
    pool = partial(Pool, connect_s=limits.database_connect_s, probe_s=limits.database_probe_s)
    owner = pool(urls.owner, size=2, application="trueup-owner")
    writer = pool(urls.writer, size=limits.pool_connections, application="trueup-writer")
    reader = pool(urls.reader, size=limits.pool_connections, application="trueup-reader", options=_reading(limits))
    artifacts = ArtifactFolder(settings.data_dir / "models")
    loader = Loader(artifacts, scorers.load)
    registry = PostgresRegistry(owner, make_contract_view)
    ledger = PostgresStreams(writer, reader, limits)
    telemetry = Telemetry(limits.metric_deployments)
    observed = ObservedLedger(ledger, telemetry.metrics)
    return Services(
        settings=settings,
        urls=urls,
        registry=registry,
        ledger=ledger,
        outcomes=PostgresOutcomes(writer),
        actions=PostgresActions(writer),
        gauges=PostgresGauges(writer),
        queries=PostgresQueries(reader, limits),
        scoring=Scoring(registry, observed, _loading(loader), utc_now, limits, telemetry.metrics),
        deploying=Deploying(registry, artifacts, _parity_check(loader)),
        telemetry=telemetry,
        embedded=embedded,
        _pools=(owner, writer, reader),
    )


def open_sending(services: Services) -> Sending:
    """What sends the messages of the outbox to the receivers that settings declare. Close it before the services."""
    from trueup.notifying.receivers import declared
    from trueup.notifying.sending import Sending

    return Sending(services.outbox, declared(services.settings.notify), services.settings.notify)


def open_alerts(services: Services, folders: Sequence[Path] = ()) -> AlertEngine:
    """What evaluates alert rules and tells of alerts, with rules of ``folders`` beside those that settings name.

    Raises InvalidFile where the routing file is none.
    """
    from trueup.alerts.engine import AlertEngine
    from trueup.alerts.postgres import PostgresAlerts
    from trueup.alerts.reading import RuleFolders
    from trueup.alerts.routing import RoutingFile

    settings = services.settings.alerts
    store, rules = PostgresAlerts(writer_of(services), services.outbox), RuleFolders([*settings.folders, *folders])
    return AlertEngine(store, services.queries, rules, RoutingFile(settings.routing).read, settings, utc_now)


def alert_handling(services: Services) -> Handling:
    """What people do about alerts."""
    from trueup.alerts.handling import Handling
    from trueup.alerts.postgres import PostgresAlerts

    return Handling(PostgresAlerts(writer_of(services), services.outbox), services.settings.alerts, utc_now)


def gathering(services: Services) -> Callable[[], list[Job]]:
    """What says which scheduled work every room has now, for the clock. No two jobs have the same name and subject.

    Both raise InvalidFile where a folder of rules or reports, or the routing file, is none; the first one also where a
    template of messages cannot be used.
    """
    from trueup.alerts import jobs as alerts
    from trueup.ledger import gauges
    from trueup.ledger.upkeep import Upkeep
    from trueup.monitoring.jobs import monitor_jobs
    from trueup.notifying import jobs as notifying
    from trueup.notifying.rendering import Rendering
    from trueup.reports import jobs as reports

    settings, engine = services.settings, open_alerts(services)
    Rendering(settings.notify)  # who begins to work hears of a template that cannot be used
    upkeep = Upkeep(writer_of(services), settings.limits, settings.clock)

    def gather() -> list[Job]:
        return [
            *upkeep.jobs(),
            *gauges.jobs(services.gauges, settings.limits),
            *services.pulls.jobs(),
            *monitor_jobs(services.registry, services.measuring, settings.monitoring),
            *alerts.jobs(engine, settings.alerts),
            *reports.jobs(services.reports, settings.reports),
            *notifying.jobs(services.outbox, services.sending, settings.notify),
        ]

    return gather


def writer_of(services: Services) -> Pool:
    """Connections in the writer's role."""
    return services._pools[1]


def utc_now() -> datetime:
    """The wall clock, in UTC with zone."""
    return datetime.now(UTC)


def _external(settings: Settings) -> Urls:
    assert settings.database_url is not None
    writer, reader = settings.writer_url, settings.reader_url
    return external_urls(
        settings.database_url.get_secret_value(),
        writer.get_secret_value() if writer else None,
        reader.get_secret_value() if reader else None,
    )


def _reading(limits: Limits) -> dict[str, str]:
    timeout = str(int(limits.statement_timeout_s * 1000))
    return {"search_path": "trueup", "default_transaction_read_only": "on", "statement_timeout": timeout}


def _loading(loader: Loader) -> Callable[[ModelVersion, Serving], Scorer]:
    def load(version: ModelVersion, serving: Serving) -> Scorer:
        reference, *others = loader.load_all(version, serving)
        for other, found in zip(others, version.parity, strict=True):
            if found.switch_at:
                return parity.SwitchingScorer(reference, other, found.switch_at)
        return parity.SwitchingScorer(reference, others[0], 2**62) if others else reference

    return load


def _parity_check(loader: Loader) -> Callable[[ModelVersion, Serving], tuple[Parity, ...]]:
    def check(version: ModelVersion, serving: Serving) -> tuple[Parity, ...]:
        return parity.compare(version, loader.load_all(version, serving), serving)

    return check


def _answers(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except TrueupError:
        return False
    return True
