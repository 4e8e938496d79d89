-- One row a month, from the ledger alone. AUC by the rank formula (Mann-Whitney, ties share their
-- rank); average precision as the sum over distinct scores of (recall gained) x precision.
WITH rows AS (
    SELECT date_trunc('month', event_day)::date AS month, event_day, prediction_id, score, expected_cost,
           last_value, fail_value, fail_value > 100000 AS fails
    FROM fails_truth
), known AS (
    SELECT * FROM rows WHERE fails IS NOT NULL
), ranked AS (
    SELECT month, fails, score,
           rank() OVER (PARTITION BY month ORDER BY score)
               + (count(*) OVER (PARTITION BY month, score) - 1) / 2.0 AS place
    FROM known
), auc AS (
    SELECT month,
           (sum(place) FILTER (WHERE fails) - count(*) FILTER (WHERE fails) * (count(*) FILTER (WHERE fails) + 1) / 2.0)
               / nullif(count(*) FILTER (WHERE fails)::float8 * count(*) FILTER (WHERE NOT fails), 0) AS auc
    FROM ranked GROUP BY month
), steps AS (
    SELECT month, score, count(*) AS n, count(*) FILTER (WHERE fails) AS hits FROM known GROUP BY month, score
), curve AS (
    SELECT month, hits,
           sum(hits) OVER down / sum(n) OVER down AS precision,
           sum(hits) OVER (PARTITION BY month) AS all_hits
    FROM steps WINDOW down AS (PARTITION BY month ORDER BY score DESC)
), ap AS (
    SELECT month, (sum(hits * precision) / nullif(max(all_hits), 0))::float8 AS average_precision FROM curve GROUP BY month
), tops AS (
    SELECT month, fails, fail_value,
           row_number() OVER (PARTITION BY event_day ORDER BY expected_cost DESC, prediction_id) AS by_cost,
           row_number() OVER (PARTITION BY event_day ORDER BY score DESC, prediction_id) AS by_probability,
           row_number() OVER (PARTITION BY event_day ORDER BY last_value DESC, prediction_id) AS by_balance
    FROM known
), caught AS (
    SELECT month,
           avg(fails::int) FILTER (WHERE by_cost <= 200)::float8 AS precision_by_cost,
           avg(fails::int) FILTER (WHERE by_probability <= 200)::float8 AS precision_by_probability,
           avg(fails::int) FILTER (WHERE by_balance <= 200)::float8 AS precision_by_balance,
           sum(fail_value) FILTER (WHERE fails AND by_cost <= 200) AS caught_by_cost,
           sum(fail_value) FILTER (WHERE fails AND by_probability <= 200) AS caught_by_probability,
           sum(fail_value) FILTER (WHERE fails AND by_balance <= 200) AS caught_by_balance
    FROM tops GROUP BY month
), totals AS (
    SELECT month, count(*) AS rows, count(fails) AS with_outcome,
           count(fails)::float8 / count(*) AS maturity,
           avg(fails::int)::float8 AS base_rate,
           avg((score - fails::int) ^ 2) AS brier,
           sum(fail_value) FILTER (WHERE fails) AS failing_value
    FROM rows GROUP BY month
)
SELECT to_char(month, 'YYYY-MM') AS month, t.rows, t.with_outcome, t.maturity, t.base_rate, a.auc, p.average_precision,
       t.brier, t.failing_value, c.precision_by_cost, c.precision_by_probability, c.precision_by_balance,
       c.caught_by_cost, c.caught_by_probability, c.caught_by_balance
FROM totals t LEFT JOIN auc a USING (month) LEFT JOIN ap p USING (month) LEFT JOIN caught c USING (month)
ORDER BY month
