/*---
title: Overrides and approvals
audience: model risk, line management
description: >-
  What people did about items beside what the model decided, with the reason and what came of it; then every change that
  a person made to what answers, and to alerts, keys and letters: who, when, and why.
parameters:
  deployment: {type: text, required: false, description: "only of this deployment"}
  from: {type: date, default: today - 30 days, description: "first day (UTC) on which it was done"}
  until: {type: date, default: today, description: "last day (UTC) on which it was done"}
  row_deployment: {type: text, required: false}
  row_decision: {type: text, required: false}
  row_action: {type: text, required: false}
columns:
  event_share: {format: share, title: "Event happened"}
  expected_cost: money
  score: number
charts:
  - {query: against, kind: heat, x: action, y: items, series: decision, title: "The model's decision (down) and what was done (across)", unit: items}
  - {query: by_actor, kind: stacked, x: actor, y: [treated, looked_at], title: "Who acted", unit: actions}
rows:
  against: {query: action_rows, keys: [deployment, decision, action]}
---*/
-- query: against  Decided and done
SELECT a.deployment, coalesce(p.decision, 'none') AS decision, a.action, count(*) AS items,
       count(*) FILTER (WHERE a.is_treatment) AS treated,
       avg(t.is_positive::int)::double precision AS event_share, sum(p.expected_cost) AS expected_cost
FROM actions a
LEFT JOIN LATERAL (
    SELECT q.prediction_id, q.decision, q.expected_cost FROM predictions q
    WHERE q.deployment = a.deployment AND q.business_key = a.business_key AND q.event_day = a.event_day
      AND q.role = 'champion' ORDER BY q.booked_at LIMIT 1
) p ON true
LEFT JOIN LATERAL (
    SELECT k.is_positive FROM truth_as_known(%(now)s, %(known_by)s) k
    WHERE k.prediction_id = p.prediction_id AND k.event_day = a.event_day
) t ON true
WHERE a.acted_at >= %(from)s::timestamp AT TIME ZONE 'UTC' AND a.acted_at < (%(until)s + 1)::timestamp AT TIME ZONE 'UTC'
  AND CASE %(known_by)s WHEN 'observed' THEN a.acted_at ELSE a.recorded_at END <= %(now)s
  AND (%(deployment)s::text IS NULL OR a.deployment = %(deployment)s)
GROUP BY a.deployment, coalesce(p.decision, 'none'), a.action ORDER BY a.deployment, decision, items DESC, a.action;

-- query: by_actor  Who acted
SELECT a.actor, count(*) FILTER (WHERE a.is_treatment) AS treated, count(*) FILTER (WHERE NOT a.is_treatment) AS looked_at,
       count(*) FILTER (WHERE a.reason = '') AS without_a_reason, min(a.acted_at) AS first_at, max(a.acted_at) AS last_at
FROM actions a
WHERE a.acted_at >= %(from)s::timestamp AT TIME ZONE 'UTC' AND a.acted_at < (%(until)s + 1)::timestamp AT TIME ZONE 'UTC'
  AND CASE %(known_by)s WHEN 'observed' THEN a.acted_at ELSE a.recorded_at END <= %(now)s
  AND (%(deployment)s::text IS NULL OR a.deployment = %(deployment)s)
GROUP BY a.actor ORDER BY count(*) DESC, a.actor;

-- query: deployments  What answers: every change
SELECT h.name AS deployment, h.revision, h.champion, h.deployed_at, h.deployed_by
FROM deployment_history h
WHERE h.deployed_at >= %(from)s::timestamp AT TIME ZONE 'UTC' AND h.deployed_at < (%(until)s + 1)::timestamp AT TIME ZONE 'UTC'
  AND h.deployed_at <= %(now)s AND (%(deployment)s::text IS NULL OR h.name = %(deployment)s)
ORDER BY h.deployed_at, h.name;

-- query: audit  Changes that people made
SELECT a.at, a.actor, a.action, a.subject, a.detail
FROM audit a
WHERE a.at >= %(from)s::timestamp AT TIME ZONE 'UTC' AND a.at < (%(until)s + 1)::timestamp AT TIME ZONE 'UTC'
  AND a.at <= %(now)s
  AND (%(deployment)s::text IS NULL OR a.subject = %(deployment)s OR a.detail ->> 'deployment' = %(deployment)s)
ORDER BY a.audit_id DESC;

-- query: action_rows  What was done, item by item
SELECT a.action_id, a.acted_at, a.deployment, a.business_key, a.event_day, p.score, p.decision, a.action, a.is_treatment,
       a.reason, a.actor, a.recorded_by, p.prediction_id
FROM actions a
LEFT JOIN LATERAL (
    SELECT q.prediction_id, q.score, q.decision FROM predictions q
    WHERE q.deployment = a.deployment AND q.business_key = a.business_key AND q.event_day = a.event_day
      AND q.role = 'champion' ORDER BY q.booked_at LIMIT 1
) p ON true
WHERE a.acted_at >= %(from)s::timestamp AT TIME ZONE 'UTC' AND a.acted_at < (%(until)s + 1)::timestamp AT TIME ZONE 'UTC'
  AND CASE %(known_by)s WHEN 'observed' THEN a.acted_at ELSE a.recorded_at END <= %(now)s
  AND a.deployment = %(row_deployment)s AND a.action = %(row_action)s
  AND coalesce(p.decision, 'none') = %(row_decision)s
ORDER BY a.acted_at, a.action_id
