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


-- The fence of streams. A position moves only from where its mover believes it to be: whoever lost a partition
-- and does not know it yet fails here, and with it everything else of its transaction.
CREATE OR REPLACE FUNCTION ledger.move_position(
    of_deployment integer, of_cluster text, of_topic text, of_partition integer, expected bigint, next bigint
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF expected IS NULL THEN
        INSERT INTO ledger.positions (deployment_id, cluster, topic, partition, next_offset)
        VALUES (of_deployment, of_cluster, of_topic, of_partition, next) ON CONFLICT DO NOTHING;
    ELSE
        UPDATE ledger.positions SET next_offset = next, moved_at = now()
        WHERE deployment_id = of_deployment AND cluster = of_cluster AND topic = of_topic
          AND partition = of_partition AND next_offset = expected AND next > expected;
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another owner has moved on' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END $$;

COMMENT ON FUNCTION ledger.move_position(integer, text, text, integer, bigint, bigint) IS
    'Moves a stream''s position, or fails where it is not what the caller believes';

CREATE OR REPLACE FUNCTION ledger.replies_sent(batches bigint[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM ledger.owed_replies WHERE batch_id = ANY (batches)
$$;

COMMENT ON FUNCTION ledger.replies_sent(bigint[]) IS 'Forgets replies whose delivery was confirmed';

CREATE OR REPLACE FUNCTION ledger.letters_sent(letters bigint[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE ledger.dead_letters SET relayed_at = now() WHERE letter_id = ANY (letters) AND relayed_at IS NULL
$$;

COMMENT ON FUNCTION ledger.letters_sent(bigint[]) IS 'Marks dead letters whose delivery was confirmed';

CREATE OR REPLACE FUNCTION ledger.letters_replayed(letters bigint[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE ledger.dead_letters SET replayed_at = now() WHERE letter_id = ANY (letters) AND replayed_at IS NULL
$$;

COMMENT ON FUNCTION ledger.letters_replayed(bigint[]) IS 'Marks dead letters that were answered after all';
