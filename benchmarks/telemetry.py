"""What observing costs: a request's counters and id, a batch's histograms, a scrape; traces off and on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from trueup.domain.batch import Role
from trueup.telemetry.exposition import Exposition
from trueup.telemetry.requests import Telemetry, current

HEADERS = {b"host": b"x", b"authorization": b"Bearer x", b"content-type": b"application/json"}
REQUEST_US, BATCH_US = 5.0, 40.0  # limits, wide enough for a shared machine


def microseconds(call: Callable[[], object], times: int) -> float:
    """CPU time of one call, of the best of several rounds: what others do on the machine does not count."""
    rounds = []
    for _ in range(9):
        began = time.thread_time_ns()
        for _ in range(times):
            call()
        rounds.append((time.thread_time_ns() - began) / times / 1000)
    return min(rounds)


def main() -> None:
    telemetry = Telemetry()
    metrics = telemetry.metrics
    metrics.deployment("m", 1)

    def request() -> None:
        with telemetry.request("rest", HEADERS) as observed:
            current().resolved("m")
            current().scoring(1)
            observed.answered(200, "ok")
            observed.headers()

    found = {"a request": microseconds(request, 20_000)}
    for rows in (1, 16, 128, 1024):
        steps, booked = np.full((rows, 4), 120, np.int32), np.zeros(rows, np.int8)
        call = lambda steps=steps, booked=booked: metrics.booked(1, steps, 400, booked, [Role.CHAMPION])  # noqa: E731
        found[f"a batch of {rows:,} rows"] = microseconds(call, 2_000)
    for deployments in (1, 16, 64):
        for number in range(deployments):
            metrics.request(0, metrics.deployment(f"m{number}", number), "ok", 100_000)
            metrics.booked(number, np.full((1, 4), 120, np.int32), 400, np.zeros(1, np.int8))
        page = Exposition(metrics, None, "0")
        found[f"a scrape of {deployments} deployments"] = microseconds(lambda page=page: page.page(""), 5)  # type: ignore[misc]
    print("| observing | us |\n|---|---|")
    for what, took in found.items():
        print(f"| {what} | {took:,.1f} |")
    if found["a request"] > REQUEST_US or found["a batch of 16 rows"] > BATCH_US:
        sys.exit("observing costs more than it may")


if __name__ == "__main__":
    main()
