-- Rules, their instances and every transition.
CREATE VIEW trueup.alert_rules AS
SELECT rule, front ->> 'name' AS alertname, front ->> 'severity' AS severity, front ->> 'owner' AS owner,
       front ->> 'schedule' AS schedule, state, reason, evaluated_due, digest, front, changed_at
FROM ledger.alert_rules;
COMMENT ON VIEW trueup.alert_rules IS 'Every alert rule that was ever evaluated, and how it is';
COMMENT ON COLUMN trueup.alert_rules.state IS 'active; quarantined: it could not be read or evaluated the last time; retired: its file is gone';

CREATE VIEW trueup.alerts AS
SELECT fingerprint AS alert_id, rule, labels ->> 'alertname' AS alertname, labels ->> 'severity' AS severity,
       labels ->> 'deployment' AS deployment, state, value, annotations ->> 'summary' AS summary, active_at, fired_at,
       resolved_at, acknowledged_at, acknowledged_by, assigned_to, escalate_at, labels, annotations
FROM ledger.alert_instances;
COMMENT ON VIEW trueup.alerts IS 'Instances of alert rules that are pending, firing or resolved a short while ago';
COMMENT ON COLUMN trueup.alerts.alert_id IS 'BLAKE2b-128 of the labels';
COMMENT ON COLUMN trueup.alerts.escalate_at IS 'When others are told too unless somebody acknowledges; null: never, or done';

CREATE VIEW trueup.alert_evaluations AS
SELECT evaluation_id, rule, due, started_at, duration_ms, rows, error FROM ledger.alert_evaluations;
COMMENT ON VIEW trueup.alert_evaluations IS 'Every evaluation of every rule; those that moved nothing are deleted after a while';

CREATE VIEW trueup.alert_transitions AS
SELECT transition_id, rule, evaluation_id, fingerprint AS alert_id, labels ->> 'alertname' AS alertname,
       labels ->> 'deployment' AS deployment, labels, before, after, at, value, reason
FROM ledger.alert_transitions;
COMMENT ON VIEW trueup.alert_transitions IS 'Every change of state of every alert, for ever';

CREATE VIEW trueup.alert_groups AS
SELECT g.group_key, g.receiver, g.labels, g.next_at, g.sequence, g.told_at,
       (SELECT count(*) FROM ledger.alert_group_members m WHERE m.group_key = g.group_key AND m.ends_at IS NULL) AS firing
FROM ledger.alert_groups g;
COMMENT ON VIEW trueup.alert_groups IS 'Alerts that are told of together: when the group told last and when it looks next';

CREATE VIEW trueup.silences AS
SELECT silence_id, matchers, starts_at, ends_at, created_by, comment, created_at FROM ledger.silences;
COMMENT ON VIEW trueup.silences IS 'Silences that are, will be or were in force';

-- What happened is only ever added; where an alert stands, and what a group holds, changes with every evaluation.
GRANT INSERT ON ledger.alert_rules, ledger.alert_instances, ledger.alert_evaluations, ledger.alert_transitions,
    ledger.alert_groups, ledger.alert_group_members, ledger.silences TO trueup_writer;
GRANT UPDATE ON ledger.alert_rules, ledger.alert_instances, ledger.alert_groups, ledger.alert_group_members
    TO trueup_writer;
GRANT DELETE ON ledger.alert_instances, ledger.alert_groups, ledger.alert_group_members TO trueup_writer;
GRANT UPDATE (ends_at) ON ledger.silences TO trueup_writer;

CREATE OR REPLACE FUNCTION ledger.forget_evaluations(before timestamptz, most integer) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH gone AS (
        DELETE FROM ledger.alert_evaluations WHERE evaluation_id IN (
            SELECT e.evaluation_id FROM ledger.alert_evaluations e
            WHERE e.due < before
              AND NOT EXISTS (SELECT 1 FROM ledger.alert_transitions t WHERE t.evaluation_id = e.evaluation_id)
            ORDER BY e.due LIMIT most
        ) RETURNING 1
    )
    SELECT count(*)::integer FROM gone
$$;
COMMENT ON FUNCTION ledger.forget_evaluations(timestamptz, integer) IS 'Deletes old evaluations that moved nothing';
REVOKE ALL ON FUNCTION ledger.forget_evaluations(timestamptz, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.forget_evaluations(timestamptz, integer) TO trueup_writer;
