"""`trueup stream` and `asyncapi`: scoring a topic, or a file as if it were one, and what topics carry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trueup.doors.cli.errors import FAILURE
from trueup.doors.cli.output import print_json, say

if TYPE_CHECKING:
    from trueup.doors.kafka.server import StreamServer


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog="Examples:  trueup stream fails;  trueup stream fails --from-file events.jsonl")(stream)
    app.command(epilog="Example:  trueup asyncapi > asyncapi.json")(asyncapi)


def stream(
    deployment: Annotated[str, typer.Argument(help="The deployment that declares the stream.")],
    from_file: Annotated[
        Path | None, typer.Option(help="Read a file, one record a line, instead of the topic; ends at its end.")
    ] = None,
    replies: Annotated[Path | None, typer.Option(help="With --from-file: write the replies here, one a line.")] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port for health and metrics; TRUEUP_STREAM__PORT unless given.", min=0, max=65_535),
    ] = None,
    outcomes: Annotated[
        bool, typer.Option("--outcomes", help="Record the deployment's topic of outcomes instead of scoring.")
    ] = False,
) -> None:
    """Score a stream exactly once into the ledger until interrupted. Run as many as the topic has partitions.

    Exits with 1 when something that it owes could not be sent before it stopped; the next one sends it.
    """
    from trueup.bootstrap import open_services
    from trueup.doors.cli.settings import read_settings
    from trueup.doors.kafka.opening import kafka, lag_of, outcome_server, stream_server
    from trueup.doors.telling import Telling
    from trueup.ledger.gauges import Reporter

    settings = read_settings()
    settings.stream.port = settings.stream.port if port is None else port
    with open_services(settings) as services:
        if from_file is not None:
            _file(services, deployment, from_file, replies, outcomes=outcomes)
            return
        opened = outcome_server if outcomes else stream_server
        server = opened(services, deployment, lambda topic: kafka(services, deployment, topic, outcomes=outcomes))
        told = None
        if settings.stream.port is not None:
            told = Telling(services, settings.host, settings.stream.port, lambda: server.is_ready)
            say(f"health and metrics on {told.address}")
        reporter = Reporter(services.gauges, settings.limits.gauges_every_s, lambda: lag_of(deployment, server))
        say(f"trueup reads the {'outcomes' if outcomes else 'stream'} of {deployment}")
        clean = _run(server)
        reporter.close()
        if told is not None:
            told.close()
    say("trueup has stopped")
    if not clean:
        raise typer.Exit(FAILURE)


def asyncapi() -> None:
    """Print the AsyncAPI document of what deployments read and answer, as they are declared now."""
    from importlib.metadata import version

    from trueup.bootstrap import open_services
    from trueup.doors.cli.settings import read_settings
    from trueup.doors.kafka.asyncapi import document

    settings = read_settings()
    with open_services(settings) as services:
        print_json(document(services.registry.deployments(), settings.stream, version("trueup")))


def _file(services: object, deployment: str, path: Path, replies: Path | None, *, outcomes: bool) -> None:
    from contextlib import ExitStack

    from trueup.bootstrap import Services
    from trueup.doors.kafka.files import topic_of
    from trueup.doors.kafka.opening import lines, outcome_server, stream_server

    assert isinstance(services, Services)
    with ExitStack() as files:
        out = (
            None if replies is None else files.enter_context(replies.open("ab", buffering=0))
        )  # what is forgotten is written
        broker = lines(services, deployment, path, out)
        opened = outcome_server if outcomes else stream_server
        server = opened(services, deployment, lambda _: broker, topic=topic_of(path))
        clean = _run(server)
    found = services.queries.rows(
        "SELECT coalesce(sum(instances), 0)::bigint AS instances, coalesce(sum(answered), 0)::bigint AS answered,"
        " coalesce(sum(refused), 0)::bigint AS refused FROM reads"
        " WHERE deployment = %(deployment)s AND cluster = 'file' AND topic = %(topic)s",
        {"deployment": deployment, "topic": topic_of(path)},
    )[0]
    what, done = ("outcomes", "recorded") if outcomes else ("instances", "answered")
    say(f"{found['instances']} {what} of {path.name} in the ledger: {found['answered']} {done}, "
        f"{found['refused']} refused")  # fmt: skip
    if not clean:
        raise typer.Exit(FAILURE)


def _run(server: StreamServer) -> bool:
    """Until a signal says stop."""
    import signal

    from trueup.doors.collector import calm_collector

    calm_collector()  # else it walks through all that is loaded for every few hundred records
    before = {sig: signal.signal(sig, lambda *_: server.stop()) for sig in (signal.SIGTERM, signal.SIGINT)}
    try:
        return server.run()
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)
