-- One row a week of opening, from the ledger alone. AUC by the rank formula (Mann-Whitney, ties share
-- their rank). ECE over ten equal-width bins: mean gap of said and happened, weighted by rows. The top
-- tenth is of the tickets opened in the week, whether their outcome is known or not.
WITH rows AS (
    SELECT date_trunc('week', event_day::timestamp)::date AS week, prediction_id, score, missed, delay_days
    FROM queue_truth
), known AS (
    SELECT week, score, missed,
           rank() OVER (PARTITION BY week ORDER BY score)
               + (count(*) OVER (PARTITION BY week, score) - 1) / 2.0 AS place
    FROM rows WHERE missed IS NOT NULL
), auc AS (
    SELECT week,
           (sum(place) FILTER (WHERE missed)
                - count(*) FILTER (WHERE missed) * (count(*) FILTER (WHERE missed) + 1) / 2.0)
               / nullif(count(*) FILTER (WHERE missed)::float8 * count(*) FILTER (WHERE NOT missed), 0) AS auc
    FROM known GROUP BY week
), bins AS (
    SELECT week, count(*) AS n, abs(avg(score) - avg(missed::int)::float8) AS gap
    FROM known GROUP BY week, width_bucket(score, 0, 1.0000001, 10)
), ece AS (
    SELECT week, (sum(n * gap) / sum(n))::float8 AS ece FROM bins GROUP BY week
), tops AS (
    SELECT week, missed,
           row_number() OVER (PARTITION BY week ORDER BY score DESC, prediction_id)
               <= ceil(count(*) OVER (PARTITION BY week) / 10.0) AS is_top
    FROM rows
), caught AS (
    SELECT week, avg(missed::int) FILTER (WHERE is_top)::float8 AS top_precision,
           count(*) FILTER (WHERE missed AND is_top)::float8 / nullif(count(*) FILTER (WHERE missed), 0) AS top_caught
    FROM tops GROUP BY week
), totals AS (
    SELECT week, count(*) AS rows, count(missed) AS with_outcome, count(missed)::float8 / count(*) AS maturity,
           avg(missed::int)::float8 AS base_rate, avg(score) FILTER (WHERE missed IS NOT NULL) AS predicted,
           avg((score - missed::int) ^ 2) AS brier,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY delay_days) AS delay_median_days
    FROM rows GROUP BY week
)
SELECT t.week::text AS week, t.rows, t.with_outcome, t.maturity, t.base_rate, t.predicted, e.ece, a.auc, t.brier,
       t.delay_median_days, c.top_precision, c.top_caught
FROM totals t LEFT JOIN auc a USING (week) LEFT JOIN ece e USING (week) LEFT JOIN caught c USING (week)
ORDER BY t.week
