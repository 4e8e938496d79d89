-- What processes say of themselves, every half a minute.
CREATE VIEW trueup.gauges AS SELECT name, labels, value, reported_at FROM ledger.gauges;
COMMENT ON VIEW trueup.gauges IS 'What processes reported of themselves: lag of streams, rows in spools';

CREATE FUNCTION trueup.gauges_as_known(at timestamptz, fresh interval DEFAULT '5 minutes')
RETURNS TABLE (name text, labels jsonb, value double precision, reported_at timestamptz)
LANGUAGE sql STABLE AS $$
    SELECT DISTINCT ON (g.name, g.labels) g.name, g.labels, g.value, g.reported_at
    FROM trueup.gauges g
    WHERE g.reported_at <= at AND g.reported_at > at - fresh
    ORDER BY g.name, g.labels, g.reported_at DESC
$$;
COMMENT ON FUNCTION trueup.gauges_as_known(timestamptz, interval) IS
    'The latest report of each thing at an instant; none older than `fresh`, for its process may be gone';

CREATE OR REPLACE FUNCTION ledger.forget_gauges(before timestamptz) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH gone AS (DELETE FROM ledger.gauges WHERE reported_at < before RETURNING 1) SELECT count(*) FROM gone
$$;
COMMENT ON FUNCTION ledger.forget_gauges(timestamptz) IS 'Removes reports that nobody will ask for any more';

GRANT INSERT ON ledger.gauges TO trueup_writer;
REVOKE ALL ON FUNCTION ledger.forget_gauges(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.forget_gauges(timestamptz) TO trueup_writer;
