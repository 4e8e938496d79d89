"""The registry in PostgreSQL. Deploying is the owner's right, so this uses the owner's role."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from trueup.contracts.reading import contract_from_json, contract_to_json
from trueup.domain.contract import Contract
from trueup.domain.deployment import Artifact, Deployment, ModelVersion, Parity, Serving
from trueup.errors import Conflict, NotFound, no_contract, no_deployment
from trueup.postgres import Connection, Pool

_VERSION = """
    SELECT v.model_version_id, v.name, v.version, v.artifacts, v.libraries, v.parity, c.contract_id, c.body
    FROM ledger.model_versions v JOIN ledger.contracts c USING (contract_id)
"""
_REVISION = """
    SELECT d.deployment_id, d.name, r.revision, r.champion_id, r.challenger_ids, r.shadow_ids, r.serving,
           r.deployed_at, r.deployed_by
    FROM ledger.deployments d
    JOIN LATERAL (SELECT * FROM ledger.deployment_revisions r WHERE r.deployment_id = d.deployment_id
                  ORDER BY r.revision DESC LIMIT 1) r ON true
"""
_NEWEST = """
    SELECT d.name, (SELECT max(r.revision) FROM ledger.deployment_revisions r WHERE r.deployment_id = d.deployment_id)
    FROM ledger.deployments d
"""
_LOCK = "SELECT pg_advisory_xact_lock(7238147)"  # two deployers take turns

MakeView = Callable[[Any, Contract, int], None]


class PostgresRegistry:
    """Contracts, versions and revisions as rows that are only ever added."""

    def __init__(self, owner: Pool, make_view: MakeView) -> None:
        self._owner = owner
        self._make_view = make_view

    def add_contract(self, contract: Contract) -> int:
        """Stores the contract and makes its typed view."""
        with self._owner.transaction() as connection:
            connection.execute(_LOCK)
            return self._add_contract(connection, contract)

    def contract(self, name: str, version: int | None = None) -> Contract:
        """The named version, or the newest."""
        if "\0" in name:
            raise no_contract()
        with self._owner.transaction() as connection:
            row = connection.execute(
                "SELECT body FROM ledger.contracts WHERE name = %s AND (%s::int IS NULL OR version = %s)"
                " ORDER BY version DESC LIMIT 1",
                (name, version, version),
            ).fetchone()
        if row is None:
            raise no_contract()
        return contract_from_json(row[0])

    def add_version(self, version: ModelVersion) -> ModelVersion:
        """Stores the version; the same again is the same row, other content a Conflict."""
        digest = version.digest
        with self._owner.transaction() as connection:
            connection.execute(_LOCK)
            contract_id = self._add_contract(connection, version.contract)
            known = connection.execute(
                "SELECT digest FROM ledger.model_versions WHERE name = %s AND version = %s",
                (version.name, version.version),
            ).fetchone()
            if known is None:
                connection.execute(
                    "INSERT INTO ledger.model_versions"
                    " (name, version, contract_id, artifacts, libraries, parity, digest)"
                    " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                    (
                        version.name,
                        version.version,
                        contract_id,
                        _json([asdict(a) for a in version.artifacts]),
                        _json(dict(version.libraries)),
                        _json([asdict(p) for p in version.parity]),
                        digest,
                    ),
                )
            elif known[0] != digest:
                raise Conflict(
                    f"version {version.version} of {version.name} exists with other artifacts",
                    next_step="deploy under a new version",
                )
            return _version(connection, "v.name = %s AND v.version = %s", (version.name, version.version))

    def version(self, name: str, version: str) -> ModelVersion:
        """The named version."""
        with self._owner.transaction() as connection:
            return _version(connection, "v.name = %s AND v.version = %s", (name, version))

    def deploy(self, deployment: Deployment, *, by: str) -> Deployment:
        """Adds a revision unless the newest says the same, and writes the audit row with it."""
        with self._owner.transaction() as connection:
            connection.execute(_LOCK)
            current = _newest(connection, deployment.name)
            if current is not None and current.says_the_same_as(deployment):
                return current
            connection.execute(
                "INSERT INTO ledger.deployments (name) VALUES (%s) ON CONFLICT DO NOTHING", (deployment.name,)
            )
            serving = _json(asdict(deployment.serving))
            connection.execute(
                "INSERT INTO ledger.deployment_revisions"
                " (deployment_id, revision, champion_id, challenger_ids, shadow_ids, serving, deployed_by)"
                " SELECT deployment_id, %s, %s, %s, %s, %s, %s FROM ledger.deployments WHERE name = %s",
                (
                    1 if current is None else current.revision + 1,
                    deployment.champion.model_version_id,
                    [v.model_version_id for v in deployment.challengers],
                    [v.model_version_id for v in deployment.shadows],
                    serving,
                    by,
                    deployment.name,
                ),
            )
            detail = _json({"champion": deployment.champion.version, "contract": deployment.champion.contract.digest})
            connection.execute(
                "INSERT INTO ledger.audit (actor, action, subject, detail) VALUES (%s, 'deploy', %s, %s)",
                (by, deployment.name, detail),
            )
            added = _newest(connection, deployment.name)
            assert added is not None
            return added

    def deployment(self, name: str) -> Deployment:
        """The newest revision."""
        if "\0" in name:  # which no text of the database can hold
            raise no_deployment()
        with self._owner.transaction() as connection:
            found = _newest(connection, name)
        if found is None:
            raise no_deployment()
        return found

    def deployments(self) -> Sequence[Deployment]:
        """Newest revision of each, by name."""
        with self._owner.transaction() as connection:
            rows = connection.execute(f"{_REVISION} ORDER BY d.name").fetchall()
            return [_deployment(connection, row) for row in rows]

    def revisions(self) -> Mapping[str, int]:
        """Numbers of the newest revisions."""
        with self._owner.connection() as connection:
            return dict(connection.execute(_NEWEST).fetchall())

    def _add_contract(self, connection: Connection, contract: Contract) -> int:
        known = connection.execute(
            "SELECT contract_id, digest FROM ledger.contracts WHERE name = %s AND version = %s",
            (contract.name, contract.version),
        ).fetchone()
        if known is not None:
            if known[1] != contract.digest:
                raise Conflict(
                    f"contract {contract.name} version {contract.version} exists with another meaning",
                    next_step="raise the contract's version; `trueup contract diff` shows what changed",
                )
            return int(known[0])
        added = connection.execute(
            "INSERT INTO ledger.contracts (name, version, digest, body) VALUES (%s, %s, %s, %s) RETURNING contract_id",
            (contract.name, contract.version, contract.digest, _json(contract_to_json(contract))),
        ).fetchone()
        assert added is not None
        self._make_view(connection, contract, int(added[0]))
        return int(added[0])


def _json(value: Any) -> str:
    return json.dumps(value, default=str)  # days of a declaration, in ISO form


def _newest(connection: Connection, name: str) -> Deployment | None:
    row = connection.execute(f"{_REVISION} WHERE d.name = %s", (name,)).fetchone()
    return None if row is None else _deployment(connection, row)


def _deployment(connection: Connection, row: tuple[Any, ...]) -> Deployment:
    deployment_id, name, revision, champion, challengers, shadows, serving, at, by = row

    def by_id(model_version_id: int) -> ModelVersion:
        return _version(connection, "v.model_version_id = %s", (model_version_id,))

    return Deployment(
        name=name,
        champion=by_id(champion),
        challengers=tuple(by_id(i) for i in challengers),
        shadows=tuple(by_id(i) for i in shadows),
        serving=msgspec.convert(serving, Serving),
        revision=revision,
        deployment_id=deployment_id,
        deployed_at=at,
        deployed_by=by,
    )


def _version(connection: Connection, where: str, values: tuple[Any, ...]) -> ModelVersion:
    row = connection.execute(f"{_VERSION} WHERE {where}", values).fetchone()
    if row is None:
        raise NotFound("no such model version")
    version_id, name, version, artifacts, libraries, parity, contract_id, body = row
    return ModelVersion(
        name=name,
        version=version,
        artifacts=msgspec.convert(artifacts, tuple[Artifact, ...]),
        contract=contract_from_json(body),
        libraries=tuple(sorted(libraries.items())),
        parity=msgspec.convert(parity, tuple[Parity, ...]),
        model_version_id=version_id,
        contract_id=contract_id,
    )
