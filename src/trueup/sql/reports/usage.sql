/*---
title: Usage and cost
audience: service owners
description: >-
  Who asked what, how often, how fast, and what was at stake: requests, instances and predictions by deployment and
  channel, refusals, times of each step, and expected cost. Days are days of receipt in UTC.
parameters:
  deployment: {type: text, required: false, description: "only of this deployment"}
  from: {type: date, default: today - 30 days, description: "first day of receipt"}
  until: {type: date, default: today, description: "last day of receipt"}
columns:
  expected_cost: {format: money, title: "Expected cost"}
  p50_ms: {format: number, title: "Median, ms"}
  p95_ms: {format: number, title: "95th percentile, ms"}
  p99_ms: {format: number, title: "99th percentile, ms"}
  model_ms: {format: number, title: "of it in the model, mean ms"}
  queue_ms: {format: number, title: "of it queued, mean ms"}
charts:
  - {query: by_day, kind: stacked, x: day, y: predictions, series: channel, facet: deployment, title: Predictions a day}
  - {query: latency_by_day, kind: line, x: day, y: [p50_ms, p95_ms, p99_ms], facet: deployment, title: "From receipt to answer without booking", unit: ms}
---*/
-- query: totals  By deployment and channel
SELECT b.deployment, b.channel, count(*) AS commits, sum(b.instances) AS instances, sum(b.predictions) AS predictions,
       min(b.received_at) AS first_at, max(b.received_at) AS last_at
FROM batches b
WHERE b.received_at >= %(from)s::timestamp AT TIME ZONE 'UTC'
  AND b.received_at < (%(until)s + 1)::timestamp AT TIME ZONE 'UTC'
  AND b.booked_at <= %(now)s AND (%(deployment)s::text IS NULL OR b.deployment = %(deployment)s)
GROUP BY b.deployment, b.channel ORDER BY predictions DESC, b.deployment, b.channel;

-- query: by_day  Day by day
SELECT b.deployment, (b.received_at AT TIME ZONE 'UTC')::date AS day, b.channel, count(*) AS commits,
       sum(b.instances) AS instances, sum(b.predictions) AS predictions
FROM batches b
WHERE b.received_at >= %(from)s::timestamp AT TIME ZONE 'UTC'
  AND b.received_at < (%(until)s + 1)::timestamp AT TIME ZONE 'UTC'
  AND b.booked_at <= %(now)s AND (%(deployment)s::text IS NULL OR b.deployment = %(deployment)s)
GROUP BY b.deployment, day, b.channel ORDER BY b.deployment, day, b.channel;

-- query: sources  Where instances came from
-- A source is `request`, or a kind and a name: `kafka:cluster/topic`, `event:cluster/topic`, a data set.
SELECT b.deployment, b.channel, CASE WHEN b.source ~ '^(kafka|event):' THEN b.source ELSE split_part(b.source, ':', 1) END AS source,
       count(*) AS commits, sum(b.instances) AS instances
FROM batches b
WHERE b.received_at >= %(from)s::timestamp AT TIME ZONE 'UTC'
  AND b.received_at < (%(until)s + 1)::timestamp AT TIME ZONE 'UTC'
  AND b.booked_at <= %(now)s AND (%(deployment)s::text IS NULL OR b.deployment = %(deployment)s)
GROUP BY 1, 2, 3 ORDER BY instances DESC, 1, 2, 3 LIMIT 100;

-- query: latency  How fast
SELECT p.deployment, p.channel, p.model_version, count(*) AS answers,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY s.total_us) / 1000 AS p50_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY s.total_us) / 1000 AS p95_ms,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY s.total_us) / 1000 AS p99_ms,
       avg(p.steps_us[3])::double precision / 1000 AS queue_ms,
       avg(p.steps_us[4])::double precision / 1000 AS model_ms,
       sum(p.expected_cost) AS expected_cost
FROM predictions p
CROSS JOIN LATERAL (SELECT (p.steps_us[1]::bigint + p.steps_us[2] + p.steps_us[3] + p.steps_us[4])::double precision AS total_us) s
WHERE p.role = 'champion'
  AND p.received_at >= %(from)s::timestamp AT TIME ZONE 'UTC'
  AND p.received_at < (%(until)s + 1)::timestamp AT TIME ZONE 'UTC'
  AND p.booked_at <= %(now)s AND (%(deployment)s::text IS NULL OR p.deployment = %(deployment)s)
GROUP BY p.deployment, p.channel, p.model_version ORDER BY p.deployment, p.channel, p.model_version;

-- query: latency_by_day  How fast, day by day
SELECT p.deployment, (p.received_at AT TIME ZONE 'UTC')::date AS day, count(*) AS answers,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY s.total_us) / 1000 AS p50_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY s.total_us) / 1000 AS p95_ms,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY s.total_us) / 1000 AS p99_ms
FROM predictions p
CROSS JOIN LATERAL (SELECT (p.steps_us[1]::bigint + p.steps_us[2] + p.steps_us[3] + p.steps_us[4])::double precision AS total_us) s
WHERE p.role = 'champion'
  AND p.received_at >= %(from)s::timestamp AT TIME ZONE 'UTC'
  AND p.received_at < (%(until)s + 1)::timestamp AT TIME ZONE 'UTC'
  AND p.booked_at <= %(now)s AND (%(deployment)s::text IS NULL OR p.deployment = %(deployment)s)
GROUP BY p.deployment, day ORDER BY p.deployment, day;

-- query: refusals  Refused
SELECT r.deployment, r.channel, r.reason, count(*) AS refusals
FROM refusals r
WHERE r.received_at >= %(from)s::timestamp AT TIME ZONE 'UTC'
  AND r.received_at < (%(until)s + 1)::timestamp AT TIME ZONE 'UTC'
  AND r.booked_at <= %(now)s AND (%(deployment)s::text IS NULL OR r.deployment = %(deployment)s)
GROUP BY r.deployment, r.channel, r.reason ORDER BY refusals DESC, r.deployment, r.channel, r.reason
