/*---
name: SpoolGrowing
owner: platform
severity: warning
schedule: every 1m
for: 5m
keep_firing_for: 5m
summary: "The spool {{ labels.spool }} holds {{ value | number(9) }} rows that the ledger has not taken"
description: "The oldest waits for {{ oldest_s }} s. Nothing is lost while the spool has room."
runbook: docs/runbooks/alerts.md#spoolgrowing
group_by: [alertname]
label_columns: [spool]
parameters:
  rows: {type: integer, default: 10000, description: rows above which it fires}
  oldest_s: {type: integer, default: 120, description: seconds that the oldest row may wait}
  minutes: {type: integer, default: 5, description: minutes after which a report says nothing of now}
---*/
WITH latest AS (
    SELECT DISTINCT ON (g.name, g.labels) g.name, g.labels ->> 'spool' AS spool, g.value
    FROM gauges g
    WHERE g.name IN ('spool_rows', 'spool_oldest_seconds') AND g.reported_at <= %(now)s
      AND g.reported_at > %(now)s::timestamptz - make_interval(mins => %(minutes)s::integer)
    ORDER BY g.name, g.labels, g.reported_at DESC
), spools AS (
    SELECT spool, coalesce(max(value) FILTER (WHERE name = 'spool_rows'), 0) AS held,
           coalesce(max(value) FILTER (WHERE name = 'spool_oldest_seconds'), 0) AS oldest
    FROM latest GROUP BY spool
)
SELECT spool, held AS value, round(oldest::numeric) AS oldest_s
FROM spools WHERE held > %(rows)s::integer OR oldest > %(oldest_s)s::integer
