/*---
name: ScoreDrift
owner: model owner
severity: warning
schedule: every 15m
keep_firing_for: 1h
summary: "Scores of {{ labels.deployment }} {{ labels.model_version }} have drifted: PSI {{ value | number }}"
description: "{{ n }} scores of {{ window_first }} to {{ window_last }} against the reference; chance alone explains a PSI up to {{ critical }}, the floor is {{ floor }}."
runbook: docs/runbooks/alerts.md#scoredrift
group_by: [alertname, deployment]
label_columns: [deployment, model_version, window_kind]
parameters:
  fresh_days: {type: integer, default: 45, description: days after which a measurement says nothing of now}
---*/
WITH latest AS (
    SELECT DISTINCT ON (m.deployment, m.model_version, m.window_kind) m.*
    FROM measurements m
    WHERE m.known_by = %(known_by)s AND m.known_at <= %(now)s
      AND m.known_at > %(now)s::timestamptz - make_interval(days => %(fresh_days)s::integer)
      AND m.metric = 'psi' AND m.field = 'score' AND m.slice = '' AND m.role = 'champion'
    ORDER BY m.deployment, m.model_version, m.window_kind, m.window_first DESC, m.known_at DESC, m.measurement_id DESC
)
SELECT deployment, model_version, window_kind, value, n, coalesce(round(critical::numeric, 4)::text, 'unknown') AS critical, coalesce(floor, 0) AS floor,
       window_first::text, window_last::text
FROM latest WHERE verdict IN ('drift', 'breach')
