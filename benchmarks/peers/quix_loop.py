"""Quix Streams with its PostgreSQL sink: the same records, the same model; in the environment of `make bench-peers`.

quix_loop.py BOOTSTRAP TOPIC SOCKET_FOLDER DATABASE USER MODEL
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import xgboost
from quixstreams import Application
from quixstreams.sinks.community.postgresql import PostgreSQLSink

FEATURES = [f"f{i}" for i in range(30)]


def main() -> None:
    bootstrap, topic, folder, database, user, model = sys.argv[1:]
    booster = xgboost.Booster(model_file=model, params={"nthread": 1})

    def scored(row: dict[str, Any]) -> dict[str, Any]:
        score = booster.inplace_predict(np.array([[row[name] for name in FEATURES]], np.float32))[0]
        return {**row, "score": float(score)}

    application = Application(
        broker_address=bootstrap, consumer_group=f"quix-{time.time_ns()}", auto_offset_reset="earliest",
        commit_every=500, commit_interval=1.0, loglevel="ERROR",
    )  # fmt: skip
    sink = PostgreSQLSink(host=folder, port=5432, dbname=database, user=user, password="", table_name="scored")
    application.dataframe(application.topic(topic, value_deserializer="json")).apply(scored).sink(sink)
    application.run()


if __name__ == "__main__":
    main()
