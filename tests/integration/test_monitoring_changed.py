"""Of which event days something new is known is found right, and without reading all outcomes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest

from trueup.domain.monitoring import Changed, KnownBy
from trueup.ledger.urls import Urls
from trueup.monitoring.postgres import _CHANGED_RECORDED, PostgresMeasurements
from trueup.outcomes.postgres import _INCOMING, _INSERT
from trueup.postgres import Pool
from trueup.settings import Monitoring

FIRST, LAST = date(2026, 9, 1), date(2026, 11, 30)
# Two contracts, two labels, revisions; a source knows what it tells us two days later. Some days have none.
OUTCOMES = """
    INSERT INTO ledger.outcomes
        (contract_name, label, business_key, event_day, revision, value_number, source, observed_at, recorded_at)
    SELECT CASE WHEN g % 7 = 0 THEN 'others' ELSE 'fails' END, 'label' || g % 2, 'T' || g,
           date '2026-09-01' + (g % 80), 1 + g % 3, 1, 'test', at - interval '2 days', at
    FROM generate_series(1, 40000) g,
         LATERAL (SELECT timestamptz '2026-09-02' + (hashint4(g) & 4095) * interval '30 minutes' AS at) known
"""


def _nodes(plan: Any) -> Iterator[dict[str, Any]]:
    """The node and all below it."""
    yield plan
    for below in plan.get("Plans", []):
        yield from _nodes(below)


@pytest.fixture
def written(fresh_database: Urls) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(fresh_database.owner, autocommit=True) as owner:
        owner.execute(OUTCOMES)
        owner.execute("ANALYZE ledger.outcomes")
        yield owner


@pytest.mark.parametrize("known_by", KnownBy)
@pytest.mark.parametrize("at", [datetime(2026, 12, 1, tzinfo=UTC), datetime(2026, 9, 20, 7, 30, tzinfo=UTC)])
def test_the_newest_of_each_day_as_known_then(
    written: psycopg.Connection[tuple[object, ...]], fresh_database: Urls, known_by: KnownBy, at: datetime
):
    pool = Pool(fresh_database.writer, size=1, application="changed")
    try:
        found = PostgresMeasurements(pool, pool, Monitoring()).changed("fails", FIRST, LAST, known_by, at)
    finally:
        pool.close()
    rows = written.execute(
        "SELECT event_day, observed_at, recorded_at FROM ledger.outcomes WHERE contract_name = 'fails'"
    ).fetchall()
    expected: dict[object, Changed] = {}
    for day, observed, recorded in rows:
        assert isinstance(observed, datetime)
        assert isinstance(recorded, datetime)
        known = recorded if known_by is KnownBy.RECORDED else observed
        if known <= at:
            before = expected.get(day, Changed(known, recorded))
            expected[day] = Changed(max(before.known_at, known), max(before.recorded_at, recorded))
    assert found == expected
    assert 10 < len(found) < (LAST - FIRST) / timedelta(days=1)


def test_the_clock_reads_one_entry_of_an_index_a_day(written: psycopg.Connection[tuple[object, ...]]):
    of = {"contract": "fails", "first": FIRST, "last": LAST, "at": datetime(2026, 12, 1, tzinfo=UTC)}
    written.execute("VACUUM ledger.outcomes")
    explained = "EXPLAIN (ANALYZE, FORMAT JSON) " + _CHANGED_RECORDED
    (plan,) = (row[0][0]["Plan"] for row in written.execute(explained.encode(), of).fetchall())  # type: ignore[index]
    (outcomes,) = (node for node in _nodes(plan) if node.get("Relation Name") == "outcomes")
    assert (outcomes["Node Type"], outcomes["Index Name"]) == ("Index Scan", "outcomes_changed")
    assert outcomes["Actual Rows"] <= 1


@pytest.mark.parametrize("statistics", ["none", "of other days"])
def test_recording_looks_for_an_item_in_the_primary_key_alone(
    fresh_database: Urls, written: psycopg.Connection[tuple[object, ...]], statistics: str
):
    """Each morning the new day has no statistics; by any other index an item is looked for among all of its day."""
    if statistics == "none":
        written.execute("TRUNCATE ledger.outcomes")
    with psycopg.connect(fresh_database.writer) as writer:
        writer.execute(_INCOMING)
        writer.execute(
            "INSERT INTO incoming SELECT g, 'T' || g, '2026-12-24', '2026-12-25Z', g, NULL, 'known', true"
            " FROM generate_series(1, 50000) g"
        )
        writer.execute("ANALYZE incoming")
        of = {"contract": "fails", "label": "label1", "source": "custodian"}
        ((explained,),) = writer.execute(b"EXPLAIN (FORMAT JSON) " + _INSERT.encode(), of).fetchall()
    used = {node.get("Index Name") for node in _nodes(explained[0]["Plan"])} - {None}  # type: ignore[index]
    assert used == {"outcomes_pkey"}
