SELECT p.prediction_id, p.event_day, p.score, p.expected_cost, p.last_value, o.value_number AS fail_value
FROM settlement_fails_v1 p
LEFT JOIN LATERAL (
    SELECT h.value_number FROM outcome_history h
    WHERE h.contract_name = 'settlement_fails' AND h.label = 'fail_value'
      AND h.business_key = p.business_key AND h.event_day = p.event_day
    ORDER BY h.observed_at DESC, h.revision DESC LIMIT 1
) o ON true
WHERE p.deployment = 'settlement-fails' AND p.role = 'champion'
