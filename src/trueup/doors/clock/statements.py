"""What ``runs.py`` asks of the ledger. Jobs are named by two arrays, ``names`` and ``subjects``."""

from __future__ import annotations

DECLARE = """
    INSERT INTO ledger.clock_jobs AS j (name, subject, schedule, missed, next_due, late_at, holds_until)
    VALUES (%s, %s, %s, %s, %s, %s, now() + make_interval(secs => %s))
    ON CONFLICT (name, subject) DO UPDATE SET
        schedule = excluded.schedule, missed = excluded.missed, declared_at = now(), retired_at = NULL,
        holds_until = greatest(j.holds_until, excluded.holds_until),
        next_due = CASE WHEN j.schedule = excluded.schedule AND j.retired_at IS NULL AND j.next_due IS NOT NULL
                        THEN j.next_due ELSE excluded.next_due END,
        late_at = CASE WHEN j.schedule = excluded.schedule AND j.retired_at IS NULL AND j.next_due IS NOT NULL
                       THEN j.late_at ELSE excluded.late_at END
"""
# Still there as it was declared, by whomever. Time is the database's: workers whose clocks differ agree on it.
RENEW = """
    UPDATE ledger.clock_jobs SET holds_until = greatest(holds_until, now() + make_interval(secs => %(holds_s)s))
    WHERE retired_at IS NULL AND (name, subject) IN (SELECT * FROM unnest(%(names)s::text[], %(subjects)s::text[]))
    RETURNING name, subject
"""
RETIRE = "UPDATE ledger.clock_jobs SET retired_at = %s WHERE retired_at IS NULL AND holds_until < now()"
OPEN_OF_RETIRED = """
    SELECT r.run_id, r.queue_entry FROM ledger.clock_runs r JOIN ledger.clock_jobs j USING (name, subject)
    WHERE r.outcome IN ('queued', 'running') AND j.retired_at IS NOT NULL
    ORDER BY r.run_id FOR UPDATE OF r
"""
NO_LONGER = """
    UPDATE ledger.clock_runs SET outcome = 'missed', finished_at = %(now)s, error = 'the job is no longer declared'
    WHERE run_id = ANY (%(runs)s)
"""
DUE = """
    SELECT j.name, j.subject, j.schedule, j.missed, j.next_due FROM ledger.clock_jobs j
    WHERE j.next_due <= %(now)s AND j.retired_at IS NULL
      AND (j.name, j.subject) IN (SELECT * FROM unnest(%(names)s::text[], %(subjects)s::text[]))
      AND NOT EXISTS (
          SELECT 1 FROM ledger.clock_runs r
          WHERE r.name = j.name AND r.subject = j.subject AND r.outcome IN ('queued', 'running')
      )
    ORDER BY j.next_due LIMIT %(most)s FOR UPDATE OF j SKIP LOCKED
"""
IS_OPEN = """
    SELECT 1 FROM ledger.clock_runs WHERE name = %s AND subject = %s AND outcome IN ('queued', 'running')
"""
# Another worker may plan the same: nothing is added where a run is open, or of this moment was there before.
ADD = """
    INSERT INTO ledger.clock_runs (name, subject, due, outcome, asked_by)
    SELECT name, subject, due, 'queued', %(by)s
    FROM unnest(%(names)s::text[], %(subjects)s::text[], %(due)s::timestamptz[]) AS wanted (name, subject, due)
    ORDER BY due, name, subject
    ON CONFLICT DO NOTHING RETURNING run_id, name, subject
"""
MISSED = """
    INSERT INTO ledger.clock_runs (name, subject, due, outcome, finished_at, error)
    VALUES (%s, %s, %s, 'missed', %s, 'no worker took it in time') ON CONFLICT DO NOTHING
"""
MOVE = "UPDATE ledger.clock_jobs SET next_due = %s WHERE name = %s AND subject = %s"
BEGIN = """
    UPDATE ledger.clock_runs
    SET outcome = 'running', attempts = attempts + 1, started_at = %s, worker = %s, overran = NULL
    WHERE run_id = %s AND outcome IN ('queued', 'running') RETURNING name, subject, due, attempts
"""
END = """
    UPDATE ledger.clock_runs SET outcome = %s, finished_at = %s, duration_s = %s, said = %s, error = %s
    WHERE run_id = %s AND attempts = %s AND outcome = 'running'
"""
PAUSE = """
    UPDATE ledger.clock_runs SET outcome = 'queued', error = %s
    WHERE run_id = %s AND attempts = %s AND outcome = 'running'
"""
LATER = """
    UPDATE ledger.clock_jobs SET late_at = greatest(late_at, %s)
    WHERE name = %s AND subject = %s AND late_at IS NOT NULL
"""
OPEN_SINCE = """
    SELECT run_id, name, subject, queue_entry FROM ledger.clock_runs
    WHERE outcome IN ('queued', 'running') AND planned_at < %s
    ORDER BY run_id LIMIT %s FOR UPDATE SKIP LOCKED
"""
WAITING = """
    SELECT EXISTS (
        SELECT 1 FROM ledger.clock_runs r
        WHERE r.outcome IN ('queued', 'running')
          AND (r.name, r.subject) IN (SELECT * FROM unnest(%(names)s::text[], %(subjects)s::text[]))
          AND (SELECT q.status FROM clock.procrastinate_jobs q WHERE q.id = r.queue_entry) IS DISTINCT FROM 'doing'
    ) OR EXISTS (
        SELECT 1 FROM ledger.clock_jobs j
        WHERE j.next_due <= %(now)s AND j.retired_at IS NULL
          AND (j.name, j.subject) IN (SELECT * FROM unnest(%(names)s::text[], %(subjects)s::text[]))
          AND NOT EXISTS (
              SELECT 1 FROM ledger.clock_runs r
              WHERE r.name = j.name AND r.subject = j.subject AND r.outcome IN ('queued', 'running')
          )
    )
"""
