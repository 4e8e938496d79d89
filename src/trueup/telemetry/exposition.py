"""What a scrape gets: the cells of all workers, summed, in Prometheus's text or OpenMetrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import product
from platform import python_version
from typing import Any

import numpy as np
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import generate_latest as _untyped
from prometheus_client.registry import Collector, CollectorRegistry

from trueup.telemetry.layout import FAMILIES, OTHER, OUTCOMES, PROCESS, UNRESOLVED, Cells, Family
from trueup.telemetry.metrics import Metrics, named
from trueup.telemetry.sharing import Workers

_openmetrics: Callable[..., bytes] = _untyped


class Exposition(Collector):
    """Reads one process's metrics, or all workers', and those of a collector ``beside``."""

    def __init__(
        self, metrics: Metrics, workers: Workers | None, version: str, beside: Collector | None = None
    ) -> None:
        self._metrics = metrics
        self._workers = workers
        self._version = version
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        if beside is not None:
            self._registry.register(beside)

    def page(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics where ``accept`` names it, else Prometheus's text."""
        if "application/openmetrics-text" in accept.lower():
            return _openmetrics(self._registry, version="1.0.0"), CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Metric]:
        """Every family; of counters that are there from the first moment also the zeros."""
        self._metrics.sample()
        names, summed, processes = self._merged()
        for family in FAMILIES:
            yield _family(family, names, summed[family.name])
            time.sleep(0)  # lets the threads that answer requests go first
        yield from self._about(processes)

    def describe(self) -> Iterator[Metric]:
        """Nothing: names are checked by our own tests, not at registration."""
        return iter(())

    def _merged(self) -> tuple[list[str], dict[str, Cells], dict[str, Cells]]:
        """Deployments, cells of all workers by family and deployment, and each living worker's process."""
        states = [("0", self._metrics.state, True)] if self._workers is None else list(self._workers.states())
        names = list(named(states[0][1])[: OTHER + 1])
        for _, state, _ in states:
            names += [name for name in named(state)[OTHER + 1 :] if name and name not in names[OTHER + 1 :]]
        places = {name: OTHER + 1 + place for place, name in enumerate(names[OTHER + 1 :])}
        summed: dict[str, Cells] = {}
        for family in FAMILIES:
            summed[family.name] = np.zeros((len(names), *family.shape) if family.per_deployment else family.shape)
            merge = np.maximum if family.merge == "max" else np.add
            for _, state, lives in states:
                if family.kind == "gauge" and not lives:
                    continue
                into, cells = summed[family.name], state.views[family.name]
                if not family.per_deployment:
                    merge(into, cells, out=into)
                    continue
                for place, name in enumerate(named(state)):
                    if place <= OTHER or name:
                        to = place if place <= OTHER else places[name]
                        into[to] = merge(into[to], cells[place])
        return names, summed, {number: state.views["process"] for number, state, lives in states if lives}

    def _about(self, processes: dict[str, Cells]) -> Iterator[Metric]:
        """Of each process: memory and uptime; of the build: its version."""
        memory = Metric("trueup_process_resident_memory_bytes", "Memory of the process that is in RAM", "gauge")
        uptime = Metric("trueup_process_uptime_seconds", "Seconds since the process began to serve", "gauge")
        for number, cells in processes.items():
            started, _, resident = (float(cells[place]) for place in range(len(PROCESS)))
            memory.add_sample(memory.name, {"worker": number}, resident)
            uptime.add_sample(uptime.name, {"worker": number}, max(0.0, time.time() - started))
        build = Metric("trueup_build", "What runs here", "info")
        build.add_sample("trueup_build_info", {"version": self._version, "python": python_version()}, 1)
        yield from (memory, uptime, build)


def _family(family: Family, names: list[str], cells: Cells) -> Metric:
    metric = Metric(family.name, family.help, family.kind)
    deployments = names if family.per_deployment else [""]
    rows = cells if family.per_deployment else cells[np.newaxis]
    for place, (deployment, own) in enumerate(zip(deployments, rows, strict=True)):
        base = {"deployment": deployment} if family.per_deployment else {}
        for where in product(*(range(len(values)) for _, values in family.axes)):
            labels = dict(base)
            for (label, values), one in zip(family.axes, where, strict=True):
                labels[label] = values[one]
            if family.kind == "histogram":
                _add_histogram(metric, family, labels, own[where])
            elif own[where] or _from_the_start(family, place):
                _add_value(metric, family, labels, float(own[where]))
    return metric


def _from_the_start(family: Family, place: int) -> bool:
    """Whether zeros are shown, so that a rate sees the first increase: for every known deployment."""
    if not family.per_deployment:
        return True
    return place not in (UNRESOLVED, OTHER) and not any(label in ("door", "outcome") for label, _ in family.axes)


def _add_value(metric: Metric, family: Family, labels: dict[str, str], value: float) -> None:
    if "outcome" in labels:
        labels["class"] = OUTCOMES[labels["outcome"]]
    metric.add_sample(family.name + ("_total" if family.kind == "counter" else ""), labels, value)


def _bound(value: float) -> str:
    return "+Inf" if value == float("inf") else str(value)


def _add_histogram(metric: Metric, family: Family, labels: dict[str, str], cells: Any) -> None:
    *buckets, total = cells.tolist()
    if not any(buckets):
        return
    running = 0.0
    for bound, count in zip((*family.bounds, float("inf")), buckets, strict=True):
        running += count
        metric.add_sample(f"{family.name}_bucket", {**labels, "le": _bound(bound)}, running)
    metric.add_sample(f"{family.name}_count", labels, running)
    metric.add_sample(f"{family.name}_sum", labels, total)
