-- Profiles and measurements.

CREATE VIEW trueup.profiles AS
SELECT d.name AS deployment, v.version AS model_version, p.field, p.slice, p.kind, p.body -> 'names' AS bins,
       p.counts, p.n, p.missing, p.lowest, p.highest, p.body, p.reference, p.reference_first, p.reference_last, p.made_at
FROM ledger.profiles p
JOIN ledger.deployments d USING (deployment_id)
JOIN ledger.model_versions v ON v.model_version_id = p.model_version_id;
COMMENT ON VIEW trueup.profiles IS 'The frozen reference of every model version: bins and how many rows each held. Made once, never changed';
COMMENT ON COLUMN trueup.profiles.counts IS 'Rows of the reference in each of the bins, in their order; the first bin is of missing values';
COMMENT ON COLUMN trueup.profiles.body IS 'Edges, categories and groups of the bins, exactly as they are counted with';

CREATE VIEW trueup.profile_counts AS
SELECT d.name AS deployment, v.version AS model_version, c.role, c.event_day, c.field, c.slice, c.counts, c.n,
       c.missing, c.out_of_range, c.unseen, c.late, c.lowest, c.highest, c.counted_at
FROM ledger.profile_counts c
JOIN ledger.deployments d USING (deployment_id)
JOIN ledger.model_versions v ON v.model_version_id = c.model_version_id;
COMMENT ON VIEW trueup.profile_counts IS 'How many rows of every event day lie in each bin of the reference; field '''' counts the rows themselves';
COMMENT ON COLUMN trueup.profile_counts.counts IS 'Rows in each of the bins of trueup.profiles, in their order';
COMMENT ON COLUMN trueup.profile_counts.late IS 'Rows received later than the deployment allows; of field '''' alone';

CREATE VIEW trueup.measurement_runs AS
SELECT r.run_id, d.name AS deployment, r.window_kind, r.window_first, r.window_last, r.known_at, r.known_by,
       r.started_at, r.duration_ms, r.rows_read, r.measurements, r.error
FROM ledger.measurement_runs r JOIN ledger.deployments d USING (deployment_id);
COMMENT ON VIEW trueup.measurement_runs IS 'Every time a window was measured, or could not be';

CREATE VIEW trueup.measurements AS
SELECT m.measurement_id, d.name AS deployment, v.version AS model_version, m.role, m.metric, m.field, m.slice,
       m.window_kind, m.window_first, m.window_last, m.known_at, m.known_by, m.value, m.low, m.high, m.n,
       m.reference_n, m.critical, m.p_value, m.q_value, m.floor, m.verdict, m.maturity, m.computed_at, m.run_id
FROM ledger.measurements m
JOIN ledger.deployments d USING (deployment_id)
JOIN ledger.model_versions v ON v.model_version_id = m.model_version_id;
COMMENT ON VIEW trueup.measurements IS 'Every figure ever measured, as it was known then; measurements_as_known() gives the latest of each';
COMMENT ON COLUMN trueup.measurements.known_at IS 'The instant whose knowledge the figure is made of';
COMMENT ON COLUMN trueup.measurements.low IS 'With high the interval of confidence, or of a provisional figure the bounds that outcomes to come leave';

CREATE FUNCTION trueup.measurements_as_known(at timestamptz, by text DEFAULT 'recorded')
RETURNS SETOF trueup.measurements
LANGUAGE sql STABLE AS $$
    SELECT DISTINCT ON (m.deployment, m.model_version, m.role, m.metric, m.field, m.slice, m.window_kind, m.window_first) m.*
    FROM trueup.measurements m
    WHERE m.known_at <= at AND m.known_by = by
    ORDER BY m.deployment, m.model_version, m.role, m.metric, m.field, m.slice, m.window_kind, m.window_first,
             m.known_at DESC, m.measurement_id DESC
$$;
COMMENT ON FUNCTION trueup.measurements_as_known(timestamptz, text) IS 'The latest measurement of each figure and window that was known at an instant';

-- Measurements and references are only added; counts grow where they lie.
GRANT INSERT ON ledger.profiles, ledger.profile_counts, ledger.profile_progress, ledger.measurement_runs,
    ledger.measurements TO trueup_writer;
GRANT UPDATE (counts, n, missing, lowest, highest, out_of_range, unseen, late, counted_at)
    ON ledger.profile_counts TO trueup_writer;
GRANT UPDATE (upto, absent, rows, counted_at) ON ledger.profile_progress TO trueup_writer;
