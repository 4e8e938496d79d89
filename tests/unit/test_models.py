"""A model's life: loaded beside, warmed up, swapped, unloaded; and what goes on meanwhile."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import trueup
from rooms import CONTRACT
from trueup.domain.batch import Columns
from trueup.domain.deployment import Fallback, ModelVersion, Serving
from trueup.errors import LedgerUnavailable, MissingExtra, ModelRefused, NotFound, ScoringError, TrueupError
from trueup.registry.memory import MemoryRegistry
from trueup.scoring import models
from trueup.scoring.models import Models
from trueup.settings import Limits

FALLBACK = Serving(fallback=Fallback("history", 2.0, low=0.1, high=0.9))


@dataclass(eq=False)
class Toy:
    """A model that remembers what was asked of it."""

    version: str
    fails: bool = False
    sizes: list[int] = field(default_factory=list)
    explained: int = 0
    closed: threading.Event = field(default_factory=threading.Event)

    def score(self, columns: Columns) -> Any:
        self.sizes.append(len(columns))
        if self.fails:
            raise ScoringError("no")
        return np.full((len(columns), 1), 0.5)

    def contributions(self, columns: Columns) -> Any:
        self.explained += 1
        return np.zeros((len(columns), len(columns.contract.features)))

    def close(self) -> None:
        self.closed.set()


class Runtime:
    """Loads toys; can be told to refuse, to break, to give one that fails, and to wait."""

    def __init__(self) -> None:
        self.loaded: list[Toy] = []
        self.raises: dict[str, Exception] = {}
        self.failing: set[str] = set()
        self.gates: dict[str, threading.Event] = {}
        self.entered: dict[str, threading.Event] = {}

    def __call__(self, version: ModelVersion, serving: Serving) -> Toy:
        self.entered.setdefault(version.version, threading.Event()).set()
        if version.version in self.gates:
            assert self.gates[version.version].wait(20)
        if version.version in self.raises:
            raise self.raises[version.version]
        self.loaded.append(Toy(version.version, fails=version.version in self.failing))
        return self.loaded[-1]

    def hold(self, version: str) -> tuple[threading.Event, threading.Event]:
        """The version's load waits for the second event after it set the first."""
        self.entered[version], self.gates[version] = threading.Event(), threading.Event()
        return self.entered[version], self.gates[version]


class House:
    """Models on a registry in memory, where time passes at once."""

    def __init__(self) -> None:
        self.registry, self.runtime = MemoryRegistry(), Runtime()
        self.models = Models(self.registry, self.runtime, Limits())

    def deploy(self, version: str, name: str = "t", serving: Serving | None = None, **others: Any) -> None:
        stored = self.version(version)
        self.registry.deploy(trueup.Deployment(name, stored, serving=serving or Serving(), **others), by="test")

    def version(self, version: str) -> ModelVersion:
        return self.registry.add_version(ModelVersion("m", version, (), CONTRACT))

    def look(self, name: str = "t") -> str:
        """Which version answers, after the registry was looked at again."""
        for slot in self.models._slots.values():
            slot.checked_at = 0.0
        return self.models.resolve(name).champion.version.version

    def retry(self, name: str = "t") -> None:
        """Lets the wait after a failure pass."""
        slot = self.models._slots[name]
        assert slot.failure is not None
        slot.failure = models.Failure(slot.failure.revision, slot.failure.error, slot.failure.attempts, 0.0)


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.models.close()


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class TestLoadingBeside:
    def test_the_old_revision_answers_while_the_new_one_is_loaded(self, house: House) -> None:
        house.deploy("1")
        assert house.look() == "1"
        entered, go = house.runtime.hold("2")
        house.deploy("2")
        began = time.monotonic()
        assert house.look() == "1"
        assert entered.wait(10)
        assert [house.look() for _ in range(100)] == ["1"] * 100
        assert time.monotonic() - began < 5
        go.set()
        until(lambda: house.look() == "2")
        assert [toy.version for toy in house.runtime.loaded] == ["1", "2"]

    def test_other_deployments_are_loaded_and_answer_meanwhile(self, house: House) -> None:
        house.deploy("1")
        house.look()
        entered, go = house.runtime.hold("2")
        house.deploy("2")
        house.look()
        assert entered.wait(10)
        house.deploy("3", name="other")
        assert house.look("other") == "3"
        go.set()

    def test_of_many_who_ask_for_what_is_not_loaded_one_loads_and_all_get_it(self, house: House) -> None:
        house.deploy("1")
        entered, go = house.runtime.hold("1")
        found: list[object] = []
        threads = [threading.Thread(target=lambda: found.append(house.models.resolve("t"))) for _ in range(16)]
        for thread in threads:
            thread.start()
        assert entered.wait(10)
        go.set()
        for thread in threads:
            thread.join(10)
        assert len(found) == 16
        assert len({id(one) for one in found}) == 1
        assert len(house.runtime.loaded) == 1

    def test_it_is_warmed_up_alone_in_a_batch_and_with_reasons_before_it_answers(self, house: House) -> None:
        house.deploy("1")
        house.models.resolve("t")
        (toy,) = house.runtime.loaded
        assert toy.sizes == [1, 64]
        assert toy.explained == 2

    def test_reasons_are_not_warmed_up_where_none_are_given(self, house: House) -> None:
        house.deploy("1", serving=Serving(reason_codes=0))
        house.models.resolve("t")
        assert house.runtime.loaded[0].explained == 0

    def test_a_version_in_both_revisions_is_loaded_once(self, house: House) -> None:
        house.deploy("1")
        house.look()
        house.deploy("1", shadows=(house.version("2"),))
        until(lambda: (house.look(), house.models.counts()["behind"] == 0)[1])
        assert [toy.version for toy in house.runtime.loaded] == ["1", "2"]
        gc.collect()
        assert not house.runtime.loaded[0].closed.is_set()

    def test_a_version_served_otherwise_is_loaded_again(self, house: House) -> None:
        house.deploy("1")
        house.look()
        house.deploy("1", serving=Serving(threads=2))
        until(lambda: (house.look(), len(house.runtime.loaded) == 2)[1])

    def test_an_older_revision_never_takes_the_place_of_a_newer_one(self, house: House) -> None:
        house.deploy("1")
        old = house.registry.deployment("t")
        house.deploy("2")
        assert house.look() == "2"
        house.registry._deployments["t"] = old
        assert house.look() == "2"
        assert house.models.resolve("t", fresh=True).champion.version.version == "2"

    def test_an_unknown_name_leaves_nothing_behind(self, house: House) -> None:
        for name in ("a", "b"):
            with pytest.raises(NotFound):
                house.models.resolve(name)
        assert house.models._slots == {}


class TestUnloading:
    def test_a_replaced_model_is_closed_after_the_last_batch_that_holds_it(self, house: House) -> None:
        house.deploy("1")
        batch = house.models.resolve("t")
        house.deploy("2")
        until(lambda: house.look() == "2")
        toy = house.runtime.loaded[0]
        gc.collect()
        assert not toy.closed.is_set()
        assert batch.champion.scorer is toy
        del batch
        assert toy.closed.wait(10)
        assert not house.runtime.loaded[1].closed.is_set()

    def test_nothing_of_it_stays_in_memory(self, house: House) -> None:
        house.deploy("1")
        gone = weakref.ref(house.models.resolve("t"))
        for version in "23456":
            house.deploy(version)
            house.models.resolve("t", fresh=True)
        until(lambda: gone() is None)
        until(lambda: sum(toy.closed.is_set() for toy in house.runtime.loaded) == 5)

    def test_a_model_that_an_error_holds_in_a_circle_is_closed_all_the_same(self, house: House) -> None:
        gc.disable()
        try:
            house.deploy("1")
            circle: list[object] = [house.models.resolve("t")]
            circle.append(circle)
            del circle
            house.deploy("2")
            until(lambda: house.look() == "2")
            assert house.runtime.loaded[0].closed.wait(10)
        finally:
            gc.enable()

    def test_released_it_is_closed_and_loaded_again_when_asked_for(self, house: House) -> None:
        house.deploy("1")
        house.look()
        house.models.release("t")
        assert house.models.held("t") is None
        assert house.runtime.loaded[0].closed.wait(10)
        assert house.look() == "1"

    def test_a_model_that_cannot_be_closed_stops_no_other(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        house.deploy("1")
        house.look()
        monkeypatch.setattr(Toy, "close", lambda toy: toy.closed.set() or 1 / 0)
        for version in "23":
            house.deploy(version)
            house.models.resolve("t", fresh=True)
        until(lambda: [toy.closed.is_set() for toy in house.runtime.loaded] == [True, True, False])

    def test_a_model_that_fails_its_warm_up_is_closed(self, house: House) -> None:
        house.deploy("1")
        house.runtime.failing.add("1")
        with pytest.raises(ScoringError):
            house.models.resolve("t")
        assert house.runtime.loaded[0].closed.is_set()


class TestARevisionThatFails:
    @pytest.mark.parametrize(
        "error", [ModelRefused("changed"), MissingExtra("onnx", "an ONNX model"), RuntimeError("native 250000")]
    )
    def test_the_old_one_goes_on_and_the_reason_shows(self, house: House, error: Exception) -> None:
        house.deploy("1")
        house.look()
        house.runtime.raises["2"] = error
        house.deploy("2")
        house.look()
        until(lambda: house.models.counts()["failed"] == 1)
        assert house.look() == "1"
        state = house.models.state("t")
        assert state["serving_revision"] == 1
        assert state["load_failure"]["revision"] == 2
        assert state["load_failure"]["message"]
        assert "250000" not in state["load_failure"]["message"]
        assert house.models.counts() == {"loaded": 1, "behind": 1, "failed": 1}

    def test_so_does_one_that_fails_its_warm_up(self, house: House) -> None:
        house.deploy("1")
        house.look()
        house.runtime.failing.add("2")
        house.deploy("2")
        house.look()
        until(lambda: house.models.counts()["failed"] == 1)
        assert house.look() == "1"

    def test_a_fallback_does_not_push_a_good_model_out(self, house: House) -> None:
        house.deploy("1", serving=FALLBACK)
        house.look()
        house.runtime.raises["2"] = ModelRefused("changed")
        house.deploy("2", serving=FALLBACK)
        house.look()
        until(lambda: house.models.counts()["failed"] == 1)
        assert house.models.resolve("t").champion.scorer is house.runtime.loaded[0]

    def test_it_is_tried_again_later_and_not_on_every_request(self, house: House) -> None:
        house.deploy("1")
        house.look()
        house.runtime.failing.add("2")
        house.deploy("2")
        house.look()
        until(lambda: house.models.counts()["failed"] == 1)
        assert [house.look() for _ in range(50)] == ["1"] * 50
        assert [toy.version for toy in house.runtime.loaded] == ["1", "2"]
        house.runtime.failing.clear()
        house.retry()
        until(lambda: house.look() == "2")
        assert house.models.state("t")["load_failure"] is None

    def test_the_wait_grows_up_to_its_bound(self, house: House) -> None:
        house.deploy("1")
        house.runtime.raises["1"] = ModelRefused("changed")
        waits = []
        for _ in range(9):
            with pytest.raises(ModelRefused):
                house.models.resolve("t")
            waits.append(round(house.models.state("t")["load_failure"]["retry_in_s"]))
            house.retry()
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]

    def test_nobody_waits_for_a_load_that_has_just_failed(self, house: House) -> None:
        house.deploy("1")
        house.runtime.raises["1"] = MissingExtra("onnx", "an ONNX model")
        messages = set()
        for _ in range(20):
            with pytest.raises(MissingExtra) as caught:
                house.models.resolve("t")
            messages.add(caught.value.message)
        assert len(messages) == 1
        assert house.models.failures == 1

    def test_asked_to_load_now_it_tries_at_once_and_says_why_not(self, house: House) -> None:
        house.deploy("1")
        house.look()
        house.runtime.raises["2"] = ModelRefused("changed")
        house.deploy("2")
        for _ in range(2):
            with pytest.raises(ModelRefused):
                house.models.resolve("t", fresh=True)
        assert house.models.failures == 2
        assert house.look() == "1"

    def test_a_newer_revision_does_not_wait_for_it(self, house: House) -> None:
        house.deploy("1")
        house.look()
        house.runtime.raises["2"] = ModelRefused("changed")
        house.deploy("2")
        house.look()
        until(lambda: house.models.counts()["failed"] == 1)
        house.deploy("3")
        until(lambda: house.look() == "3")
        assert house.models.counts() == {"loaded": 1, "behind": 0, "failed": 0}

    def test_without_a_model_the_fallback_answers_until_there_is_one(self, house: House) -> None:
        house.deploy("1", serving=FALLBACK)
        house.runtime.raises["1"] = ModelRefused("changed")
        assert house.models.resolve("t").champion.scorer is None
        house.runtime.raises.clear()
        house.retry()
        until(lambda: (house.look(), house.models.resolve("t").champion.scorer is not None)[1])

    def test_a_shadow_that_fails_does_not_stop_the_revision_and_is_tried_again(self, house: House) -> None:
        house.runtime.failing.add("2")
        house.deploy("1", shadows=(house.version("2"),))
        assert house.models.resolve("t").others[0].scorer is None
        house.runtime.failing.clear()
        house.retry()
        until(lambda: (house.look(), house.models.resolve("t").others[0].scorer is not None)[1])
        assert [toy.version for toy in house.runtime.loaded] == ["1", "2", "2"]


class TestFollowing:
    def test_everything_is_loaded_before_it_is_ready(self, house: House) -> None:
        for version in "123":
            house.deploy(version, name=f"d{version}")
        entered, go = house.runtime.hold("2")
        house.models.start(ready_within_s=60)
        assert entered.wait(10)
        assert not house.models.ready()
        go.set()
        until(house.models.ready)
        assert house.models.counts() == {"loaded": 3, "behind": 0, "failed": 0}

    def test_nothing_is_ready_while_nobody_can_say_what_there_is(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        house.deploy("1")
        asked = {"revisions": threading.Event(), "deployment": threading.Event()}

        def away(what: str) -> None:
            asked[what].set()
            raise LedgerUnavailable("away")

        with monkeypatch.context() as registry:
            registry.setattr(house.registry, "deployment", lambda name: away("deployment"))
            with monkeypatch.context() as list_of_all:
                list_of_all.setattr(house.registry, "revisions", lambda: away("revisions"))
                house.models.start(ready_within_s=60)
                assert asked["revisions"].wait(3)
                assert not house.models.ready()
            assert asked["deployment"].wait(3)
            assert not house.models.ready()
        until(house.models.ready)
        assert house.models.counts() == {"loaded": 1, "behind": 0, "failed": 0}

    def test_one_that_fails_stops_no_other(self, house: House) -> None:
        for version in "123":
            house.deploy(version, name=f"d{version}")
        house.runtime.raises["2"] = RuntimeError("broken")
        house.models.start(ready_within_s=60)
        until(house.models.ready)
        assert house.models.counts() == {"loaded": 2, "behind": 0, "failed": 1}
        assert house.models.state("d2")["serving_revision"] is None

    def test_a_load_that_takes_too_long_does_not_keep_it_from_being_ready(self, house: House) -> None:
        house.deploy("1")
        _, go = house.runtime.hold("1")
        house.models.start(ready_within_s=0.05)
        until(house.models.ready)
        go.set()

    def test_a_promotion_and_a_new_deployment_come_without_anyone_asking(self, house: House) -> None:
        house.deploy("1")
        house.models.start(ready_within_s=60)
        until(house.models.ready)
        house.deploy("2")
        house.deploy("3", name="other")
        until(lambda: house.models.counts() == {"loaded": 2, "behind": 0, "failed": 0}, 3)
        held = house.models.held("t")
        assert held is not None
        until(lambda: house.models.held("t")[0].champion.version.version == "2", 3)  # type: ignore[index]
        until(lambda: house.models.held("t")[1] < models.REFRESH_S, 3)  # type: ignore[index]

    def test_what_was_released_stays_released(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        house.deploy("1")
        house.models.start(ready_within_s=60)
        until(house.models.ready)
        house.models.release("t")
        looks: list[None] = []
        revisions = house.registry.revisions
        monkeypatch.setattr(house.registry, "revisions", lambda: looks.append(None) or revisions())
        until(lambda: len(looks) >= 3)
        assert house.models.held("t") is None

    def test_a_registry_that_is_away_for_a_while_is_followed_again(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        house.deploy("1")
        house.models.start(ready_within_s=60)
        until(house.models.ready)
        asked = threading.Event()

        def away() -> None:
            asked.set()
            raise TrueupError("away")

        with monkeypatch.context() as patched:
            patched.setattr(house.registry, "revisions", away)
            assert asked.wait(3)
            house.deploy("2")
        until(lambda: house.models.held("t")[0].champion.version.version == "2", 3)  # type: ignore[index]

    def test_what_is_in_memory_is_listed_with_its_memory(self, house: House) -> None:
        house.deploy("1", shadows=(house.version("2"),))
        house.models.resolve("t")
        champion, shadow = house.models.listed()
        assert [champion[k] for k in ("deployment", "revision", "role", "version")] == ["t", 1, "champion", "1"]
        assert (shadow["role"], shadow["loaded"]) == ("shadow", True)
        assert champion["memory_bytes"] >= 0
