"""Versions change while callers keep on asking: no request fails, and what is replaced leaves memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trueup
from running import CONTRACT, until
from serving import Served, serving
from trueup.domain.deployment import Serving
from trueup.telemetry.metrics import resident_bytes

SCORES = {"1": 0.25, "2": 0.5}  # of an amount of 250,000


@pytest.fixture
def served(up: trueup.Trueup) -> Iterator[Served]:
    up.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
    with serving(up) as door:
        up.services.scoring.models.start(60)
        until(up.services.scoring.models.ready)
        yield door


def body(i: int) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": "account", "datatype": "BYTES", "shape": [1], "data": [f"a{i}"]},
            {"name": "amount", "datatype": "FP64", "shape": [1], "data": [250_000.0]},
        ]
    }


class Callers:
    """Three that ask by tensors and one by records, until the block is left."""

    def __init__(self, door: Served) -> None:
        self.door = door
        self.statuses: list[int] = []
        self.scores: set[float] = set()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(4)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, number: int) -> None:
        i = 0
        while not self._stopped.is_set():
            i += 1
            if number:
                answer = self.door.infer(body(i))
                outputs = {o["name"]: o["data"][0] for o in answer.json().get("outputs", [])}
                score = outputs.get("score", -1)
            else:
                url = f"http://{self.door.address}/v1/deployments/t/score"
                sent = {"instance": {"account": "a", "amount": 250_000.0}}
                answer = self.door.http.post(url, headers=self.door.headers(), json=sent)
                score = answer.json()["score"] if answer.status_code == 200 else -1
            self.statuses.append(answer.status_code)
            self.scores.add(score)

    def more(self, n: int) -> None:
        """Waits for so many further answers."""
        there = len(self.statuses)
        until(lambda: len(self.statuses) >= there + n)


def test_no_request_fails_while_versions_change(served: Served) -> None:
    models = {"1": "share_of_a_million", "2": "always_half"}
    with Callers(served) as callers:
        for version in "2121212121":
            model = f"python:small_models:{models[version]}"
            newest = elsewhere(served.up, version, model)
            until(lambda newest=newest: served.up.services.scoring.models.state("t")["serving_revision"] == newest)  # type: ignore[misc]
            callers.more(8)
    assert set(callers.statuses) == {200}
    assert callers.scores == set(SCORES.values())
    booked = served.up.query("SELECT model_version, score, count(*) AS n FROM predictions GROUP BY 1, 2").rows()
    assert {row["model_version"]: row["score"] for row in booked} == SCORES
    assert sum(row["n"] for row in booked) == len(callers.statuses)


def test_a_version_whose_file_was_changed_does_not_come_and_the_old_one_answers(
    up: trueup.Trueup, tmp_path: Path
) -> None:
    up.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
    with serving(up) as door:
        assert door.infer(body(1)).status_code == 200
        elsewhere(up, "2", booster(tmp_path, 1))
        (file,) = (up.services.settings.data_dir / "models").rglob("*.ubj")
        file.chmod(0o600)
        file.write_bytes(file.read_bytes() + b" ")
        models = up.services.scoring.models
        until(lambda: door.infer(body(2)).status_code == 200 and models.counts()["failed"] == 1)
        assert door.infer(body(3)).json()["model_version"] == "1"
        found = door.get("/v1/deployments/t").json()
        assert (found["revision"], found["serving_revision"]) == (2, 1)
        assert found["load_failure"]["message"].startswith("the model file is missing or was changed")
        assert 'trueup_load_failures_total{deployment="t"}' in door.get("/metrics").text
        ready = door.get("/health/ready", None)
        assert ready.status_code == 200
        assert ready.json()["deployments"] == {"loaded": 1, "behind": 1, "failed": 1}


def test_many_reloads_leave_memory_flat(up: trueup.Trueup, tmp_path: Path) -> None:
    files = [booster(tmp_path, seed, trees=400) for seed in (1, 2)]
    models = up.services.scoring.models
    sizes = []
    for number in range(24):
        up.deploy("t", contract=CONTRACT, model=files[number % 2], version=str(number % 2), serving=Serving())
        expected = number  # every one before it was closed
        until(lambda expected=expected: models.unloaded == expected)  # type: ignore[misc]
        sizes.append(resident_bytes())
    weight = models.listed()[0]["memory_bytes"] or 2e6
    assert np.median(sizes[-6:]) - np.median(sizes[6:12]) < max(2 * weight, 8e6)


def elsewhere(up: trueup.Trueup, version: str, model: Any) -> int:
    """Deploys as another process does, of which the server knows nothing. The revision."""
    return up.services.deploying.deploy("t", contract=CONTRACT, models=[model], version=version, by="test").revision


def booster(folder: Path, seed: int, trees: int = 5) -> Path:
    import xgboost

    rng = np.random.default_rng(seed)
    value = rng.uniform(0, 1e6, (5_000, 1))
    data = xgboost.DMatrix(value, rng.integers(0, 2, 5_000))
    made = xgboost.train({"objective": "binary:logistic", "max_depth": 8, "nthread": 1}, data, trees)
    path = folder / f"model{seed}-{trees}.ubj"
    made.save_model(path)
    return path
