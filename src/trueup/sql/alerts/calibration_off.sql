/*---
name: CalibrationOff
owner: model owner
severity: warning
schedule: every 15m
keep_firing_for: 1h
summary: "Probabilities of {{ labels.deployment }} {{ labels.model_version }} are off by {{ value | percent }} on average"
description: "Expected calibration error over {{ n }} predictions of {{ window_first }} to {{ window_last }}, interval {{ low }} to {{ high }}. Rankings may still hold; what is read off a probability does not."
runbook: docs/runbooks/alerts.md#calibrationoff
group_by: [alertname, deployment]
label_columns: [deployment, model_version, role, window_kind]
parameters:
  fresh_days: {type: integer, default: 45, description: days after which a measurement says nothing of now}
---*/
WITH latest AS (
    SELECT DISTINCT ON (m.deployment, m.model_version, m.role, m.window_kind) m.*
    FROM measurements m
    WHERE m.known_by = %(known_by)s AND m.known_at <= %(now)s
      AND m.known_at > %(now)s::timestamptz - make_interval(days => %(fresh_days)s::integer)
      AND m.metric = 'ece' AND m.field = '' AND m.slice = ''
      AND m.verdict IS NOT NULL AND m.verdict NOT IN ('provisional', 'insufficient')
    ORDER BY m.deployment, m.model_version, m.role, m.window_kind, m.window_first DESC, m.known_at DESC,
             m.measurement_id DESC
)
SELECT deployment, model_version, role, window_kind, value, n,
       coalesce(round(low::numeric, 4)::text, 'unknown') AS low, coalesce(round(high::numeric, 4)::text, 'unknown') AS high, window_first::text, window_last::text
FROM latest WHERE verdict = 'breach'
