"""The real PostgreSQL for every test that needs one: ours, started once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

import trueup
from brokers import Cluster, Registry
from databases import create_database
from trueup.bootstrap import wired
from trueup.ledger import migrating
from trueup.ledger.embedded import EmbeddedPostgres
from trueup.ledger.urls import Urls

hypothesis.settings.register_profile("trueup", deadline=None)  # a busy machine is no fault of the code
hypothesis.settings.load_profile("trueup")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A running server of the session's own."""
    postgres = EmbeddedPostgres(tmp_path_factory.mktemp("pg"))
    postgres.start("template_trueup")
    yield postgres
    postgres.stop()


@pytest.fixture(scope="session")
def template(server: EmbeddedPostgres) -> str:
    """A migrated database that others are copied from."""
    migrating.migrate(server.urls("template_trueup").owner)
    return "template_trueup"


@pytest.fixture(scope="session")
def kafka() -> Iterator[Cluster]:
    """Kafka of one node, made when the first test asks. Whoever stops it starts it again."""
    cluster = Cluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def kafka_trio() -> Iterator[Cluster]:
    """Kafka of three nodes, for tests of what happens when one is gone; they end with the module, for their memory."""
    cluster = Cluster(nodes=3)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def schema_registry() -> Iterator[Registry]:
    """A schema registry, made when the first test asks."""
    registry = Registry()
    try:
        registry.start()
        yield registry
    finally:
        registry.close()


@pytest.fixture
def empty_database(server: EmbeddedPostgres) -> Urls:
    """A database without anything in it."""
    return create_database(server, "template0")


@pytest.fixture
def fresh_database(server: EmbeddedPostgres, template: str) -> Urls:
    """A migrated database of the test's own."""
    return create_database(server, template)


@pytest.fixture
def settings(tmp_path: Path) -> trueup.Settings:
    """Settings with a data directory of the test's own."""
    return trueup.Settings(data_dir=tmp_path / "data")


@pytest.fixture
def up(fresh_database: Urls, settings: trueup.Settings) -> Iterator[trueup.Trueup]:
    """trueup on a fresh database."""
    with trueup.Trueup(wired(settings, fresh_database)) as opened:
        yield opened
