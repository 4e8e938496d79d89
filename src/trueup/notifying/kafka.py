"""A topic (extra `kafka`): the payload as JSON, a CloudEvent in binary mode, keyed so that order is kept."""

from __future__ import annotations

import json
import logging
from typing import Any

from trueup.domain.message import Message
from trueup.errors import InvalidInput, MissingExtra, Undelivered
from trueup.notifying.document import document
from trueup.notifying.outbox import identity_of
from trueup.notifying.secrets import Secrets
from trueup.settings.notifying import KafkaReceiver

try:
    from confluent_kafka import KafkaError, KafkaException, Producer
except ImportError:
    raise MissingExtra("kafka", "telling a topic") from None

# What delivery rests on, and nobody may set otherwise.
OURS = frozenset(("bootstrap.servers", "metadata.broker.list", "acks", "request.required.acks", "enable.idempotence"))
_LASTING = (
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.INVALID_RECORD,
)


class KafkaNotifier:
    """One topic, with a producer of its own."""

    def __init__(self, receiver: KafkaReceiver, secrets: Secrets, timeout_s: float) -> None:
        """Raises InvalidInput for settings that the client refuses."""
        self._topic = receiver.topic
        self._timeout_s = timeout_s
        self._settings = _settings(receiver, secrets, timeout_s)
        self._producer = self._made()

    def send(self, message: Message) -> None:
        """Delivered when every replica in sync has it."""
        told: list[Any] = []
        try:
            self._producer.produce(
                self._topic,
                json.dumps(document(message), ensure_ascii=False, allow_nan=False).encode(),
                (message.ordering or message.key).encode(),
                headers=headers(message),
                on_delivery=lambda error, _: told.append(error),
            )
            self._producer.flush(self._timeout_s + 1)
        except BufferError:
            raise Undelivered("the Kafka client's queue is full", is_passing=True) from None
        except KafkaException as error:
            raise _undelivered(error.args[0]) from None
        if not told:
            self._producer = self._made()  # this one may hold it still
            raise Undelivered("no broker confirmed it in time", is_passing=True)
        if told[0] is not None:
            if told[0].fatal():
                self._producer = self._made()
            raise _undelivered(told[0])

    def _made(self) -> Producer:
        silent = logging.getLogger("trueup.notifying.kafka")  # the client's own lines hold addresses
        silent.propagate = False
        if not silent.handlers:
            silent.addHandler(logging.NullHandler())
        try:
            return Producer(self._settings, logger=silent)
        except (KafkaException, ValueError, TypeError):
            raise InvalidInput(
                "the Kafka client refuses its settings", next_step="check `client` and the secrets"
            ) from None


def _settings(receiver: KafkaReceiver, secrets: Secrets, timeout_s: float) -> dict[str, Any]:
    chosen = {**receiver.client, **secrets.all()}
    wrong = sorted(OURS & set(chosen))
    if wrong:
        raise InvalidInput(f"{', '.join(wrong)} cannot be set: delivery rests on it")
    return {
        "client.id": "trueup-notifying",
        "socket.timeout.ms": max(1_000, int(timeout_s * 1_000)),
        "linger.ms": 0,
        **chosen,
        "bootstrap.servers": receiver.bootstrap,
        "enable.idempotence": True,
        "delivery.timeout.ms": max(1_000, int(timeout_s * 1_000)),
    }


def headers(message: Message) -> list[tuple[str, str | bytes | None]]:
    """CloudEvents 1.0 over Kafka, binary mode."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", str(identity_of(message)).encode()),
        ("ce_source", b"trueup"),
        ("ce_type", f"trueup.{message.kind}".encode()),
        ("ce_subject", message.subject.encode()),
        ("content-type", b"application/json"),
    ]


def _undelivered(error: Any) -> Undelivered:
    name = error.name() if isinstance(error, KafkaError) else type(error).__name__
    lasting = isinstance(error, KafkaError) and error.code() in _LASTING
    return Undelivered(f"Kafka did not take it ({name})", is_passing=not lasting)
