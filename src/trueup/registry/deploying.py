"""Deploying: from models and a contract to a revision that answers.

1. keep    the artifacts are copied into the content-addressed store
2. check   every runtime is loaded and compared with the first one (parity)
3. add     contract, version with digests and parity, and the revision are stored
A stop after any step leaves at most unused artifacts; the same call again goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from trueup.domain.batch import Role
from trueup.domain.contract import Contract
from trueup.domain.deployment import Artifact, Deployment, ModelVersion, Parity, Serving
from trueup.errors import ContractError, InvalidInput, NotFound
from trueup.ports import ModelRegistry


class ArtifactStore(Protocol):
    """Keeps model files by the digest of their content."""

    def save(self, model: Any) -> Artifact:
        """Stores a file, folder, address or in-memory model. Raises InvalidFile, ModelRefused."""
        ...


ParityCheck = Callable[[ModelVersion, Serving], tuple[Parity, ...]]


class Deploying:
    """The one way by which a version comes to answer under a name."""

    def __init__(self, registry: ModelRegistry, artifacts: ArtifactStore, check_parity: ParityCheck) -> None:
        self._registry = registry
        self._artifacts = artifacts
        self._check_parity = check_parity

    def deploy(
        self,
        name: str,
        *,
        contract: Contract,
        models: Sequence[Any],
        version: str,
        serving: Serving | None = None,
        libraries: dict[str, str] | None = None,
        role: Role = Role.CHAMPION,
        by: str = "",
    ) -> Deployment:
        """Adds the version and a revision in which it plays ``role``; the same again adds nothing.

        ``serving`` None keeps what the deployment has. Raises Conflict when the version
        exists with other artifacts, ParityError when its runtimes disagree.
        """
        if not models:
            raise InvalidInput("a version needs at least one model artifact")
        current = self._current(name)
        agreed = serving or (current.serving if current else Serving())
        _check_slice(contract, agreed)
        artifacts = tuple(self._artifacts.save(model) for model in models)
        candidate = ModelVersion(contract.name, version, artifacts, contract, tuple(sorted((libraries or {}).items())))
        stored = self._registry.add_version(self._with_parity(candidate, agreed))
        return self._registry.deploy(_revised(current, name, stored, agreed, role), by=by)

    def _current(self, name: str) -> Deployment | None:
        try:
            return self._registry.deployment(name)
        except NotFound:
            return None

    def _with_parity(self, candidate: ModelVersion, serving: Serving) -> ModelVersion:
        """The stored version where it is the same one, so that parity is measured once."""
        try:
            known = self._registry.version(candidate.name, candidate.version)
        except NotFound:
            known = None
        if known is not None and known.artifacts == candidate.artifacts:
            return replace(candidate, parity=known.parity, libraries=known.libraries)
        return replace(candidate, parity=self._check_parity(candidate, serving))


def _check_slice(contract: Contract, serving: Serving) -> None:
    """Raises ContractError where items cannot be left alone, or it could not be told from a decision."""
    if serving.untreated is None:
        return
    if not contract.business_key:
        raise ContractError("an untreated slice is drawn by the business key, and the contract has no key field")
    rule = contract.decision
    if "untreated" in (contract.output.classes if rule is None else (rule.at_or_above, rule.below)):
        raise ContractError("with an untreated slice no decision or class of the contract may be called `untreated`")


def _revised(current: Deployment | None, name: str, version: ModelVersion, serving: Serving, role: Role) -> Deployment:
    """The deployment with ``version`` in ``role``; a first version can only be the champion."""
    if role is Role.CHAMPION:
        base = current or Deployment(name, version)
        return replace(base, champion=version, serving=serving)
    if current is None:
        raise NotFound(
            f"deployment {name} does not exist, so it can have no {role}",
            next_step="deploy a champion first",
        )
    if role is Role.CHALLENGER:
        others = tuple(v for v in current.challengers if v.version != version.version)
        return replace(current, challengers=(*others, version), serving=serving)
    others = tuple(v for v in current.shadows if v.version != version.version)
    return replace(current, shadows=(*others, version), serving=serving)
