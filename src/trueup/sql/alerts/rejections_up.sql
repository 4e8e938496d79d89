/*---
name: RejectionsUp
owner: platform
severity: warning
schedule: every 5m
for: 10m
keep_firing_for: 15m
summary: "{{ labels.deployment }} refuses {{ value | percent }} of its instances"
description: "{{ refused }} of {{ received }} instances were refused within {{ window }}, most for: {{ message }}."
runbook: docs/runbooks/alerts.md#rejectionsup
group_by: [alertname, deployment]
label_columns: [deployment]
parameters:
  window_minutes: {type: integer, default: 60, description: how far back is looked}
  share: {type: number, default: 0.05, description: share of refusals above which it fires}
  least: {type: integer, default: 100, description: instances below which nothing is concluded}
---*/
WITH refused AS (
    SELECT deployment, count(*) AS refused, mode() WITHIN GROUP (ORDER BY reason) AS reason
    FROM refusals
    WHERE booked_at > %(now)s::timestamptz - make_interval(mins => %(window_minutes)s::integer) AND booked_at <= %(now)s
    GROUP BY deployment
), answered AS (
    -- Batches are few where predictions are many; each says how many instances it answered.
    SELECT deployment, sum(instances) AS answered
    FROM batches
    WHERE booked_at > %(now)s::timestamptz - make_interval(mins => %(window_minutes)s::integer) AND booked_at <= %(now)s
    GROUP BY deployment
)
SELECT r.deployment,
       r.refused::double precision / (r.refused + coalesce(a.answered, 0)) AS value,
       r.reason AS message,
       r.refused,
       r.refused + coalesce(a.answered, 0) AS received,
       format('%%s minutes', %(window_minutes)s::integer) AS "window"
FROM refused r LEFT JOIN answered a USING (deployment)
WHERE r.refused + coalesce(a.answered, 0) >= %(least)s::integer
  AND r.refused > %(share)s::double precision * (r.refused + coalesce(a.answered, 0))
