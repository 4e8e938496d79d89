"""Predictions are listed newest first, whatever part of a day is looked at first."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

import trueup
from trueup.ledger.finding import _windows

CONTRACT = """
name: orders
version: 1
fields:
  order_id: {type: string, role: key}
  amount: {type: float64}
output: {kind: probability}
label: {name: failed, type: bool, horizon: {days: 1}}
"""
DAY = datetime(2026, 11, 30, tzinfo=UTC)


@pytest.fixture
def desk(up: trueup.Trueup) -> trueup.Trueup:
    up.deploy("orders", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1", by="test")
    return up


def test_every_limit_gives_the_newest_of_all(desk: trueup.Trueup):
    spread = random.Random(7)
    moments = [DAY + timedelta(seconds=spread.choice([1, -46]) * spread.uniform(0, 86_400)) for _ in range(60)]
    moments += [DAY, DAY + timedelta(days=1, microseconds=-1), DAY - timedelta(microseconds=1)]
    for at, moment in enumerate(moments):  # the latest batch is not the one of the newest event
        desk.score(
            "orders",
            [{"order_id": f"O{at}", "amount": 1.0}],
            dataset=f"d{at}",
            event_time=np.array([moment.replace(tzinfo=None)], "M8[us]"),
        )
    newest = sorted(moments, reverse=True)
    for limit in (1, 2, 7, 40, 63, 100):
        assert [row["event_time"] for row in desk.predictions(limit=limit)] == newest[:limit]


@pytest.mark.parametrize("newest", [None, DAY, DAY + timedelta(hours=11), DAY + timedelta(days=1, microseconds=-1)])
def test_windows_cover_every_moment_of_the_days_once(newest: datetime | None):
    days = [DAY.date(), DAY.date() - timedelta(days=1), DAY.date() - timedelta(days=9), DAY.date() - timedelta(days=10)]
    windows = list(_windows(days, newest))
    for day in days:
        for second in (0, 1, 39_599, 39_600, 40_000, 86_399):
            moment = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(seconds=second)
            assert sum(since <= moment <= until for since, until in windows) == 1
    assert windows == sorted(windows, reverse=True)
    assert list(_windows([], newest)) == []
