"""A key that nobody knows is refused, wherever it stands, and the one that was meant is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import trueup
from trueup.domain.deployment import Fallback
from trueup.domain.monitoring import Breach
from trueup.doors.api.handlers import _serving as of_request
from trueup.doors.cli.deploying import _serving as of_file
from trueup.errors import InvalidFile, InvalidInput

UNKNOWN = [
    ("thread: 2", "'thread'", "at the top", "threads is one"),
    ("replay-grade: bitwise", "'replay-grade'", "at the top", "replay_grade is one"),
    ("Threads: 2", "'Threads'", "at the top", "threads is one"),
    ("fallback: {field: a, treshold: 1, low: 0, high: 1}", "'treshold'", "at fallback", "threshold is one"),
    ("monitoring: {window: [day]}", "'window'", "at monitoring", "windows is one"),
    ("monitoring: {reference: {row: 5}}", "'row'", "at monitoring.reference", "rows is one"),
    ("monitoring: {breaches: {auc: {bellow: 0.6}}}", "'bellow'", "at monitoring.breaches", "below is one"),
    ("stream: {topic: t, reply: u}", "'reply'", "at stream", "replies is one"),
    ("untreated: {share: 0.1, salt: s, xyz: 1}", "'xyz'", "at untreated", "there may be share, salt"),
    ("7: 2", "'7'", "at the top", "there may be mode"),
]


def of(folder: Path, text: str) -> trueup.Serving | None:
    (folder / "serving.yaml").write_text(text)
    return of_file(folder / "serving.yaml", ())


class TestFiles:
    @pytest.mark.parametrize(("text", "key", "place", "hint"), UNKNOWN)
    def test_the_key_its_place_and_the_nearest_are_named(
        self, tmp_path: Path, text: str, key: str, place: str, hint: str
    ):
        with pytest.raises(InvalidFile) as refused:
            of(tmp_path, text)
        assert refused.value.message.startswith(f"serving.yaml: {key} is no key {place}; {hint}")

    def test_a_long_key_is_cut(self, tmp_path: Path):
        with pytest.raises(InvalidFile) as refused:
            of(tmp_path, f"{'x' * 1_000}: 1")
        assert "x" * 61 not in refused.value.message

    def test_names_that_the_deployment_chooses_are_free(self, tmp_path: Path):
        found = of(
            tmp_path,
            "fallback: {field: any, threshold: 1, low: 0, high: 1}\n"
            "stream: {topic: t, fields: {any: value.x}}\n"
            "monitoring: {breaches: {any: {below: 1}}, floors: {psi: 0.1}}",
        )
        assert found is not None
        assert found.monitoring is not None
        assert found.stream is not None
        assert found.fallback == Fallback("any", 1, 0, 1)
        assert found.stream.fields == (("any", "value.x"),)
        assert found.monitoring.breaches == {"any": Breach(below=1)}


class TestRequests:
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"thread_4711": 2}, "serving has an unknown key at the top; threads is one"),
            ({"monitoring": {"window_4711": []}}, "serving has an unknown key at monitoring; windows is one"),
        ],
    )
    def test_the_nearest_is_named_and_not_what_was_sent(self, given: dict[str, Any], said: str):
        with pytest.raises(InvalidInput) as refused:
            of_request(given)
        assert refused.value.message == said

    def test_fields_of_a_stream_may_be_a_mapping(self):
        given: dict[str, Any] = {"stream": {"topic": "t", "fields": {"a": "value.a"}}}
        assert of_request(given).stream == of_request({"stream": {"topic": "t", "fields": [["a", "value.a"]]}}).stream
