-- Every half-month as it was known at each publication: outcomes known, and what the figures were worth then.
SELECT m.window_first::text AS first, m.window_last::text AS last, m.known_at::date::text AS known_on, m.model_version,
       max(m.n) FILTER (WHERE m.metric = 'rows') AS rows,
       max(m.value) FILTER (WHERE m.metric = 'maturity') AS maturity,
       max(m.value) FILTER (WHERE m.metric = 'auc') AS auc,
       max(m.low) FILTER (WHERE m.metric = 'auc') AS auc_low,
       max(m.high) FILTER (WHERE m.metric = 'auc') AS auc_high,
       max(m.value) FILTER (WHERE m.metric = 'estimated_auc') AS estimated_auc,
       max(m.value) FILTER (WHERE m.metric = 'ece') AS ece,
       max(m.value) FILTER (WHERE m.metric = 'value_caught') AS value_caught,
       max(m.value) FILTER (WHERE m.metric = 'psi' AND m.field = 'score') AS score_psi,
       count(*) FILTER (WHERE m.metric = 'psi' AND m.field NOT IN ('', 'score') AND m.verdict IN ('drift', 'breach'))
           AS drifted_features,
       max(m.verdict) FILTER (WHERE m.metric = 'auc') AS verdict
FROM measurements m
WHERE m.deployment = 'settlement-fails' AND m.window_kind = 'half-month' AND m.slice = '' AND m.role = 'champion'
  AND m.known_by = 'observed'
GROUP BY m.window_first, m.window_last, m.known_at, m.model_version
ORDER BY m.window_first, m.known_at, m.model_version
