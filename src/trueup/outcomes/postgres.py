"""Outcomes in PostgreSQL: append only, a revision for everything that was not said before.

1. copy     all rows into a table of the session that vanishes with the transaction
2. lock     the label, so that two recorders take turns
3. compare  with what was said by the same moment: what is said again falls away
4. insert   first and further revisions, and commit

The truth is what was observed last, and of equals what was recorded last, whatever the order of arrival. So that an
older observation can still find its place, one that says its moment is kept even where it repeats the value before it;
one that does not is of this moment, and falls away where it says nothing new. Of one item and one moment the last row
of a batch counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from trueup.domain.batch import NOTHING_RECORDED, OutcomeBatch, OutcomeReceipt
from trueup.postgres import Pool

_INCOMING = """
    CREATE TEMPORARY TABLE incoming (
        place bigint, business_key text, event_day date, observed_at timestamptz, number double precision, word text,
        state text, said boolean
    ) ON COMMIT DROP
"""
_COPY = "COPY incoming FROM STDIN"
_FORGET = "DROP TABLE incoming"  # more may be recorded in the same transaction
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 7238148))"
_INSERT = """
    WITH rows AS (
        SELECT DISTINCT ON (business_key, event_day, observed_at) * FROM incoming
        ORDER BY business_key, event_day, observed_at, place DESC
    ), items AS (
        SELECT DISTINCT ON (business_key, event_day) * FROM rows ORDER BY business_key, event_day, observed_at DESC
    ), known AS (
        SELECT i.business_key, i.event_day, coalesce(h.revision, 0) AS revision,
               t.observed_at <= i.observed_at
                   AND (t.state, t.value_number, t.value_text) IS DISTINCT FROM (i.state, i.number, i.word)
                   AS is_revised
        FROM items i
        LEFT JOIN LATERAL (
            SELECT o.revision FROM ledger.outcomes o
            WHERE o.contract_name = %(contract)s AND o.label = %(label)s
              AND o.business_key = i.business_key AND o.event_day = i.event_day
            ORDER BY o.revision DESC LIMIT 1
        ) h ON true
        LEFT JOIN LATERAL (
            SELECT o.observed_at, o.state, o.value_number, o.value_text FROM ledger.outcomes o
            WHERE o.contract_name = %(contract)s AND o.label = %(label)s
              AND o.business_key = i.business_key AND o.event_day = i.event_day
            ORDER BY o.observed_at DESC, o.revision DESC LIMIT 1
        ) t ON h.revision IS NOT NULL
    ), fresh AS (
        SELECT r.*, k.revision + row_number() OVER (PARTITION BY business_key, event_day ORDER BY r.observed_at) AS next
        FROM rows r
        JOIN known k USING (business_key, event_day)
        LEFT JOIN LATERAL (
            SELECT o.observed_at, o.state, o.value_number, o.value_text FROM ledger.outcomes o
            WHERE o.contract_name = %(contract)s AND o.label = %(label)s
              AND o.business_key = r.business_key AND o.event_day = r.event_day AND o.observed_at <= r.observed_at
            ORDER BY o.observed_at DESC, o.revision DESC LIMIT 1
        ) b ON k.revision > 0
        WHERE b.observed_at IS NULL
           OR (b.state, b.value_number, b.value_text) IS DISTINCT FROM (r.state, r.number, r.word)
           OR (r.said AND b.observed_at < r.observed_at)
    ), added AS (
        INSERT INTO ledger.outcomes (contract_name, label, business_key, event_day, revision, value_number, value_text,
                                     source, observed_at, recorded_at, state)
        -- The moment is of this statement, which began after the lock was had: it moves on with the revisions.
        SELECT %(contract)s, %(label)s, business_key, event_day, next, number, word,
               %(source)s, observed_at, statement_timestamp(), state
        FROM fresh
    )
    SELECT count(*) FILTER (WHERE revision = 0), count(*) FILTER (WHERE revision > 0 AND is_revised) FROM known
"""


class PostgresOutcomes:
    """Records through the writer role."""

    def __init__(self, writer: Pool) -> None:
        self._writer = writer

    def record(self, outcomes: OutcomeBatch, within: Any = None) -> OutcomeReceipt:
        """Adds what was not said before, in one commit, or in that of the connection ``within``."""
        if not len(outcomes):
            return OutcomeReceipt(0, 0, 0)
        about = {"contract": outcomes.contract_name, "label": outcomes.label, "source": outcomes.source}
        with self._writer.transaction() if within is None else nullcontext(within) as connection:
            connection.execute(_INCOMING)
            with connection.cursor().copy(_COPY) as copy:
                copy.write(_lines(outcomes))
            connection.execute("ANALYZE incoming")
            connection.execute(_LOCK, (f"{outcomes.contract_name}/{outcomes.label}",))
            row = connection.execute(_INSERT, about).fetchone()
            connection.execute(_FORGET)
        assert row is not None
        return OutcomeReceipt(row[0], row[1], len(outcomes) - row[0] - row[1])

    def record_all(self, batches: Sequence[OutcomeBatch], within: Any = None) -> OutcomeReceipt:
        """The same for several labels, in one commit. They are locked in the order of their names: two who record the
        same labels at once wait for each other in turn, and not for ever."""
        in_order = sorted(batches, key=lambda batch: (batch.contract_name, batch.label))
        with self._writer.transaction() if within is None else nullcontext(within) as connection:
            return sum((self.record(batch, connection) for batch in in_order), NOTHING_RECORDED)


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _lines(outcomes: OutcomeBatch) -> str:
    """The batch in COPY's text format."""
    days = np.datetime_as_string(outcomes.event_days.astype("datetime64[D]")).tolist()
    moments = np.datetime_as_string(outcomes.observed_at.astype("datetime64[us]")).tolist()
    if outcomes.numbers is not None:
        numbers = ["\\N" if v != v else repr(v) for v in outcomes.numbers.tolist()]
        words = ["\\N"] * len(outcomes)
    else:
        assert outcomes.texts is not None
        numbers = ["\\N"] * len(outcomes)
        words = ["\\N" if v is None else v.translate(_ESCAPES) for v in outcomes.texts.tolist()]
    states = ["known"] * len(outcomes) if outcomes.states is None else outcomes.states.tolist()
    said = ["t"] * len(outcomes) if outcomes.said is None else ["t" if s else "f" for s in outcomes.said.tolist()]
    keys = [key.translate(_ESCAPES) for key in outcomes.business_keys]
    columns = zip(keys, days, moments, numbers, words, states, said, strict=True)
    return "".join(
        f"{i}\t{key}\t{day}\t{at}Z\t{number}\t{word}\t{state}\t{said}\n"
        for i, (key, day, at, number, word, state, said) in enumerate(columns)
    )
