/*---
name: SlaClock
owner: operations desk
severity: warning
schedule: every 15m
summary: "{{ labels.deployment }}: {{ value | number(9) }} items that the model would act on are due by {{ labels.due_day }}, and nothing was done"
description: "Expected cost {{ cost }}; the first of them is {{ first_item }}."
runbook: docs/runbooks/alerts.md#slaclock
group_by: [alertname, deployment]
label_columns: [deployment, due_day]
parameters:
  days: {type: integer, default: 1, description: days before the due day from which it fires}
  least: {type: integer, default: 1, description: items below which it is no alert}
---*/
WITH contract_decision AS (
    SELECT c.name AS contract, c.version AS contract_version,
           coalesce(c.body #>> '{decision,at_or_above}', 'act') AS acts
    FROM contracts c WHERE json_typeof(c.body -> 'decision') = 'object'
)
SELECT t.deployment, t.due_day::text AS due_day, count(*)::double precision AS value,
       round(sum(t.expected_cost)::numeric, 2) AS cost,
       (array_agg(t.business_key ORDER BY t.expected_cost DESC NULLS LAST, t.score DESC, t.business_key))[1] AS first_item
FROM truth_as_known(%(now)s, %(known_by)s) t
JOIN contract_decision d USING (contract, contract_version)
WHERE t.role = 'champion' AND t.decision = d.acts AND t.outcome_state IN ('not_due', 'awaited') AND NOT t.was_treated
  AND t.due_day BETWEEN (%(now)s::timestamptz AT TIME ZONE 'UTC')::date
                    AND (%(now)s::timestamptz AT TIME ZONE 'UTC')::date + %(days)s::integer
  AND t.event_day > (%(now)s::timestamptz AT TIME ZONE 'UTC')::date - 400
GROUP BY t.deployment, t.due_day
HAVING count(*) >= %(least)s::integer
