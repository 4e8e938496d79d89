"""Tokens of an OpenID Connect issuer, over its real protocol: discovery, keys, rotation, outage, forgery."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc import jws
from pydantic import ValidationError

from issuers import Issuer, b64, issuing, key
from trueup.bootstrap import wired
from trueup.doors.auth import ApiRole, Gate, MemoryApiKeys, Permission, open_gate, open_keys
from trueup.doors.auth.issuer import IssuerAway, IssuerKeys, fetching, public_key
from trueup.doors.auth.oidc import OidcTokens, open_tokens, values_at
from trueup.errors import Forbidden, Unauthenticated, Unavailable
from trueup.ledger.urls import Urls
from trueup.settings import Oidc, OidcRole, Settings

ROLES = {
    "desk": OidcRole(role="scorer", deployments=["fails"]),
    "everyone": OidcRole(role="reader"),
    "chief": OidcRole(role="admin"),
}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuing() as started:
        yield started


def oidc(issuer: Issuer, **changes: Any) -> Oidc:
    known: dict[str, Any] = {"issuer": issuer.url, "roles_claim": "realm_access.roles", "roles": ROLES}
    return Oidc(**known | changes)


@pytest.fixture
def tokens(issuer: Issuer) -> Iterator[OidcTokens]:
    with open_tokens(oidc(issuer)) as opened:
        yield opened


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def moved(issuer: Issuer, clock: Clock) -> Iterator[OidcTokens]:
    """Tokens whose clock the test moves; none is remembered, so that each asks for its key."""
    with httpx2.Client(timeout=2) as client:
        settings = oidc(issuer, token_s=0, refetch_s=30, fresh_s=300, stale_s=3_600, fetch_timeout_s=1)
        yield OidcTokens(settings, IssuerKeys(settings, fetching(settings, client), clock), clock=clock)


class TestWhoIsLetIn:
    def test_a_token_is_its_subject_with_the_roles_of_its_claim(self, issuer: Issuer, tokens: OidcTokens) -> None:
        caller = tokens.authenticate(issuer.token())
        assert caller.actor == "oidc:anna"
        caller.require(Permission.SCORE, "fails")
        with pytest.raises(Forbidden):
            caller.require(Permission.SCORE, "other")
        with pytest.raises(Forbidden):
            caller.require(Permission.DEPLOY, "fails")

    def test_several_values_are_several_grants(self, issuer: Issuer, tokens: OidcTokens) -> None:
        found = {"roles": ["desk", "everyone", "of-another-system", 7, None]}
        caller = tokens.authenticate(issuer.token(realm_access=found))
        assert [g.role for g in caller.grants] == [ApiRole.SCORER, ApiRole.READER]
        assert caller.may(Permission.READ, "other")
        assert not caller.may(Permission.SCORE, "other")

    @pytest.mark.parametrize("claim", [..., None, {}, {"roles": None}, {"roles": {}}, [], "desk", {"roles": ["Desk"]}])
    def test_who_has_no_role_of_ours_is_known_and_may_nothing(
        self, issuer: Issuer, tokens: OidcTokens, claim: Any
    ) -> None:
        caller = tokens.authenticate(issuer.token(realm_access=claim))
        with pytest.raises(Forbidden, match="no role"):
            caller.require(Permission.READ)

    @pytest.mark.parametrize(
        ("claims", "path", "expected"),
        [
            ({"groups": ["a", "b"]}, "groups", ["a", "b"]),
            ({"scope": "a b"}, "scope", ["a", "b"]),
            ({"x": {"y": {"z": ["a"]}}}, "x.y.z", ["a"]),
            ({"https://bank.example/roles": ["a"]}, "https://bank.example/roles", ["a"]),
            ({"x": "text"}, "x.y", []),
            ({"groups": ["a"] * 5_000}, "groups", ["a"] * 1_000),
        ],
    )
    def test_a_claim_is_found_by_name_or_path(self, claims: dict[str, Any], path: str, expected: list[str]) -> None:
        assert values_at(claims, path) == expected

    def test_the_audience_may_be_one_of_several(self, issuer: Issuer, tokens: OidcTokens) -> None:
        assert tokens.authenticate(issuer.token(aud=["other", "trueup"]))

    def test_other_asymmetric_keys_work_where_they_are_allowed(self, issuer: Issuer) -> None:
        issuer.keys = [key("curve", "EC"), key("edwards", "OKP"), key("one")]
        with open_tokens(oidc(issuer, algorithms=["ES256", "Ed25519", "PS256"])) as tokens:
            assert tokens.authenticate(issuer.token(by=key("curve"), alg="ES256"))
            assert tokens.authenticate(issuer.token(by=key("edwards"), alg="Ed25519"))
            assert tokens.authenticate(issuer.token(by=key("one"), alg="PS256"))
            with pytest.raises(Unauthenticated):
                tokens.authenticate(issuer.token(by=key("one"), alg="RS256"))

    def test_without_an_id_the_only_key_that_suits_is_taken(self, issuer: Issuer, tokens: OidcTokens) -> None:
        issuer.keys = [key("one"), key("curve", "EC")]
        assert tokens.authenticate(issuer.token(header={"kid": ...}))

    def test_keys_may_be_named_without_discovery(self, issuer: Issuer) -> None:
        with open_tokens(oidc(issuer, jwks_url=f"{issuer.url}/keys")) as tokens:
            assert tokens.authenticate(issuer.token())
        assert issuer.asked == ["/keys"]


class TestWhoIsNot:
    @pytest.mark.parametrize(
        "changes",
        [
            {"iss": "https://evil.example"}, {"iss": ...}, {"iss": ["x"]}, {"aud": "other"}, {"aud": ...}, {"aud": []},
            {"aud": ["other"]}, {"aud": {"trueup": 1}}, {"sub": ...}, {"sub": ""}, {"sub": 7}, {"sub": None},
            {"sub": "x" * 256}, {"sub": "a\nb"}, {"exp": ...}, {"exp": 1}, {"exp": "9999999999"}, {"exp": None},
            {"exp": True}, {"nbf": 9_999_999_999}, {"iat": 9_999_999_999}, {"nbf": "x"}, {"iat": []},
        ],
        ids=str,
    )  # fmt: skip
    def test_a_claim_that_is_not_as_it_must_be(
        self, issuer: Issuer, tokens: OidcTokens, changes: dict[str, Any]
    ) -> None:
        with pytest.raises(Unauthenticated):
            tokens.authenticate(issuer.token(**changes))

    def test_the_issuers_clock_may_differ_a_little(self, issuer: Issuer, tokens: OidcTokens) -> None:
        now = int(time.time())
        assert tokens.authenticate(issuer.token(exp=now - 20, iat=now - 100, nbf=now - 100))
        assert tokens.authenticate(issuer.token(iat=now + 20, nbf=now + 20))
        for changes in ({"exp": now - 31}, {"iat": now + 35}, {"nbf": now + 35}):
            with pytest.raises(Unauthenticated):
                tokens.authenticate(issuer.token(**changes))

    def test_a_claim_that_the_settings_require(self, issuer: Issuer) -> None:
        with open_tokens(oidc(issuer, required_claims=["azp"])) as tokens:
            assert tokens.authenticate(issuer.token(azp="front-end"))
            with pytest.raises(Unauthenticated, match="missing claim"):
                tokens.authenticate(issuer.token())

    def test_no_signature_and_no_other_persons_signature(self, issuer: Issuer, tokens: OidcTokens) -> None:
        good = issuer.token()
        head, body, signature = good.split(".")
        other = issuer.token(by=key("forger"), header={"kid": "one"})
        forged = {
            "none": f"{b64({'alg': 'none'})}.{body}.",
            "NONE": f"{b64({'alg': 'NONE', 'kid': 'one'})}.{body}.{signature}",
            "stripped": f"{head}.{body}.",
            "confused": issuer.confused(),
            "forger": other,
            "changed": f"{head}.{b64(issuer.claims(sub='boss'))}.{signature}",
            "own key": issuer.signed(
                {"alg": "RS256", "kid": "forger", "jwk": key("forger").as_dict(private=False)}, key("forger")
            ),
            "own keys' address": issuer.signed(
                {"alg": "RS256", "kid": "f", "jku": "http://127.0.0.1:1/"}, key("forger")
            ),
            "critical": issuer.signed({"alg": "RS256", "kid": "one", "crit": ["new"], "new": 1}, key("one")),
        }
        assert tokens.authenticate(issuer.signed({"alg": "RS256", "kid": "one", "new": 1}, key("one")))
        for how, text in forged.items():
            with pytest.raises(Unauthenticated):
                pytest.fail(f"{how}: {tokens.authenticate(text)}")
        assert tokens.authenticate(good)

    @pytest.mark.parametrize(
        "text",
        [
            "", ".", "..", "...", "a.b", "a.b.c.d.e", "tu_x", "é.b.c", "a.b.c\n", "\0.\0.\0", "{}.{}.{}",
            f"{b64([])}.{b64({})}.x", f"{b64('x')}.{b64({})}.x", f"{b64({})}.{b64({})}.x",
            f"{b64({'alg': ['RS256']})}.{b64({})}.x", f"{b64({'alg': 'RS256', 'kid': {}})}.{b64({})}.x",
            f"{b64({'alg': 'RS256', 'kid': 'one', 'crit': 7})}.{b64({})}.x",
            f"{b64(b'[' * 3_000)}.{b64({})}.x", f"{b64(b'{' * 50)}.{b64({})}.x", f"{b64(b'1' * 5_000)}.{b64({})}.x",
            "x." * 2 + "y" * 9_000, "." * 100_000,
        ],
        ids=lambda text: text[:12],
    )  # fmt: skip
    def test_any_other_text_is_refused_in_our_own_words(self, tokens: OidcTokens, text: str) -> None:
        with pytest.raises(Unauthenticated, match="the token is not accepted") as refused:
            tokens.authenticate(text)
        assert text == "" or len(text) < 4 or text not in str(refused.value)

    @pytest.mark.parametrize("payload", [b"[]", b"7", b"\xff", b"{", b"[" * 3_000, b'{"exp": 1e999}', b'{"exp": NaN}'])
    def test_signed_nonsense_is_nonsense(self, issuer: Issuer, tokens: OidcTokens, payload: bytes) -> None:
        text = jws.serialize_compact({"alg": "RS256", "kid": "one"}, payload, key("one"), algorithms=["RS256"])
        with pytest.raises(Unauthenticated):
            tokens.authenticate(text)

    def test_a_huge_token_costs_nothing(self, issuer: Issuer, tokens: OidcTokens) -> None:
        text = "a." + "b" * 50_000_000 + ".c"
        tracemalloc.start()
        for ask in (tokens.known, tokens.authenticate):
            with pytest.raises(Unauthenticated):
                ask(text)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()
        assert issuer.asked == []


class TestMemory:
    def test_a_verified_token_is_known_from_memory(self, issuer: Issuer, tokens: OidcTokens) -> None:
        text = issuer.token()
        assert tokens.known(text) is None
        assert tokens.known(issuer.token(sub="other")) is None
        caller = tokens.authenticate(text)
        issuer.away = True
        assert tokens.known(text) is caller
        assert tokens.authenticate(text) is caller

    def test_it_is_forgotten_when_it_ends_and_after_the_time_of_the_settings(self, issuer: Issuer) -> None:
        clock = Clock()
        settings = oidc(issuer, token_s=60)
        with httpx2.Client() as client:
            tokens = OidcTokens(settings, IssuerKeys(settings, fetching(settings, client)), clock=clock)
            now = int(time.time())
            short, long = issuer.token(exp=now + 10), issuer.token(exp=10**300)
            tokens.authenticate(short)
            tokens.authenticate(long)
            clock.now += 11
            assert (tokens.known(short), tokens.known(long) is None) == (None, False)
            clock.now += 50
            assert tokens.known(long) is None

    def test_only_so_many_are_remembered(self, issuer: Issuer) -> None:
        with open_tokens(oidc(issuer, tokens=2)) as tokens:
            texts = [issuer.token(sub=name) for name in "abc"]
            for text in texts:
                tokens.authenticate(text)
            assert [tokens.known(text) is not None for text in texts] == [False, True, True]
            assert len(tokens._verified) == 2

    def test_refused_ones_are_not_remembered(self, issuer: Issuer, tokens: OidcTokens) -> None:
        for i in range(5):
            with pytest.raises(Unauthenticated):
                tokens.authenticate(issuer.token(sub=str(i), aud="other"))
        assert len(tokens._verified) == 0


class TestRotation:
    def test_a_new_key_is_known_when_it_is_first_used(self, issuer: Issuer, clock: Clock, moved: OidcTokens) -> None:
        moved.authenticate(issuer.token())
        issuer.keys = [key("two"), key("one")]
        clock.now += 31
        assert moved.authenticate(issuer.token(by=key("two")))
        assert moved.authenticate(issuer.token(by=key("one")))
        assert issuer.asked.count("/keys") == 2

    def test_a_retired_key_is_out_when_its_keys_are_fetched_anew(
        self, issuer: Issuer, clock: Clock, moved: OidcTokens
    ) -> None:
        old = issuer.token(exp=int(time.time()) + 10_000)
        moved.authenticate(old)
        issuer.keys = [key("two")]
        clock.now += 299
        assert moved.authenticate(old)
        clock.now += 2
        with pytest.raises(Unauthenticated):
            moved.authenticate(old)

    def test_a_flood_of_made_up_ids_is_one_fetch(self, issuer: Issuer, clock: Clock, moved: OidcTokens) -> None:
        moved.authenticate(issuer.token())
        for i in range(50):
            with pytest.raises(Unauthenticated):
                moved.authenticate(issuer.token(by=key("forger"), header={"kid": f"made up {i}"}))
        assert issuer.asked.count("/keys") == 1
        clock.now += 31
        for i in range(50):
            with pytest.raises(Unauthenticated):
                moved.authenticate(issuer.token(by=key("forger"), header={"kid": f"made up {i}"}))
        assert issuer.asked.count("/keys") == 2
        assert moved.authenticate(issuer.token())

    def test_many_first_callers_fetch_once(self, issuer: Issuer, tokens: OidcTokens) -> None:
        issuer.slow_s = 0.2

        def ask(text: str) -> str:
            try:
                return tokens.authenticate(text).actor
            except Unavailable:
                return "again"

        with ThreadPoolExecutor(16) as pool:
            found = set(pool.map(ask, [issuer.token(sub=str(i)) for i in range(16)]))
        assert issuer.asked.count("/keys") == 1
        assert any(name.startswith("oidc:") for name in found)


class TestOutage:
    def test_held_keys_are_taken_up_to_their_bound(self, issuer: Issuer, clock: Clock, moved: OidcTokens) -> None:
        text = issuer.token(exp=int(time.time()) + 10_000)
        moved.authenticate(text)
        issuer.away = True
        for _ in range(11):
            clock.now += 301
            assert moved.authenticate(text)
        clock.now += 301
        with pytest.raises(Unavailable, match="does not answer"):
            moved.authenticate(text)
        issuer.away = False
        clock.now += 31
        assert moved.authenticate(text)

    def test_an_unknown_key_cannot_be_judged_while_the_issuer_is_away(
        self, issuer: Issuer, clock: Clock, moved: OidcTokens
    ) -> None:
        moved.authenticate(issuer.token())
        issuer.away = True
        clock.now += 31
        with pytest.raises(Unavailable):
            moved.authenticate(issuer.token(by=key("two")))

    def test_while_it_was_never_there_nobody_is_let_in(self, issuer: Issuer, moved: OidcTokens) -> None:
        issuer.away = True
        for _ in range(20):
            with pytest.raises(Unavailable):
                moved.authenticate(issuer.token())
        assert len(issuer.asked) == 1

    def test_a_hanging_issuer_stops_nobody_whose_key_is_held(
        self, issuer: Issuer, clock: Clock, moved: OidcTokens
    ) -> None:
        text = issuer.token(exp=int(time.time()) + 10_000)
        moved.authenticate(text)
        clock.now += 301
        issuer.slow_s = 3
        with ThreadPoolExecutor(4) as pool:
            began = time.monotonic()
            found = list(pool.map(lambda _: (moved.authenticate(text), time.monotonic() - began)[1], range(4)))
        assert sorted(found)[2] < 0.5
        assert max(found) < 3

    @pytest.mark.parametrize(
        ("path", "answer"),
        [
            ("/keys", (200, {}, b"x" * 600_000)),
            ("/keys", (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b")),
            ("/keys", (302, {"Location": "/.well-known/openid-configuration"}, b"")),
            ("/keys", (200, {}, b"[]")),
            ("/keys", (200, {}, b"{}")),
            ("/keys", (200, {}, b'{"keys": []}')),
            ("/keys", (200, {}, b'{"keys": [7, {}, {"kty": "oct", "k": "c2VjcmV0", "kid": "one"}]}')),
            ("/keys", (200, {}, b"[" * 100_000)),
            ("/keys", (200, {}, b'{"keys": [' + b"{}," * 200 + b"{}]}")),
            ("/.well-known/openid-configuration", (200, {}, b'{"issuer": "https://evil.example", "jwks_uri": "x"}')),
            ("/.well-known/openid-configuration", (404, {}, b"{}")),
        ],
        ids=lambda given: str(given)[:30],
    )
    def test_documents_that_are_not_what_they_must_be(
        self, issuer: Issuer, moved: OidcTokens, path: str, answer: tuple[int, dict[str, str], bytes]
    ) -> None:
        issuer.answers[path] = answer
        with pytest.raises(Unavailable):
            moved.authenticate(issuer.token())

    @pytest.mark.parametrize("address", ["http://keys.example/k", "file:///etc/passwd", "ftp://x/", "//x", "", None, 7])
    def test_the_discovery_document_may_not_lead_anywhere(
        self, issuer: Issuer, moved: OidcTokens, address: Any
    ) -> None:
        document = json.dumps({"issuer": issuer.url, "jwks_uri": address}).encode()
        issuer.answers["/.well-known/openid-configuration"] = (200, {}, document)
        with pytest.raises(Unavailable):
            moved.authenticate(issuer.token())
        assert issuer.asked == ["/.well-known/openid-configuration"]

    def test_a_document_that_drips_is_given_up(self, issuer: Issuer) -> None:
        issuer.slow_s = 2
        settings = oidc(issuer, fetch_timeout_s=0.2)
        with httpx2.Client(timeout=0.2) as client, pytest.raises(IssuerAway):
            fetching(settings, client)(f"{issuer.url}/keys")


class TestKeys:
    def test_only_public_keys_for_signatures_are_taken(self) -> None:
        good = key("one").as_dict(private=False)
        assert public_key(good) is not None
        private = public_key(key("one").as_dict(private=True))
        assert private is not None
        assert not private.is_private
        weak = {**good, "n": good["n"][:171]}
        for bad in (weak, {**good, "use": "enc"}, {**good, "key_ops": ["encrypt"]}, {**good, "kty": "oct"},
                    {**good, "n": 7}, {**good, "n": "!"}, {"kty": "EC", "crv": "x"}, {"kty": ["RSA"]},
                    7, None):  # fmt: skip
            assert public_key(bad) is None, bad

    def test_a_key_signs_only_by_its_own_algorithm(self, issuer: Issuer, tokens: OidcTokens) -> None:
        issuer.keys = []
        issuer.extra = [{**key("one").as_dict(private=False), "alg": "PS256"}]
        with pytest.raises(Unauthenticated):
            tokens.authenticate(issuer.token(by=key("one"), alg="RS256"))
        assert tokens.authenticate(issuer.token(by=key("one"), alg="PS256"))


class TestSettings:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"algorithms": ["HS256"]}, {"algorithms": ["none"]}, {"algorithms": []}, {"issuer": "http://idp.example"},
            {"issuer": "ftp://x"}, {"jwks_url": "http://idp.example/keys"}, {"jwks_url": "https://"},
            {"roles": {"x": {"role": "god"}}}, {"roles": {"x": {"role": "admin", "deployments": ["a"]}}},
            {"fresh_s": 100, "stale_s": 10}, {"audience": ""},
        ],
        ids=str,
    )  # fmt: skip
    def test_what_would_not_be_safe_is_no_setting(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Oidc(**wrong)


class TestBesideKeys:
    def test_keys_and_tokens_come_through_one_gate(self, issuer: Issuer, tokens: OidcTokens) -> None:
        keys = MemoryApiKeys()
        gate = Gate(keys, tokens)
        text = keys.create("a", ApiRole.READER, by="me")[1]
        assert gate.authenticate(text).actor.startswith("key:")
        assert gate.authenticate(issuer.token()).actor == "oidc:anna"
        with pytest.raises(Unauthenticated, match="API key"):
            gate.authenticate("tu_x")

    def test_without_an_issuer_a_token_is_nobody(self, issuer: Issuer) -> None:
        with pytest.raises(Unauthenticated, match="API key"):
            Gate(MemoryApiKeys()).authenticate(issuer.token())
        assert issuer.asked == []

    @pytest.mark.parametrize("away", [False, True])
    def test_a_server_has_the_keys_before_the_first_caller_comes(
        self, issuer: Issuer, fresh_database: Urls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: bool
    ) -> None:
        monkeypatch.setenv("TRUEUP_OIDC__ISSUER", issuer.url)
        monkeypatch.setenv("TRUEUP_OIDC__ROLES", '{"Desk Ops": {"role": "scorer", "deployments": ["fails"]}}')
        issuer.away = away
        with wired(Settings(data_dir=tmp_path), fresh_database) as services, open_gate(services) as gate:
            assert len(issuer.asked) == (1 if away else 2)
            if away:  # the server starts all the same
                with pytest.raises(Unavailable):
                    gate.authenticate(issuer.token())
                return
            issuer.slow_s = 5
            caller = gate.authenticate(issuer.token(roles=["Desk Ops"]))
            assert caller.reach(Permission.SCORE) == {"fails"}
            with open_keys(fresh_database.owner) as keys:
                text = keys.create("a", ApiRole.READER, by="me")[1]
            assert gate.authenticate(text).may(Permission.READ)
