-- Made anew after every migration. Schema `trueup` is what readers see.
CREATE SCHEMA trueup;

-- Day partitions are made by whoever books first, without giving the writer the right to
-- make tables. The lock lets two bookers of a new day take turns instead of failing.
CREATE OR REPLACE FUNCTION ledger.ensure_partitions(days date[]) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    day date;
    made integer := 0;
BEGIN
    IF cardinality(days) > 1000 THEN
        RAISE EXCEPTION 'at most 1000 days at once';
    END IF;
    FOR day IN SELECT DISTINCT d FROM unnest(days) AS d ORDER BY d LOOP
        IF to_regclass(format('ledger.predictions_%s', to_char(day, 'YYYYMMDD'))) IS NULL THEN
            PERFORM pg_advisory_xact_lock(7238146);
            EXECUTE format(
                'CREATE TABLE IF NOT EXISTS ledger.%I PARTITION OF ledger.predictions FOR VALUES FROM (%L) TO (%L)',
                'predictions_' || to_char(day, 'YYYYMMDD'), day, day + 1);
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END $$;

COMMENT ON FUNCTION ledger.ensure_partitions(date[]) IS 'Makes the day partitions that do not exist yet';

