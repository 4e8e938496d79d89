-- The whole replay in one row, and the identity of one prediction worth a look.
WITH ranked AS (
    SELECT score, missed, delay_days,
           rank() OVER (ORDER BY score) + (count(*) OVER (PARTITION BY score) - 1) / 2.0 AS place
    FROM queue_truth WHERE missed IS NOT NULL
)
SELECT (SELECT count(*) FROM queue_truth) AS rows_booked,
       count(*) AS outcomes_joined,
       count(*)::float8 / nullif((SELECT count(*) FROM queue_truth), 0) AS maturity,
       avg(missed::int)::float8 AS base_rate,
       avg(score) AS predicted,
       (sum(place) FILTER (WHERE missed) - count(*) FILTER (WHERE missed) * (count(*) FILTER (WHERE missed) + 1) / 2.0)
           / nullif(count(*) FILTER (WHERE missed)::float8 * count(*) FILTER (WHERE NOT missed), 0) AS auc,
       avg((score - missed::int) ^ 2) AS brier,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY delay_days) AS delay_median_days,
       percentile_cont(0.9) WITHIN GROUP (ORDER BY delay_days) AS delay_p90_days,
       (SELECT count(*) FROM refusals WHERE deployment = 'exception-sla') AS refusals,
       (SELECT prediction_id::text FROM queue_truth WHERE missed
        ORDER BY event_day DESC, score DESC, prediction_id LIMIT 1) AS example
FROM ranked
