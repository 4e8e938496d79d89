"""A stream from open services: what its deployment declares, with the adapters that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from trueup.bootstrap import Services, utc_now
from trueup.contracts.decoding import Decoder
from trueup.domain.contract import Contract
from trueup.domain.gauge import Gauge
from trueup.domain.stream import Place, Stream
from trueup.doors.kafka.broker import Broker
from trueup.doors.kafka.formats.installed import Formats
from trueup.doors.kafka.handlers import Handlers
from trueup.doors.kafka.outcomes import OutcomeHandlers
from trueup.doors.kafka.reading import Reader
from trueup.doors.kafka.reconciling import Reconciling
from trueup.doors.kafka.replies import Replies
from trueup.doors.kafka.server import StreamServer, Work
from trueup.errors import InvalidInput, MissingExtra
from trueup.outcomes.decoding import outcome_contract
from trueup.settings import Settings, Streaming

if TYPE_CHECKING:
    from pathlib import Path

REGISTRY_S = 10.0  # how long the schema registry may take to answer
_NUMBERS = ("timeout", "max.retries", "retries.wait.ms", "retries.max.wait.ms", "cache.capacity",
            "cache.latest.ttl.sec")  # fmt: skip


def declared(services: Services, name: str) -> tuple[int, Stream]:
    """The deployment's number and its stream. Raises NotFound, InvalidInput where it declares none."""
    deployment = services.registry.deployment(name)
    assert deployment.deployment_id is not None
    if deployment.serving.stream is None:
        raise InvalidInput(
            f"{name} declares no stream", next_step="`trueup deploy --serving FILE` with `stream: {topic: ...}`"
        )
    return deployment.deployment_id, deployment.serving.stream


def check_fits(stream: Stream, contract: Contract, settings: Settings) -> None:
    """Raises InvalidInput where the stream does not fit the contract; asks no broker and no registry."""
    bounds = settings.stream
    with suppress(MissingExtra):  # of this machine, which need not be the one that reads the stream
        Reader(stream, Decoder(contract, settings.limits), settings.limits, bounds, Formats(lambda: None))


def group_of(services: Services, name: str, *, outcomes: bool = False) -> str:
    """The consumer group of a deployment's stream, or of its outcomes'."""
    group = services.settings.stream.group or f"trueup.{name}"
    return f"{group}.outcomes" if outcomes else group


def kafka(services: Services, name: str, topic: str, *, outcomes: bool = False) -> Broker:
    """A member of the deployment's group. Raises MissingExtra, InvalidInput, Unavailable."""
    try:
        from trueup.doors.kafka.confluent import ConfluentBroker
    except ImportError:
        raise MissingExtra("kafka", "reading a stream") from None
    return ConfluentBroker(topic, group_of(services, name, outcomes=outcomes), services.settings.stream)


def lines(services: Services, name: str, path: Path, replies: IO[bytes] | None) -> Broker:
    """A file's lines; of the deployment's stream the replies are written. Raises InvalidFile."""
    from trueup.doors.kafka.files import FileBroker

    stream = services.registry.deployment(name).serving.stream
    return FileBroker(path, services.settings.stream, replies, None if stream is None else stream.replies)


def registry_client(bounds: Streaming) -> Any:
    """Confluent's client of the schema registry that the settings name. Raises InvalidInput."""
    from confluent_kafka.schema_registry import SchemaRegistryClient

    chosen: dict[str, Any] = {**bounds.registry}
    chosen.update((name, value.get_secret_value()) for name, value in bounds.registry_secrets.items())
    try:
        chosen.update((name, float(chosen[name])) for name in _NUMBERS if name in chosen)
        # The stream tries again by itself, and stays a member of its group meanwhile.
        return SchemaRegistryClient({"timeout": REGISTRY_S, "max.retries": 0, **chosen})
    except (ValueError, TypeError, OSError):  # whose words may hold a secret
        raise InvalidInput(
            "the schema registry's client refuses its settings",
            next_step="check TRUEUP_STREAM__REGISTRY, such as url, and the secrets",
        ) from None


def formats_of(bounds: Streaming) -> Formats:
    """The formats of records, with a client of the registry for those that ask one."""
    return Formats(partial(registry_client, bounds))


def stream_server(
    services: Services, name: str, broker_of: Callable[[str], Broker], *, topic: str | None = None
) -> StreamServer:
    """The stream of a deployment, its models loaded. ``topic`` instead of the one declared, for files.

    Raises NotFound, InvalidInput, Unavailable, ModelRefused.
    """
    number, stream = declared(services, name)
    services.scoring.resolve(name, fresh=True)
    bounds, metrics = services.settings.stream, services.telemetry.metrics
    broker = broker_of(stream.topic)
    place = Place(number, broker.cluster, topic or stream.topic)
    if topic is not None:
        stream = replace(stream, dead_letters=None)  # a file has no such topic: the ledger keeps them
    handlers = Handlers(
        *(services.scoring, services.ledger, metrics, utc_now, services.settings.limits, bounds, name),
        *(stream, place, formats_of(bounds)),
    )
    handlers.check()
    server = _served(services, name, stream, place, broker, handlers)
    metrics.observe("stream_unreconciled_instances", Reconciling(services.queries, name, utc_now))
    return server


def outcome_server(
    services: Services, name: str, broker_of: Callable[[str], Broker], *, topic: str | None = None
) -> StreamServer:
    """The stream of a deployment's outcomes. Raises NotFound, InvalidInput, ContractError, Unavailable."""
    deployment = services.registry.deployment(name)
    stream, contract = deployment.serving.outcomes, deployment.champion.contract
    if stream is None:
        raise InvalidInput(
            f"{name} declares no topic of outcomes", next_step="`trueup deploy --serving FILE` with `outcomes: ...`"
        )
    if stream.identity or stream.event_time or stream.replies:
        raise InvalidInput("outcomes have no identity, event_time or replies of their own")
    settings, metrics = services.settings, services.telemetry.metrics
    formats = formats_of(settings.stream)
    decoder = Decoder(outcome_contract(contract), settings.limits)
    reader = Reader(stream, decoder, settings.limits, settings.stream, formats)
    broker = broker_of(stream.topic)
    assert deployment.deployment_id is not None
    place = Place(deployment.deployment_id, broker.cluster, topic or stream.topic)
    metrics.deployment(name, deployment.deployment_id)
    handlers = OutcomeHandlers(services.outcomes, services.ledger, metrics, utc_now, contract, reader, place)
    return _served(services, name, stream, place, broker, handlers)


def _served(
    services: Services, name: str, stream: Stream, place: Place, broker: Broker, handlers: Work
) -> StreamServer:
    bounds, metrics = services.settings.stream, services.telemetry.metrics
    replies = Replies(name, stream, place, services.ledger, broker, bounds.replies_in_flight)
    server = StreamServer(handlers, broker, replies, services.ledger, place, bounds, metrics)
    metrics.observe("stream_behind_records", lambda: {name: float(sum(server.behind.values()))})
    metrics.observe("stream_owed_replies", lambda: {name: float(replies.in_flight)})
    return server


def lag_of(name: str, server: StreamServer) -> list[Gauge]:
    """Records of each partition that the server has not taken yet, as the ledger is told."""
    topic = server.topic
    return [
        Gauge("stream_lag_records", {"deployment": name, "topic": topic, "partition": str(partition)}, float(behind))
        for partition, behind in dict(server.behind).items()
    ]
