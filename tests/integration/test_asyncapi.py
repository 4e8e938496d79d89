"""The AsyncAPI document is one by AsyncAPI's own schema, and what it promises is what is read and sent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

import trueup
from streaming import CONTRACT, Command, Reading, trade
from trueup.domain.batch import Decoded
from trueup.domain.deployment import Deployment, ModelVersion, Serving
from trueup.domain.stream import Stream
from trueup.doors.kafka.asyncapi import document
from trueup.doors.kafka.broker import Message
from trueup.doors.kafka.files import FileBroker
from trueup.doors.kafka.replies import Replies
from trueup.ledger.urls import Urls
from trueup.settings import Streaming

PROJECT = Path(__file__).parents[1] / "asyncapi"
RICH = """
name: rich
version: 3
fields:
  account: {type: string, role: key, description: who}
  day: {type: date, role: context, minimum: 2020-01-01}
  at: timestamp
  amount: {type: float64, minimum: 0, unit: USD, allow_nan: true, allow_infinity: true}
  lots: {type: int64, nullable: true, maximum: 10}
  side: {type: category, categories: [buy, sell], nullable: true}
  fee: {type: "decimal(10,2)"}
  open: bool
output: {kind: probability}
decision: {threshold: 0.5, at_or_above: act, below: wait}
"""


def deployed(name: str, contract: str, **stream: Any) -> Deployment:
    version = ModelVersion("m", "1", (), trueup.load_contract(contract))
    return Deployment(name, version, serving=Serving(stream=Stream(**stream)))


def resolved(made: dict[str, Any], schema: Any) -> Any:
    """A schema of the document, complete in itself."""
    return jsonschema_rs.validator_for({**schema, "components": made["components"]})


MAPPED = {
    "fields": (
        ("account", "key"),
        ("day", "value.desk.day"),
        ("at", "headers.at"),
        ("amount", "value.desk.legs.money.amount"),
        ("fee", "value.desk.legs.fee"),
        ("side", "value.desk.legs.0"),
        ("open", "value.desk.open"),
        ("lots", "value.lots"),
    ),
    "instances": "value.desk.legs",
}
DEPLOYMENTS = [
    deployed("plain", CONTRACT, topic="trades", replies="answers", dead_letters="refused"),
    deployed("with events", RICH, topic="trades", format="cloudevents", identity="cloudevent", replies="answers"),
    deployed("mapped", RICH, topic="mapped", event_time="value.when", identity="headers.id", **MAPPED),
    deployed("avro", CONTRACT, topic="avro.trades", format="avro"),
    deployed("own", CONTRACT, topic="own", format="fix", identity="value.id"),
    Deployment("silent", ModelVersion("m", "1", (), trueup.load_contract(CONTRACT))),
]
SECURE = Streaming(
    bootstrap="b1.example:9093, b2.example:9093",
    client={"security.protocol": "sasl_ssl", "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "u-secret"},
    client_secrets={"sasl.password": "p-secret"},
    registry={"url": "https://r-secret:q-secret@registry.example/x?token=t-secret"},
)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """AsyncAPI's own schema, as the lock beside this test names it."""
    folder = tmp_path_factory.mktemp("asyncapi")
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(PROJECT / name, folder / name)
    done = subprocess.run(["npm", "ci"], cwd=folder, env={**os.environ}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    path = folder / "node_modules/@asyncapi/specs/schemas/3.0.0-without-$id.json"
    return jsonschema_rs.validator_for(json.loads(path.read_text()))


@pytest.mark.parametrize("bounds", [Streaming(), SECURE], ids=["plain", "secure"])
@pytest.mark.parametrize("deployments", [[], DEPLOYMENTS, *([one] for one in DEPLOYMENTS)])
def test_it_is_one(official: Any, deployments: Sequence[Deployment], bounds: Streaming):
    made = document(deployments, bounds, "1.0")
    assert [f"{e.instance_path} {e.message}"[:500] for e in official.iter_errors(made)] == []


def test_the_schema_tells_what_is_none(official: Any):
    made = document(DEPLOYMENTS, SECURE, "1.0")
    del made["operations"]["plain.read"]["channel"]
    assert not official.is_valid(made)


def test_every_reference_leads_somewhere():
    made = document(DEPLOYMENTS, SECURE, "1.0")

    def refs(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [ref for inner in value.values() for ref in refs(inner)]
        return [ref for inner in value for ref in refs(inner)] if isinstance(value, list) else []

    found = set(refs(made))
    assert len(found) > 10
    for ref in found:
        at: Any = made
        for word in ref.removeprefix("#/").split("/"):
            at = at[word]


def test_addresses_are_told_and_secrets_are_not():
    made = document([], SECURE, "1.0")
    assert [server["host"] for server in made["servers"].values()] == ["b1.example:9093", "b2.example:9093"]
    assert made["servers"]["kafka1"]["protocol"] == "kafka-secure"
    assert made["servers"]["kafka1"]["security"] == [{"type": "scramSha512"}]
    assert made["servers"]["kafka1"]["bindings"]["kafka"]["schemaRegistryUrl"] == "https://registry.example/x"
    assert "secret" not in json.dumps(made)


def test_topics_that_two_share_are_one_channel():
    made = document(DEPLOYMENTS, Streaming(), "1.0")
    assert set(made["channels"]) == {"trades", "answers", "refused", "mapped", "avro.trades", "own"}
    assert set(made["channels"]["trades"]["messages"]) == {"plain.read", "with_events.read"}
    assert {name: op["action"] for name, op in made["operations"].items()} == {
        "plain.read": "receive",
        "plain.reply": "send",
        "plain.dead_letter": "send",
        "with_events.read": "receive",
        "with_events.reply": "send",
        "mapped.read": "receive",
        "avro.read": "receive",
        "own.read": "receive",
    }


GOOD = {"account": "a", "day": "2026-11-20", "at": "2026-11-20T09:00:00Z", "amount": 1.5, "fee": "1.25", "open": True}


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({}, True),
        ({"amount": "NaN", "lots": None, "side": None, "fee": 1}, True),
        ({"lots": 10, "side": "buy"}, True),
        ({"lots": 11}, False),
        ({"lots": 1.5}, False),
        ({"side": "hold"}, False),
        ({"amount": -1.0}, False),
        ({"amount": "many"}, False),
        ({"open": None}, False),
        ({"desk": "x"}, False),
    ],
)
def test_the_instances_schema_says_what_the_decoder_says(change: dict[str, Any], good: bool):
    from trueup.contracts.decoding import Decoder
    from trueup.settings import Limits

    made = document([deployed("d", RICH, topic="t")], Streaming(), "1.0")
    payload = resolved(made, made["channels"]["t"]["messages"]["d.read"]["payload"])
    row = GOOD | change
    decoded: Decoded = Decoder(trueup.load_contract(RICH), Limits()).each([row])
    assert (len(decoded.rows) == 1) == payload.is_valid(row) == payload.is_valid([row, row]) == good


def test_mapped_fields_lie_where_they_are_mapped():
    made = document([DEPLOYMENTS[2]], Streaming(), "1.0")
    message = made["channels"]["mapped"]["messages"]["mapped.read"]
    payload = resolved(made, message["payload"])
    leg = {"money": {"amount": 2.0}, "fee": "1.00"}
    assert payload.is_valid({"desk": {"day": "2026-11-20", "legs": [leg, leg], "open": True}, "when": 5, "more": 1})
    assert not payload.is_valid({"desk": {"legs": [{"money": {}, "fee": "1.00"}]}})
    assert not payload.is_valid({"desk": {}})
    assert set(message["headers"]["properties"]) == {"at", "id"}
    assert message["x-trueup-stream"]["fields"]["amount"] == "value.desk.legs.money.amount"


class Kept(FileBroker):
    """Keeps what is sent."""

    cluster = "c1"

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, message: Message, delivered: Any) -> None:
        self.sent.append(message)
        delivered(True)


def test_what_is_sent_is_what_is_promised(up: trueup.Trueup):
    reading = Reading(up, replies="answers", dead_letters="refused")
    reading.read([trade(1), [trade(2), trade(3, amount=-1.0)], b"{"])
    broker = Kept()
    replies = Replies("trades", reading.stream, reading.place(), up.services.ledger, broker, 100)
    replies.follow([0])
    replies.turn()
    made = document(up.services.registry.deployments(), Streaming(), "1.0")
    counted = dict.fromkeys(made["channels"], 0)
    for message in broker.sent:
        (told,) = made["channels"][message.topic]["messages"].values()
        headers = {name: value.decode() for name, value in message.headers if value is not None}
        resolved(made, told["headers"]).validate(headers)
        resolved(made, told.get("payload", {})).validate(json.loads(message.value or b"0") if "payload" in told else 0)
        counted[message.topic] += 1
    assert counted == {"trades": 0, "answers": 2, "refused": 2}


def test_the_command_prints_it(
    up: trueup.Trueup, fresh_database: Urls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    Reading(up, replies="answers")
    made = json.loads(Command(fresh_database, tmp_path, monkeypatch)("asyncapi"))
    assert made["asyncapi"] == "3.0.0"
    assert set(made["channels"]) == {"trades", "answers"}
