SELECT p.prediction_id, p.event_day, p.opened_at, p.score, p.decision, p.priority, p.assignment_group, p.category,
       o.value_number > 0 AS missed, extract(epoch FROM o.observed_at - p.opened_at) / 86400.0 AS delay_days
FROM exception_sla_v1 p
LEFT JOIN LATERAL (
    SELECT h.value_number, h.observed_at FROM outcome_history h
    WHERE h.contract_name = 'exception_sla' AND h.label = 'missed_sla'
      AND h.business_key = p.business_key AND h.event_day = p.event_day AND h.state = 'known'
    ORDER BY h.observed_at DESC, h.revision DESC LIMIT 1
) o ON true
WHERE p.deployment = 'exception-sla' AND p.role = 'champion'
