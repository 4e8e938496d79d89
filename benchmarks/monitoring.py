"""Counting a day of predictions with 30 features into frozen bins: as `trueup monitor profile` does, and by SQL alone.

Both count the same rows into about 200 bins a feature, side by side in one run; only their ratio is worth comparing
between machines. ROWS (1,000,000 unless given) is the size of the day.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

import trueup
from trueup.bootstrap import open_services
from trueup.domain.batch import Columns
from trueup.domain.monitoring import Monitoring, ReferenceRows
from trueup.settings import Settings

ROWS, FEATURES, BATCH = int(os.environ.get("ROWS", "1000000")), 30, 10_000
FIELDS = "".join(f"  f{i}: float64\n" for i in range(FEATURES))
CONTRACT = trueup.load_contract(
    f"name: bench\nversion: 1\nfields:\n  item: {{type: string, role: key}}\n{FIELDS}output: {{kind: probability}}\n"
    "label: {name: l, type: bool, horizon: {days: 1}}\n"
)
ROW = """
    INSERT INTO ledger.predictions (prediction_id, event_day, event_time, deployment_id, model_version_id, contract_id,
        batch_id, role, channel, status, source, source_key, business_key, content_digest, floats, ints, texts, score,
        received_at, steps_us)
    SELECT gen_random_uuid(), '2026-11-20', '2026-11-20Z', {deployment}, {version}, {contract},
        1000 + (i - 1) / {batch},
        'champion', 'batch', 'scored', 'batch:day', i::text, 'item' || i, '\\x00112233445566778899aabbccddeeff',
        ARRAY[{values}], '{{}}', '{{}}', random(), '2026-11-20Z', '{{1,2,3,4}}'
    FROM generate_series({first}, {last}) AS i
"""


def score(columns: Columns) -> np.ndarray:
    """The model of the benchmark."""
    return np.clip(columns.numeric("f0"), 0, 1)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, open_services(Settings(data_dir=Path(folder))) as services:
        up = trueup.Trueup(services)
        reference = {f"f{i}": _values(np.random.default_rng(i), 100_000) for i in range(FEATURES)}
        declared = Monitoring(reference=ReferenceRows(training=True))
        deployed = up.deploy(
            "bench", contract=CONTRACT, model="python:monitoring:score", version="1", serving=trueup.Serving(monitoring=declared)
        )
        frozen = up.reference("bench", {**reference, "score": np.random.default_rng(0).random(100_000)})
        with psycopg.connect(services.urls.owner, autocommit=True) as owner:
            _fill(owner, deployed)
            expected = {f"f{i}": frozen.fields[f"f{i}"].edges.tolist() for i in range(FEATURES)}
            print(f"{ROWS:,} rows, {FEATURES} features and the score, {len(expected['f0'])} edges a feature")
            by_copy = _timed("counted by trueup, streamed to numpy", lambda: up.services.measuring.profile("bench"))
            print(f"  peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB")
            by_sql = _timed("one SQL statement, unnest and width_bucket", lambda: _by_sql(owner, expected))
            each = _timed("SQL, a statement a feature", lambda: _each_by_sql(owner, expected))
            again = _timed("counted again, nothing new", lambda: up.services.measuring.profile("bench"))
            print(f"ratios: unnest {by_sql / by_copy:.1f}x, a statement a feature {each / by_copy:.1f}x, again "
                  f"{again / by_copy:.3f}x")  # fmt: skip
            print(f"a day of 10 million rows at this rate: {by_copy * 10_000_000 / ROWS:.0f} s")
            counted = services.queries.rows(
                "SELECT n FROM profile_counts WHERE field = 'f0' AND event_day = %(day)s", {"day": date(2026, 11, 20)}
            )
            assert counted == [{"n": ROWS}], counted


def _values(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.random(n) + rng.random(n)


def _fill(owner: psycopg.Connection[Any], deployed: trueup.Deployment) -> None:
    owner.execute("SELECT ledger.ensure_partitions(ARRAY[date '2026-11-20'])")
    version = deployed.champion
    values = ", ".join(["random() + random()"] * FEATURES)
    for first in range(1, ROWS + 1, 500_000):
        last = min(first + 500_000 - 1, ROWS)
        owner.execute(
            ROW.format(deployment=deployed.deployment_id, version=version.model_version_id, batch=BATCH,
                       contract=version.contract_id, values=values, first=first, last=last).encode()
        )  # fmt: skip
    owner.execute(
        "INSERT INTO ledger.batches (batch_id, deployment_id, contract_id, channel, source, instances, predictions,"
        " received_at) OVERRIDING SYSTEM VALUE SELECT batch_id, %s, %s, 'batch', 'batch:day', count(*), count(*), now()"
        " FROM ledger.predictions GROUP BY batch_id",
        (deployed.deployment_id, version.contract_id),
    )
    owner.execute("VACUUM ANALYZE ledger.predictions")


def _by_sql(owner: psycopg.Connection[Any], edges: dict[str, list[float]]) -> None:
    """All features at once: 30 rows of every prediction, each with the edges of its feature."""
    owner.execute("CREATE TEMPORARY TABLE IF NOT EXISTS edges (place bigint PRIMARY KEY, edges float8[])")
    owner.execute("TRUNCATE edges")
    for place, name in enumerate(edges, 1):
        owner.execute("INSERT INTO edges VALUES (%s, %s)", (place, edges[name]))
    owner.execute(
        "SELECT e.place, width_bucket(u.value, e.edges), count(*) FROM ledger.predictions p"
        " CROSS JOIN LATERAL unnest(p.floats) WITH ORDINALITY AS u(value, place) JOIN edges e USING (place)"
        " WHERE p.event_day = '2026-11-20' GROUP BY 1, 2"
    ).fetchall()


def _each_by_sql(owner: psycopg.Connection[Any], edges: dict[str, list[float]]) -> None:
    for place, name in enumerate(edges, 1):
        owner.execute(
            f"SELECT width_bucket(floats[{place}], %s::float8[]), count(*) FROM ledger.predictions"
            " WHERE event_day = '2026-11-20' GROUP BY 1",
            (edges[name],),
        ).fetchall()


def _timed(what: str, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    took = time.perf_counter() - began
    print(f"{what}: {took:.2f} s, {ROWS / took:,.0f} rows/s")
    return took


if __name__ == "__main__":
    main()
