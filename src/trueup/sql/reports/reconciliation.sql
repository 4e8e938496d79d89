/*---
title: Reconciliation control
audience: operations control
description: >-
  Received = answered + repeated + refused, for every stream, partition and day, counted where the rows lie; then what
  was booked in each batch, and what was refused and why. Every difference is a break. Days are days of receipt in UTC.
schedule: "30 5 * * *"
missed: all
parameters:
  deployment: {type: text, required: false, description: "only of this deployment"}
  from: {type: date, default: today - 7 days, description: "first day of receipt"}
  until: {type: date, default: today - 1 day, description: "last day of receipt"}
  row_deployment: {type: text, required: false}
  row_reason: {type: text, required: false}
  row_detail: {type: text, required: false}
tiles: [summary]
columns:
  refused_share: {format: share, title: "Refused"}
charts:
  - {query: by_day, kind: stacked, x: day, y: [answered, repeated, refused], facet: deployment, title: What became of the instances of streams}
  - {query: booked, kind: bar, x: day, y: predictions, series: deployment, title: Predictions booked}
rows:
  refusals: {query: refusal_rows, keys: [deployment, reason, detail]}
---*/
-- query: summary  In short
WITH streamed AS (
    SELECT coalesce(sum(received), 0)::bigint AS received, coalesce(sum(answered), 0)::bigint AS answered,
           coalesce(sum(repeated), 0)::bigint AS repeated, coalesce(sum(refused), 0)::bigint AS refused,
           count(*) FILTER (WHERE difference <> 0) AS breaks
    FROM stream_reconciliation(%(deployment)s, %(from)s, %(until)s)
)
SELECT received, answered, repeated, refused, received - answered - repeated - refused AS difference, breaks,
       CASE WHEN breaks = 0 THEN 'balances' ELSE 'does not balance' END AS control
FROM streamed;

-- query: by_day  Streams, day by day
SELECT deployment, day, sum(received)::bigint AS received, sum(answered)::bigint AS answered,
       sum(repeated)::bigint AS repeated, sum(refused)::bigint AS refused, sum(difference)::bigint AS difference,
       sum(replayed)::bigint AS replayed
FROM stream_reconciliation(%(deployment)s, %(from)s, %(until)s)
GROUP BY deployment, day ORDER BY deployment, day;

-- query: partitions  By topic and partition
SELECT deployment, cluster, topic, partition, day, reads, records, received, answered, repeated, refused, difference,
       replayed, skipped, reread, CASE WHEN difference = 0 THEN 'ok' ELSE 'broken' END AS verdict
FROM stream_reconciliation(%(deployment)s, %(from)s, %(until)s)
ORDER BY (difference <> 0) DESC, deployment, cluster, topic, day, partition;

-- query: booked  Batches booked
SELECT b.deployment, (b.received_at AT TIME ZONE 'UTC')::date AS day, b.channel, count(*) AS batches,
       sum(b.instances) AS instances, sum(b.predictions) AS predictions
FROM batches b
WHERE b.received_at >= %(from)s::timestamp AT TIME ZONE 'UTC'
  AND b.received_at < (%(until)s + 1)::timestamp AT TIME ZONE 'UTC'
  AND b.booked_at <= %(now)s AND (%(deployment)s::text IS NULL OR b.deployment = %(deployment)s)
GROUP BY b.deployment, day, b.channel ORDER BY b.deployment, day, b.channel;

-- query: refusals  Refused, and why
SELECT r.deployment, r.reason, r.detail, count(*) AS refusals, count(DISTINCT (r.source, r.source_key)) AS instances,
       min(r.received_at) AS first_at, max(r.received_at) AS last_at
FROM refusals r
WHERE r.received_at >= %(from)s::timestamp AT TIME ZONE 'UTC'
  AND r.received_at < (%(until)s + 1)::timestamp AT TIME ZONE 'UTC'
  AND r.booked_at <= %(now)s AND (%(deployment)s::text IS NULL OR r.deployment = %(deployment)s)
GROUP BY r.deployment, r.reason, r.detail ORDER BY refusals DESC, r.deployment, r.reason, r.detail;

-- query: letters  Dead letters that are still open
SELECT l.deployment, l.cluster, l.topic, l.reason, count(*) AS letters, sum(l.instances) AS instances,
       min(l.received_at) AS oldest
FROM dead_letters l
WHERE l.booked_at <= %(now)s AND (l.replayed_at IS NULL OR l.replayed_at > %(now)s)
  AND (%(deployment)s::text IS NULL OR l.deployment = %(deployment)s)
GROUP BY l.deployment, l.cluster, l.topic, l.reason ORDER BY letters DESC, l.deployment, l.topic, l.reason;

-- query: refusal_rows  The refusals
SELECT r.refusal_id, r.deployment, r.channel, r.source, r.source_key, r.reason, r.detail, r.attempt, r.received_at
FROM refusals r
WHERE r.received_at >= %(from)s::timestamp AT TIME ZONE 'UTC'
  AND r.received_at < (%(until)s + 1)::timestamp AT TIME ZONE 'UTC'
  AND r.booked_at <= %(now)s AND r.deployment = %(row_deployment)s AND r.reason = %(row_reason)s
  AND r.detail IS NOT DISTINCT FROM %(row_detail)s
ORDER BY r.refusal_id
