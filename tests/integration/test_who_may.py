"""Roles per deployment, tokens, rates, headers and hidden admin routes, over every door on a real socket."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from test_inference_http import CONTRACT, body

import trueup
from issuers import Issuer, issuing
from serving import Served, serving
from trueup.bootstrap import wired
from trueup.doors.api.admin import is_admin
from trueup.doors.auth import ApiRole
from trueup.doors.auth.oidc import open_tokens
from trueup.ledger.urls import Urls
from trueup.settings import Oidc, OidcRole, Rates, Settings

OTHER = CONTRACT.replace("name: trade\n", "name: other_trade\n")
MODEL = "python:small_models:share_of_a_million"
ROW = {"account": "007", "amount": 250_000.0, "trades": 3}


@dataclass
class Asked:
    """A door and the headers of one caller."""

    door: Served
    headers: dict[str, str]

    def __call__(self, method: str, path: str, **more: Any) -> Any:
        return self.door.http.request(method, f"http://{self.door.address}{path}", headers=self.headers, **more)


@pytest.fixture
def door(up: trueup.Trueup) -> Iterator[Served]:
    """Three deployments: `mine` and `shared` keep one contract, `theirs` another."""
    up.deploy("mine", contract=CONTRACT, model=MODEL, version="1")
    up.deploy("shared", contract=CONTRACT, model=MODEL, version="1")
    up.deploy("theirs", contract=OTHER, model=MODEL, version="1")
    with serving(up) as served:
        yield served


@pytest.fixture
def asked(door: Served) -> Callable[..., Asked]:
    """A caller of some role, limited to some deployments."""

    def make(role: ApiRole, *names: str) -> Asked:
        text = door.api_keys.create("limited", role, by="test", deployments=names or None)[1]
        return Asked(door, {"Authorization": f"Bearer {text}"})

    return make


INFER = ("/v2/models/{}/infer", "/v2/models/{}/versions/1/infer")


class TestPerDeployment:
    def test_scoring(self, door: Served, asked: Callable[..., Asked]) -> None:
        ask = asked(ApiRole.SCORER, "mine")
        for path in INFER:
            assert ask("POST", path.format("mine"), json=body(1.0)).status_code == 200
            assert ask("POST", path.format("theirs"), json=body(1.0)).status_code == 403
        assert ask("POST", "/v1/deployments/mine/score", json={"instance": ROW}).status_code == 200
        assert ask("POST", "/v1/deployments/theirs/score", json={"instance": ROW}).status_code == 403
        assert door.count(where="deployment <> 'mine'") == 0
        assert door.count("refusals") == 0

    def test_what_exists_and_what_does_not_look_the_same(self, door: Served, asked: Callable[..., Asked]) -> None:
        ask = asked(ApiRole.OPERATOR, "mine")
        calls: list[tuple[str, str, Any]] = [
            ("POST", "/v1/deployments/{}/score", {"instance": ROW}),
            ("GET", "/v1/deployments/{}", None),
            ("GET", "/v1/deployments/{}/measurements", None),
            ("GET", "/v1/predictions?deployment={}", None),
            ("GET", "/v2/models/{}", None),
            ("GET", "/v2/models/{}/versions/1", None),
            ("GET", "/v2/models/{}/ready", None),
            ("POST", "/v2/models/{}/infer", body(1.0)),
            ("POST", "/v2/models/{}/versions/1/infer", body(1.0)),
            ("POST", "/v2/repository/models/{}/load", {}),
            ("POST", "/v2/repository/models/{}/unload", {}),
        ]
        for method, path, sent in calls:
            there, not_there = (ask(method, path.format(name), json=sent) for name in ("theirs", "nothing"))
            assert (there.status_code, there.text) == (not_there.status_code, not_there.text), path
            assert there.status_code == 403
            assert ask(method, path.format("mine"), json=sent).status_code == 200, path

    def test_listings_show_what_may_be_read(self, door: Served, asked: Callable[..., Asked]) -> None:
        ask = asked(ApiRole.READER, "mine", "shared")
        names = ["mine", "shared"]
        assert [d["name"] for d in ask("GET", "/v1/deployments").json()["deployments"]] == names
        assert ask("GET", "/v2/models").json()["models"] == names
        assert [m["name"] for m in ask("POST", "/v2/repository/index").json()] == names
        all_ = asked(ApiRole.READER)
        assert all_("GET", "/v2/models").json()["models"] == [*names, "theirs"]

    def test_predictions(self, door: Served, asked: Callable[..., Asked]) -> None:
        scorer = asked(ApiRole.SCORER)
        ids = {
            name: scorer("POST", f"/v1/deployments/{name}/score", json={"instance": ROW}).json()["prediction_id"]
            for name in ("mine", "theirs")
        }
        ask = asked(ApiRole.READER, "mine")
        listed = ask("GET", "/v1/predictions?business_key=007").json()["predictions"]
        assert [p["deployment"] for p in listed] == ["mine"]
        assert ask("GET", f"/v1/predictions/{ids['mine']}").status_code == 200
        theirs, none = (ask("GET", f"/v1/predictions/{i}") for i in (ids["theirs"], uuid4()))
        assert (theirs.status_code, theirs.text) == (none.status_code, none.text)
        assert theirs.status_code == 404

    def test_contracts_are_read_with_one_of_their_deployments(self, asked: Callable[..., Asked]) -> None:
        ask = asked(ApiRole.READER, "mine")
        assert ask("GET", "/v1/contracts/trade").status_code == 200
        theirs, none = ask("GET", "/v1/contracts/other_trade"), ask("GET", "/v1/contracts/nothing")
        assert (theirs.status_code, theirs.text) == (none.status_code, none.text)
        assert theirs.status_code == 404

    def test_outcomes_need_all_deployments_of_their_contract(self, door: Served, asked: Callable[..., Asked]) -> None:
        def sent(contract: str) -> dict[str, Any]:
            row = {"account": "007", "event_day": "2026-11-20", "value": True}
            return {"contract": contract, "source": "s", "outcomes": [row]}

        one, both = asked(ApiRole.OPERATOR, "mine"), asked(ApiRole.OPERATOR, "mine", "shared")
        assert one("POST", "/v1/outcomes", json=sent("trade")).status_code == 403
        theirs, none = (one("POST", "/v1/outcomes", json=sent(name)) for name in ("other_trade", "nothing"))
        assert (theirs.status_code, theirs.text) == (none.status_code, none.text)
        assert theirs.status_code == 404
        assert door.count("outcomes") == 0
        assert both("POST", "/v1/outcomes", json=sent("trade")).json()["first"] == 1

    def test_deploying(self, door: Served, asked: Callable[..., Asked], tmp_path: Path) -> None:
        import numpy as np
        import xgboost

        width = len(trueup.load_contract(CONTRACT).features)
        booster = xgboost.train(
            {"objective": "binary:logistic"}, xgboost.DMatrix(np.eye(width), np.arange(width) % 2), 1
        )
        booster.save_model(tmp_path / "model.ubj")
        own = CONTRACT.replace("name: trade\n", "name: new_trade\n")
        made = door.up.deploy("mine", contract=own, model=tmp_path / "model.ubj", version="x")
        digest = made.champion.artifacts[0].digest

        def deploy(ask: Asked, name: str, contract: str, version: str) -> int:
            sent = {"name": name, "version": version, "contract": contract,
                    "artifacts": [{"runtime": "xgboost", "digest": digest}]}  # fmt: skip
            answer = ask("POST", "/v1/deployments", json=sent)
            return int(answer.status_code)

        ask = asked(ApiRole.OPERATOR, "mine", "fresh")
        changed = OTHER.replace("version: 1", "version: 2").replace("trades: int64", "trades: float64")
        assert deploy(ask, "theirs", own, "y") == 403
        assert deploy(ask, "nothing", own, "y") == 403
        assert deploy(ask, "fresh", changed, "y") == 403  # others keep that contract
        assert door.up.services.registry.contract("other_trade").version == 1
        assert deploy(ask, "fresh", OTHER, "y") == 201  # the same contract adds nothing
        assert deploy(ask, "fresh", own.replace("new_trade", "newest_trade"), "y") == 201
        assert deploy(asked(ApiRole.SCORER, "mine"), "mine", own, "z") == 403
        assert door.up.services.registry.deployment("fresh").deployed_by.startswith("key:")

    def test_actions_are_recorded_for_ones_own_deployments_and_audited(
        self, door: Served, asked: Callable[..., Asked]
    ) -> None:
        def act(ask: Asked, name: str, key: str) -> int:
            action = {"key": key, "action": "called", "business_key": "007", "event_day": "2026-11-20"}
            sent = ask("POST", "/v1/actions", json={"deployment": name, "actions": [action]})
            return int(sent.status_code)

        theirs, mine, both = (asked(ApiRole.OPERATOR, *of) for of in (["theirs"], ["mine"], ["mine", "shared"]))
        assert act(theirs, "theirs", "1") == 200
        assert act(theirs, "mine", "2") == 403
        assert act(theirs, "nothing", "2") == 403, "whether there is one is not told"
        assert act(mine, "mine", "2") == 403, "the item would be treated for `shared` too, which keeps the contract"
        assert act(both, "mine", "3") == 200
        assert act(asked(ApiRole.SCORER, "theirs"), "theirs", "4") == 403
        recorded = door.up.services.queries.rows("SELECT key, deployment, recorded_by FROM actions ORDER BY key")
        assert [(one["key"], one["deployment"]) for one in recorded] == [("1", "theirs"), ("3", "mine")]
        with door.up.services._pools[1].transaction() as connection:
            audit = connection.execute(
                "SELECT actor, detail FROM ledger.audit WHERE action = 'record actions' ORDER BY audit_id"
            ).fetchall()
        assert audit == [(one["recorded_by"], {"actions": 1}) for one in recorded]
        assert all(one["recorded_by"].startswith("key:") for one in recorded)

    def test_an_action_on_what_is_shared_needs_the_right_role_there_too(self, asked: Callable[..., Asked]) -> None:
        assert asked(ApiRole.SCORER, "mine")("POST", "/v2/repository/models/mine/unload").status_code == 403


class TestTokens:
    @pytest.fixture
    def issuer(self) -> Iterator[Issuer]:
        with issuing() as started:
            yield started

    def test_a_token_opens_what_its_roles_allow_and_the_audit_names_its_subject(
        self, up: trueup.Trueup, issuer: Issuer, tmp_path: Path
    ) -> None:
        roles = {"desk": OidcRole(role="operator", deployments=["mine"]), "everyone": OidcRole(role="reader")}
        settings = Oidc(issuer=issuer.url, roles_claim="groups", roles=roles)
        up.deploy("mine", contract=CONTRACT, model=MODEL, version="1")
        up.deploy("theirs", contract=OTHER, model=MODEL, version="1")
        with open_tokens(settings) as tokens, serving(up, tokens) as door:

            def ask(*groups: str) -> Asked:
                return Asked(door, {"Authorization": f"Bearer {issuer.token(groups=list(groups))}"})

            both, reader, nobody = ask("desk", "everyone"), ask("everyone"), ask("others")
            assert both("POST", "/v2/models/mine/infer", json=body(1.0)).status_code == 200
            assert both("POST", "/v1/deployments/mine/score", json={"instance": ROW}).status_code == 200
            assert both("POST", "/v2/models/theirs/infer", json=body(1.0)).status_code == 403
            assert both("GET", "/v2/models").json()["models"] == ["mine", "theirs"]
            assert ask("desk")("GET", "/v2/models").json()["models"] == ["mine"]
            assert reader("POST", "/v2/models/mine/infer", json=body(1.0)).status_code == 403
            assert nobody("GET", "/v2/models").status_code == nobody("GET", "/v1/deployments").status_code == 403
            for text in (issuer.confused(), issuer.token(aud="other"), "a.b.c", "x" * 20_000):
                for path in ("/v2/models", "/v1/deployments"):
                    refused = Asked(door, {"Authorization": f"Bearer {text}"})("GET", path)
                    assert refused.status_code == 401
                    assert refused.headers["www-authenticate"] == "Bearer"
                    assert text not in refused.text
            revised = door.up.services.deploying.deploy(
                "mine", contract=trueup.load_contract(CONTRACT), models=[MODEL], version="2",
                by=tokens.authenticate(issuer.token(groups=["desk"])).actor,
            )  # fmt: skip
            assert revised.deployed_by == "oidc:anna"
            issuer.away = True
            assert both("GET", "/v2/models").status_code == 200


class TestRates:
    @pytest.fixture
    def slow(self, fresh_database: Urls, tmp_path: Path) -> Iterator[Served]:
        rates = Rates(requests_per_s=0.01, requests_burst=5, instances_per_s=0.01, instances_burst=10,
                      failures_per_s=0.01, failures_burst=3)  # fmt: skip
        with trueup.Trueup(wired(Settings(data_dir=tmp_path, rates=rates), fresh_database)) as up:
            up.deploy("t", contract=CONTRACT, model=MODEL, version="1")
            with serving(up) as served:
                yield served

    def test_one_caller_slowed_down_does_not_slow_another(self, slow: Served) -> None:
        paths = itertools.cycle(("/v2/models", "/v1/deployments"))
        codes = [slow.get(next(paths)).status_code for _ in range(8)]
        assert codes == [200] * 5 + [429] * 3
        for path in ("/v2/models", "/v1/deployments"):
            refused = slow.get(path)
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["retry-after"]) <= 100
            assert slow.get(path, ApiRole.SCORER).status_code == 200
        assert slow.get("/health/live").status_code == slow.get("/v2/health/live").status_code == 200
        assert slow.gate.refused["requests"] == 5

    def test_instances_have_a_rate_of_their_own(self, slow: Served) -> None:
        assert slow.infer(body(*[1.0] * 8)).status_code == 200
        assert slow.infer(body(*[1.0] * 8)).status_code == 429
        sent = {"instances": [ROW] * 8}
        url = f"http://{slow.address}/v1/deployments/t/score"
        assert slow.http.post(url, headers=slow.headers(ApiRole.SCORER), json=sent).status_code == 429
        assert slow.http.post(url, headers=slow.headers(ApiRole.OPERATOR), json=sent).status_code == 200
        assert slow.count() == 16
        assert slow.count("refusals") == 0


def test_made_up_keys_and_tokens_are_bounded_by_address_over_every_door(fresh_database: Urls, tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    from trueup.doors.api.server import create_app
    from trueup.doors.auth import open_gate
    from trueup.doors.inference.server import Front

    rates = Rates(failures_per_s=0.01, failures_burst=4)
    with (
        trueup.Trueup(wired(Settings(data_dir=tmp_path, rates=rates), fresh_database)) as up,
        open_gate(up.services) as gate,
    ):
        front = Front(create_app(up.services, gate), up.services, gate, lambda: False)
        http = TestClient(front, client=("192.0.2.7", 1))
        codes = [
            http.get(path, headers={"X-API-Key": f"tu_{i:016x}_{'A' * 43}"}).status_code
            for i, path in enumerate(("/v2/models", "/v1/deployments") * 4)
        ]
        assert codes == [401] * 4 + [429] * 4
        elsewhere = TestClient(front, client=("192.0.2.8", 1))
        assert elsewhere.get("/v2/models", headers={"X-API-Key": f"tu_{'0' * 16}_{'A' * 43}"}).status_code == 401
        assert (gate.unauthenticated, gate.refused["failures"]) == (5, 4)


class TestAdminApart:
    @pytest.mark.parametrize(
        ("method", "path", "admin"),
        [
            ("POST", "/v1/deployments", True), ("POST", "/v1/deployments/", True), ("PUT", "/v1/deployments", True),
            ("GET", "/v1/deployments", False), ("POST", "/v1/deployments/t/score", False),
            ("POST", "/v2/repository/models/t/load", True), ("POST", "/v2/repository/models/t/unload", True),
            ("GET", "/v2/repository/models/t/load", True), ("POST", "/v2/repository/index", False),
            ("GET", "/metrics", True), ("GET", "/metrics/x", True), ("GET", "/metricsx", False),
            ("POST", "/v2/models/t/infer", False), ("POST", "/v1/outcomes", False), ("GET", "/health/live", False),
            ("POST", "/v2/repository/models/a\nb/load", True),
        ],
    )  # fmt: skip
    def test_what_is_an_admin_route(self, method: str, path: str, admin: bool) -> None:
        assert is_admin(method, path) is admin

    def test_admin_routes_answer_on_their_own_port_alone(
        self, fresh_database: Urls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = Settings(data_dir=tmp_path, admin_port=0)
        with trueup.Trueup(wired(settings, fresh_database)) as up:
            up.deploy("t", contract=CONTRACT, model=MODEL, version="1")
            with served_apart(up) as (public, admin, headers):
                for method, path in (
                    ("POST", "/v1/deployments"),
                    ("POST", "/v2/repository/models/t/load"),
                    ("POST", "/v2/repository/models/t/unload"),
                    ("GET", "/metrics"),
                    ("POST", "/%76%31/deployments"),
                    ("POST", "/v2/repository/models/t/l%6fad"),
                ):
                    hidden = httpx2.request(method, public + path, headers=headers)
                    unknown_path = "/v2/nothing" if "v2" in path else "/nothing"
                    unknown = httpx2.request(method, public + unknown_path, headers=headers)
                    assert (hidden.status_code, hidden.text) == (unknown.status_code, unknown.text), path
                    assert hidden.status_code == 404
                    own = {"date": "", "x-request-id": ""}
                    assert dict(hidden.headers) | own == dict(unknown.headers) | own
                    spoofed = {"Host": admin.removeprefix("http://"), "X-Forwarded-Port": admin.rpartition(":")[2]}
                    assert httpx2.request(method, public + path, headers=headers | spoofed).status_code == 404
                assert httpx2.post(f"{admin}/v2/repository/models/t/unload", headers=headers).status_code == 200
                assert httpx2.post(f"{admin}/v2/repository/models/t/load", headers=headers).status_code == 200
                assert httpx2.post(f"{admin}/v1/deployments", headers=headers, json={}).status_code == 400
                assert httpx2.post(f"{admin}/v1/deployments", json={}).status_code == 401
                for address in (public, admin):
                    answer = httpx2.post(f"{address}/v2/models/t/infer", headers=headers, json=body(1.0))
                    assert answer.status_code == 200
                    assert httpx2.get(f"{address}/v1/deployments", headers=headers).status_code == 200

    def test_a_taken_port_says_so(self, fresh_database: Urls, tmp_path: Path) -> None:
        import socket

        from trueup.doors.api.server import serve

        with socket.create_server(("127.0.0.1", 0)) as taken:
            settings = Settings(data_dir=tmp_path, admin_port=taken.getsockname()[1])
            with trueup.Trueup(wired(settings, fresh_database)) as up, pytest.raises(trueup.errors.Unavailable):
                serve(up.services, host="127.0.0.1", port=0, started=lambda _: None)


def served_apart(up: trueup.Trueup) -> Any:
    """Serves as `trueup up` does, with an admin listener: (public, admin address, headers of an admin)."""
    import threading
    from contextlib import contextmanager

    from trueup.doors.api import server as module
    from trueup.doors.auth import open_keys

    @contextmanager
    def run() -> Iterator[tuple[str, str, dict[str, str]]]:
        running: list[Any] = []
        listening = threading.Event()

        class Watched(module._Announcing):
            async def startup(self, sockets: Any = None) -> None:
                await super().startup(sockets)
                running.append(self)
                listening.set()

        known, module._Announcing = module._Announcing, Watched  # type: ignore[misc]
        with open_keys(up.services.urls.owner) as keys:
            text = keys.create("admin", ApiRole.ADMIN, by="test")[1]
        thread = threading.Thread(
            target=module.serve,
            args=(up.services,),
            kwargs={"host": "127.0.0.1", "port": 0, "drain_s": 0, "started": lambda _: None},
            daemon=True,
        )
        thread.start()
        try:
            assert listening.wait(30)
            public, admin = (f"http://127.0.0.1:{s.sockets[0].getsockname()[1]}" for s in running[0].servers)
            yield public, admin, {"Authorization": f"Bearer {text}"}
        finally:
            module._Announcing = known  # type: ignore[misc]
            running[0].should_exit = True
            thread.join(30)

    return run()
