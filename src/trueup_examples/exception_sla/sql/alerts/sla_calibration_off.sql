/*---
name: SlaCalibrationOff
owner: model-risk
severity: warning
schedule: "30 6 * * *"
summary: "{{ labels.deployment }} {{ labels.model_version }} says what does not happen: calibration error {{ value | number }}"
description: "Of the tickets opened from {{ first }} to {{ last }}, {{ known }} of those due are known; above {{ bound }} a probability is no longer one."
runbook: docs/tutorials/exception-queue.md#the-calibration-alarm
group_by: [alertname, deployment]
label_columns: [deployment, model_version]
parameters:
  deployment: {type: text, default: exception-sla, description: whose figures}
  above: {type: number, default: 0.1, description: calibration error (ECE) above which it fires}
  mature: {type: number, default: 0.9, description: share of due outcomes that must be known}
  least: {type: integer, default: 300, description: known rows below which nothing is concluded}
---*/
-- The newest window that can be judged. Before its outcomes are due a week looks worse than it is: what is
-- closed first is what was quick, and rarely missed.
WITH judged AS (
    SELECT DISTINCT ON (m.deployment, m.model_version)
           m.deployment, m.model_version, m.value, m.window_first, m.window_last, m.maturity
    FROM measurements m
    WHERE m.deployment = %(deployment)s AND m.metric = 'ece' AND m.field = '' AND m.slice = '' AND m.role = 'champion'
      AND m.known_by = %(known_by)s::text AND m.known_at <= %(now)s::timestamptz
      AND m.maturity >= %(mature)s::double precision AND m.n >= %(least)s::integer
      AND m.window_last + 30 <= m.known_at::date
    ORDER BY m.deployment, m.model_version, m.window_first DESC, m.known_at DESC, m.measurement_id DESC
)
SELECT j.deployment, j.model_version, j.value, to_char(100 * j.maturity, 'FM990') || ' %%' AS known, to_char(j.window_first, 'YYYY-MM-DD') AS first, to_char(j.window_last, 'YYYY-MM-DD') AS last,
       %(above)s::text AS bound
FROM judged j
WHERE j.value > %(above)s::double precision
