"""Consumers, PostgreSQL and brokers are killed, at random and aimed, while a producer writes: nothing lost or doubled.

The same is done to a loop that commits its offsets apart from its rows: it must show doubles, else this proves nothing.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from brokers import Cluster
from killed_stream import STEPS
from streams import Field, Member, all_of, field_of, members, produce, producing, score_of, until

EVENTS = 200_000
PARTITIONS = 12
AIMED = 5


@contextmanager
def aimed_at_commits(place: Field, consumers: list[Member], table: str, most: int) -> Iterator[list[float]]:
    """Kills every consumer the moment that a commit of one of them becomes visible."""
    moments: list[float] = []
    over = threading.Event()

    def aim() -> None:
        while not over.is_set() and len(moments) < most:
            with suppress(psycopg.Error), psycopg.connect(place.urls.owner, autocommit=True) as connection:
                query = f"SELECT count(*) FROM {table}".encode()
                before = connection.execute(query).fetchone()
                while not over.is_set():
                    if connection.execute(query).fetchone() != before:
                        for consumer in consumers:
                            consumer.kill()
                        moments.append(time.time())
                        over.wait(5 + 2 * random.random())  # until they are back
                        break
            over.wait(0.05)

    thread = threading.Thread(target=aim, daemon=True)
    thread.start()
    try:
        yield moments
    finally:
        over.set()
        thread.join(30)


def test_nothing_is_lost_or_doubled(kafka_trio: Cluster, tmp_path: Path) -> None:
    # The second assignment of one life needs that somebody else comes or goes.
    kills = [f"{step}:{times}" for times in (1, 3) for step in STEPS if times == 1 or step != "assigned"]
    with field_of(kafka_trio, tmp_path, PARTITIONS) as place:
        place.more = {"TRUEUP_STREAM__SESSION_MS": "2500"}  # the dead are noticed sooner: more deaths in the time
        with (
            producing(place, range(EVENTS), 2_200) as writing,
            members(place, 3, "killed_stream.py", "stream", "t", kills=kills) as consumers,
        ):
            until(lambda: not any(one.kills for one in consumers), 120)  # the last of each has yet to die
            with aimed_at_commits(place, consumers, "ledger.reads", AIMED) as moments:
                kafka_trio.kill(1)
                until(lambda: len(moments) >= 1, 60)
                kafka_trio.restart(1)
                place.kill_postgres()
                until(lambda: len(moments) >= 2, 60)
                kafka_trio.kill(kafka_trio.leader(place.topic))
                until(lambda: len(moments) >= 3, 60)
                kafka_trio.start()
                random.choice(consumers).kill()
                place.kill_postgres()
                until(lambda: len(moments) >= AIMED, 90)
            writing.join(300)
            assert [one.kills for one in consumers] == [[], [], []]
            for one in consumers:
                one.kill()  # whoever comes now kills itself no more
            until(lambda: place.ended(EVENTS) and not place.query("SELECT 1 FROM ledger.owed_replies"), 120)
            assert [one.end() for one in consumers] == [0, 0, 0]
        booked = dict(place.query("SELECT prediction_id::text, business_key FROM ledger.predictions"))
        assert place.query("SELECT count(*) FROM ledger.predictions")[0] == (EVENTS,)
        assert len(set(booked.values())) == EVENTS
        right = "(substr(business_key, 2)::int % 900) / 1000.0"
        assert place.query(f"SELECT max(abs(score - {right})) FROM ledger.predictions")[0][0] < 1e-12
        assert place.query("SELECT count(*) FROM ledger.dead_letters")[0] == (0,)
        assert place.query("SELECT sum(instances), sum(answered) FROM ledger.reads")[0] == (EVENTS, EVENTS)
        answers = all_of(kafka_trio, place.stream.replies or "")
        told: dict[str, set[bytes]] = {}
        for headers, _, value in answers:
            told.setdefault(headers["ce_id"].decode(), set()).add(value or b"")
        assert set(told) == set(booked)
        assert all(len(values) == 1 for values in told.values())
        some = {number: json.loads(next(iter(values))) for number, values in list(told.items())[:1000]}
        assert all(score_of(booked[number]) == pytest.approx(answer["score"]) for number, answer in some.items())


def test_the_loop_that_people_write_doubles(kafka_trio: Cluster, tmp_path: Path) -> None:
    count = 60_000
    with field_of(kafka_trio, tmp_path, PARTITIONS) as place:
        with psycopg.connect(place.urls.owner) as connection:
            connection.execute("CREATE TABLE control (account text, score double precision)")
        with (
            producing(place, range(count), 3_000),
            members(place, 3, "at_least_once.py") as consumers,
            aimed_at_commits(place, consumers, "control", 3) as moments,
        ):
            until(lambda: len(moments) >= 3, 120)
            until(lambda: place.query("SELECT count(DISTINCT account) FROM control")[0] == (count,), 120)
        doubled = place.query("SELECT count(*) - count(DISTINCT account) FROM control")[0][0]
        assert doubled > 0


def test_work_goes_on_within_ten_seconds_of_a_consumers_death(kafka_trio: Cluster, tmp_path: Path) -> None:
    with field_of(kafka_trio, tmp_path, PARTITIONS) as place:
        produce(place, range(1_000), 10_000)
        with members(place, 3, "killed_stream.py", "stream", "t") as consumers:
            until(lambda: place.ended(1_000), 60)
            time.sleep(3)  # until all three have their share
            with producing(place, range(1_000, 61_000), 3_000):
                time.sleep(5)
                consumers[0]._ending.set()
                consumers[0].kill()
            until(lambda: place.ended(61_000), 60)
        gaps = place.query(
            "SELECT max(extract(epoch FROM booked_at - before)) FROM (SELECT booked_at, lag(booked_at) OVER"
            " (PARTITION BY partition ORDER BY read_id) AS before FROM ledger.reads WHERE first_offset > 200) r"
        )
        assert gaps[0][0] < 10
        assert place.query("SELECT count(*), count(DISTINCT business_key) FROM ledger.predictions")[0] == (
            61_000,
            61_000,
        )
