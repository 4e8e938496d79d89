/*---
name: Squeeze
owner: fails desk
severity: critical
schedule: "0 6 * * *"
summary: "{{ labels.symbol }} rose by {{ value | percent(0) }} in a day while USD {{ failing }} million of it fail"
description: "Settlement day {{ day }}. Whoever owes the shares pays more for every day: borrow or buy in now."
runbook: docs/tutorials/settlement-fails-alerts.md#squeeze
group_by: [alertname]
label_columns: [cusip, symbol]
parameters:
  rise: {type: number, default: 0.5, description: rise of the price within a day from which it fires}
  failing: {type: number, default: 5.0e+7, description: balance in USD from which it fires}
  days: {type: integer, default: 4, description: days for which it is told}
---*/
SELECT DISTINCT ON (cusip)
       cusip, coalesce(symbol, '') AS symbol, exp(price_change) - 1 AS value,
       round((last_value / 1e6)::numeric) AS failing, event_day::text AS day
FROM settlement_fails_v1
WHERE deployment = 'settlement-fails' AND role = 'champion'
  AND event_day BETWEEN (%(now)s::timestamptz AT TIME ZONE 'UTC')::date - %(days)s::integer
                    AND (%(now)s::timestamptz AT TIME ZONE 'UTC')::date
  AND event_time <= %(now)s
  AND price_change >= ln(1 + %(rise)s::double precision) AND last_value >= %(failing)s::double precision
ORDER BY cusip, event_day DESC
