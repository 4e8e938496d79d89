"""Counts equal what numpy counts of the same rows, whoever counts, whenever, and however often it is stopped."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trueup
from monitored import deployed, rows_of
from trueup.domain.batch import Role
from trueup.domain.profiling import ROWS, Counted, CountKey
from trueup.ledger.urls import Urls
from trueup.monitoring.binning import counts as counts_of
from trueup.monitoring.postgres_counting import Counting, PostgresCounting
from trueup.monitoring.postgres_references import PostgresReferences
from trueup.settings import Monitoring

DAYS = date(2026, 11, 1), date(2026, 11, 30)


@pytest.fixture
def monitored(up: trueup.Trueup) -> trueup.Trueup:
    """A deployment with its reference, and two days of predictions."""
    deployed(up)
    rng = np.random.default_rng(1)
    for day in ("2026-11-02", "2026-11-03"):
        up.score("fails", rows_of(rng, 600, day), dataset=day)
    return up


def counted(up: trueup.Trueup, version: str = "1") -> dict[CountKey, Counted]:
    deployment = up.deployments()[0]
    found = up.services.registry.version("fails", version)
    references = PostgresReferences(up.services._pools[1], Monitoring())
    return dict(references.counts(deployment.deployment_id or 0, found.model_version_id or 0, *DAYS))


def plain(found: dict[CountKey, Counted]) -> dict[CountKey, Any]:
    """Counts that can be compared."""
    return {k: (c.counts.tolist(), c.n, c.missing, c.out_of_range, c.unseen, c.late, c.lowest, c.highest)
            for k, c in found.items()}  # fmt: skip


def counting(up: trueup.Trueup, **changes: Any) -> tuple[PostgresCounting, Counting]:
    """What counts the champion, on its frozen reference."""
    up.services.measuring.profile("fails")
    deployment = up.deployments()[0]
    version = deployment.champion
    references = PostgresReferences(up.services._pools[1], Monitoring())
    assert deployment.deployment_id
    assert version.model_version_id
    assert version.contract_id
    frozen = references.frozen(deployment.deployment_id, version.model_version_id)
    assert frozen is not None
    what = Counting(
        deployment.deployment_id, version.model_version_id, version.contract_id, version.contract, frozen, 1
    )
    return PostgresCounting(up.services._pools[1], Monitoring(**changes)), what


def forget(up: trueup.Trueup) -> None:
    """As if nothing had been counted."""
    with psycopg.connect(up.services.urls.owner) as connection:
        connection.execute("TRUNCATE ledger.profile_counts, ledger.profile_progress")


def test_counts_equal_those_of_the_rows_themselves(monitored: trueup.Trueup):
    rows = rows_of(np.random.default_rng(7), 800, "2026-11-04")
    monitored.score("fails", rows, dataset="again")
    monitored.services.measuring.profile("fails")
    _, what = counting(monitored)
    found = counted(monitored)
    fields = what.references.fields
    numbers = {
        "amount": rows["amount"],
        "history": [np.nan if v is None else v for v in rows["history"]],
        "lots": [np.nan if v is None else v for v in rows["lots"]],
        "price": [float(v) for v in rows["price"]],
        "urgent": np.array(rows["urgent"], float),
        "score": 1 / (1 + np.exp(-rows["amount"])),
    }
    for slice_, mask in {"": np.ones(800, bool), "desk=rates": np.array(rows["desk"]) == "rates",
                         "urgent=1": np.array(rows["urgent"])}.items():  # fmt: skip
        for name, values in numbers.items():
            one = found[CountKey(date(2026, 11, 4), "champion", name, slice_)]
            held = np.asarray(values, float)[mask]
            assert one.counts.tolist() == counts_of(fields[name], held).tolist(), (name, slice_)
            assert one.missing == np.isnan(held).sum()
            assert (one.lowest, one.highest) == (np.nanmin(held), np.nanmax(held))
        for name in ("desk", "venue"):
            one = found[CountKey(date(2026, 11, 4), "champion", name, slice_)]
            assert one.counts.tolist() == counts_of(fields[name], np.array(rows[name], object)[mask]).tolist()
        whole = found[CountKey(date(2026, 11, 4), "champion", ROWS, slice_)]
        assert whole.n == mask.sum()
        assert whole.late == whole.n  # they are scored long after their day


def test_what_was_counted_is_not_counted_again_and_a_challenger_has_its_own(monitored: trueup.Trueup):
    counter, what = counting(monitored)
    before = plain(counted(monitored))
    assert counter.count(what) == 0
    assert plain(counted(monitored)) == before
    deployed(monitored, version="2", model="python:monitored:inverse_share", role=Role.CHALLENGER)
    monitored.score("fails", rows_of(np.random.default_rng(5), 700, "2026-11-05"), dataset="both")
    monitored.services.measuring.profile("fails")
    assert {k.role for k in counted(monitored)} == {"champion"}
    of_both = [k for k in counted(monitored, "2") if not k.field and not k.slice]
    assert [(k.event_day, k.role) for k in of_both] == [(date(2026, 11, 5), "challenger")]


def test_two_counters_at_once_count_every_row_once(monitored: trueup.Trueup):
    counter, what = counting(monitored)
    expected = plain(counted(monitored))
    forget(monitored)
    with ThreadPoolExecutor(4) as pool:
        totals = list(pool.map(lambda _: counter.count(what), range(4)))
    assert sum(totals) == 1_200
    assert plain(counted(monitored)) == expected


def test_a_batch_that_commits_after_a_later_one_is_counted(monitored: trueup.Trueup):
    counter, what = counting(monitored)
    with psycopg.connect(monitored.services.urls.owner, autocommit=True) as owner:
        rows = "SELECT DISTINCT batch_id FROM ledger.predictions ORDER BY 1"
        first, second = [row[0] for row in owner.execute(rows).fetchall()]
        taken = "CREATE TABLE public.{0} AS SELECT * FROM ledger.{0} WHERE batch_id = %s"
        for table in ("batches", "predictions"):
            owner.execute(taken.format(table).replace("%s", str(first)))
            owner.execute(f"DELETE FROM ledger.{table} WHERE batch_id = %s", (first,))
        expected = plain(counted(monitored))
        forget(monitored)
        assert counter.count(what) == 600  # the second alone
        owner.execute("INSERT INTO ledger.batches OVERRIDING SYSTEM VALUE SELECT * FROM public.batches")
        owner.execute("INSERT INTO ledger.predictions SELECT * FROM public.predictions")
        assert second > first
    assert counter.count(what) == 600
    assert counter.count(what) == 0
    assert plain(counted(monitored)) == expected


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_counting_as_rows_arrive_is_counting_from_scratch(monitored: trueup.Trueup, data: st.DataObject):
    """In any order of arrival, counted whenever, in portions of any size."""
    counter, what = counting(monitored, rows_at_once=data.draw(st.sampled_from([1_000, 10_000_000])))
    number = itertools.count()
    for seed in data.draw(st.lists(st.integers(0, 1 << 30), min_size=1, max_size=5)):
        rng = np.random.default_rng(seed)
        day = data.draw(st.sampled_from(["2026-11-02", "2026-11-03", "2026-11-09"]))
        rows = rows_of(rng, data.draw(st.integers(1, 40)), day)
        monitored.score("fails", rows, dataset=f"{seed}/{next(number)}")
        if data.draw(st.booleans()):
            counter.count(what)
    counter.count(what)
    grown = plain(counted(monitored))
    forget(monitored)
    counter.count(what)
    assert plain(counted(monitored)) == grown


KILLED = """
import os, signal, sys
import trueup
from trueup.bootstrap import wired
from trueup.ledger.urls import Urls
from trueup.monitoring import postgres_counting as module

step, urls, folder = sys.argv[1], Urls(*sys.argv[2:5]), sys.argv[5]
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
counting = module.PostgresCounting

def before(name):
    whole = getattr(counting, name)
    def killed(self, *given):
        kill()
        return whole(self, *given)
    setattr(counting, name, killed)

def after(name):
    whole = getattr(counting, name)
    def killed(self, *given):
        found = whole(self, *given)
        kill()
        return found
    setattr(counting, name, killed)

{"lock": lambda: before("_choose"), "choose": lambda: after("_choose"), "count": lambda: before("_add"),
 "add": lambda: after("_add")}[step]()
with trueup.Trueup(wired(trueup.Settings(data_dir=folder), urls)) as up:
    up.services.measuring.profile("fails")
"""


@pytest.mark.parametrize("step", ["lock", "choose", "count", "add"])
def test_killed_after_any_step_nothing_is_lost_or_doubled(
    monitored: trueup.Trueup, fresh_database: Urls, tmp_path: Path, step: str
):
    counter, what = counting(monitored)
    expected = plain(counted(monitored))
    forget(monitored)
    urls = [fresh_database.owner, fresh_database.writer, fresh_database.reader]
    killed = subprocess.run([sys.executable, "-c", KILLED, step, *urls, str(tmp_path)], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert counter.count(what) == 1_200  # the step before the commit was the last one
    assert plain(counted(monitored)) == expected


def test_a_reference_is_frozen_once_and_each_version_has_its_own(monitored: trueup.Trueup):
    monitored.services.measuring.profile("fails")
    first = monitored.query("SELECT * FROM profiles ORDER BY field, slice").rows()
    monitored.score("fails", rows_of(np.random.default_rng(3), 900, "2026-11-01", shift=4), dataset="earlier")
    monitored.services.measuring.profile("fails")
    assert monitored.query("SELECT * FROM profiles ORDER BY field, slice").rows() == first
    assert first[0]["reference"] == "500 predictions of 2026-11-02 to 2026-11-02"
    deployed(monitored, version="2")
    done = monitored.services.measuring.profile("fails")
    assert done.without_reference == ["2"]
    monitored.score("fails", rows_of(np.random.default_rng(4), 500, "2026-11-06"), dataset="second version")
    assert monitored.services.measuring.profile("fails").without_reference == []
    versions = monitored.query("SELECT DISTINCT model_version, reference FROM profiles ORDER BY 1").rows()
    assert [row["model_version"] for row in versions] == ["1", "2"]
