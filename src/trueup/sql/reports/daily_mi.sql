/*---
title: Daily MI
audience: the operations desk and its management
description: >-
  What the model said, what happened, and what is still open. The queue is the k items of a day with the largest
  expected cost (without one: the largest score); precision and value caught are of those whose outcome is known.
schedule: "0 6 * * 1-5"
missed: latest
parameters:
  deployment: {type: text, required: false, description: "only of this deployment"}
  from: {type: date, default: today - 30 days, description: "first event day"}
  day: {type: date, default: today - 1 day, description: "last event day, whose queue is shown"}
  k: {type: integer, default: 200, description: "length of a day's queue"}
  row_deployment: {type: text, required: false}
  row_event_day: {type: date, required: false}
  row_open_for: {type: text, required: false}
tiles: [summary]
columns:
  maturity: {format: share, title: "Outcomes in"}
  base_rate: {format: share, title: "Event rate"}
  precision_at_k: {format: share, title: "Precision of the queue"}
  caught_share: {format: share, title: "Value caught"}
  event_value: {format: money, title: "Value of events"}
  caught_value: {format: money, title: "of it in the queue"}
  expected_cost: {format: money, title: "Expected cost"}
  cost_at_risk: {format: money, title: "Expected cost, open items"}
  score: number
  rank: integer
charts:
  - {query: by_day, kind: line, x: event_day, y: [event_value, caught_value], facet: deployment, title: Value of events and how much of it the queue held}
  - {query: by_day, kind: line, x: event_day, y: [precision_at_k, base_rate], facet: deployment, title: Precision of the queue against the event rate}
  - {query: ageing, kind: bar, x: open_for, y: items, series: deployment, title: "Items without an outcome", unit: by due day}
rows:
  by_day: {query: day_rows, keys: [deployment, event_day]}
  ageing: {query: open_rows, keys: [deployment, open_for]}
---*/
-- query: summary  The period in short
WITH ranked AS (
    SELECT t.deployment, t.outcome_state, t.is_due, t.has_outcome, t.is_positive, t.outcome, t.expected_cost,
           row_number() OVER (
               PARTITION BY t.deployment, t.event_day
               ORDER BY t.expected_cost DESC NULLS LAST, t.score DESC NULLS LAST, t.prediction_id
           ) <= %(k)s AS is_queued
    FROM truth_as_known(%(now)s, %(known_by)s) t
    WHERE t.role = 'champion' AND t.event_day BETWEEN %(from)s AND %(day)s
      AND (%(deployment)s::text IS NULL OR t.deployment = %(deployment)s)
)
SELECT deployment,
       count(*) AS predictions,
       count(*) FILTER (WHERE is_due AND has_outcome)::double precision
           / nullif(count(*) FILTER (WHERE is_due AND outcome_state NOT IN ('censored', 'never')), 0) AS maturity,
       avg(is_positive::int)::double precision AS base_rate,
       avg(is_positive::int) FILTER (WHERE is_queued)::double precision AS precision_at_k,
       sum(outcome) FILTER (WHERE is_positive) AS event_value,
       sum(outcome) FILTER (WHERE is_positive AND is_queued)
           / nullif(sum(outcome) FILTER (WHERE is_positive), 0) AS caught_share,
       sum(expected_cost) FILTER (WHERE outcome_state IN ('not_due', 'awaited', 'retracted')) AS cost_at_risk
FROM ranked
GROUP BY deployment ORDER BY deployment;

-- query: by_day  Day by day
WITH ranked AS (
    SELECT t.deployment, t.event_day, t.outcome_state, t.is_due, t.has_outcome, t.is_positive, t.outcome, t.expected_cost,
           row_number() OVER (
               PARTITION BY t.deployment, t.event_day
               ORDER BY t.expected_cost DESC NULLS LAST, t.score DESC NULLS LAST, t.prediction_id
           ) <= %(k)s AS is_queued
    FROM truth_as_known(%(now)s, %(known_by)s) t
    WHERE t.role = 'champion' AND t.event_day BETWEEN %(from)s AND %(day)s
      AND (%(deployment)s::text IS NULL OR t.deployment = %(deployment)s)
)
SELECT deployment, event_day,
       count(*) AS predictions,
       count(*) FILTER (WHERE is_due AND has_outcome)::double precision
           / nullif(count(*) FILTER (WHERE is_due AND outcome_state NOT IN ('censored', 'never')), 0) AS maturity,
       count(*) FILTER (WHERE is_positive) AS events,
       avg(is_positive::int)::double precision AS base_rate,
       avg(is_positive::int) FILTER (WHERE is_queued)::double precision AS precision_at_k,
       sum(outcome) FILTER (WHERE is_positive) AS event_value,
       sum(outcome) FILTER (WHERE is_positive AND is_queued) AS caught_value,
       sum(expected_cost) AS expected_cost
FROM ranked
GROUP BY deployment, event_day ORDER BY deployment, event_day;

-- query: ageing  What is still open
WITH open AS (
    SELECT t.deployment, t.expected_cost, t.due_day,
           (%(now)s::timestamptz AT TIME ZONE 'UTC')::date - t.due_day AS days_over
    FROM truth_as_known(%(now)s, %(known_by)s) t
    WHERE t.role = 'champion' AND t.outcome_state IN ('not_due', 'awaited', 'retracted')
      AND t.event_day BETWEEN %(from)s AND %(day)s
      AND (%(deployment)s::text IS NULL OR t.deployment = %(deployment)s)
), aged AS (
    SELECT deployment, expected_cost, due_day,
           CASE WHEN days_over IS NULL THEN 7 WHEN days_over < 0 THEN 1 WHEN days_over = 0 THEN 2 WHEN days_over <= 2 THEN 3
                WHEN days_over <= 5 THEN 4 WHEN days_over <= 10 THEN 5 ELSE 6 END AS place
    FROM open
)
SELECT deployment,
       (ARRAY['not due', 'due today', '1-2 days over', '3-5 days over', '6-10 days over', 'over 10 days', 'no due day'])[place]
           AS open_for,
       count(*) AS items, min(due_day) AS earliest_due, sum(expected_cost) AS expected_cost
FROM aged
GROUP BY deployment, place ORDER BY place, deployment;

-- query: queue  The queue of the last day
WITH ranked AS (
    SELECT t.deployment, t.prediction_id, t.business_key, t.score, t.expected_cost, t.decision, t.due_day, t.outcome_state,
           t.outcome,
           row_number() OVER (
               PARTITION BY t.deployment
               ORDER BY t.expected_cost DESC NULLS LAST, t.score DESC NULLS LAST, t.prediction_id
           ) AS rank
    FROM truth_as_known(%(now)s, %(known_by)s) t
    WHERE t.role = 'champion' AND t.event_day = %(day)s
      AND (%(deployment)s::text IS NULL OR t.deployment = %(deployment)s)
)
SELECT deployment, rank, business_key, score, expected_cost, decision, due_day, outcome_state, outcome, prediction_id
FROM ranked WHERE rank <= %(k)s
ORDER BY deployment, rank;

-- query: day_rows  Predictions of the day
SELECT prediction_id, deployment, event_day, business_key, model_version, score, decision, expected_cost, due_day,
       outcome_state, outcome, is_positive
FROM truth_as_known(%(now)s, %(known_by)s)
WHERE role = 'champion' AND deployment = %(row_deployment)s AND event_day = %(row_event_day)s
ORDER BY expected_cost DESC NULLS LAST, score DESC NULLS LAST, prediction_id;

-- query: open_rows  Items without an outcome
SELECT t.prediction_id, t.deployment, t.event_day, t.business_key, t.score, t.decision, t.expected_cost, t.due_day,
       t.outcome_state
FROM truth_as_known(%(now)s, %(known_by)s) t
CROSS JOIN LATERAL (SELECT (%(now)s::timestamptz AT TIME ZONE 'UTC')::date - t.due_day AS days_over) d
WHERE t.role = 'champion' AND t.outcome_state IN ('not_due', 'awaited', 'retracted')
  AND t.event_day BETWEEN %(from)s AND %(day)s
  AND (%(deployment)s::text IS NULL OR t.deployment = %(deployment)s)
  AND t.deployment = %(row_deployment)s
  AND CASE WHEN d.days_over IS NULL THEN 'no due day' WHEN d.days_over < 0 THEN 'not due'
           WHEN d.days_over = 0 THEN 'due today' WHEN d.days_over <= 2 THEN '1-2 days over'
           WHEN d.days_over <= 5 THEN '3-5 days over' WHEN d.days_over <= 10 THEN '6-10 days over'
           ELSE 'over 10 days' END = %(row_open_for)s
ORDER BY t.due_day, t.expected_cost DESC NULLS LAST, t.prediction_id
