-- The whole replay in one row, and the identity of one prediction worth a look.
WITH ranked AS (
    SELECT score, fail_value > 100000 AS fails,
           rank() OVER (ORDER BY score) + (count(*) OVER (PARTITION BY score) - 1) / 2.0 AS place
    FROM fails_truth WHERE fail_value IS NOT NULL
)
SELECT (SELECT count(*) FROM fails_truth) AS rows_booked,
       count(*) AS outcomes_joined,
       count(*)::float8 / nullif((SELECT count(*) FROM fails_truth), 0) AS maturity,
       (sum(place) FILTER (WHERE fails) - count(*) FILTER (WHERE fails) * (count(*) FILTER (WHERE fails) + 1) / 2.0)
           / nullif(count(*) FILTER (WHERE fails)::float8 * count(*) FILTER (WHERE NOT fails), 0) AS auc,
       avg((score - fails::int) ^ 2) AS brier,
       (SELECT count(*) FROM refusals WHERE deployment = 'settlement-fails') AS refusals,
       (SELECT prediction_id::text FROM fails_truth WHERE fail_value IS NOT NULL
        ORDER BY event_day DESC, expected_cost DESC LIMIT 1) AS example
FROM ranked
