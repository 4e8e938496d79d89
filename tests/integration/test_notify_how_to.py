"""What docs/how-to/notify-a-channel.md shows works, against receivers of the test's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from brokers import Cluster
from receiving import HttpReceiver, MailReceiver, http_receiver, mail_receiver

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "notify-a-channel.md"
MAIL, WEBHOOK, CHATS, ALERTMANAGER, TOPIC = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def run(block: str) -> list[str]:
    """Runs it as a reader would, and returns what it said."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return re.findall(r"^(\w+) has taken message", done.stderr, re.MULTILINE)


def test_mail():
    with mail_receiver(login=True) as server:
        there = f'"127.0.0.1", "port": {server.port}, "security": "none"'
        assert run(MAIL.replace('"smtp.bank.example"', there)) == ["desk"]
        sent: MailReceiver = server
    assert sent.addresses == [["settlements@bank.example"]]


@pytest.mark.parametrize(
    ("block", "names"), [(WEBHOOK, ["tickets"]), (CHATS, ["ops", "risk"]), (ALERTMANAGER, ["alertmanager"])]
)
def test_http(block: str, names: list[str]):
    with http_receiver() as server:
        receiver: HttpReceiver = server
        assert run(re.sub(r"https://[a-z.]+\.example", server.url, block)) == names
    assert len(receiver.posted) == len(names)


def test_a_topic(kafka: Cluster):
    topic = kafka.topic("trueup.notices")
    assert run(TOPIC.replace("kafka.bank.example:9092", kafka.bootstrap)) == ["notices"]
    kafka.remove(topic)
