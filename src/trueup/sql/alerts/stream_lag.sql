/*---
name: StreamLag
owner: platform
severity: warning
schedule: every 1m
for: 5m
keep_firing_for: 5m
summary: "{{ labels.deployment }} is {{ value | number(9) }} records behind on {{ labels.topic }}"
description: "Sum over the partitions that reported within {{ minutes }} minutes; the worst is {{ worst }}."
runbook: docs/runbooks/alerts.md#streamlag
group_by: [alertname, deployment]
label_columns: [deployment, topic]
parameters:
  records: {type: integer, default: 50000, description: records behind above which it fires}
  minutes: {type: integer, default: 5, description: minutes after which a report says nothing of now}
---*/
WITH latest AS (
    SELECT DISTINCT ON (g.labels) g.labels, g.value
    FROM gauges g
    WHERE g.name = 'stream_lag_records' AND g.reported_at <= %(now)s
      AND g.reported_at > %(now)s::timestamptz - make_interval(mins => %(minutes)s::integer)
    ORDER BY g.labels, g.reported_at DESC
)
SELECT labels ->> 'deployment' AS deployment, labels ->> 'topic' AS topic, sum(value) AS value,
       (array_agg(format('partition %%s with %%s', labels ->> 'partition', value) ORDER BY value DESC))[1] AS worst,
       %(minutes)s::integer AS minutes
FROM latest GROUP BY 1, 2 HAVING sum(value) > %(records)s::integer
