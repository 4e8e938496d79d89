"""Outcomes in PostgreSQL: append only, a revision for every change of mind.

1. copy     all rows into a table of the session that vanishes with the transaction
2. lock     the label, so that two recorders take turns
3. compare  with the latest revision: unchanged rows fall away
4. insert   first and next revisions, and commit
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np

from trueup.domain.batch import OutcomeBatch, OutcomeReceipt
from trueup.postgres import Pool

_INCOMING = """
    CREATE TEMPORARY TABLE incoming (
        place bigint, business_key text, event_day date, observed_at timestamptz, number double precision, word text
    ) ON COMMIT DROP
"""
_COPY = "COPY incoming FROM STDIN"
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 7238148))"
# Within one batch the latest observation of an item counts, and of equals the last row.
_INSERT = """
    WITH latest_in AS (
        SELECT DISTINCT ON (business_key, event_day) * FROM incoming
        ORDER BY business_key, event_day, observed_at DESC, place DESC
    ), changed AS (
        SELECT i.*, coalesce(o.revision, 0) AS known
        FROM latest_in i
        LEFT JOIN LATERAL (
            SELECT revision, value_number, value_text FROM ledger.outcomes o
            WHERE o.contract_name = %(contract)s AND o.label = %(label)s
              AND o.business_key = i.business_key AND o.event_day = i.event_day
            ORDER BY revision DESC LIMIT 1
        ) o ON true
        WHERE o.revision IS NULL OR (o.value_number, o.value_text) IS DISTINCT FROM (i.number, i.word)
    ), added AS (
        INSERT INTO ledger.outcomes
            (contract_name, label, business_key, event_day, revision, value_number, value_text, source, observed_at)
        SELECT %(contract)s, %(label)s, business_key, event_day, known + 1, number, word, %(source)s, observed_at
        FROM changed RETURNING revision
    )
    SELECT count(*) FILTER (WHERE revision = 1), count(*) FILTER (WHERE revision > 1) FROM added
"""


class PostgresOutcomes:
    """Records through the writer role."""

    def __init__(self, writer: Pool) -> None:
        self._writer = writer

    def record(self, outcomes: OutcomeBatch, within: Any = None) -> OutcomeReceipt:
        """Adds what is new or changed, in one commit, or in that of the connection ``within``."""
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
        assert row is not None
        return OutcomeReceipt(row[0], row[1], len(outcomes) - row[0] - row[1])


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _lines(outcomes: OutcomeBatch) -> str:
    """The batch in COPY's text format."""
    days = np.datetime_as_string(outcomes.event_days.astype("datetime64[D]")).tolist()
    moments = np.datetime_as_string(outcomes.observed_at.astype("datetime64[us]")).tolist()
    if outcomes.numbers is not None:
        numbers, words = [repr(v) for v in outcomes.numbers.tolist()], ["\\N"] * len(outcomes)
    else:
        assert outcomes.texts is not None
        numbers, words = ["\\N"] * len(outcomes), [v.translate(_ESCAPES) for v in outcomes.texts.tolist()]
    keys = [key.translate(_ESCAPES) for key in outcomes.business_keys]
    return "".join(
        f"{i}\t{key}\t{day}\t{at}Z\t{number}\t{word}\n"
        for i, (key, day, at, number, word) in enumerate(zip(keys, days, moments, numbers, words, strict=True))
    )
