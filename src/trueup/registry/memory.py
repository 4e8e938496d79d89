"""The registry's fake, for tests without PostgreSQL; both pass ``tests/contract/test_registry_contract.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from trueup.domain.contract import Contract
from trueup.domain.deployment import Deployment, ModelVersion
from trueup.errors import Conflict, NotFound, no_contract, no_deployment


class MemoryRegistry:
    """Contracts, versions and revisions in dictionaries."""

    def __init__(self) -> None:
        self._contracts: dict[tuple[str, int], tuple[int, Contract]] = {}
        self._versions: dict[tuple[str, str], ModelVersion] = {}
        self._deployments: dict[str, Deployment] = {}

    def add_contract(self, contract: Contract) -> int:
        """Stores the contract."""
        number, known = self._contracts.setdefault(
            (contract.name, contract.version), (len(self._contracts) + 1, contract)
        )
        if known.digest != contract.digest:
            raise Conflict(f"contract {contract.name} version {contract.version} exists with another meaning")
        return number

    def contract(self, name: str, version: int | None = None) -> Contract:
        """The named version, or the newest."""
        found = [c for (n, v), (_, c) in self._contracts.items() if n == name and version in (None, v)]
        if not found:
            raise no_contract()
        return max(found, key=lambda c: c.version)

    def add_version(self, version: ModelVersion) -> ModelVersion:
        """Stores the version; the same again is the same, other content a Conflict."""
        contract_id = self.add_contract(version.contract)
        complete = replace(version, contract_id=contract_id, model_version_id=len(self._versions) + 1)
        known = self._versions.setdefault((version.name, version.version), complete)
        if known.digest != version.digest:
            raise Conflict(f"version {version.version} of {version.name} exists with other artifacts")
        return known

    def version(self, name: str, version: str) -> ModelVersion:
        """The named version."""
        try:
            return self._versions[name, version]
        except KeyError:
            raise NotFound("no such model version") from None

    def deploy(self, deployment: Deployment, *, by: str) -> Deployment:
        """Adds a revision unless the newest says the same."""
        current = self._deployments.get(deployment.name)
        if current is not None and current.says_the_same_as(deployment):
            return current
        self._deployments[deployment.name] = replace(
            deployment,
            revision=1 if current is None else current.revision + 1,
            deployment_id=len(self._deployments) + 1 if current is None else current.deployment_id,
            deployed_at=datetime.now(UTC),
            deployed_by=by,
        )
        return self._deployments[deployment.name]

    def deployment(self, name: str) -> Deployment:
        """The newest revision."""
        if name not in self._deployments:
            raise no_deployment()
        return self._deployments[name]

    def deployments(self) -> Sequence[Deployment]:
        """Newest revision of each, by name."""
        return [self._deployments[name] for name in sorted(self._deployments)]

    def revisions(self) -> Mapping[str, int]:
        """Numbers of the newest revisions."""
        return {name: found.revision for name, found in self._deployments.items()}
