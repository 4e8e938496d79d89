"""What a stream is declared with, and what its clients are made of: wrong things are refused, secrets are not said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import trueup
from trueup.domain.stream import Stream
from trueup.doors.cli.deploying import _serving
from trueup.doors.kafka import confluent
from trueup.doors.kafka.confluent import OURS, ConfluentBroker, client_options
from trueup.doors.kafka.opening import check_fits, registry_client
from trueup.errors import InvalidFile, InvalidInput
from trueup.settings import Streaming

CONTRACT = trueup.load_contract(
    "{name: t, version: 1, fields: {account: {type: string, role: key}, amount: float64}, output: {kind: value}}\n"
)
SASL = {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": "desk"}
OAUTH = {
    "security.protocol": "sasl_ssl",
    "sasl.mechanism": "OAUTHBEARER",
    "sasl.oauthbearer.method": "oidc",
    "sasl.oauthbearer.client.id": "desk",
    "sasl.oauthbearer.token.endpoint.url": "https://issuer.example/token",
    "ssl.ca.location": "/etc/ca.pem",
    "ssl.certificate.location": "/etc/client.pem",
}


def declared(folder: Path, text: str) -> trueup.Serving:
    path = folder / "serving.yaml"
    path.write_text(text)
    found = _serving(path, ())
    assert found is not None
    return found


class TestServingFiles:
    def test_fields_are_a_mapping(self, tmp_path: Path):
        found = declared(
            tmp_path, "stream: {topic: trades, fields: {amount: value.trade.amount, account: key}, replies: scores}"
        )
        fields = (("amount", "value.trade.amount"), ("account", "key"))
        assert found.stream == Stream("trades", fields=fields, replies="scores")

    def test_or_pairs(self, tmp_path: Path):
        found = declared(tmp_path, "stream: {topic: t, fields: [[amount, value.a]]}\noutcomes: {topic: o, fields: {}}")
        assert found.stream == Stream("t", fields=(("amount", "value.a"),))
        assert found.outcomes == Stream("o")

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("stream: {topic: 'no topic!'}", "a topic's name is"),
            ("stream: {topic: ..}", "a topic's name is"),
            ("stream: {topic: t, replies: 'a b'}", "a topic's name is"),
            ("stream: {topic: t, dead_letters: t}", "cannot answer into the topic that it reads"),
            ("stream: {topic: t, fields: {amount: 7}}", "does not say how"),
            ("stream: {topic: t, fields: {7: value.a}}", "does not say how"),
            ("stream: {}", "does not say how"),
            ("stream: [t]", "does not say how"),
        ],
    )
    def test_what_is_wrong_is_said_without_what_it_holds(self, tmp_path: Path, text: str, why: str):
        with pytest.raises(InvalidFile, match=why) as refused:
            declared(tmp_path, text)
        assert "a b" not in refused.value.message
        assert "no topic" not in refused.value.message


class TestFit:
    @pytest.mark.parametrize(
        "declares",
        [
            {"fields": (("amuont", "value.a"),)},
            {"fields": (("amount", "value.a"),)},
            {"fields": (("amount", "valu.a"), ("account", "key"))},
            {"identity": "nothing.at.all"},
            {"identity": "cloudevent"},
            {"format": "nobody-has-it"},
        ],
    )
    def test_a_stream_that_does_not_fit_its_contract_is_refused(self, declares: dict[str, Any]):
        with pytest.raises(InvalidInput):
            check_fits(Stream("t", **declares), CONTRACT, trueup.Settings())

    @pytest.mark.parametrize("name", ["json", "cloudevents", "avro", "protobuf"])
    def test_one_that_fits_is_not_and_no_registry_is_asked(self, name: str):
        check_fits(Stream("t", format=name), CONTRACT, trueup.Settings())


class TestClients:
    @pytest.mark.parametrize("name", sorted(OURS))
    @pytest.mark.parametrize("of", ["client", "client_secrets"])
    def test_what_exactly_once_rests_on_cannot_be_set(self, name: str, of: str):
        with pytest.raises(InvalidInput, match=name) as refused:
            client_options(Streaming(**{of: {name: "hush"}}))
        assert "hush" not in refused.value.message

    @pytest.mark.parametrize("security", [SASL, OAUTH])
    def test_security_reaches_both_clients_and_choices_are_kept(
        self, monkeypatch: pytest.MonkeyPatch, security: dict[str, str]
    ):
        made: list[dict[str, Any]] = []
        for kind in ("Consumer", "Producer"):
            monkeypatch.setattr(confluent, kind, lambda options, **_: made.append(options))
        monkeypatch.setattr(ConfluentBroker, "_cluster_id", lambda self: "c")
        secrets = {"sasl.password": SecretStr("hush"), "ssl.key.password": SecretStr("hush too")}
        chosen = {"compression.type": "zstd", "linger.ms": "50", "fetch.error.backoff.ms": "10"}
        bounds = Streaming(cluster="c", bootstrap="b:1", client=security | chosen, client_secrets=secrets)
        ConfluentBroker("t", "g", bounds)
        for options in made:
            assert (security | chosen).items() <= options.items()
            assert (options["sasl.password"], options["ssl.key.password"]) == ("hush", "hush too")
            assert options["bootstrap.servers"] == "b:1"
        consumer, producer = made
        assert (consumer["enable.auto.commit"], consumer["isolation.level"]) == (False, "read_committed")
        assert producer["enable.idempotence"] is True
        assert "hush" not in repr(bounds)

    def test_kafkas_client_takes_them(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(ConfluentBroker, "_cluster_id", lambda self: "c")
        bounds = Streaming(
            cluster="c", bootstrap="127.0.0.1:1", client=SASL, client_secrets={"sasl.password": SecretStr("hush")}
        )
        broker = ConfluentBroker("t", "g", bounds)
        broker._producer.poll(0)
        broker._consumer.close()

    @pytest.mark.parametrize("client", [{"no.such": "hush"}, {"security.protocol": "hush"}, {"linger.ms": "hush"}])
    def test_a_setting_that_it_does_not_know_is_refused_without_its_value(
        self, client: dict[str, str], capfd: pytest.CaptureFixture[str]
    ):
        with pytest.raises(InvalidInput) as refused:
            ConfluentBroker("t", "g", Streaming(cluster="c", client=client))
        told = capfd.readouterr()
        assert "hush" not in f"{refused.value.message}{refused.value.next_step}{told.out}{told.err}"
        assert refused.value.__cause__ is None

    def test_the_registrys_client_is_made_of_both_settings(self):
        made = registry_client(
            Streaming(
                registry={"url": "http://registry:8081", "max.retries": "2"},
                registry_secrets={"basic.auth.user.info": SecretStr("desk:hush")},
            )
        )._rest_client
        assert (made.base_urls, made.auth, made.max_retries) == (["http://registry:8081"], ("desk", "hush"), 2)
        assert made.timeout == 10

    @pytest.mark.parametrize(
        "registry", [{}, {"url": "hush"}, {"url": "http://r", "hush": "x"}, {"url": "http://r", "timeout": "hush"}]
    )
    def test_a_registrys_setting_that_is_wrong_is_refused(self, registry: dict[str, str]):
        with pytest.raises(InvalidInput) as refused:
            registry_client(Streaming(registry=registry))
        assert "hush" not in refused.value.message
