/*---
name: CostAtRisk
owner: operations desk
severity: warning
schedule: every 15m
for: 15m
keep_firing_for: 1h
summary: "{{ labels.deployment }}: expected cost of open items is {{ value | number(9) }}"
description: "{{ items }} items without an outcome, due by {{ last_due }}; the worst tenth of them holds {{ share }} of it."
runbook: docs/runbooks/alerts.md#costatrisk
group_by: [alertname, deployment]
label_columns: [deployment]
parameters:
  limit: {type: number, default: 1.0e+9, description: "expected cost above which it fires, in the contract's unit"}
  days: {type: integer, default: 5, description: event days that are looked at}
---*/
WITH open AS (
    SELECT t.deployment, t.due_day, t.expected_cost,
           ntile(10) OVER (PARTITION BY t.deployment ORDER BY t.expected_cost DESC) AS tenth
    FROM truth_as_known(%(now)s, %(known_by)s) t
    WHERE t.role = 'champion' AND t.expected_cost IS NOT NULL AND t.outcome_state IN ('not_due', 'awaited')
      AND t.event_day > (%(now)s::timestamptz AT TIME ZONE 'UTC')::date - %(days)s::integer
)
SELECT deployment, sum(expected_cost) AS value, count(*) AS items, max(due_day)::text AS last_due,
       format('%%s %%%%', round((100 * sum(expected_cost) FILTER (WHERE tenth = 1) / sum(expected_cost))::numeric)) AS share
FROM open GROUP BY deployment HAVING sum(expected_cost) > %(limit)s::double precision
