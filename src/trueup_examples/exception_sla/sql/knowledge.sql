-- The same weeks as they were known some weeks after their end. Early closings are the quick ones, which
-- rarely missed: what is known first flatters, until maturity is high. observed_at is when it was closed.
WITH moments AS (
    SELECT t.week, k.weeks_after, t.score, t.missed,
           t.opened_at + t.delay_days * interval '1 day' < t.week + (1 + k.weeks_after) * interval '7 days' AS known
    FROM (SELECT date_trunc('week', event_day::timestamp) AT TIME ZONE 'UTC' AS week, * FROM queue_truth) AS t
    CROSS JOIN (VALUES (0), (1), (2), (4)) AS k(weeks_after)
), bins AS (
    SELECT week, weeks_after, count(*) AS n, sum(missed::int) AS hits, abs(avg(score) - avg(missed::int)::float8) AS gap
    FROM moments WHERE known
    GROUP BY week, weeks_after, width_bucket(score, 0, 1.0000001, 10)
), rows AS (
    SELECT week, count(*) AS rows FROM moments WHERE weeks_after = 0 GROUP BY week
)
SELECT to_char(b.week AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS week, b.weeks_after,
       sum(b.n)::float8 / r.rows AS maturity, sum(b.hits)::float8 / sum(b.n) AS base_rate,
       (sum(b.n * b.gap) / sum(b.n))::float8 AS ece
FROM bins b JOIN rows r USING (week)
GROUP BY b.week, b.weeks_after, r.rows
