-- Scheduled work.
CREATE VIEW trueup.clock_runs AS
SELECT run_id, name, subject, due, outcome, planned_at, started_at, finished_at, duration_s, attempts, worker, said,
       error, overran, asked_by
FROM ledger.clock_runs;
COMMENT ON VIEW trueup.clock_runs IS 'What became of each due moment of each job: queued, running, ok, failed or missed';
COMMENT ON COLUMN trueup.clock_runs.error IS 'What failed, or why it was missed, never with values; of a run that will be tried again, its last fault';
COMMENT ON COLUMN trueup.clock_runs.overran IS 'When it had run for longer than allowed; it is recorded, not ended';

CREATE VIEW trueup.clock_jobs AS
SELECT j.name, j.subject, j.schedule, j.missed, last.due AS last_due, last.finished_at AS last_finished_at,
       last.outcome AS last_outcome, last.duration_s AS last_duration_s, last.error AS last_error, j.next_due, j.late_at,
       CASE WHEN j.retired_at IS NOT NULL THEN 'retired'
            WHEN j.next_due IS NULL THEN 'unreadable'
            WHEN open.overran IS NOT NULL THEN 'overrun'
            WHEN open.outcome IS NOT NULL THEN open.outcome
            ELSE 'waiting'
       END AS state,
       j.retired_at IS NULL AND (j.late_at IS NULL OR j.late_at < now()) AS is_late
FROM ledger.clock_jobs j
LEFT JOIN LATERAL (
    SELECT r.due, r.finished_at, r.outcome, r.duration_s, r.error
    FROM ledger.clock_runs r
    WHERE r.name = j.name AND r.subject = j.subject AND r.outcome IN ('ok', 'failed')
    ORDER BY r.due DESC LIMIT 1
) last ON true
LEFT JOIN ledger.clock_runs open
       ON open.name = j.name AND open.subject = j.subject AND open.outcome IN ('queued', 'running');
COMMENT ON VIEW trueup.clock_jobs IS 'The scheduled work that was declared: its last run, when it is due next, and whether it is late';
COMMENT ON COLUMN trueup.clock_jobs.state IS 'waiting, queued, running, overrun, retired (no longer declared) or unreadable (its schedule)';
COMMENT ON COLUMN trueup.clock_jobs.is_late IS 'Whether it has not run for three of its periods; in a rule compare late_at with its moment';

-- The writer deletes nothing but history that is old by any measure.
CREATE OR REPLACE FUNCTION ledger.forget_runs(before timestamptz, most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    forgotten integer;
BEGIN
    IF before > now() - interval '1 day' THEN
        RAISE EXCEPTION 'the history of the last day is kept';
    END IF;
    WITH old AS (
        SELECT run_id FROM ledger.clock_runs WHERE finished_at < before ORDER BY finished_at LIMIT most
    )
    DELETE FROM ledger.clock_runs r USING old WHERE r.run_id = old.run_id;
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    RETURN forgotten;
END $$;
COMMENT ON FUNCTION ledger.forget_runs(timestamptz, integer) IS 'Deletes the oldest runs that ended before a moment, at least a day ago';

GRANT INSERT ON ledger.clock_jobs, ledger.clock_runs TO trueup_writer;
GRANT UPDATE (schedule, missed, declared_at, holds_until, next_due, late_at, retired_at) ON ledger.clock_jobs TO trueup_writer;
GRANT UPDATE (outcome, started_at, finished_at, duration_s, attempts, worker, said, error, overran, queue_entry)
    ON ledger.clock_runs TO trueup_writer;
REVOKE ALL ON FUNCTION ledger.forget_runs(timestamptz, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.forget_runs(timestamptz, integer) TO trueup_writer;
