"""Counting: the arithmetic is prometheus_client's own, and no caller can make a series."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from trueup.domain.batch import Booked, RefusalReason, Role
from trueup.doors.api.errors import STATUS, outcome_of
from trueup.telemetry.exposition import Exposition
from trueup.telemetry.layout import DOORS, OUTCOMES, ROWS, SECONDS, STEPS
from trueup.telemetry.metrics import Metrics

US = st.integers(0, 2**31 - 1)
EDGES = st.sampled_from([int(bound * 1e6) + off for bound in SECONDS for off in (-1, 0, 1)])


def page(metrics: Metrics, accept: str = "") -> str:
    return Exposition(metrics, None, "0.0.0").page(accept)[0].decode()


def samples(text: str, name: str, **labels: str) -> dict[tuple[str, ...], float]:
    """Values of one sample name by their other labels' values."""
    found = {}
    for family in prometheus(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                found[tuple(v for k, v in sorted(sample.labels.items()) if k not in labels)] = sample.value
    return found


def value(text: str, name: str, **labels: str) -> float:
    (one,) = samples(text, name, **labels).values()
    return one


def reference(bounds: tuple[float, ...], seen: list[float]) -> dict[str, float]:
    """What prometheus_client's own histogram says of the same observations."""
    registry = CollectorRegistry()
    histogram = Histogram("h", "h", buckets=bounds, registry=registry)
    for one in seen:
        histogram.observe(one)
    found = {s.labels["le"]: s.value for m in registry.collect() for s in m.samples if s.name == "h_bucket"}
    return found | {"sum": sum(seen)}


def ours(text: str, name: str, **labels: str) -> dict[str, float]:
    buckets = samples(text, f"{name}_bucket", **labels)
    return {le[0]: n for le, n in buckets.items()} | {"sum": value(text, f"{name}_sum", **labels)}


def same(mine: Mapping[str, float], theirs: Mapping[str, float]) -> bool:
    by_bound = [{float(k): v for k, v in d.items() if k != "sum"} for d in (mine, theirs)]
    return by_bound[0] == by_bound[1] and math.isclose(mine["sum"], theirs["sum"], rel_tol=1e-9, abs_tol=1e-12)


class TestArithmetic:
    @given(st.lists(st.tuples(*[US | EDGES] * 4), min_size=1, max_size=40), US | EDGES)
    def test_steps_of_a_batch_are_what_observing_each_row_would_be(self, steps: list[tuple[int, ...]], book_us: int):
        metrics = Metrics()
        metrics.deployment("m", 1)
        metrics.booked(1, np.array(steps, np.int32), book_us, np.zeros(len(steps), np.int8))
        text = page(metrics)
        columns = [*zip(*steps, strict=True), [book_us] * len(steps)]
        for step, spent in zip(STEPS, columns, strict=True):
            expected = reference(SECONDS, [us / 1e6 for us in spent])
            assert same(ours(text, "trueup_step_seconds", deployment="m", step=step), expected)
            assert value(text, "trueup_step_seconds_count", deployment="m", step=step) == len(steps)

    @given(st.lists(st.integers(0, 10**11), min_size=1, max_size=20))
    def test_requests_are_what_observing_each_would_be(self, took: list[int]):
        metrics = Metrics()
        place = metrics.deployment("m")
        for ns in took:
            metrics.request(DOORS.index("grpc"), place, "ok", ns)
        text = page(metrics)
        assert same(
            ours(text, "trueup_request_seconds", deployment="m", door="grpc"),
            reference(SECONDS, [ns / 1e9 for ns in took]),
        )
        assert value(text, "trueup_requests_total", door="grpc", outcome="ok") == len(took)

    @given(st.lists(st.integers(1, 40_000), min_size=1, max_size=5))
    def test_sizes_of_batches_are_what_observing_each_would_be(self, sizes: list[int]):
        metrics = Metrics()
        metrics.deployment("m", 1)
        for n in sizes:
            metrics.booked(1, np.zeros((n, 4), np.int32), 0, np.zeros(n, np.int8), [Role.CHAMPION, Role.SHADOW])
        text = page(metrics)
        assert same(ours(text, "trueup_batch_rows", deployment="m"), reference(ROWS, [float(n) for n in sizes]))
        assert samples(text, "trueup_rows_booked_total", deployment="m") == {
            ("champion",): sum(sizes),
            ("challenger",): 0,
            ("shadow",): sum(sizes),
        }

    @given(st.lists(st.sampled_from(Booked), min_size=1, max_size=30))
    def test_every_row_of_a_batch_is_answered_or_refused(self, booked: list[Booked]):
        metrics = Metrics()
        metrics.deployment("m", 1)
        metrics.booked(1, np.zeros((len(booked), 4), np.int32), 0, np.array(booked, np.int8))
        text = page(metrics)
        answered = samples(text, "trueup_instances_answered_total", deployment="m")
        assert answered == {("new",): booked.count(Booked.NEW), ("repeated",): booked.count(Booked.REPEATED)}
        refused = samples(text, "trueup_instances_refused_total", deployment="m")
        assert sum(answered.values()) + sum(refused.values()) == len(booked)


class TestLabels:
    def test_names_beyond_the_bound_are_counted_together(self):
        metrics = Metrics(deployments=3)
        for number in range(1_000):
            metrics.request(0, metrics.deployment(f"m{number}", number), "ok", 1)
            metrics.refused(number, [RefusalReason.CONTRACT])
        text = page(metrics)
        assert samples(text, "trueup_requests_total", outcome="ok", door="rest", **{"class": "2xx"}) == {
            ("m0",): 1,
            ("m1",): 1,
            ("m2",): 1,
            ("other",): 997,
        }
        assert value(text, "trueup_instances_refused_total", deployment="other", reason="contract") == 997

    @pytest.mark.parametrize("name", ["x" * 200, "é" * 100])
    def test_a_name_too_long_for_its_place_is_counted_with_the_others(self, name: str):
        metrics = Metrics()
        metrics.request(0, metrics.deployment(name), "ok", 1)
        assert value(page(metrics), "trueup_requests_total", deployment="other") == 1

    def test_a_name_is_shown_as_it_is(self):
        metrics = Metrics()
        for name in ('a"b\\c\nd', "Überfällige", "other"):
            metrics.request(0, metrics.deployment(name), "ok", 1)
        names = {labels[1] for labels in samples(page(metrics), "trueup_requests_total", door="rest")}
        assert names == {'a"b\\c\nd', "Überfällige", "other"}

    def test_every_code_of_every_error_is_known_with_its_class(self):
        for status, code in STATUS.values():
            assert OUTCOMES[code] == f"{status // 100}xx"
        for status in (200, 204, 301, 400, 404, 405, 415, 422, 500, 503):
            assert OUTCOMES[outcome_of(status)] in {f"{status // 100}xx", "2xx" if status < 400 else ""}

    def test_a_code_nobody_knows_is_a_failure_and_no_series(self):
        metrics = Metrics()
        metrics.request(0, 0, "made up", 1)
        assert list(samples(page(metrics), "trueup_requests_total", door="rest", outcome="failed")) == [("5xx", "")]


class TestGauges:
    def test_they_are_asked_when_somebody_looks(self):
        metrics = Metrics()
        waiting = {"a": 3.0}
        metrics.observe("queue_rows", lambda: waiting)
        metrics.observe("queue_rows", lambda: {"a": 1.0, "b": 2.0})
        assert samples(page(metrics), "trueup_queue_rows") == {("a",): 4, ("b",): 2}
        waiting["a"] = 0.0
        assert samples(page(metrics), "trueup_queue_rows") == {("a",): 1, ("b",): 2}

    def test_of_ages_the_oldest_counts(self):
        metrics = Metrics()
        for age in (5.0, 7.0, 6.0):
            metrics.observe("spool_oldest_seconds", lambda age=age: {"a": age})
        assert samples(page(metrics), "trueup_spool_oldest_seconds") == {("a",): 7}

    def test_only_gauges_there_are_can_be_observed(self):
        with pytest.raises(ValueError, match="no gauge"):
            Metrics().observe("spool_rowz", lambda: 1.0)

    def test_models_are_loaded_and_released(self):
        metrics = Metrics()
        metrics.loaded("m", 1, 2, 50_000_000)
        assert value(page(metrics), "trueup_models_loaded", deployment="m") == 2
        assert value(page(metrics), "trueup_model_memory_bytes", deployment="m") == 50_000_000
        metrics.released("m")
        assert value(page(metrics), "trueup_models_loaded", deployment="m") == 0
        metrics.load_failed("m", 1)
        assert value(page(metrics), "trueup_load_failures_total", deployment="m") == 1


class TestExposition:
    def filled(self) -> Metrics:
        metrics = Metrics()
        metrics.request(0, metrics.deployment("m", 1), "ok", 1)
        metrics.booked(1, np.zeros((3, 4), np.int32), 5, np.zeros(3, np.int8), [Role.CHAMPION])
        return metrics

    def test_both_formats_say_the_same(self):
        def read(parse: Any, text: str) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
            return {
                (s.name, tuple(sorted(s.labels.items())))
                for family in parse(text)
                for s in family.samples
                if "_process_" not in s.name
            }

        metrics = self.filled()
        plain, opened = page(metrics), page(metrics, "application/openmetrics-text; version=1.0.0")
        assert opened.endswith("# EOF\n")
        assert read(prometheus, plain) == read(openmetrics, opened)

    @pytest.mark.parametrize(
        ("accept", "type_"),
        [
            ("", "text/plain"),
            ("*/*", "text/plain"),
            ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text"),
            ("application/openmetrics-text; version=nonsense", "application/openmetrics-text; version=1.0.0"),
            ("application/openmetrics-text; version=", "application/openmetrics-text; version=1.0.0"),
            ("text/plain; version=0.0.4; escaping=allow-utf-8", "text/plain"),
            (",;=,;;," * 50, "text/plain"),
        ],
    )
    def test_the_format_is_what_is_accepted(self, accept: str, type_: str):
        text, content_type = Exposition(self.filled(), None, "0").page(accept)
        assert content_type.startswith(type_)
        assert b"trueup_step_seconds_bucket" in text

    def test_counters_of_a_known_deployment_begin_with_zero(self):
        metrics = Metrics()
        metrics.deployment("m", 1)
        text = page(metrics)
        assert value(text, "trueup_instances_received_total", deployment="m") == 0
        assert len(samples(text, "trueup_instances_refused_total", deployment="m")) == len(RefusalReason)

    def test_the_build_and_the_process_are_named(self):
        text = page(Metrics())
        assert value(text, "trueup_build_info", version="0.0.0") == 1
        assert 0 <= value(text, "trueup_process_uptime_seconds", worker="0") < 60
        assert value(text, "trueup_process_resident_memory_bytes", worker="0") > 1_000_000
