/*---
name: ModelSilent
owner: platform
severity: critical
schedule: every 5m
for: 5m
summary: "{{ labels.deployment }} has answered nothing for {{ value | number(9) }} minutes"
description: "Its last batch was booked at {{ last_booked }}."
runbook: docs/runbooks/alerts.md#modelsilent
group_by: [alertname]
label_columns: [deployment]
parameters:
  minutes: {type: integer, default: 1440, description: minutes without an answer; a day unless you say otherwise}
---*/
SELECT d.name AS deployment,
       extract(epoch FROM %(now)s::timestamptz - coalesce(b.booked_at, d.deployed_at)) / 60 AS value,
       coalesce(to_char(b.booked_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"'), 'never') AS last_booked
FROM deployments d
LEFT JOIN LATERAL (
    SELECT max(t.booked_at) AS booked_at
    FROM batches t
    WHERE t.deployment = d.name AND t.booked_at <= %(now)s
      AND t.booked_at > %(now)s::timestamptz - make_interval(mins => %(minutes)s::integer)
) recent ON true
LEFT JOIN LATERAL (
    SELECT t.booked_at FROM batches t
    WHERE t.deployment = d.name AND t.booked_at <= %(now)s ORDER BY t.batch_id DESC LIMIT 1
) b ON true
WHERE recent.booked_at IS NULL
  AND d.deployed_at < %(now)s::timestamptz - make_interval(mins => %(minutes)s::integer)
