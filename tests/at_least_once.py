"""The loop that people write: poll, score, insert, commit the offsets. It is right until it is killed in between."""

from __future__ import annotations

import json
import os
import time

import psycopg
from confluent_kafka import Consumer


def main() -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ["TRUEUP_STREAM__BOOTSTRAP"],
            "group.id": "at-least-once",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "session.timeout.ms": 6000,
        }
    )
    consumer.subscribe([os.environ["TRUEUP_TEST_TOPIC"]])
    with psycopg.connect(os.environ["TRUEUP_DATABASE_URL"]) as connection:
        while True:
            messages = [m for m in consumer.consume(500, 0.1) if m.error() is None]
            if not messages:
                continue
            rows = [(json.loads(m.value())["account"], json.loads(m.value())["amount"] / 1e6) for m in messages]
            with connection.transaction():
                connection.cursor().executemany("INSERT INTO control (account, score) VALUES (%s, %s)", rows)
            time.sleep(0)  # here it is killed
            consumer.commit(asynchronous=False)


if __name__ == "__main__":
    main()
