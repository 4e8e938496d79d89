/*---
name: SealBroken
owner: platform
severity: critical
schedule: every 15m
keep_firing_for: 24h
summary: "A batch of {{ labels.deployment }} no longer holds the {{ booked }} predictions that were booked"
description: "Batch {{ labels.batch }} of {{ booked_at }} holds {{ value | number(9) }}. Nobody but the database's owner can do that."
runbook: docs/runbooks/alerts.md#sealbroken
group_by: [alertname]
label_columns: [deployment, batch]
parameters:
  hours: {type: integer, default: 24, description: hours of booking that are counted}
---*/
-- A batch says how many predictions were booked with it, in the same commit. Rows are only ever added by a batch of
-- their own, so any other number was made afterwards.
WITH recent AS (
    SELECT b.batch_id, b.deployment, b.predictions, b.booked_at
    FROM batches b
    WHERE b.booked_at <= %(now)s AND b.booked_at > %(now)s::timestamptz - make_interval(hours => %(hours)s::integer)
), held AS (
    SELECT p.batch_id, count(*) AS held
    FROM predictions p
    WHERE p.batch_id BETWEEN (SELECT min(batch_id) FROM recent) AND (SELECT max(batch_id) FROM recent)
    GROUP BY p.batch_id
)
SELECT r.deployment, r.batch_id::text AS batch, coalesce(h.held, 0)::double precision AS value, r.predictions AS booked,
       to_char(r.booked_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"') AS booked_at
FROM recent r LEFT JOIN held h USING (batch_id)
WHERE coalesce(h.held, 0) <> r.predictions
ORDER BY r.batch_id LIMIT 100
