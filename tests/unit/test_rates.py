"""Token buckets: the arithmetic equals a slow model that counts nanosecond by nanosecond; memory is bounded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueup.doors.auth import ApiRole, Gate, MemoryApiKeys
from trueup.doors.auth.gate import network_of
from trueup.doors.auth.rates import SECOND, Buckets, Rate, take
from trueup.errors import RateLimited, Unauthenticated
from trueup.settings import Rates


class SlowBucket:
    """What a bucket is, step by step: it holds at most ``burst`` units, and gains one a nanosecond."""

    def __init__(self, rate: Rate) -> None:
        self.rate, self.held, self.now = rate, rate.burst_ns, 0

    def ask(self, now: int, tokens: int) -> int:
        while self.now < now:
            self.now += 1
            self.held = min(self.rate.burst_ns, self.held + 1)
        need = tokens * self.rate.cost_ns
        wait, held = 0, self.held
        while held < min(need, self.rate.burst_ns):
            wait, held = wait + 1, held + 1
        if wait == 0:
            self.held -= need
        return wait


RATES = st.integers(1, 20).flatmap(lambda cost: st.builds(Rate, st.just(cost), st.integers(cost, 60)))
ASKED = st.lists(st.tuples(st.integers(0, 100), st.integers(1, 8)), max_size=40)


@given(RATES, ASKED)
def test_every_decision_and_every_wait_is_the_slow_models(rate: Rate, asked: list[tuple[int, int]]) -> None:
    slow, full_at, now = SlowBucket(rate), 0, 0
    for after, tokens in asked:
        now += after
        full_at, wait = take(rate, full_at, now, tokens)
        assert wait == slow.ask(now, tokens)


@given(RATES, ASKED)
def test_who_waits_as_told_is_let_in_and_not_a_moment_sooner(rate: Rate, asked: list[tuple[int, int]]) -> None:
    full_at, now = 0, 0
    for after, tokens in asked:
        now += after
        full_at, wait = take(rate, full_at, now, tokens)
        if wait:
            assert take(rate, full_at, now + wait - 1, tokens)[1] == 1
            assert take(rate, full_at, now + wait, tokens)[1] == 0


@given(RATES, ASKED)
def test_no_stretch_of_time_lets_in_more_than_burst_and_refill(rate: Rate, asked: list[tuple[int, int]]) -> None:
    full_at, now = 0, 0
    given_: list[tuple[int, int]] = []
    for after, _ in asked:
        now += after
        full_at, wait = take(rate, full_at, now, 1)
        if not wait:
            given_.append((now, rate.cost_ns))
    for i, (first, _) in enumerate(given_):
        for j in range(i, len(given_)):
            spent = sum(cost for _, cost in given_[i : j + 1])
            assert spent <= rate.burst_ns + given_[j][0] - first


@pytest.mark.parametrize(
    ("per_s", "burst", "expected"),
    [
        (0, 5, None),
        (10, 0, (SECOND // 10, SECOND)),
        (10, 3, (SECOND // 10, 3 * SECOND // 10)),
        (0.5, 0, (2 * SECOND,) * 2),
    ],
)
def test_a_rate_is_read_from_its_settings(per_s: float, burst: float, expected: tuple[int, int] | None) -> None:
    made = Rate.of(per_s, burst)
    assert (made and (made.cost_ns, made.burst_ns)) == expected


class TestBuckets:
    def test_the_longest_unused_is_forgotten_first(self) -> None:
        buckets = Buckets(Rate(10, 10), 2, clock=lambda: 5)
        for name in ("a", "b", "a", "c"):
            buckets.take(name)
        assert len(buckets) == 2
        assert (buckets.take("a") > 0, buckets.take("b")) == (True, 0.0)

    def test_threads_together_get_what_one_would(self) -> None:
        buckets = Buckets(Rate(SECOND, 50 * SECOND), 10, clock=lambda: 1)
        with ThreadPoolExecutor(8) as pool:
            waits = list(pool.map(lambda _: buckets.take("a"), range(200)))
        assert waits.count(0.0) == 50
        assert buckets.refused == 150


class TestGate:
    def test_each_caller_has_a_bucket_of_their_own(self) -> None:
        keys = MemoryApiKeys()
        texts = [keys.create(name, ApiRole.READER, by="me")[1] for name in "ab"]
        gate = Gate(keys, rates=Rates(requests_per_s=0.001, requests_burst=2))
        for text in texts:
            assert gate.known(text)
            assert gate.authenticate(text)
            for ask in (gate.known, gate.authenticate):
                with pytest.raises(RateLimited) as refused:
                    ask(text)
                assert 0 < refused.value.retry_after_s <= 1000
        assert gate.refused == {"requests": 4, "instances": 0, "failures": 0}

    def test_instances_are_counted_apart_and_a_large_request_is_owed(self) -> None:
        keys = MemoryApiKeys()
        caller = keys.create("a", ApiRole.SCORER, by="me")[0].caller
        gate = Gate(keys, rates=Rates(instances_per_s=0.001, instances_burst=100))
        gate.spend(caller, 60)
        gate.spend(caller, 40)
        with pytest.raises(RateLimited, match="instances"):
            gate.spend(caller, 1)
        other = keys.create("b", ApiRole.SCORER, by="me")[0].caller
        gate.spend(other, 1_000)  # more than the bucket holds, but it was full
        with pytest.raises(RateLimited):
            gate.spend(other, 1)

    def test_an_address_that_fails_too_often_is_refused_before_the_look_up(self) -> None:
        keys = MemoryApiKeys()
        text = keys.create("a", ApiRole.READER, by="me")[1]
        gate = Gate(keys, rates=Rates(failures_per_s=0.001, failures_burst=3))
        gate.authenticate(text, "192.0.2.1")
        for _ in range(3):
            with pytest.raises(Unauthenticated):
                gate.authenticate("tu_" + "0" * 16 + "_" + "A" * 43, "192.0.2.1")
        for shown in ("tu_" + "0" * 16 + "_" + "A" * 43, keys.create("b", ApiRole.READER, by="me")[1]):
            with pytest.raises(RateLimited, match="address"):
                gate.authenticate(shown, "192.0.2.1")
        assert gate.authenticate(text, "192.0.2.1")  # was good before: not held against its address
        assert gate.authenticate(text, "192.0.2.2")
        assert (gate.unauthenticated, gate.refused["failures"]) == (3, 2)

    def test_a_key_that_was_good_and_is_revoked_is_a_stranger_again(self) -> None:
        keys = MemoryApiKeys()
        made, text = keys.create("a", ApiRole.READER, by="me")
        gate = Gate(keys, rates=Rates(failures_per_s=0.001, failures_burst=1))
        gate.authenticate(text, "192.0.2.1")
        keys.revoke(made.key_id, by="me")
        for expected in (Unauthenticated, Unauthenticated, RateLimited):
            with pytest.raises(expected):
                gate.authenticate(text, "192.0.2.1")

    @pytest.mark.parametrize(
        ("peer", "network"),
        [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("unix:", "unix:"),
        ],
    )
    def test_one_customers_addresses_are_one(self, peer: str, network: str) -> None:
        assert network_of(peer) == network
