"""API keys keep the same promises in memory and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from trueup.doors import auth
from trueup.doors.auth import (
    ApiKeys,
    ApiRole,
    Caller,
    Grant,
    MemoryApiKeys,
    Permission,
    PostgresApiKeys,
    open_keys,
    postgres,
)
from trueup.errors import Forbidden, InvalidInput, NotFound, Unauthenticated
from trueup.ledger import migrating
from trueup.ledger.urls import Urls


@pytest.fixture(params=["memory", "postgres"])
def keys(request: pytest.FixtureRequest) -> Iterator[ApiKeys]:
    if request.param == "memory":
        yield MemoryApiKeys()
        return
    with open_keys(request.getfixturevalue("fresh_database").owner) as opened:
        yield opened


class TestKeys:
    def test_a_new_key_is_known_by_its_text(self, keys: ApiKeys) -> None:
        made, text = keys.create("orders", ApiRole.SCORER, by="user:me")
        assert text.startswith(f"tu_{made.key_id}_")
        assert keys.authenticate(text) == made.caller
        assert keys.known(text) == made.caller

    def test_the_text_is_nowhere_in_what_is_listed(self, keys: ApiKeys) -> None:
        _, text = keys.create("orders", ApiRole.SCORER, by="user:me")
        secret = text.split("_", 2)[2]
        assert secret not in repr(keys.listed())

    def test_a_key_is_limited_to_the_deployments_it_was_made_for(self, keys: ApiKeys) -> None:
        made, text = keys.create("fails desk", ApiRole.SCORER, by="user:me", deployments=["fails", "aging", "fails"])
        assert made.deployments == keys.listed()[0].deployments == ("aging", "fails")
        caller = keys.authenticate(text)
        assert caller == made.caller
        caller.require(Permission.SCORE, "fails")
        caller.require(Permission.READ)
        assert caller.reach(Permission.SCORE) == {"aging", "fails"}
        assert caller.reach(Permission.DEPLOY) == set()
        for name in ("other", "", "FAILS", "fails\n"):
            with pytest.raises(Forbidden, match="not for a deployment of this name"):
                caller.require(Permission.SCORE, name)

    def test_a_key_without_names_reaches_all(self, keys: ApiKeys) -> None:
        caller = keys.authenticate(keys.create("orders", ApiRole.READER, by="user:me")[1])
        caller.require(Permission.READ, "anything")
        assert caller.reach(Permission.READ) is None

    @pytest.mark.parametrize(
        "names", [[], ["a b"], [""], ["x" * 101], ["../x"], ["a\n"], [f"d{i}" for i in range(101)]]
    )
    def test_a_limit_names_deployments(self, keys: ApiKeys, names: list[str]) -> None:
        with pytest.raises(InvalidInput):
            keys.create("orders", ApiRole.READER, by="user:me", deployments=names)
        assert keys.listed() == []

    def test_an_admin_key_cannot_be_limited(self, keys: ApiKeys) -> None:
        with pytest.raises(InvalidInput, match="admin"):
            keys.create("orders", ApiRole.ADMIN, by="user:me", deployments=["fails"])

    def test_who_is_known_from_memory_must_still_show_the_secret(self, keys: ApiKeys) -> None:
        made, text = keys.create("orders", ApiRole.READER, by="user:me")
        keys.authenticate(text)
        with pytest.raises(Unauthenticated):
            keys.known(f"tu_{made.key_id}_{'A' * 43}")

    def test_two_keys_of_one_name_are_two_keys(self, keys: ApiKeys) -> None:
        first, second = (keys.create("orders", ApiRole.READER, by="user:me")[0] for _ in range(2))
        assert [k.key_id for k in keys.listed()] == [first.key_id, second.key_id]

    @pytest.mark.parametrize("change", ["last", "id", "prefix", "longer", "empty", "newline", "nul", "unicode"])
    def test_any_other_text_is_refused_in_the_same_words(self, keys: ApiKeys, change: str) -> None:
        _, text = keys.create("orders", ApiRole.READER, by="user:me")
        other = {
            "last": text[:-1] + ("A" if text[-1] != "A" else "B"),
            "id": "tu_" + "0" * 16 + text[19:],
            "prefix": "TU" + text[2:],
            "longer": text + "A",
            "empty": "",
            "newline": text + "\n",
            "nul": text[:-1] + "\0",
            "unicode": text[:-1] + "é",
        }[change]
        with pytest.raises(Unauthenticated, match="missing, unknown or revoked"):
            keys.authenticate(other)

    def test_a_revoked_key_is_refused_and_stays_listed(self, keys: ApiKeys) -> None:
        made, text = keys.create("orders", ApiRole.READER, by="user:me")
        keys.authenticate(text)
        first = keys.revoke(made.key_id, by="user:me")
        assert keys.revoke(made.key_id, by="user:me").revoked_at == first.revoked_at is not None
        assert keys.listed()[0].revoked_at is not None
        with pytest.raises(Unauthenticated):
            keys.authenticate(text)

    def test_revoking_an_unknown_key_says_so(self, keys: ApiKeys) -> None:
        with pytest.raises(NotFound):
            keys.revoke("0" * 16, by="user:me")

    @pytest.mark.parametrize("name", ["", "   ", "x" * 101, "a\nb", "\x1b[2J"])
    def test_a_name_is_printable_and_short(self, keys: ApiKeys, name: str) -> None:
        with pytest.raises(InvalidInput):
            keys.create(name, ApiRole.READER, by="user:me")

    def test_the_first_admin_key_is_made_once_however_many_start(self, keys: ApiKeys) -> None:
        with ThreadPoolExecutor(4) as pool:
            made = [m for m in pool.map(lambda _: keys.create_first(by="user:me"), range(4)) if m is not None]
        assert [key.role for key, _ in made] == [ApiRole.ADMIN]

    def test_a_revoked_admin_key_does_not_count_as_one(self, keys: ApiKeys) -> None:
        made = keys.create_first(by="user:me")
        assert made is not None
        keys.revoke(made[0].key_id, by="user:me")
        assert keys.create_first(by="user:me") is not None


class TestRoles:
    @pytest.mark.parametrize("role", ApiRole)
    @pytest.mark.parametrize("permission", Permission)
    def test_each_role_may_what_the_one_below_may(self, role: ApiRole, permission: Permission) -> None:
        ranks = list(ApiRole)
        below = ranks[: ranks.index(role)]
        if any(permission in auth.PERMISSIONS[b] for b in below):
            assert permission in auth.PERMISSIONS[role]

    def test_only_admins_manage_keys_and_readers_only_read(self) -> None:
        assert [r for r in ApiRole if Permission.MANAGE_KEYS in auth.PERMISSIONS[r]] == [ApiRole.ADMIN]
        assert auth.PERMISSIONS[ApiRole.READER] == {Permission.READ}

    def test_what_is_not_allowed_names_the_role_that_may(self) -> None:
        key, _ = MemoryApiKeys().create("x", ApiRole.READER, by="y")
        with pytest.raises(Forbidden) as refused:
            key.require(Permission.DEPLOY)
        assert "operator" in refused.value.next_step

    def test_several_grants_stand_each_for_itself(self) -> None:
        caller = Caller("oidc:me", (Grant(ApiRole.READER), Grant(ApiRole.OPERATOR, frozenset({"fails"}))))
        assert caller.may(Permission.READ, "other")
        assert caller.may(Permission.DEPLOY, "fails")
        assert not caller.may(Permission.DEPLOY, "other")
        assert caller.reach(Permission.READ) is None
        assert caller.reach(Permission.DEPLOY) == {"fails"}

    def test_who_has_no_role_may_nothing(self) -> None:
        for permission in Permission:
            with pytest.raises(Forbidden, match="no role"):
                Caller("oidc:me", ()).require(permission)


class TestInPostgres:
    def test_the_database_holds_a_hash_and_every_change_is_audited(self, fresh_database: Urls) -> None:
        with open_keys(fresh_database.owner) as keys:
            made, text = keys.create("orders", ApiRole.SCORER, by="user:me")
            keys.revoke(made.key_id, by="user:you")
        with psycopg.connect(fresh_database.owner) as connection:
            stored: list[Any] = connection.execute("SELECT key_hash FROM ledger.api_keys").fetchall()
            audit = connection.execute("SELECT actor, action, subject FROM ledger.audit ORDER BY audit_id").fetchall()
        assert len(bytes(stored[0][0])) == 32
        assert text.encode() not in bytes(stored[0][0])
        assert audit == [("user:me", "create key", made.key_id), ("user:you", "revoke key", made.key_id)]

    def test_another_server_notices_a_revocation_when_its_memory_runs_out(
        self, fresh_database: Urls, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert postgres.CACHE_S <= 10
        monkeypatch.setattr(postgres, "CACHE_S", 0.05)
        with open_keys(fresh_database.owner) as here, open_keys(fresh_database.owner) as there:
            made, text = here.create("orders", ApiRole.SCORER, by="user:me")
            there.authenticate(text)
            here.revoke(made.key_id, by="user:me")
            monkeypatch.setattr(postgres.time, "monotonic", lambda now=postgres.time.monotonic: now() + 1)
            with pytest.raises(Unauthenticated):
                there.authenticate(text)

    def test_what_is_remembered_is_bounded(self, fresh_database: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(postgres, "CACHED_KEYS", 2)
        with open_keys(fresh_database.owner) as keys:
            assert isinstance(keys, PostgresApiKeys)
            for i in range(4):
                keys.authenticate(keys.create(f"k{i}", ApiRole.READER, by="me")[1])
            assert len(keys._cache) == 2

    @pytest.mark.parametrize("change", ["deployments = '{}'", "deployments = '{a}', role = 'admin'"])
    def test_the_database_holds_no_limit_that_means_nothing(self, fresh_database: Urls, change: str) -> None:
        with open_keys(fresh_database.owner) as keys:
            keys.create("orders", ApiRole.READER, by="me", deployments=["a"])
        with (
            psycopg.connect(fresh_database.owner) as connection,
            pytest.raises(psycopg.errors.CheckViolation, match="api_keys_deployments"),
        ):
            connection.execute(f"UPDATE ledger.api_keys SET {change}")  # type: ignore[arg-type]

    def test_taking_the_limits_away_revokes_limited_keys(self, fresh_database: Urls) -> None:
        with open_keys(fresh_database.owner) as keys:
            keys.create("orders", ApiRole.READER, by="me", deployments=["a"])
            keys.create("others", ApiRole.READER, by="me")
        migrating.downgrade(fresh_database.owner, "0001")
        with psycopg.connect(fresh_database.owner) as connection:
            found = connection.execute("SELECT name FROM ledger.api_keys WHERE revoked_at IS NULL").fetchall()
        assert found == [("others",)]
