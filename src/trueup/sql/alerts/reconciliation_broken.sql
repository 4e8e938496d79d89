/*---
name: ReconciliationBroken
owner: platform
severity: critical
schedule: every 15m
summary: "{{ labels.deployment }}: {{ value | number(9) }} instances of {{ labels.topic }} on {{ labels.day }} have no end"
description: "Received {{ received }}, answered {{ answered }}, repeated {{ repeated }}, refused {{ refused }}, over all partitions."
runbook: docs/runbooks/reconciliation.md
group_by: [alertname, deployment]
label_columns: [deployment, cluster, topic, day]
parameters:
  days: {type: integer, default: 2, description: "days of receipt that are counted, today among them"}
---*/
-- Skipped offsets are records that nobody received: they break the control as well.
SELECT r.deployment, r.cluster, r.topic, r.day::text AS day, sum(abs(r.difference) + r.skipped)::double precision AS value,
       sum(r.received) AS received, sum(r.answered) AS answered, sum(r.repeated) AS repeated, sum(r.refused) AS refused
FROM stream_reconciliation(
    NULL, (%(now)s::timestamptz AT TIME ZONE 'UTC')::date - (%(days)s::integer - 1),
    (%(now)s::timestamptz AT TIME ZONE 'UTC')::date
) r
GROUP BY r.deployment, r.cluster, r.topic, r.day
HAVING sum(abs(r.difference) + r.skipped) > 0
