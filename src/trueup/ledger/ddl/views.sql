-- What readers see. Every view and column that is not self-evident has a comment: `\d+ trueup.truth`.

CREATE OR REPLACE VIEW ledger.contract_features AS
SELECT c.contract_id, f.name, row_number() OVER (PARTITION BY c.contract_id ORDER BY f.place) - 1 AS place
FROM ledger.contracts c
CROSS JOIN LATERAL json_each(c.body -> 'fields') WITH ORDINALITY AS f(name, body, place)
WHERE coalesce(f.body ->> 'role', 'feature') = 'feature';

CREATE VIEW trueup.contracts AS
SELECT contract_id, name, version, digest, body, created_at FROM ledger.contracts;
COMMENT ON VIEW trueup.contracts IS 'Every contract version ever deployed';

CREATE VIEW trueup.model_versions AS
SELECT v.model_version_id, v.name, v.version, v.digest, v.artifacts, v.libraries, v.parity,
       c.name AS contract, c.version AS contract_version, c.digest AS contract_digest, v.created_at
FROM ledger.model_versions v JOIN ledger.contracts c USING (contract_id);
COMMENT ON VIEW trueup.model_versions IS 'Every model version with the digests of its artifacts';

CREATE VIEW trueup.deployment_history AS
SELECT d.deployment_id, d.name, r.revision, v.version AS champion, r.challenger_ids, r.shadow_ids, r.serving,
       r.deployed_at, r.deployed_by
FROM ledger.deployment_revisions r
JOIN ledger.deployments d USING (deployment_id)
JOIN ledger.model_versions v ON v.model_version_id = r.champion_id;
COMMENT ON VIEW trueup.deployment_history IS 'Every revision of every deployment: what answered since when';

CREATE VIEW trueup.deployments AS
SELECT DISTINCT ON (deployment_id) * FROM trueup.deployment_history ORDER BY deployment_id, revision DESC;
COMMENT ON VIEW trueup.deployments IS 'What answers now, one row a deployment';

CREATE VIEW trueup.batches AS
SELECT b.batch_id, d.name AS deployment, b.channel, b.source, b.instances, b.predictions, b.received_at, b.booked_at
FROM ledger.batches b JOIN ledger.deployments d USING (deployment_id);
COMMENT ON VIEW trueup.batches IS 'One row a booking commit';

CREATE VIEW trueup.predictions AS
SELECT p.prediction_id, p.event_day, p.event_time, d.name AS deployment, v.version AS model_version,
       c.name AS contract, c.version AS contract_version, c.digest AS contract_digest,
       p.role, p.channel, p.status, p.source, p.source_key, p.business_key,
       p.score, p.outputs, p.class, p.decision, p.expected_cost, p.due_day,
       p.received_at, p.booked_at, p.steps_us,
       (extract(epoch FROM p.booked_at - p.received_at) * 1000000)::bigint
           - p.steps_us[1]::bigint - p.steps_us[2] - p.steps_us[3] - p.steps_us[4] AS book_us,
       p.content_digest, p.batch_id,
       p.floats, p.ints, p.texts, p.reason_fields, p.reason_values,
       p.deployment_id, p.model_version_id, p.contract_id
FROM ledger.predictions p
JOIN ledger.deployments d USING (deployment_id)
JOIN ledger.model_versions v ON v.model_version_id = p.model_version_id
JOIN ledger.contracts c ON c.contract_id = p.contract_id;
COMMENT ON VIEW trueup.predictions IS 'Every answer ever given, one row an instance and role; fields by name are in the view <contract>_v<version>';
COMMENT ON COLUMN trueup.predictions.source_key IS 'Row, offset or idempotency key; with source, deployment and role the identity';
COMMENT ON COLUMN trueup.predictions.steps_us IS 'Microseconds of parse, validate, queue, model';
COMMENT ON COLUMN trueup.predictions.book_us IS 'Microseconds from the last of the steps to the start of the commit at the server, which no row can outlast; it has the difference of two hosts'' clocks in it, and can be negative for it';
COMMENT ON COLUMN trueup.predictions.due_day IS 'Day the outcome is due; null: when published';
COMMENT ON COLUMN trueup.predictions.expected_cost IS 'Probability x amount, in the amount''s unit';

CREATE FUNCTION trueup.event_days() RETURNS SETOF date LANGUAGE sql STABLE AS $$
    -- A condition on the day may be asked of every relation there is, whatever stands below: other names give null.
    SELECT to_date(substring(part.relname FROM '^predictions_(\d{8})$'), 'YYYYMMDD')
    FROM pg_inherits i
    JOIN pg_class part ON part.oid = i.inhrelid
    JOIN pg_class whole ON whole.oid = i.inhparent
    JOIN pg_namespace n ON n.oid = whole.relnamespace
    WHERE n.nspname = 'ledger' AND whole.relname = 'predictions'
$$;
COMMENT ON FUNCTION trueup.event_days() IS 'The event days that have a partition, in no order; most hold predictions';

CREATE VIEW trueup.reasons AS
SELECT p.prediction_id, p.event_day, r.rank, f.name AS field, r.contribution
FROM ledger.predictions p
CROSS JOIN LATERAL unnest(p.reason_fields, p.reason_values) WITH ORDINALITY AS r(place, contribution, rank)
JOIN LATERAL (
    SELECT e.name FROM ledger.contract_features e WHERE e.contract_id = p.contract_id AND e.place = r.place
) f ON true;
COMMENT ON VIEW trueup.reasons IS 'Largest contributions to a score, largest first, in the model''s margin unit (log-odds)';

CREATE VIEW trueup.refusals AS
SELECT r.refusal_id, d.name AS deployment, r.channel, r.source, r.source_key, r.reason, r.detail, r.attempt,
       r.event_day, r.received_at, r.booked_at, r.content_digest
FROM ledger.refusals r JOIN ledger.deployments d USING (deployment_id);
COMMENT ON VIEW trueup.refusals IS 'What got no answer, and why; never the content itself';

CREATE VIEW trueup.positions AS
SELECT d.name AS deployment, p.cluster, p.topic, p.partition, p.next_offset, p.moved_at
FROM ledger.positions p JOIN ledger.deployments d USING (deployment_id);
COMMENT ON VIEW trueup.positions IS 'How far each deployment has read each partition of its topic';

CREATE VIEW trueup.reads AS
SELECT r.read_id, d.name AS deployment, r.cluster, r.topic, r.partition, r.first_offset, r.next_offset, r.records,
       r.tombstones, r.instances, r.answered, r.repeated, r.refused, r.batch_id, r.received_at, r.booked_at
FROM ledger.reads r JOIN ledger.deployments d USING (deployment_id);
COMMENT ON VIEW trueup.reads IS 'What each commit of a stream read of a partition, and what became of it';

CREATE VIEW trueup.dead_letters AS
SELECT l.letter_id, d.name AS deployment, l.cluster, l.topic, l.partition, l.record_offset, l.places, l.reason,
       l.detail, octet_length(l.value) AS value_bytes, l.appended_at, l.received_at, l.booked_at, l.relayed_at,
       l.replayed_at, greatest(cardinality(l.places), 1) AS instances
FROM ledger.dead_letters l JOIN ledger.deployments d USING (deployment_id);
COMMENT ON VIEW trueup.dead_letters IS 'Records that got no answer, without their content';
COMMENT ON COLUMN trueup.dead_letters.places IS 'Which of the record''s instances were refused; null: the record as a whole';

CREATE VIEW trueup.owed_replies AS
SELECT d.name AS deployment, o.cluster, o.topic, o.partition, o.batch_id, o.booked_at
FROM ledger.owed_replies o JOIN ledger.deployments d USING (deployment_id);
COMMENT ON VIEW trueup.owed_replies IS 'Batches whose replies were not confirmed by the broker yet';

-- Rows are counted where they lie, batch by batch: the batches of the days' reads are a range of numbers, which the
-- block range index of every day of events finds. Only a batch that does not hold what its reads said is looked at by
-- partition: where the identity is the record's place, the row's key says the partition; where it is the event's own id
-- nothing does, so the rows that are there count for the batch's partitions in their order, and the last ones lack.
-- A letter is of the read that has its offset and its moment of receipt. Of what is read again after a rewind the letter
-- of the first time stands for a second refusal.
-- The owner's rights, because readers see no table; with them nothing but these sums.
CREATE FUNCTION trueup.stream_reconciliation(of_deployment text, first_day date, last_day date)
RETURNS TABLE (deployment text, cluster text, topic text, partition integer, day date, reads bigint, records bigint,
               received bigint, answered bigint, repeated bigint, refused bigint, difference bigint, replayed bigint,
               skipped bigint, reread bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH own AS MATERIALIZED (
        SELECT r.*, d.name, (r.received_at AT TIME ZONE 'UTC')::date AS day,
               -- A partition's reads are numbered while its position is locked, so this is the order of their commits.
               coalesce(
                   lag(r.next_offset) OVER (
                       PARTITION BY r.deployment_id, r.cluster, r.topic, r.partition ORDER BY r.read_id
                   ),
                   (SELECT b.next_offset FROM ledger.reads b
                    WHERE b.deployment_id = r.deployment_id AND b.cluster = r.cluster AND b.topic = r.topic
                      AND b.partition = r.partition AND b.read_id < r.read_id
                    ORDER BY b.read_id DESC LIMIT 1),
                   r.first_offset
               ) AS before
        FROM ledger.reads r JOIN ledger.deployments d USING (deployment_id)
        WHERE (of_deployment IS NULL OR d.name = of_deployment)
          AND r.received_at >= first_day::timestamp AT TIME ZONE 'UTC'
          AND r.received_at < (last_day + 1)::timestamp AT TIME ZONE 'UTC'
    ), told AS MATERIALIZED (
        SELECT batch_id, sum(answered) AS told FROM own WHERE batch_id IS NOT NULL GROUP BY batch_id
    ), held AS MATERIALIZED (
        SELECT p.batch_id, count(*) AS held
        FROM ledger.predictions p
        WHERE p.batch_id BETWEEN (SELECT min(batch_id) FROM told) AND (SELECT max(batch_id) FROM told)
          AND p.role = 'champion'
        GROUP BY p.batch_id
    ), broken AS MATERIALIZED (
        SELECT t.batch_id, t.told, coalesce(h.held, 0) AS held, starts_with(b.source, 'event:') AS by_event
        FROM told t LEFT JOIN held h USING (batch_id) LEFT JOIN ledger.batches b USING (batch_id)
        WHERE t.told <> coalesce(h.held, 0)
    ), held_there AS MATERIALIZED (
        SELECT p.batch_id, split_part(p.source_key, '/', 1) AS partition, count(*) AS held
        FROM ledger.predictions p JOIN broken b USING (batch_id)
        WHERE p.batch_id BETWEEN (SELECT min(batch_id) FROM broken) AND (SELECT max(batch_id) FROM broken)
          AND p.role = 'champion' AND b.by_event IS NOT TRUE
        GROUP BY 1, 2
    ), mended AS MATERIALIZED (
        SELECT o.read_id,
               CASE WHEN b.by_event IS NOT TRUE THEN coalesce(h.held, 0)
                    WHEN row_number() OVER backwards = 1 THEN b.held - least(b.held, sum(o.answered) OVER upwards - o.answered)
                    ELSE least(o.answered, greatest(b.held - (sum(o.answered) OVER upwards - o.answered), 0))
               END AS answered
        FROM own o JOIN broken b USING (batch_id)
        LEFT JOIN held_there h ON h.batch_id = o.batch_id AND h.partition = o.partition::text
        WINDOW upwards AS (PARTITION BY o.batch_id ORDER BY o.partition),
               backwards AS (PARTITION BY o.batch_id ORDER BY o.partition DESC)
    )
    SELECT o.name, o.cluster, o.topic, o.partition, o.day,
           count(*), sum(o.records)::bigint, sum(o.instances)::bigint,
           sum(coalesce(m.answered, o.answered))::bigint, sum(o.repeated)::bigint, sum(l.refused)::bigint,
           sum(o.instances - coalesce(m.answered, o.answered) - o.repeated - l.refused)::bigint,
           sum(l.replayed)::bigint,
           sum(greatest(o.first_offset - o.before, 0))::bigint, sum(greatest(o.before - o.first_offset, 0))::bigint
    FROM own o
    LEFT JOIN mended m USING (read_id)
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(f.instances) FILTER (WHERE f.mine), 0)
                   + least(coalesce(sum(f.instances) FILTER (WHERE NOT f.mine), 0),
                           greatest(o.refused - coalesce(sum(f.instances) FILTER (WHERE f.mine), 0), 0)) AS refused,
               coalesce(sum(f.instances) FILTER (WHERE f.mine AND f.is_replayed), 0) AS replayed
        FROM (
            SELECT greatest(cardinality(d.places), 1) AS instances, d.received_at = o.received_at AS mine,
                   d.replayed_at IS NOT NULL AS is_replayed
            FROM ledger.dead_letters d
            WHERE o.refused > 0 AND d.deployment_id = o.deployment_id AND d.cluster = o.cluster AND d.topic = o.topic
              AND d.partition = o.partition AND d.record_offset >= o.first_offset AND d.record_offset < o.next_offset
              AND d.received_at <= o.received_at
        ) f
    ) l
    GROUP BY 1, 2, 3, 4, 5
    ORDER BY 1, 2, 3, 5, 4
$$;
COMMENT ON FUNCTION trueup.stream_reconciliation(text, date, date) IS 'Of every partition and UTC day of receipt: received = answered + repeated + refused, with answers and dead letters counted where they lie; null: all deployments. skipped are offsets that no record of ours had, reread those read before';
