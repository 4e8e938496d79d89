/*---
name: PerformanceBelowFloor
owner: model owner
severity: critical
schedule: every 15m
keep_firing_for: 1h
summary: "{{ labels.metric }} of {{ labels.deployment }} {{ labels.model_version }} is {{ value | number }}, on the wrong side of its floor"
description: "{{ n }} predictions of {{ window_first }} to {{ window_last }}{{ of_slice }}, {{ maturity }} of the due outcomes known; interval {{ low }} to {{ high }}."
runbook: docs/runbooks/alerts.md#performancebelowfloor
group_by: [alertname, deployment]
label_columns: [deployment, model_version, role, metric, slice, window_kind]
parameters:
  fresh_days: {type: integer, default: 45, description: days after which a measurement says nothing of now}
---*/
-- Calibration has a rule of its own; drift is no performance; provisional figures are no verdict.
WITH latest AS (
    SELECT DISTINCT ON (m.deployment, m.model_version, m.role, m.metric, m.slice, m.window_kind) m.*
    FROM measurements m
    WHERE m.known_by = %(known_by)s AND m.known_at <= %(now)s
      AND m.known_at > %(now)s::timestamptz - make_interval(days => %(fresh_days)s::integer)
      AND m.metric IN ('auc', 'average_precision', 'precision_at_k', 'brier', 'log_loss', 'value_caught', 'mae', 'rmse', 'bias')
      AND m.field = '' AND m.verdict IS NOT NULL AND m.verdict NOT IN ('provisional', 'insufficient')
    ORDER BY m.deployment, m.model_version, m.role, m.metric, m.slice, m.window_kind, m.window_first DESC,
             m.known_at DESC, m.measurement_id DESC
)
SELECT deployment, model_version, role, metric, slice, window_kind, value, n,
       coalesce(round(low::numeric, 4)::text, 'unknown') AS low, coalesce(round(high::numeric, 4)::text, 'unknown') AS high,
       CASE WHEN slice = '' THEN '' ELSE ' where ' || slice END AS of_slice,
       coalesce(format('%%s %%%%', round(100 * maturity::numeric, 1)), 'unknown') AS maturity,
       window_first::text, window_last::text
FROM latest WHERE verdict = 'breach'
