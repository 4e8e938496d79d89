"""The AsyncAPI 3.0 document of the deployments that declare streams: what their topics carry, each way."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from trueup.domain.batch import RefusalReason, Status
from trueup.domain.contract import Contract, Field, FieldType
from trueup.domain.deployment import Deployment
from trueup.domain.stream import Stream
from trueup.doors.kafka.paths import VALUE, Place, parsed
from trueup.doors.kafka.replies import TYPE
from trueup.settings import Streaming

Schema = dict[str, Any]

_TYPES: dict[FieldType, Schema] = {
    FieldType.FLOAT64: {"type": "number", "format": "double"},
    FieldType.INT64: {"type": "integer", "format": "int64"},
    FieldType.BOOL: {"type": "boolean"},
    FieldType.STRING: {"type": "string"},
    FieldType.CATEGORY: {"type": "string"},
    FieldType.DATE: {"type": "string", "format": "date"},
    FieldType.TIMESTAMP: {"type": "string", "format": "date-time"},
    FieldType.DECIMAL: {"type": ["string", "number"]},
}
_CONTENT = {"json": "application/json", "cloudevents": "application/json", "avro": "application/vnd.apache.avro",
            "protobuf": "application/x-protobuf"}  # fmt: skip
_TEXT: Schema = {"type": "string"}
_CLOUD_EVENT: Schema = {
    "ce_specversion": {"type": "string", "const": "1.0"},
    "ce_id": _TEXT,
    "ce_source": {"type": "string", "format": "uri-reference"},
    "ce_type": _TEXT,
}
_SASL = {"PLAIN": "plain", "SCRAM-SHA-256": "scramSha256", "SCRAM-SHA-512": "scramSha512", "GSSAPI": "gssapi"}
_EPOCH = dt.date(1970, 1, 1)


def document(deployments: Sequence[Deployment], bounds: Streaming, version: str) -> dict[str, Any]:
    """The document. Addresses are in it, secrets and credentials are not. Raises InvalidInput."""
    servers = _servers(bounds)
    made = _Document(list(servers))
    for deployment in deployments:
        stream = deployment.serving.stream
        if stream is not None:
            made.add(deployment, stream)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "trueup streams",
            "version": version,
            "description": "What each deployment reads and answers",
        },
        "defaultContentType": "application/json",
        "servers": servers,
        "channels": made.channels,
        "operations": made.operations,
        "components": {"schemas": made.schemas},
    }


class _Document:
    """Channels, operations and schemas so far. A channel is a topic, whoever reads and writes it."""

    def __init__(self, servers: Sequence[str]) -> None:
        self._servers = [{"$ref": f"#/servers/{name}"} for name in servers]
        self.channels: dict[str, Any] = {}
        self.operations: dict[str, Any] = {}
        self.schemas: dict[str, Schema] = {}

    def add(self, deployment: Deployment, stream: Stream) -> None:
        """A deployment's topics."""
        of, contract = _id(deployment.name), deployment.champion.contract
        self.schemas[f"{of}.instance"] = instance = _instance(stream, contract)
        self._operation(of, "read", "receive", stream.topic, _record(of, stream, contract, instance))
        if stream.replies is not None:
            self.schemas[f"{of}.answer"] = _answer(deployment)
            self._operation(of, "reply", "send", stream.replies, _reply(of, deployment))
            self.operations[f"{of}.read"]["reply"] = {"channel": {"$ref": f"#/channels/{stream.replies}"}}
        if stream.dead_letters is not None:
            self._operation(of, "dead_letter", "send", stream.dead_letters, _dead_letter(deployment))

    def _operation(self, of: str, what: str, action: str, topic: str, message: dict[str, Any]) -> None:
        empty = {"address": topic, "servers": self._servers, "messages": {}}
        self.channels.setdefault(topic, empty)["messages"][f"{of}.{what}"] = message
        self.operations[f"{of}.{what}"] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{topic}"},
            "summary": message["summary"],
            "messages": [{"$ref": f"#/channels/{topic}/messages/{of}.{what}"}],
        }


def _servers(bounds: Streaming) -> dict[str, Any]:
    client = {name: value.upper() for name, value in bounds.client.items()}
    protocol = client.get("security.protocol", "PLAINTEXT")
    server: dict[str, Any] = {"protocol": "kafka-secure" if "SSL" in protocol else "kafka"}
    mechanism = _SASL.get(client.get("sasl.mechanism", client.get("sasl.mechanisms", "")))
    if "SASL" in protocol and mechanism is not None:
        server["security"] = [{"type": mechanism}]
    if "url" in bounds.registry:
        registry = {"schemaRegistryUrl": _without_user(bounds.registry["url"]), "schemaRegistryVendor": "confluent"}
        server["bindings"] = {"kafka": {**registry, "bindingVersion": "0.5.0"}}
    hosts = [host.strip().rpartition("@")[2] for host in bounds.bootstrap.split(",") if host.strip()]
    return {f"kafka{i}": {"host": host, **server} for i, host in enumerate(hosts, 1)}


def _record(of: str, stream: Stream, contract: Contract, instance: Schema) -> dict[str, Any]:
    """What is read of the topic."""
    message: dict[str, Any] = {
        "summary": f"instances of {contract.name}, version {contract.version}",
        "contentType": _CONTENT.get(stream.format, "application/octet-stream"),
        "x-trueup-stream": {
            "format": stream.format,
            "instances": stream.instances,
            "fields": dict(stream.fields),
            "identity": stream.identity or "the record's cluster, topic, partition and offset",
            "event_time": stream.event_time or contract.event_time or "when the record was appended",
        },
    }
    ref = {"$ref": f"#/components/schemas/{of}.instance"}
    if stream.format in ("json", "cloudevents"):
        message["payload"] = _payload(stream, contract, ref)
    else:
        message["x-trueup-instance"] = ref
    headers = _around(stream, contract, "headers")
    if stream.format == "cloudevents":
        message["description"] = "in binary mode; the structured mode and batches are read as well"
        headers = {**_CLOUD_EVENT, **headers}
    if headers:
        required = list(_CLOUD_EVENT) if stream.format == "cloudevents" else []
        message["headers"] = {"type": "object", "properties": headers, "required": required}
    return message


def _instance(stream: Stream, contract: Contract) -> Schema:
    """One instance, as it lies in a record."""
    if not stream.fields:
        found: Schema = _object(contract)
        for text, what in _declared(stream):
            words = Place(text, parsed(stream.instances)).within
            if words:
                _put(found, words, {"description": what}, required=False)
        return found
    found = {"type": "object", "properties": {}}
    for name, text in stream.fields:
        field, words = contract.by_name[name], Place(text, parsed(stream.instances)).within
        if words == ():
            return field_schema(field)
        if words is not None:
            _put(found, words, field_schema(field), required=not field.nullable)
    return found


def _object(contract: Contract) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [f.name for f in contract.fields if not f.nullable],
        "properties": {f.name: field_schema(f) for f in contract.fields},
    }


def _payload(stream: Stream, contract: Contract, ref: Schema) -> Schema:
    """The record's value: the instance or a list of them, at its path, and what lies around it."""
    at = parsed(stream.instances)
    either: Schema = {"oneOf": [ref, {"type": "array", "items": ref}]}
    if at == VALUE:
        return either
    found: Schema = {"type": "object", "properties": {}}
    if at.root == "value":
        _put(found, at.words, either, required=True)
    for words, schema in _paths_around(stream, contract, "value"):
        _put(found, words, schema, required=False)
    return found


def _around(stream: Stream, contract: Contract, root: str) -> dict[str, Schema]:
    return {words[0]: schema for words, schema in _paths_around(stream, contract, root) if len(words) == 1}


def _paths_around(stream: Stream, contract: Contract, root: str) -> list[tuple[tuple[str, ...], Schema]]:
    """What is declared to lie in a part of the record, and not in the instance."""
    instances = parsed(stream.instances)
    named = [(text, field_schema(contract.by_name[name])) for name, text in stream.fields]
    named += [(text, {"description": what}) for text, what in _declared(stream)]
    places = [(Place(text, instances), schema) for text, schema in named]
    return [(p.path.words, schema) for p, schema in places if p.within is None and p.path.root == root]


def _declared(stream: Stream) -> list[tuple[str, str]]:
    found = [(stream.identity, "the event's own id"), (stream.event_time, "when the event happened")]
    return [(text, what) for text, what in found if text is not None and "." in text]


def _put(tree: Schema, words: Sequence[str], schema: Schema, *, required: bool) -> None:
    """Puts a schema where the words lead; what lies in a list is told as a list."""
    for i, word in enumerate(words):
        last = i == len(words) - 1
        follows_list = not last and words[i + 1].isdigit()
        properties = tree.setdefault("properties", {})
        if required and word not in tree.setdefault("required", []):
            tree["required"].append(word)
        if last or follows_list:
            properties.setdefault(word, {"type": "array"} if follows_list else schema)
            return
        tree = properties.setdefault(word, {"type": "object"})


def field_schema(field: Field) -> Schema:
    """A field's JSON Schema, as the decoder reads it."""
    found: Schema = dict(_TYPES[field.type])
    said = [field.description, f"in {field.unit}" if field.unit else ""]
    if field.type is FieldType.DECIMAL:
        said.append(f"decimal({field.precision},{field.scale}), as text where digits matter")
    if field.type in (FieldType.FLOAT64, FieldType.INT64):
        bounds = {"minimum": field.minimum, "maximum": field.maximum}
        found |= {name: bound for name, bound in bounds.items() if bound is not None}
    else:
        said += [f"{word} {_shown(field, bound)}" for word, bound in
                 (("at least", field.minimum), ("at most", field.maximum)) if bound is not None]  # fmt: skip
    if field.categories:
        found |= {"examples" if field.categories_open else "enum": list(field.categories)}
    if field.nullable:
        kinds = found["type"] if isinstance(found["type"], list) else [found["type"]]
        found["type"] = [*kinds, "null"]
        if "enum" in found:
            found["enum"] = [*found["enum"], None]
    special = ["NaN"] * field.allow_nan + ["Infinity", "-Infinity"] * field.allow_infinity
    if special:
        found = {"anyOf": [found, {"type": "string", "enum": special}]}
    text = "; ".join(filter(None, said))
    return {**found, "description": text} if text else found


def _shown(field: Field, bound: float | int | str) -> str:
    if field.type is FieldType.DATE:
        return (_EPOCH + dt.timedelta(days=int(bound))).isoformat()
    if field.type is FieldType.TIMESTAMP:
        return (dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=int(bound))).isoformat()
    return str(bound)


def _reply(of: str, deployment: Deployment) -> dict[str, Any]:
    headers = {
        **_CLOUD_EVENT,
        "ce_type": {"type": "string", "const": TYPE.decode()},
        "ce_subject": {"type": "string", "description": "the business key, percent-encoded"},
        "content-type": {"type": "string", "const": "application/json"},
    }
    return {
        "summary": f"answers of {deployment.name}",
        "description": "a CloudEvent in binary mode; its id is the prediction's, also of one that is sent twice",
        "contentType": "application/json",
        "headers": {"type": "object", "properties": headers, "required": [*_CLOUD_EVENT, "content-type"]},
        "payload": {"$ref": f"#/components/schemas/{of}.answer"},
        "bindings": {"kafka": {"key": {"type": "string", "format": "uuid"}, "bindingVersion": "0.5.0"}},
    }


def _answer(deployment: Deployment) -> Schema:
    """As ``replies.py`` makes it: what an answer does not have is left out."""
    contract = deployment.champion.contract
    rule, classes = contract.decision, contract.output.classes
    properties: dict[str, Schema] = {
        "deployment": {"type": "string", "const": deployment.name},
        "prediction_id": {"type": "string", "format": "uuid"},
        "model_version": _TEXT,
        "business_key": _TEXT,
        "source": _TEXT,
        "source_key": {"type": "string", "description": "partition/offset of the record and, after the first, the "
                                                        "instance's place in it; or the event's own id"},
        "status": {"type": "string", "enum": [str(status) for status in Status]},
        "score": {"type": "number"},
        "outputs": {"type": "array", "items": {"type": ["number", "null"]}},
        "class": {"type": "string", **({"enum": list(classes)} if classes else {})},
        "decision": {"type": "string", **({"enum": [rule.at_or_above, rule.below]} if rule is not None else {})},
        "expected_cost": {"type": "number"},
    }  # fmt: skip
    required = ["deployment", "prediction_id", "model_version", "source", "source_key", "status"]
    return {"type": "object", "properties": properties, "required": required}


def _dead_letter(deployment: Deployment) -> dict[str, Any]:
    headers: dict[str, Schema] = {
        "trueup_reason": {"type": "string", "enum": [str(reason) for reason in RefusalReason]},
        "trueup_detail": {"type": "string", "description": "codes and names of fields"},
        "trueup_deployment": {"type": "string", "const": deployment.name},
        "trueup_position": {"type": "string", "description": "cluster/topic/partition/offset"},
        "trueup_places": {"type": "string", "description": "zero-based places of the refused instances, where not all"},
    }
    return {
        "summary": f"records that {deployment.name} could not answer",
        "description": "key, value and headers as they were received, and these headers beside them",
        "contentType": "application/octet-stream",
        "headers": {"type": "object", "properties": headers, "required": list(headers)[:4]},
    }


def _id(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
