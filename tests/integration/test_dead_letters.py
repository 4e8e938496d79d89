"""Dead letters are listed, shown and scored again under their own identity, exactly once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

import trueup
from streaming import WIDER, Command, Reading, trade
from trueup.bootstrap import utc_now
from trueup.domain.batch import RefusalReason
from trueup.doors.cli.letters import Reason
from trueup.doors.kafka import replies
from trueup.doors.kafka.broker import Message
from trueup.doors.kafka.files import topic_of
from trueup.doors.kafka.records import Record
from trueup.doors.kafka.replaying import Replaying
from trueup.doors.kafka.replies import Replies
from trueup.ledger.urls import Urls

TOO_MUCH = trade(7, amount=2e6)


@pytest.fixture
def command(fresh_database: Urls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(fresh_database, tmp_path, monkeypatch)


def rows(urls: Urls, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(urls.owner) as connection:
        return connection.execute(query.encode()).fetchall()


def keys(urls: Urls) -> list[str]:
    return [row[0] for row in rows(urls, "SELECT source_key FROM ledger.predictions ORDER BY source_key")]


def test_the_reasons_are_all_of_them():
    assert {str(reason) for reason in Reason} == {str(reason) for reason in RefusalReason}


def test_letters_are_listed_newest_first_and_filtered(up: trueup.Trueup, command: Command):
    Reading(up).read([trade(1), b"{", TOO_MUCH, b"nothing"])
    found = command.json("dlq", "list")
    assert [(x["record_offset"], x["reason"], x["replayed_at"]) for x in found] == [
        (3, "undecodable", None),
        (2, "contract", None),
        (1, "undecodable", None),
    ]
    assert "value" not in found[0]
    assert len(command.json("dlq", "list", "--reason", "contract", "--deployment", "trades", "--topic", "trades")) == 1
    assert command.json("dlq", "list", "--topic", "other") == []
    assert command.json("dlq", "list", "--since", "2999-01-01") == []
    assert command.json("dlq", "list", "--replayed") == []
    assert len(command.json("dlq", "list", "--not-replayed", "--since", "2020-01-01", "--limit", "2")) == 2
    assert b"undecodable" in command("dlq", "list")
    command("dlq", "list", "--deployment", "other", code=4)


def test_content_is_shown_only_when_asked_for(up: trueup.Trueup, command: Command):
    secret = json.dumps(trade(7, account="\u00fc secret", amount=-1.0), ensure_ascii=False).encode() + b"\r\n"
    Reading(up).read([secret])
    (letter,) = command.json("dlq", "list")
    number = str(letter["letter_id"])
    for shown in (command("dlq", "show", number), command("dlq", "show", number, "--json")):
        assert b"secret" not in shown
    document = command.json("dlq", "show", number)
    assert (document["value_bytes"], document["key_bytes"], document["headers"]) == (len(secret), 2, ["h"])
    assert len(document["value_digest"]) == 32
    assert [(r["source_key"], r["attempt"], r["reason"]) for r in document["refusals"]] == [("0/0", 1, "contract")]
    assert command("dlq", "show", number, "--value") == secret
    assert command("dlq", "show", number, "--key") == b"k0"
    command("dlq", "show", "999", code=4)
    command("dlq", "show", number, "--key", "--value", code=2)


def test_what_is_mended_is_answered_and_what_is_not_stays(up: trueup.Trueup, command: Command, fresh_database: Urls):
    reading = Reading(up, replies="answers")
    reading.read([trade(1), TOO_MUCH, b"{"])
    command("dlq", "replay", "--deployment", "trades", code=1)
    assert "0 of 2" in command.error
    reading.deploy(WIDER, "2")
    done = command.json("dlq", "replay", "--deployment", "trades", code=1)
    assert [(x["reason"], bool(x["detail"])) for x in done] == [(None, False), ("undecodable", True)]
    assert keys(fresh_database) == ["0/0", "0/1"]
    assert len(command.json("dlq", "list", "--replayed")) == 1
    place = reading.place()
    assert reading.services.ledger.positions(place) == {0: 3}
    owed = reading.services.ledger.owed(place, [0], 10)
    replies = list(reading.services.ledger.replies(place, owed))
    assert [(r["source_key"], r["score"], r["model_version"]) for r in replies] == [
        ("0/0", 0.001, "1"),
        ("0/1", 1.0, "2"),
    ]
    assert rows(
        fresh_database,
        "SELECT subject, jsonb_array_length(detail -> 'letters'), jsonb_array_length(detail -> 'answered')"
        " FROM ledger.audit WHERE action = 'replay dead letters' ORDER BY audit_id",
    ) == [("trades", 2, 0), ("trades", 2, 1)]


def test_a_replay_may_be_repeated(up: trueup.Trueup, command: Command, fresh_database: Urls):
    reading = Reading(up)
    reading.read([TOO_MUCH])
    reading.deploy(WIDER, "2")
    number = str(command.json("dlq", "list")[0]["letter_id"])
    command("dlq", "replay", number)
    assert "1 of 1" in command.error
    command("dlq", "replay", number)
    assert "0 of 0" in command.error
    assert "1 were before" in command.error
    assert keys(fresh_database) == ["0/0"]
    command("dlq", "replay", number, "999", code=4)
    command("dlq", "replay", code=2)
    command("dlq", "replay", number, "--deployment", "trades", code=2)


def test_two_replays_and_the_stream_at_once_are_one_row(up: trueup.Trueup, fresh_database: Urls):
    reading = Reading(up, identity="value.account")
    reading.read([trade(i, amount=2e6) for i in range(30)])
    reading.deploy(WIDER, "2")
    numbers = [row[0] for row in rows(fresh_database, "SELECT letter_id FROM ledger.dead_letters")]

    def work(i: int) -> None:
        if i == 1:
            reading.read([trade(i, amount=2e6) for i in range(30)])
        else:
            list(Replaying(reading.services, "trades", "user:test").replay(numbers[:: 1 if i else -1]))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    assert len(keys(fresh_database)) == len(set(keys(fresh_database))) == 30
    assert rows(fresh_database, "SELECT count(*) FROM ledger.dead_letters WHERE replayed_at IS NULL") == [(0,)]


def test_only_the_refused_instances_of_a_record_are_scored_again(
    up: trueup.Trueup, command: Command, fresh_database: Urls
):
    reading = Reading(up)
    reading.read([[trade(1), TOO_MUCH, trade(2), trade(3, fee="x")]])
    assert command.json("dlq", "list")[0]["places"] == [1, 3]
    reading.deploy(WIDER, "2")
    (letter,) = command.json("dlq", "replay", "--deployment", "trades", code=1)
    assert letter["reason"] == "contract"
    assert keys(fresh_database) == ["0/0", "0/0/1", "0/0/2"]
    assert command.json("dlq", "list", "--replayed") == []
    newest = rows(fresh_database, "SELECT instances FROM ledger.batches ORDER BY batch_id DESC LIMIT 1")
    assert newest == [(1,)]


def test_an_event_answered_meanwhile_with_other_content_is_a_conflict(up: trueup.Trueup, command: Command):
    up.services.settings.stream.record_bytes = 1_024
    Reading(up, identity="value.account").read(
        [json.dumps(trade(7)).encode() + b" " * 1_024, trade(7, amount=5.0), trade(8)]
    )
    assert command.json("dlq", "list")[0]["reason"] == "too_large"
    (letter,) = command.json("dlq", "replay", "--deployment", "trades", code=1)
    assert letter["reason"] == "conflict"
    assert command.json("dlq", "list", "--replayed") == []


def test_nothing_to_replay_is_done(up: trueup.Trueup, command: Command):
    Reading(up)
    command("dlq", "replay", "--deployment", "trades", "--reason", "failed")
    assert "0 of 0" in command.error


class Kept:
    """A broker that keeps what is sent, and confirms at once unless told to wait."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.confirm = True

    def send(self, message: Message, delivered: Callable[[bool], None]) -> None:
        self.sent.append(message)
        if self.confirm:
            delivered(True)

    def serve(self, wait_s: float = 0.0) -> int:
        return 0


def test_a_running_stream_sends_what_a_replay_owes(
    up: trueup.Trueup, command: Command, monkeypatch: pytest.MonkeyPatch
):
    reading = Reading(up, replies="answers")
    reading.read([trade(1), TOO_MUCH])
    broker = Kept()
    sender = Replies("trades", reading.stream, reading.place(), up.services.ledger, broker, 100)  # type: ignore[arg-type]
    sender.follow([0])
    sender.turn()
    assert len(broker.sent) == 1
    reading.deploy(WIDER, "2")
    command("dlq", "replay", "--deployment", "trades")
    sender.turn()
    assert len(broker.sent) == 1
    real = time.monotonic
    monkeypatch.setattr(replies.time, "monotonic", lambda: real() + replies.LOOK_S + 1)
    sender.turn()
    assert [json.loads(message.value or b"")["source_key"] for message in broker.sent] == ["0/0", "0/1"]
    assert sender.drain(1)
    assert up.services.ledger.owed(reading.place(), [0], 10) == []


def test_what_was_found_owed_before_its_own_thread_told_of_it_is_sent_once(up: trueup.Trueup):
    reading = Reading(up, replies="answers")
    handlers = reading.handlers()
    broker = Kept()
    broker.confirm = False
    sender = Replies("trades", reading.stream, reading.place(), up.services.ledger, broker, 100)  # type: ignore[arg-type]
    record = Record("trades", 0, 0, int(utc_now().timestamp() * 1e6), None, json.dumps(trade(1)).encode())
    (batch,) = handlers.scored([record], {})
    receipt = handlers.book(batch)
    sender.follow([0])
    sender.turn()
    sender.answer(batch, receipt)
    assert len(broker.sent) == 1


def test_a_files_replies_are_replies_only(up: trueup.Trueup, command: Command, tmp_path: Path):
    Reading(up, replies="answers", dead_letters="refused")
    events, answers = tmp_path / "events.jsonl", tmp_path / "answers.jsonl"
    events.write_text(f"{json.dumps(trade(1))}\n{{\n{json.dumps(trade(2))}\n")
    command("stream", "trades", "--from-file", str(events), "--replies", str(answers))
    found = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [answer["source_key"] for answer in found] == ["0/0", "0/2"]
    assert len(command.json("dlq", "list", "--topic", topic_of(events))) == 1
    assert command.json("reconcile")[0]["difference"] == 0
