/*---
name: FeatureDrift
owner: model owner
severity: warning
schedule: every 15m
keep_firing_for: 1h
summary: "{{ value | number(9) }} features of {{ labels.deployment }} {{ labels.model_version }} have drifted, most of all {{ worst }}"
description: "Of {{ fields }} features in {{ window_first }} to {{ window_last }}: {{ message }}."
runbook: docs/runbooks/alerts.md#featuredrift
group_by: [alertname, deployment]
label_columns: [deployment, model_version, window_kind]
parameters:
  fresh_days: {type: integer, default: 45, description: days after which a measurement says nothing of now}
  least_features: {type: integer, default: 1, description: features that must have drifted}
---*/
WITH newest AS (
    SELECT m.deployment, m.model_version, m.window_kind, max(m.window_first) AS window_first
    FROM measurements m
    WHERE m.known_by = %(known_by)s AND m.known_at <= %(now)s
      AND m.known_at > %(now)s::timestamptz - make_interval(days => %(fresh_days)s::integer)
      AND m.metric = 'psi' AND m.field NOT IN ('', 'score') AND m.slice = '' AND m.role = 'champion'
    GROUP BY m.deployment, m.model_version, m.window_kind
), latest AS (
    SELECT DISTINCT ON (m.deployment, m.model_version, m.window_kind, m.field) m.*
    FROM newest w
    JOIN measurements m USING (deployment, model_version, window_kind, window_first)
    WHERE m.known_by = %(known_by)s AND m.known_at <= %(now)s
      AND m.metric = 'psi' AND m.field NOT IN ('', 'score') AND m.slice = '' AND m.role = 'champion'
    ORDER BY m.deployment, m.model_version, m.window_kind, m.field, m.known_at DESC, m.measurement_id DESC
), drifted AS (
    SELECT l.*, row_number() OVER (PARTITION BY deployment, model_version, window_kind ORDER BY value DESC, field) AS place
    FROM latest l WHERE l.verdict IN ('drift', 'breach')
)
SELECT d.deployment, d.model_version, d.window_kind, count(*)::double precision AS value,
       (SELECT count(*) FROM latest l
        WHERE (l.deployment, l.model_version, l.window_kind) = (d.deployment, d.model_version, d.window_kind)) AS fields,
       min(d.field) FILTER (WHERE d.place = 1) AS worst,
       string_agg(format('%%s %%s', d.field, round(d.value::numeric, 2)), ', ' ORDER BY d.place)
           FILTER (WHERE d.place <= 5) AS message,
       min(d.window_first)::text AS window_first, max(d.window_last)::text AS window_last
FROM drifted d
GROUP BY d.deployment, d.model_version, d.window_kind
HAVING count(*) >= %(least_features)s::integer
