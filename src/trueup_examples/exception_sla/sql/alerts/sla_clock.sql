/*---
name: SlaClock
owner: service-desk
severity: warning
schedule: every 1h
keep_firing_for: 1h
summary: "{{ labels.incident }} will probably miss its SLA and has {{ left_days }} days left"
description: "Opened {{ age_days }} days ago and still open; the model said {{ value | percent }} when it was opened."
runbook: docs/tutorials/exception-queue.md#the-sla-clock
group_by: [alertname, deployment]
label_columns: [deployment, incident]
parameters:
  deployment: {type: text, default: exception-sla, description: whose tickets}
  sla_days: {type: number, default: 9, description: days from the opening to the moment by which a ticket should be closed}
  warn_days: {type: number, default: 2, description: days before that moment from which it fires}
  at_least: {type: number, default: 0.8, description: predicted probability from which it fires}
  most: {type: integer, default: 200, description: "tickets told of at once, the likeliest first"}
---*/
SELECT p.deployment,
       p.business_key AS incident,
       p.score AS value,
       to_char(extract(epoch FROM %(now)s::timestamptz - p.event_time) / 86400, 'FM990.0') AS age_days,
       to_char(%(sla_days)s::numeric - extract(epoch FROM %(now)s::timestamptz - p.event_time) / 86400, 'FM990.0')
           AS left_days
FROM predictions p
WHERE p.deployment = %(deployment)s
  AND p.role = 'champion'
  AND p.score >= %(at_least)s::double precision
  AND p.event_day BETWEEN (%(now)s::timestamptz - %(sla_days)s::double precision * interval '1 day')::date - 1
                      AND (%(now)s::timestamptz)::date
  AND p.event_time > %(now)s::timestamptz - %(sla_days)s::double precision * interval '1 day'
  AND p.event_time <= %(now)s::timestamptz
                      - (%(sla_days)s::double precision - %(warn_days)s::double precision) * interval '1 day'
  AND CASE %(known_by)s::text WHEN 'observed' THEN p.event_time ELSE p.booked_at END <= %(now)s::timestamptz
  AND NOT EXISTS (
      SELECT 1 FROM outcome_history o
      WHERE o.contract_name = p.contract AND o.label = 'missed_sla' AND o.state = 'known'
        AND o.business_key = p.business_key AND o.event_day = p.event_day
        AND CASE %(known_by)s::text WHEN 'observed' THEN o.observed_at ELSE o.recorded_at END <= %(now)s::timestamptz
  )
ORDER BY p.score DESC, p.business_key
LIMIT %(most)s::integer
