/*---
name: MaturityLate
owner: data owner
severity: warning
schedule: every 1h
for: 1h
summary: "Outcomes of {{ labels.deployment }} are late: {{ value | percent }} of those due in {{ window_first }} to {{ window_last }} are known"
description: "Figures of this window are provisional until {{ floor }} of the due outcomes have come."
runbook: docs/runbooks/alerts.md#maturitylate
group_by: [alertname, deployment]
label_columns: [deployment, window_kind]
parameters:
  fresh_days: {type: integer, default: 45, description: days after which a measurement says nothing of now}
  floor: {type: number, default: 0.95, description: share of due outcomes that must be known}
  grace_days: {type: integer, default: 3, description: days after the end of a window in which nothing is concluded}
---*/
WITH latest AS (
    SELECT DISTINCT ON (m.deployment, m.window_kind) m.*
    FROM measurements m
    WHERE m.known_by = %(known_by)s AND m.known_at <= %(now)s
      AND m.known_at > %(now)s::timestamptz - make_interval(days => %(fresh_days)s::integer)
      AND m.metric = 'maturity' AND m.field = '' AND m.slice = '' AND m.role = 'champion'
      AND m.window_last + %(grace_days)s::integer < (%(now)s::timestamptz AT TIME ZONE 'UTC')::date
    ORDER BY m.deployment, m.window_kind, m.window_first DESC, m.known_at DESC, m.measurement_id DESC
)
SELECT deployment, window_kind, value, format('%%s %%%%', round(100 * %(floor)s::numeric, 1)) AS floor,
       window_first::text, window_last::text
FROM latest WHERE value < %(floor)s::double precision
