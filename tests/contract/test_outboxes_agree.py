"""Whatever is done to them, the outbox in PostgreSQL and the one in memory answer the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from receiving import message
from trueup.ledger.urls import Urls
from trueup.notifying.memory import MemoryOutbox
from trueup.notifying.outbox import Claimed
from trueup.notifying.postgres import PostgresOutbox
from trueup.postgres import Pool
from trueup.settings import Notifying

BOUNDS = Notifying(attempts=2)
LONG = timedelta(days=400)


def machine(urls: Urls, pool: Pool) -> type[RuleBasedStateMachine]:
    class Outboxes(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            with psycopg.connect(urls.owner, autocommit=True) as connection:
                connection.execute("TRUNCATE ledger.messages, ledger.message_attachments RESTART IDENTITY")
            self.real, self.fake = PostgresOutbox(pool, BOUNDS), MemoryOutbox(BOUNDS)
            self.dying_real, self.dying_fake = self.impatient()
            self.held: list[tuple[Claimed, Claimed]] = []
            self.known = 0  # ids that were given

        def impatient(self) -> tuple[PostgresOutbox, MemoryOutbox]:
            """The same outboxes, whose leases end at once."""
            at_once = BOUNDS.model_copy(update={"lease_s": 0.0})
            fake = MemoryOutbox(at_once)
            fake._rows, fake._lock = self.fake._rows, self.fake._lock
            return PostgresOutbox(pool, at_once), fake

        def both(self, ask: Any) -> Any:
            real, fake = ask(self.real), ask(self.fake)
            assert real == fake
            return real

        @rule(key=st.sampled_from("abcdef"), receiver=st.sampled_from(["x", "y"]), ordering=st.sampled_from(["", "o"]))
        def add(self, key: str, receiver: str, ordering: str) -> None:
            told = [message(key, receiver=receiver, ordering=ordering)]
            with pool.transaction() as connection:
                real = self.real.add(told, within=connection)
            assert real == self.fake.add(told)
            self.renumber()

        def renumber(self) -> None:
            """A sequence counts what was not added, too."""
            rows = self.fake._rows
            with pool.transaction() as connection:
                found = connection.execute("SELECT key, message_id FROM ledger.messages").fetchall()
            by_key = dict(found)
            for row in list(rows.values()):
                number = by_key[row.message.key]
                if number != row.message_id:
                    del rows[row.message_id]
                    row.message_id = number
                    rows[number] = row
            self.fake._numbered = self.known = max(rows, default=self.known)

        @rule(receiver=st.sampled_from(["x", "y"]), dies=st.booleans())
        def claim(self, receiver: str, dies: bool) -> None:
            real = (self.dying_real if dies else self.real).claim(receiver)
            fake = (self.dying_fake if dies else self.fake).claim(receiver)
            assert (real is None) == (fake is None)
            if real is not None and fake is not None:
                assert (real.message_id, real.message, real.attempt) == (fake.message_id, fake.message, fake.attempt)
                self.held.append((real, fake))

        @precondition(lambda self: self.held)
        @rule(place=st.integers(0, 5))
        def sent(self, place: int) -> None:
            real, fake = self.held[place % len(self.held)]
            assert self.real.sent(real) == self.fake.sent(fake)

        @precondition(lambda self: self.held)
        @rule(place=st.integers(0, 5), again=st.sampled_from([None, 0.0, 3600.0]))
        def failed(self, place: int, again: float | None) -> None:
            real, fake = self.held[place % len(self.held)]
            assert self.real.failed(real, "why", again) == self.fake.failed(fake, "why", again)

        @precondition(lambda self: self.known)
        @rule(data=st.data())
        def retry(self, data: st.DataObject) -> None:
            number = data.draw(st.integers(1, self.known))
            self.both(lambda outbox: outbox.retry([number], "user:test"))

        @rule(sent=st.booleans(), given_up=st.booleans())
        def forget(self, sent: bool, given_up: bool) -> None:
            now = datetime.now(UTC)
            self.both(lambda o: o.forget(now + (LONG if sent else -LONG), now + (LONG if given_up else -LONG)))

        @invariant()
        def they_hold_the_same(self) -> None:
            self.both(lambda outbox: dict(outbox.due()))
            with pool.transaction() as connection:
                query = "SELECT message_id, key, state, attempts, last_error FROM ledger.messages ORDER BY message_id"
                real = connection.execute(query).fetchall()
            rows = sorted(self.fake._rows.values(), key=lambda row: row.message_id)
            assert real == [(r.message_id, r.message.key, r.state, r.attempts, r.last_error) for r in rows]

    return Outboxes


def test_both_outboxes_do_the_same(fresh_database: Urls):
    pool = Pool(fresh_database.writer, size=2, application="test")
    try:
        run_state_machine_as_test(
            machine(fresh_database, pool),
            settings=settings(
                max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
    finally:
        pool.close()
