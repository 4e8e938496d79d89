"""A stream without a broker: records are scored and booked as the door does it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import trueup
from trueup.bootstrap import Services, utc_now
from trueup.domain.stream import Place, Stream
from trueup.doors.cli.errors import exit_code
from trueup.doors.cli.server import application
from trueup.doors.kafka.handlers import Handlers
from trueup.doors.kafka.opening import declared
from trueup.doors.kafka.records import Record
from trueup.errors import TrueupError
from trueup.ledger.urls import Urls

CONTRACT = """
name: trade
version: 1
fields:
  account: {type: string, role: key}
  day: {type: date, role: context}
  amount: {type: float64, minimum: 0, maximum: 1000000}
  fee: {type: "decimal(10,2)", nullable: true}
output: {kind: probability}
label: {name: failed, type: bool, join_key: [account], horizon: {days: 2}}
decision: {threshold: 0.5}
event_time: day
"""
WIDER = CONTRACT.replace("version: 1", "version: 2").replace("1000000", "9000000")


def trade(i: int, **changes: Any) -> dict[str, Any]:
    return {"account": f"A{i}", "day": utc_now().date().isoformat(), "amount": 1000.0 * i, **changes}


class Reading:
    """What the deployment ``trades`` reads, a partition's next record at a time."""

    def __init__(self, up: trueup.Trueup, **stream: Any) -> None:
        self.services: Services = up.services
        self.up = up
        self.stream = Stream("trades", **stream)
        self.deploy(CONTRACT, "1")
        self._next: dict[int, int] = {}

    def deploy(self, contract: str, version: str, **changes: Any) -> None:
        serving = trueup.Serving(stream=self.stream, **changes)
        self.up.deploy(
            "trades",
            contract=contract,
            model="python:small_models:share_of_a_million",
            version=version,
            serving=serving,
        )

    def place(self) -> Place:
        return Place(declared(self.services, "trades")[0], "c1", "trades")

    def handlers(self) -> Handlers:
        services = self.services
        services.scoring.resolve("trades", fresh=True)
        return Handlers(
            services.scoring,
            services.ledger,
            services.telemetry.metrics,
            utc_now,
            services.settings.limits,
            services.settings.stream,
            "trades",
            self.stream,
            self.place(),
        )

    def read(self, values: Sequence[Any], *, partitions: int = 1, start: int | None = None) -> None:
        """Values round robin over the partitions; of bytes as they are, of anything else its JSON."""
        expected = self.services.ledger.positions(self.place())
        at = dict(expected) if start is None else dict.fromkeys(range(partitions), start)
        records = []
        for i, value in enumerate(values):
            partition = i % partitions
            offset = at.get(partition, 0)
            at[partition] = offset + 1
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            moment = int(utc_now().timestamp() * 1e6)
            records.append(Record("trades", partition, offset, moment, b"k%d" % i, raw, [("h", b"x")]))
        handlers = self.handlers()
        for batch in handlers.scored(records, expected):
            handlers.book(batch)


class Command:
    """`trueup` in this process, on one database."""

    def __init__(self, urls: Urls, folder: Path, patch: pytest.MonkeyPatch) -> None:
        tests = Path(__file__).parent
        for name, value in {
            "TRUEUP_DATABASE_URL": urls.owner,
            "TRUEUP_DATA_DIR": str(folder / "data"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(tests), os.environ.get("PYTHONPATH", "")])),
            "COLUMNS": "300",
        }.items():
            patch.setenv(name, value)
        self.error = ""

    def __call__(self, *arguments: str, code: int = 0) -> bytes:
        """What it prints; ``code`` is what it must end with."""
        result = CliRunner().invoke(application(), list(arguments))
        ended, self.error = result.exit_code, result.stderr
        if isinstance(result.exception, TrueupError):
            ended = exit_code(result.exception)
        elif result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert ended == code, result.output
        return result.stdout_bytes

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code))
