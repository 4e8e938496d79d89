"""What every registry must do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rooms import CONTRACT, Desk
from trueup.domain.deployment import Artifact, Deployment, ModelVersion, Runtime
from trueup.errors import Conflict, NotFound


def version(name: str = "1", digest: str = "a" * 64) -> ModelVersion:
    return ModelVersion("trades", name, (Artifact(Runtime.PYTHON, "python:m:f", digest),), CONTRACT)


class TestEveryRegistry:
    def test_a_contract_means_one_thing(self, desk: Desk):
        assert desk.registry.add_contract(CONTRACT) == desk.registry.add_contract(CONTRACT)
        assert desk.registry.contract("trades") == CONTRACT
        assert desk.registry.contract("trades", 1).digest == CONTRACT.digest
        with pytest.raises(Conflict):
            desk.registry.add_contract(replace(CONTRACT, expected_cost=""))

    def test_the_newest_contract_is_found_without_version(self, desk: Desk):
        desk.registry.add_contract(replace(CONTRACT, version=2))
        desk.registry.add_contract(CONTRACT)
        assert desk.registry.contract("trades").version == 2

    def test_a_version_means_one_thing(self, desk: Desk):
        first, again = (desk.registry.add_version(version()) for _ in range(2))
        assert first == again == desk.registry.version("trades", "1")
        with pytest.raises(Conflict):
            desk.registry.add_version(version(digest="b" * 64))

    def test_revisions_are_added_only_where_something_changed(self, desk: Desk):
        one, two = (desk.registry.add_version(version(n)) for n in "12")
        first = desk.registry.deploy(Deployment("trades", one), by="ann")
        same = desk.registry.deploy(Deployment("trades", one), by="bob")
        second = desk.registry.deploy(Deployment("trades", two, challengers=(one,)), by="bob")
        assert (first.revision, same.revision, second.revision) == (1, 1, 2)
        assert first.deployment_id == second.deployment_id
        assert (same.deployed_by, second.deployed_by) == ("ann", "bob")
        assert desk.registry.deployment("trades") == second

    def test_deployments_are_listed_by_name(self, desk: Desk):
        one = desk.registry.add_version(version())
        for name in ("zebra", "ant"):
            desk.registry.deploy(Deployment(name, one), by="ann")
        assert [d.name for d in desk.registry.deployments()] == ["ant", "zebra"]

    def test_the_newest_revisions_are_told_by_their_numbers(self, desk: Desk):
        one, two = (desk.registry.add_version(version(n)) for n in "12")
        assert desk.registry.revisions() == {}
        for name, champion in (("a", one), ("b", one), ("b", two)):
            desk.registry.deploy(Deployment(name, champion), by="ann")
        assert desk.registry.revisions() == {"a": 1, "b": 2}

    def test_what_is_not_there_is_not_found(self, desk: Desk):
        for ask in (
            lambda: desk.registry.contract("no"),
            lambda: desk.registry.version("no", "1"),
            lambda: desk.registry.deployment("no"),
            lambda: desk.registry.deployment("trades\0"),
            lambda: desk.registry.contract("trades\0"),
        ):
            with pytest.raises(NotFound):
                ask()
