-- The truth: outcomes as they became known, predictions beside them, and what was done about an item.
-- Functions that return rows are plain SQL without SET and without other rights than the caller's, so that the planner
-- puts their text in the place of the call and conditions on deployment and event day reach the tables.

-- A label that joins by other key fields than the primary one says where these are: its items are not the
-- predictions' business keys.
CREATE VIEW trueup.contract_labels AS
WITH fields AS (
    SELECT c.contract_id, f.name, f.body ->> 'type' AS type, s.storage,
           row_number() OVER (PARTITION BY c.contract_id, s.storage ORDER BY f.place) AS place
    FROM ledger.contracts c
    CROSS JOIN LATERAL json_each(c.body -> 'fields') WITH ORDINALITY AS f(name, body, place)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN f.body ->> 'type' = 'float64' THEN 'floats'
                    WHEN f.body ->> 'type' IN ('int64', 'bool', 'date', 'timestamp') THEN 'ints'
                    ELSE 'texts' END AS storage
    ) s
), declared AS (
    SELECT c.contract_id, l.body, l.place - 1 AS place,
           coalesce(c.body #> '{labels,0,join_key}', c.body #> '{label,join_key}') AS primary_key
    FROM ledger.contracts c
    CROSS JOIN LATERAL json_array_elements(
        coalesce(c.body -> 'labels', CASE WHEN json_typeof(c.body -> 'label') = 'object' THEN json_build_array(c.body -> 'label') END)
    ) WITH ORDINALITY AS l(body, place)
)
SELECT d.contract_id, d.body ->> 'name' AS label, d.place::integer AS place, d.place = 0 AS is_primary,
       d.body ->> 'type' AS type,
       (d.body #>> '{horizon,days}')::integer AS horizon_days,
       (d.body #>> '{horizon,business_days}')::integer AS horizon_business_days,
       d.body #>> '{horizon,calendar}' AS calendar,
       (d.body ->> 'never_after')::integer AS never_after,
       coalesce(e.how, CASE WHEN d.body ->> 'type' = 'bool' THEN 'equals' END) AS event_how,
       CASE WHEN d.body ->> 'type' = 'bool' THEN coalesce(e.bound, 'true')::boolean::integer::double precision
            WHEN d.body ->> 'type' NOT IN ('string', 'category') THEN e.bound::double precision END AS event_number,
       CASE WHEN d.body ->> 'type' IN ('string', 'category') THEN e.bound END AS event_text,
       CASE WHEN d.place > 0 AND d.body ->> 'join_key' <> d.primary_key::text THEN (
           SELECT json_agg(json_build_object('type', f.type, 'storage', f.storage, 'place', f.place) ORDER BY k.n)
           FROM json_array_elements_text(d.body -> 'join_key') WITH ORDINALITY AS k(name, n)
           JOIN fields f ON f.contract_id = d.contract_id AND f.name = k.name
       ) END AS key_parts
FROM declared d
LEFT JOIN LATERAL json_each_text(d.body -> 'positive') AS e(how, bound) ON true;
COMMENT ON VIEW trueup.contract_labels IS 'The labels each contract is trued up with; place 0 is the primary one';
COMMENT ON COLUMN trueup.contract_labels.event_how IS 'How a value is compared with event_number or event_text to be the event; null: the label tells of none';
COMMENT ON COLUMN trueup.contract_labels.never_after IS 'Days after the due day from which a missing outcome counts as one that never comes; null: it is waited for';
COMMENT ON COLUMN trueup.contract_labels.key_parts IS 'Where the fields of its own join key are stored; null: the prediction''s business key';

CREATE FUNCTION trueup.is_positive(how text, bound_number double precision, bound_text text, number double precision, word text)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE how
        WHEN 'above' THEN number > bound_number
        WHEN 'at_least' THEN number >= bound_number
        WHEN 'below' THEN number < bound_number
        WHEN 'at_most' THEN number <= bound_number
        WHEN 'equals' THEN CASE WHEN bound_text IS NULL THEN number = bound_number ELSE word = bound_text END
    END
$$;
COMMENT ON FUNCTION trueup.is_positive(text, double precision, text, double precision, text) IS 'Whether a label''s value is the event; null where the label tells of none or nothing is known';

-- As trueup.contracts.identity writes business keys.
CREATE FUNCTION trueup.item_key(parts json, ints bigint[], texts text[]) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(
        CASE WHEN p.body ->> 'storage' = 'texts'
             THEN replace(replace(texts[(p.body ->> 'place')::integer], '\', '\\'), '|', '\|')
             WHEN p.body ->> 'type' = 'date'
             THEN to_char(date '1970-01-01' + ints[(p.body ->> 'place')::integer]::integer, 'YYYY-MM-DD')
             ELSE ints[(p.body ->> 'place')::integer]::text END,
        '|' ORDER BY p.n)
    FROM json_array_elements(parts) WITH ORDINALITY AS p(body, n)
$$;
COMMENT ON FUNCTION trueup.item_key(json, bigint[], text[]) IS 'The item that a label with a join key of its own is about';

CREATE VIEW trueup.closed_days AS SELECT calendar, day FROM ledger.closed_days;
COMMENT ON VIEW trueup.closed_days IS 'Weekdays on which a calendar is closed';

CREATE FUNCTION trueup.business_day_after(day date, length integer, of_calendar text) RETURNS date LANGUAGE sql STABLE COST 10000 AS $$
    SELECT later.day
    FROM (SELECT business_day_after.day + g AS day FROM generate_series(0, 2 * length + 30) AS g) later
    WHERE extract(isodow FROM later.day) < 6
      AND NOT EXISTS (SELECT FROM trueup.closed_days c WHERE c.calendar = of_calendar AND c.day = later.day)
    ORDER BY later.day OFFSET length LIMIT 1
$$;
COMMENT ON FUNCTION trueup.business_day_after(date, integer, text) IS 'So many business days after a day; a closed day counts from the next open one';

CREATE VIEW trueup.outcome_history AS
SELECT contract_name, label, business_key, event_day, revision, value_number, value_text, source, observed_at, recorded_at,
       state
FROM ledger.outcomes;
COMMENT ON VIEW trueup.outcome_history IS 'Everything ever said of every outcome';
COMMENT ON COLUMN trueup.outcome_history.revision IS 'The order of recording, of one outcome; the truth is what was observed last, and of equals recorded last';
COMMENT ON COLUMN trueup.outcome_history.state IS 'known, retracted (the source takes back what it said) or censored (the item left observation: no outcome will come)';

CREATE VIEW trueup.outcomes AS
SELECT o.* FROM trueup.outcome_history o
WHERE NOT EXISTS (
    SELECT 1 FROM ledger.outcomes n
    WHERE n.contract_name = o.contract_name AND n.label = o.label
      AND n.business_key = o.business_key AND n.event_day = o.event_day
      AND (n.observed_at, n.revision) > (o.observed_at, o.revision)
);
COMMENT ON VIEW trueup.outcomes IS 'The latest of every outcome: observed last, and of equals recorded last';

CREATE FUNCTION trueup.outcomes_as_known(at timestamptz, known_by text DEFAULT 'recorded')
RETURNS SETOF trueup.outcome_history LANGUAGE sql STABLE AS $$
    SELECT DISTINCT ON (contract_name, label, business_key, event_day) *
    FROM trueup.outcome_history
    WHERE CASE known_by WHEN 'recorded' THEN recorded_at WHEN 'observed' THEN observed_at END <= at
    ORDER BY contract_name, label, business_key, event_day, observed_at DESC, revision DESC
$$;
COMMENT ON FUNCTION trueup.outcomes_as_known(timestamptz, text) IS 'The outcomes as they were known at an instant: recorded by then, or (observed) said by their source by then';

CREATE VIEW trueup.actions AS
SELECT a.action_id, d.name AS deployment, a.contract_name, a.key, a.business_key, a.event_day, a.prediction_id, a.action,
       a.is_treatment, a.reason, a.actor, a.recorded_by, a.acted_at, a.recorded_at
FROM ledger.actions a JOIN ledger.deployments d USING (deployment_id);
COMMENT ON VIEW trueup.actions IS 'What was done about an item, by whom, when and why';
COMMENT ON COLUMN trueup.actions.is_treatment IS 'Whether it can have changed the outcome; looking at an item does not';

CREATE VIEW trueup.outcome_pulls AS
SELECT name, turn, since, rows_read, rows_refused, moved_at FROM ledger.outcome_pulls;
COMMENT ON VIEW trueup.outcome_pulls IS 'How far each source database was read for outcomes';

CREATE VIEW trueup.outcome_refusals AS
SELECT refusal_id, contract_name, source, detail, content_digest, refused_at FROM ledger.outcome_refusals;
COMMENT ON VIEW trueup.outcome_refusals IS 'Rows of sources that were no outcomes, and why; never the content itself';

CREATE FUNCTION trueup.truth_at(at timestamptz, known_by text, today date)
RETURNS TABLE (
    prediction_id uuid, event_day date, event_time timestamptz, deployment text, model_version text, role text, status text,
    business_key text, score double precision, class text, decision text, expected_cost double precision,
    booked_at timestamptz, contract text, contract_version integer,
    outcome double precision, outcome_text text, outcome_revision integer, outcome_observed_at timestamptz,
    outcome_known_at timestamptz, outcome_source text, due_day date, is_due boolean, has_outcome boolean,
    label text, is_primary boolean, outcome_state text, is_positive boolean, was_treated boolean, is_untreated boolean
) LANGUAGE sql STABLE AS $$
    SELECT p.prediction_id, p.event_day, p.event_time, p.deployment, p.model_version, p.role, p.status,
           p.business_key, p.score, p.class, p.decision, p.expected_cost,
           p.booked_at, p.contract, p.contract_version,
           o.value_number, o.value_text, o.revision, o.observed_at,
           o.recorded_at, o.source, d.due_day, coalesce(d.due_day <= today, true), coalesce(o.state = 'known', false),
           l.label, l.is_primary,
           CASE WHEN o.state IS NOT NULL THEN o.state
                WHEN d.due_day > today THEN 'not_due'
                WHEN coalesce(d.due_day, p.event_day) + l.never_after < today THEN 'never'
                ELSE 'awaited' END,
           trueup.is_positive(l.event_how, l.event_number, l.event_text, o.value_number, o.value_text),
           EXISTS (
               SELECT FROM trueup.actions a
               WHERE a.business_key = p.business_key AND a.event_day = p.event_day AND a.contract_name = p.contract
                 AND a.is_treatment
                 AND CASE known_by WHEN 'recorded' THEN a.recorded_at WHEN 'observed' THEN a.acted_at END <= at
           ),
           coalesce(p.decision = 'untreated', false)
    FROM trueup.predictions p
    JOIN trueup.contract_labels l ON l.contract_id = p.contract_id
    -- Once an event day, not once a prediction.
    LEFT JOIN (
        SELECT c.contract_id, c.label, day AS event_day,
               trueup.business_day_after(day, c.horizon_business_days, c.calendar) AS due_day
        FROM trueup.contract_labels c CROSS JOIN trueup.event_days() AS day
        WHERE NOT c.is_primary AND c.horizon_business_days IS NOT NULL
    ) b ON b.contract_id = p.contract_id AND b.label = l.label AND b.event_day = p.event_day
    CROSS JOIN LATERAL (
        SELECT CASE WHEN l.is_primary THEN p.due_day ELSE coalesce(p.event_day + l.horizon_days, b.due_day) END AS due_day
    ) d
    -- One index probe a prediction, whatever the planner believes: statistics of fresh partitions are missing
    -- or old, and a join planned on them can compare every prediction with every outcome.
    LEFT JOIN LATERAL (
        SELECT h.value_number, h.value_text, h.revision, h.observed_at, h.recorded_at, h.source, h.state
        FROM trueup.outcome_history h
        WHERE h.contract_name = p.contract AND h.label = l.label AND h.event_day = p.event_day
          AND h.business_key = CASE WHEN l.key_parts IS NULL THEN p.business_key
                                    ELSE trueup.item_key(l.key_parts, p.ints, p.texts) END
          AND CASE known_by WHEN 'recorded' THEN h.recorded_at WHEN 'observed' THEN h.observed_at END <= at
        ORDER BY h.observed_at DESC, h.revision DESC LIMIT 1
    ) o ON true
    WHERE CASE known_by WHEN 'recorded' THEN p.booked_at WHEN 'observed' THEN p.event_time END <= at
$$;
COMMENT ON FUNCTION trueup.truth_at(timestamptz, text, date) IS 'Predictions and outcomes of every label as both were known at an instant, due by a day. known_by: recorded, or observed (when their sources said it, for history that was replayed)';

CREATE VIEW trueup.truth_by_label AS
SELECT * FROM trueup.truth_at('infinity', 'recorded', (now() AT TIME ZONE 'UTC')::date);
COMMENT ON VIEW trueup.truth_by_label IS 'Predictions with the latest outcome of each label, one row a prediction and label';
COMMENT ON COLUMN trueup.truth_by_label.is_due IS 'Whether the outcome is due by now; always for "when published"';
COMMENT ON COLUMN trueup.truth_by_label.has_outcome IS 'Whether it is known what happened';
COMMENT ON COLUMN trueup.truth_by_label.outcome_state IS 'known, retracted, censored, or where nothing was said: not_due, awaited, never (due for longer than the label''s never_after)';
COMMENT ON COLUMN trueup.truth_by_label.is_positive IS 'Whether what happened is the event that the probability is about; null where it is not known or the label tells of no event';
COMMENT ON COLUMN trueup.truth_by_label.was_treated IS 'Whether something was done that can have changed the outcome: then "did not happen" may be "was prevented"';
COMMENT ON COLUMN trueup.truth_by_label.is_untreated IS 'Whether the item is of the slice that is left alone on purpose, drawn at random before anyone decided';

CREATE VIEW trueup.truth AS SELECT * FROM trueup.truth_by_label WHERE is_primary;
COMMENT ON VIEW trueup.truth IS 'Predictions with the latest outcome of the primary label, by business key and event day; columns as of truth_by_label';

CREATE FUNCTION trueup.truth_by_label_as_known(at timestamptz, known_by text DEFAULT 'recorded')
RETURNS SETOF trueup.truth_by_label LANGUAGE sql STABLE AS $$
    SELECT * FROM trueup.truth_at(at, known_by, (at AT TIME ZONE 'UTC')::date)
$$;
COMMENT ON FUNCTION trueup.truth_by_label_as_known(timestamptz, text) IS 'The view truth_by_label as of an instant';

CREATE FUNCTION trueup.truth_as_known(at timestamptz, known_by text DEFAULT 'recorded')
RETURNS SETOF trueup.truth LANGUAGE sql STABLE AS $$
    SELECT * FROM trueup.truth_at(at, known_by, (at AT TIME ZONE 'UTC')::date) WHERE is_primary
$$;
COMMENT ON FUNCTION trueup.truth_as_known(timestamptz, text) IS 'The view truth as of an instant: what was recorded by then, or (observed) what sources had said by then';

-- What a metric is computed from. Of treated items nobody knows what would have happened, and of those that were left
-- alone by choice the choice is in the figure: the slice that was drawn at random is the honest one.
CREATE FUNCTION trueup.performance_as_known(at timestamptz, known_by text DEFAULT 'recorded', items text DEFAULT 'all')
RETURNS SETOF trueup.truth_by_label LANGUAGE sql STABLE AS $$
    SELECT * FROM trueup.truth_at(at, known_by, (at AT TIME ZONE 'UTC')::date)
    WHERE outcome_state = 'known'
      AND CASE items WHEN 'all' THEN true WHEN 'treated' THEN was_treated WHEN 'left_alone' THEN NOT was_treated
                     WHEN 'untreated' THEN is_untreated AND NOT was_treated END
$$;
COMMENT ON FUNCTION trueup.performance_as_known(timestamptz, text, text) IS 'Predictions whose outcome is known. items: all, treated, left_alone (nothing was done), untreated (left alone as the random slice says)';

CREATE FUNCTION trueup.maturity_at(at timestamptz, known_by text, today date)
RETURNS TABLE (deployment text, event_day date, role text, predictions bigint, due bigint, due_with_outcome bigint,
               maturity double precision, retracted bigint, censored bigint, never bigint, treated bigint, untreated bigint)
LANGUAGE sql STABLE AS $$
    SELECT t.deployment, t.event_day, t.role, count(*),
           count(*) FILTER (WHERE t.is_due AND t.outcome_state NOT IN ('censored', 'never')),
           count(*) FILTER (WHERE t.is_due AND t.has_outcome),
           count(*) FILTER (WHERE t.is_due AND t.has_outcome)::double precision
               / nullif(count(*) FILTER (WHERE t.is_due AND t.outcome_state NOT IN ('censored', 'never')), 0),
           count(*) FILTER (WHERE t.outcome_state = 'retracted'),
           count(*) FILTER (WHERE t.outcome_state = 'censored'),
           count(*) FILTER (WHERE t.outcome_state = 'never'),
           count(*) FILTER (WHERE t.was_treated),
           count(*) FILTER (WHERE t.is_untreated)
    FROM trueup.truth_at(at, known_by, today) t WHERE t.is_primary
    GROUP BY t.deployment, t.event_day, t.role
$$;
COMMENT ON FUNCTION trueup.maturity_at(timestamptz, text, date) IS 'Maturity as known at an instant, due by a day';

CREATE VIEW trueup.maturity AS
SELECT * FROM trueup.maturity_at('infinity', 'recorded', (now() AT TIME ZONE 'UTC')::date);
COMMENT ON VIEW trueup.maturity IS 'Rows with outcome / rows due, a deployment, event day and role. What was censored or never comes is not due, and counted apart';

CREATE FUNCTION trueup.maturity_as_known(at timestamptz, known_by text DEFAULT 'recorded')
RETURNS SETOF trueup.maturity LANGUAGE sql STABLE AS $$
    SELECT * FROM trueup.maturity_at(at, known_by, (at AT TIME ZONE 'UTC')::date)
$$;
COMMENT ON FUNCTION trueup.maturity_as_known(timestamptz, text) IS 'The view maturity as of an instant';

-- The fence of pulls: a turn follows only on the one that its puller believes to be the last.
CREATE OR REPLACE FUNCTION ledger.move_pull(
    of_pull text, expected bigint, until timestamptz, read bigint, refused bigint
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF expected = 0 THEN
        INSERT INTO ledger.outcome_pulls (name, turn, since, rows_read, rows_refused)
        VALUES (of_pull, 1, until, read, refused) ON CONFLICT DO NOTHING;
    ELSE
        UPDATE ledger.outcome_pulls
        SET turn = turn + 1, since = greatest(since, until), rows_read = rows_read + read,
            rows_refused = rows_refused + refused, moved_at = now()
        WHERE name = of_pull AND turn = expected;
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another puller has moved on' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END $$;
COMMENT ON FUNCTION ledger.move_pull(text, bigint, timestamptz, bigint, bigint) IS
    'Moves a pull on, or fails where its turn is not what the caller believes';

GRANT INSERT ON ledger.outcome_refusals, ledger.actions TO trueup_writer;
REVOKE ALL ON FUNCTION ledger.move_pull(text, bigint, timestamptz, bigint, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.move_pull(text, bigint, timestamptz, bigint, bigint) TO trueup_writer;
