"""book() beside a bare COPY of the very bytes that it copies, both committed with fsync, in one run."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import psycopg
from rounds import medians

import trueup
from trueup.bootstrap import open_services
from trueup.contracts.decoding import Decoder
from trueup.contracts.horizon import due_days
from trueup.contracts.identity import business_keys, content_digests
from trueup.domain.batch import Answers, Booking, Channel, Role, Scored, Source, Status
from trueup.ledger.identity import prediction_ids
from trueup.ledger.postgres import _COPY
from trueup.ledger.rows import framed, packed
from trueup.settings import Limits, Settings

FIELDS = "".join(f"  f{i}: float64\n" for i in range(30))
CONTRACT = trueup.load_contract(
    f"name: bench\nversion: 1\nfields:\n  item: {{type: string, role: key}}\n{FIELDS}output: {{kind: probability}}\n"
    "label: {name: l, type: bool, horizon: {days: 1}}\n"
)
COUNTER = itertools.count()


def bookings(deployment: trueup.Deployment, n: int) -> Booking:
    rng = np.random.default_rng(n)
    data = {f"f{i}": rng.normal(size=n) for i in range(30)} | {"item": [f"I{i:07d}" for i in range(n)]}
    columns = Decoder(CONTRACT, Limits()).columns(data).columns
    score = rng.random(n)
    when = np.full(n, "2026-11-20", "datetime64[us]")
    answers = Answers(np.full(n, Status.SCORED, object), score, decision=np.full(n, "act", object), expected_cost=score)
    version = deployment.champion
    assert deployment.deployment_id
    assert version.contract_id
    assert version.model_version_id
    return Booking(
        deployment_id=deployment.deployment_id,
        contract_id=version.contract_id,
        source=Source(Channel.BATCH, "", [str(i) for i in range(n)]),
        columns=columns,
        digests=content_digests(columns),
        business_keys=business_keys(columns),
        event_time=when,
        due_day=due_days(CONTRACT.label, when),
        received_at=when,
        steps_us=np.zeros((n, 4), np.int32),
        scored=[Scored(Role.CHAMPION, version.model_version_id, answers)],
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, open_services(Settings(data_dir=Path(folder))) as services:
        deployment = services.deploying.deploy("bench", contract=CONTRACT, models=["python:rounds:half"], version="1")
        with psycopg.connect(services.urls.writer, autocommit=True) as connection:
            print("| rows | book(), rows/s | bare COPY, rows/s | share of bare COPY |\n|---|---|---|---|")
            for n, rounds in ((1, 200), (32, 150), (128, 100), (1_000, 40), (10_000, 12)):
                template = bookings(deployment, n)

                def fresh(template: Booking = template) -> Booking:
                    return replace(template, source=replace(template.source, name=f"batch:{next(COUNTER)}"))

                def book() -> None:
                    services.ledger.book(fresh())

                prepared = [_bytes(fresh()) for _ in range(rounds + 1)]
                upcoming = iter(prepared)

                def bare() -> None:
                    with connection.transaction(), connection.cursor().copy(_COPY) as copy:
                        copy.write(next(upcoming))  # noqa: B023

                found = medians({"book": book, "bare": bare}, rounds=rounds)
                rates = {name: n / seconds for name, seconds in found.items()}
                print(f"| {n:,} | {rates['book']:,.0f} | {rates['bare']:,.0f} | {rates['book'] / rates['bare']:.0%} |")


def _bytes(booking: Booking) -> bytes:
    ids = prediction_ids(booking.deployment_id, Role.CHAMPION, booking.source.name, booking.source.keys)
    return b"".join(framed(packed(booking, booking.scored[0], ids, 1)))


if __name__ == "__main__":
    main()
