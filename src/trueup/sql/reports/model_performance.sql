/*---
title: Model performance pack
audience: independent validation
description: >-
  For a validator: which versions answered, for which population, how complete the outcomes are, how good the answers
  were with intervals, whether probabilities hold, what drifted, where it differs, and how far estimates made before the
  outcomes were in differed from what came. Figures "as measured" are the monitor's, the others are computed here from
  predictions and outcomes.
schedule: "0 7 1 * *"
missed: latest
parameters:
  deployment: {type: text, required: false, description: "only of this deployment"}
  from: {type: date, default: today - 90 days, description: "first event day"}
  until: {type: date, default: today, description: "last event day"}
  row_deployment: {type: text, required: false}
  row_model_version: {type: text, required: false}
  row_bin: {type: integer, required: false}
columns:
  maturity: {format: share, title: "Outcomes in"}
  base_rate: {format: share, title: "Event rate"}
  mean_score: number
  said: {format: share, title: "Probability said"}
  happened: {format: share, title: "Share that happened"}
  low: {format: number, title: "Lower bound"}
  high: {format: number, title: "Upper bound"}
  happened_low: {format: share, title: "Lower bound, 95%"}
  happened_high: {format: share, title: "Upper bound, 95%"}
  auc: {format: number, title: "AUC"}
  brier: {format: number, title: "Brier score"}
  log_loss: {format: number, title: "Log loss"}
  value: number
  estimated: number
  realised: number
  difference: number
  p_value: {format: number, title: "p"}
  q_value: {format: number, title: "q (corrected p)"}
  expected_cost: money
  abstained_share: {format: share, title: "Abstained"}
  fallback_share: {format: share, title: "Fallback"}
charts:
  - {query: maturity, kind: line, x: event_day, y: maturity, series: deployment, title: "Outcomes that are in, of those due"}
  - {query: performance, kind: line, x: window_first, y: value, series: model_version, facet: figure, low: low, high: high, title: "As measured, window by window"}
  - {query: reliability, kind: scatter, x: said, y: happened, series: model_version, facet: deployment, low: happened_low, high: happened_high, diagonal: true, title: What was said and what happened}
  - {query: estimates, kind: line, x: window_first, y: [estimated, realised], facet: figure, title: Estimated before the outcomes were in and realised after}
rows:
  reliability: {query: bin_rows, keys: [deployment, model_version, bin]}
---*/
-- query: versions  Versions that answered
SELECT h.name AS deployment, h.revision, h.champion AS model_version, v.contract, v.contract_version, h.deployed_at,
       h.deployed_by, left(v.digest, 16) AS digest
FROM deployment_history h
JOIN deployments d ON d.deployment_id = h.deployment_id
LEFT JOIN (
    SELECT DISTINCT p.deployment, p.model_version, p.contract, p.contract_version
    FROM predictions p
    WHERE p.event_day BETWEEN %(from)s AND %(until)s AND (%(deployment)s::text IS NULL OR p.deployment = %(deployment)s)
) used ON used.deployment = h.name AND used.model_version = h.champion
LEFT JOIN model_versions v
    ON v.version = h.champion AND v.contract = used.contract AND v.contract_version = used.contract_version
WHERE (%(deployment)s::text IS NULL OR h.name = %(deployment)s)
  AND (%(known_by)s = 'observed' OR h.deployed_at <= %(now)s)
ORDER BY h.name, h.revision;

-- query: population  What they were asked
SELECT t.deployment, t.model_version, t.role, min(t.event_day) AS first_day, max(t.event_day) AS last_day,
       count(*) AS predictions,
       avg((t.status = 'abstained')::int)::double precision AS abstained_share,
       avg((t.status = 'fallback')::int)::double precision AS fallback_share,
       avg(t.score) AS mean_score, sum(t.expected_cost) AS expected_cost,
       count(*) FILTER (WHERE t.was_treated) AS treated, count(*) FILTER (WHERE t.is_untreated) AS left_alone_at_random
FROM truth_as_known(%(now)s, %(known_by)s) t
WHERE t.event_day BETWEEN %(from)s AND %(until)s AND (%(deployment)s::text IS NULL OR t.deployment = %(deployment)s)
GROUP BY t.deployment, t.model_version, t.role ORDER BY t.deployment, t.role, t.model_version;

-- query: maturity  How complete the outcomes are
SELECT deployment, event_day, predictions, due, due_with_outcome, maturity, retracted, censored, never
FROM maturity_as_known(%(now)s, %(known_by)s)
WHERE role = 'champion' AND event_day BETWEEN %(from)s AND %(until)s
  AND (%(deployment)s::text IS NULL OR deployment = %(deployment)s)
ORDER BY deployment, event_day;

-- query: realised  Realised performance of the whole period
WITH known AS (
    SELECT t.deployment, t.model_version, t.role, t.score, t.is_positive, t.outcome,
           least(greatest(t.score, 1e-15), 1 - 1e-15) AS said
    FROM truth_as_known(%(now)s, %(known_by)s) t
    WHERE t.outcome_state = 'known' AND t.is_positive IS NOT NULL AND t.score BETWEEN 0 AND 1
      AND t.event_day BETWEEN %(from)s AND %(until)s
      AND (%(deployment)s::text IS NULL OR t.deployment = %(deployment)s)
), ranked AS (
    SELECT deployment, model_version, role, score, said, is_positive,
           rank() OVER (PARTITION BY deployment, model_version, role ORDER BY score)
               + (count(*) OVER (PARTITION BY deployment, model_version, role, score) - 1) / 2.0 AS place
    FROM known
)
SELECT deployment, model_version, role, count(*) AS n, count(*) FILTER (WHERE is_positive) AS events,
       avg(is_positive::int)::double precision AS base_rate, avg(score) AS mean_score,
       ((sum(place) FILTER (WHERE is_positive)
             - count(*) FILTER (WHERE is_positive) * (count(*) FILTER (WHERE is_positive) + 1) / 2.0)
           / nullif(count(*) FILTER (WHERE is_positive)::double precision * count(*) FILTER (WHERE NOT is_positive), 0)
       )::double precision AS auc,
       avg((score - is_positive::int) ^ 2) AS brier,
       -avg(CASE WHEN is_positive THEN ln(said) ELSE ln(1 - said) END) AS log_loss
FROM ranked
GROUP BY deployment, model_version, role ORDER BY deployment, role, model_version;

-- query: performance  Performance as measured
SELECT m.deployment, replace(m.metric, '_', ' ') || ', ' || m.window_kind AS figure, m.model_version, m.window_first, m.window_last, m.value,
       m.low, m.high, m.n, m.maturity, m.floor, m.verdict
FROM measurements_as_known(%(now)s, %(known_by)s) m
WHERE m.role = 'champion' AND m.field = '' AND m.slice = ''
  AND m.metric IN ('auc', 'average_precision', 'precision_at_k', 'brier', 'log_loss', 'ece', 'value_caught', 'mae', 'rmse', 'bias')
  AND m.window_first BETWEEN %(from)s AND %(until)s
  AND (%(deployment)s::text IS NULL OR m.deployment = %(deployment)s)
ORDER BY m.deployment, m.metric, m.window_kind, m.window_first, m.model_version;

-- query: reliability  Do the probabilities hold?
WITH known AS (
    SELECT t.deployment, t.model_version, t.score, t.is_positive::int AS happened,
           least(floor(t.score * 10)::int, 9) + 1 AS bin
    FROM truth_as_known(%(now)s, %(known_by)s) t
    WHERE t.role = 'champion' AND t.outcome_state = 'known' AND t.is_positive IS NOT NULL AND t.score BETWEEN 0 AND 1
      AND t.event_day BETWEEN %(from)s AND %(until)s
      AND (%(deployment)s::text IS NULL OR t.deployment = %(deployment)s)
), binned AS (
    SELECT deployment, model_version, bin, count(*) AS n, avg(score) AS said, avg(happened)::double precision AS happened
    FROM known GROUP BY deployment, model_version, bin
)
-- Bounds are Wilson's score interval (1927) at 95 %%: z = 1.96.
SELECT deployment, model_version, bin, n, said, happened,
       (happened + 1.9208 / n - 1.96 * sqrt(happened * (1 - happened) / n + 0.9604 / n / n)) / (1 + 3.8416 / n)
           AS happened_low,
       (happened + 1.9208 / n + 1.96 * sqrt(happened * (1 - happened) / n + 0.9604 / n / n)) / (1 + 3.8416 / n)
           AS happened_high
FROM binned ORDER BY deployment, model_version, bin;

-- query: drift  What drifted, the strongest first
WITH latest AS (
    SELECT DISTINCT ON (m.deployment, m.model_version, m.metric, m.field, m.window_kind)
           m.deployment, m.model_version, m.metric, m.field, m.window_kind, m.window_first, m.value, m.critical, m.floor,
           m.q_value, m.n, m.verdict
    FROM measurements_as_known(%(now)s, %(known_by)s) m
    WHERE m.role = 'champion' AND m.field <> '' AND m.slice = '' AND m.q_value IS NOT NULL
      AND m.window_first BETWEEN %(from)s AND %(until)s
      AND (%(deployment)s::text IS NULL OR m.deployment = %(deployment)s)
    ORDER BY m.deployment, m.model_version, m.metric, m.field, m.window_kind, m.window_first DESC
)
SELECT deployment, model_version, field, metric, window_kind, window_first, value, critical, floor, q_value, n, verdict
FROM latest
ORDER BY (verdict = 'breach') DESC NULLS LAST, (verdict = 'drift') DESC NULLS LAST, q_value, value DESC, field LIMIT 40;

-- query: slices  Where it differs
WITH latest AS (
    SELECT DISTINCT ON (m.deployment, m.model_version, m.metric, m.slice, m.window_kind)
           m.deployment, m.model_version, m.slice, m.metric, m.window_kind, m.window_first, m.value, m.low, m.high, m.n,
           m.maturity, m.verdict
    FROM measurements_as_known(%(now)s, %(known_by)s) m
    WHERE m.role = 'champion' AND m.slice <> '' AND m.field = ''
      AND m.metric IN ('auc', 'average_precision', 'precision_at_k', 'brier', 'ece', 'mae')
      AND m.window_first BETWEEN %(from)s AND %(until)s
      AND (%(deployment)s::text IS NULL OR m.deployment = %(deployment)s)
    ORDER BY m.deployment, m.model_version, m.metric, m.slice, m.window_kind, m.window_first DESC
)
SELECT deployment, model_version, metric, slice, window_kind, window_first, value, low, high, n, maturity, verdict
FROM latest ORDER BY deployment, model_version, metric, value, slice LIMIT 200;

-- query: estimates  Estimates against what came
SELECT e.deployment, replace(r.metric, '_', ' ') || ', ' || e.window_kind AS figure, e.model_version, e.window_first, e.value AS estimated,
       e.low, e.high, r.value AS realised, r.value - e.value AS difference, r.n, r.maturity
FROM measurements_as_known(%(now)s, %(known_by)s) e
JOIN measurements_as_known(%(now)s, %(known_by)s) r
    ON r.deployment = e.deployment AND r.model_version = e.model_version AND r.role = e.role AND r.field = e.field
   AND r.slice = e.slice AND r.window_kind = e.window_kind AND r.window_first = e.window_first
   AND 'estimated_' || r.metric = e.metric
WHERE e.role = 'champion' AND e.slice = '' AND e.field = '' AND starts_with(e.metric, 'estimated_')
  AND e.window_first BETWEEN %(from)s AND %(until)s
  AND (%(deployment)s::text IS NULL OR e.deployment = %(deployment)s)
ORDER BY e.deployment, r.metric, e.window_kind, e.window_first, e.model_version;

-- query: bin_rows  Predictions of the bin
SELECT t.prediction_id, t.event_day, t.business_key, t.model_version, t.score, t.decision, t.outcome, t.is_positive
FROM truth_as_known(%(now)s, %(known_by)s) t
WHERE t.role = 'champion' AND t.outcome_state = 'known' AND t.is_positive IS NOT NULL AND t.score BETWEEN 0 AND 1
  AND t.event_day BETWEEN %(from)s AND %(until)s
  AND t.deployment = %(row_deployment)s AND t.model_version = %(row_model_version)s
  AND least(floor(t.score * 10)::int, 9) + 1 = %(row_bin)s
ORDER BY t.score DESC, t.prediction_id
