/*---
title: Drift summary
audience: model owners
description: >-
  Whether what the model is asked, and what it answers, still looks like its reference. A verdict needs both: evidence
  that chance does not explain (q, corrected over all fields) and a distance above its floor.
parameters:
  deployment: {type: text, required: false, description: "only of this deployment"}
  from: {type: date, default: today - 30 days, description: "first day of the windows"}
  until: {type: date, default: today, description: "last day of the windows"}
  window: {type: text, required: false, description: "day, week, half-month or month; all unless given"}
  row_deployment: {type: text, required: false}
  row_field: {type: text, required: false}
columns:
  psi: {format: number, title: "PSI"}
  q_value: {format: number, title: "q (corrected p)"}
  missing_share: share
  out_of_range_share: share
  unseen_share: share
  late_share: share
  estimated: number
charts:
  - {query: verdicts, kind: stacked, x: window_first, y: [breach, drift, ok], facet: deployment, title: "Verdicts over all fields", unit: fields}
  - {query: psi, kind: heat, x: window_first, y: psi, series: field, facet: deployment, title: "PSI of each field", unit: darker is further from the reference}
  - {query: score, kind: line, x: window_first, y: psi, series: model_version, facet: deployment, title: PSI of the score}
  - {query: estimates, kind: line, x: window_first, y: value, series: deployment, facet: figure, low: low, high: high, title: Performance as estimated before outcomes are in}
rows:
  fields: {query: field_rows, keys: [deployment, field]}
---*/
-- query: verdicts  Verdicts, window by window
SELECT m.deployment, m.window_kind, m.window_first, count(*) FILTER (WHERE m.verdict = 'breach') AS breach,
       count(*) FILTER (WHERE m.verdict = 'drift') AS drift, count(*) FILTER (WHERE m.verdict = 'ok') AS ok,
       count(*) FILTER (WHERE m.verdict = 'insufficient') AS insufficient, max(m.n) AS n
FROM measurements_as_known(%(now)s, %(known_by)s) m
WHERE m.role = 'champion' AND m.metric = 'psi' AND m.slice = ''
  AND m.window_first BETWEEN %(from)s AND %(until)s AND (%(window)s::text IS NULL OR m.window_kind = %(window)s)
  AND (%(deployment)s::text IS NULL OR m.deployment = %(deployment)s)
GROUP BY m.deployment, m.window_kind, m.window_first ORDER BY m.deployment, m.window_kind, m.window_first;

-- query: fields  Fields, the furthest first
WITH latest AS (
    SELECT DISTINCT ON (m.deployment, m.model_version, m.field, m.window_kind)
           m.deployment, m.model_version, m.field, m.window_kind, m.window_first, m.value AS psi, m.critical, m.floor,
           m.q_value, m.n, m.verdict
    FROM measurements_as_known(%(now)s, %(known_by)s) m
    WHERE m.role = 'champion' AND m.metric = 'psi' AND m.field <> '' AND m.slice = ''
      AND m.window_first BETWEEN %(from)s AND %(until)s AND (%(window)s::text IS NULL OR m.window_kind = %(window)s)
      AND (%(deployment)s::text IS NULL OR m.deployment = %(deployment)s)
    ORDER BY m.deployment, m.model_version, m.field, m.window_kind, m.window_first DESC
)
SELECT deployment, field, model_version, window_kind, window_first, psi, critical, floor, q_value, n, verdict
FROM latest
ORDER BY (verdict = 'breach') DESC NULLS LAST, (verdict = 'drift') DESC NULLS LAST, psi DESC NULLS LAST, field LIMIT 200;

-- query: psi  PSI of each field
SELECT m.deployment, m.field, m.window_kind, m.window_first, m.value AS psi, m.verdict
FROM measurements_as_known(%(now)s, %(known_by)s) m
WHERE m.role = 'champion' AND m.metric = 'psi' AND m.field NOT IN ('', 'score') AND m.slice = ''
  AND m.window_first BETWEEN %(from)s AND %(until)s AND (%(window)s::text IS NULL OR m.window_kind = %(window)s)
  AND (%(deployment)s::text IS NULL OR m.deployment = %(deployment)s)
ORDER BY m.deployment, m.window_kind, m.window_first, m.field;

-- query: score  The score
SELECT m.deployment, m.model_version, m.window_kind, m.window_first, m.value AS psi, m.critical, m.floor, m.q_value, m.n,
       m.verdict
FROM measurements_as_known(%(now)s, %(known_by)s) m
WHERE m.role = 'champion' AND m.metric = 'psi' AND m.field = 'score' AND m.slice = ''
  AND m.window_first BETWEEN %(from)s AND %(until)s AND (%(window)s::text IS NULL OR m.window_kind = %(window)s)
  AND (%(deployment)s::text IS NULL OR m.deployment = %(deployment)s)
ORDER BY m.deployment, m.model_version, m.window_kind, m.window_first;

-- query: quality  Quality of the data
WITH latest AS (
    SELECT DISTINCT ON (m.deployment, m.field, m.metric, m.window_kind)
           m.deployment, m.field, m.metric, m.window_kind, m.window_first, m.value
    FROM measurements_as_known(%(now)s, %(known_by)s) m
    WHERE m.role = 'champion' AND m.slice = ''
      AND m.metric IN ('missing_share', 'out_of_range_share', 'unseen_share', 'constant', 'late_share')
      AND m.window_first BETWEEN %(from)s AND %(until)s AND (%(window)s::text IS NULL OR m.window_kind = %(window)s)
      AND (%(deployment)s::text IS NULL OR m.deployment = %(deployment)s)
    ORDER BY m.deployment, m.field, m.metric, m.window_kind, m.window_first DESC
)
SELECT deployment, coalesce(nullif(field, ''), 'all fields') AS field, window_kind, max(window_first) AS window_first,
       max(value) FILTER (WHERE metric = 'missing_share') AS missing_share,
       max(value) FILTER (WHERE metric = 'out_of_range_share') AS out_of_range_share,
       max(value) FILTER (WHERE metric = 'unseen_share') AS unseen_share,
       max(value) FILTER (WHERE metric = 'late_share') AS late_share,
       bool_or(value > 0) FILTER (WHERE metric = 'constant') AS is_constant
FROM latest GROUP BY deployment, field, window_kind ORDER BY deployment, field, window_kind LIMIT 500;

-- query: estimates  Performance before the outcomes are in
SELECT m.deployment, replace(m.metric, '_', ' ') || ', ' || m.window_kind AS figure, m.model_version, m.window_first, m.value, m.low, m.high, m.n
FROM measurements_as_known(%(now)s, %(known_by)s) m
WHERE m.role = 'champion' AND m.slice = '' AND starts_with(m.metric, 'estimated_')
  AND m.window_first BETWEEN %(from)s AND %(until)s AND (%(window)s::text IS NULL OR m.window_kind = %(window)s)
  AND (%(deployment)s::text IS NULL OR m.deployment = %(deployment)s)
ORDER BY m.deployment, m.metric, m.window_kind, m.window_first;

-- query: field_rows  Every measurement of the field
SELECT m.measurement_id, m.metric, m.model_version, m.window_kind, m.window_first, m.window_last, m.value, m.critical, m.floor,
       m.p_value, m.q_value, m.n, m.reference_n, m.verdict, m.computed_at
FROM measurements_as_known(%(now)s, %(known_by)s) m
WHERE m.role = 'champion' AND m.deployment = %(row_deployment)s AND m.field = %(row_field)s AND m.slice = ''
  AND m.window_first BETWEEN %(from)s AND %(until)s
ORDER BY m.metric, m.window_kind, m.window_first
