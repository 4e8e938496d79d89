SELECT p.prediction_id, p.event_day, p.score, p.expected_cost, p.last_value, o.value_number AS fail_value
FROM settlement_fails_v1 p
LEFT JOIN outcomes o
  ON o.contract_name = 'settlement_fails' AND o.label = 'fail_value'
 AND o.business_key = p.business_key AND o.event_day = p.event_day
WHERE p.deployment = 'settlement-fails' AND p.role = 'champion'
