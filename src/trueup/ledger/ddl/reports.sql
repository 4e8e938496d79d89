-- Runs of reports.
CREATE VIEW trueup.report_runs AS
SELECT run_id, name, title, file_digest, query_digests, parameters, as_known_at, known_by, asked_by, due_at, started_at,
       duration_ms, row_counts, is_cut, error, octet_length(body) AS body_bytes, recorded_at
FROM ledger.report_runs;
COMMENT ON VIEW trueup.report_runs IS 'Every run of a report: of which file, for which values, as known when, asked by whom; `trueup report show` shows its figures';
COMMENT ON COLUMN trueup.report_runs.query_digests IS 'SHA-256 of the text of each query that was run';
COMMENT ON COLUMN trueup.report_runs.due_at IS 'The moment of the schedule; null: somebody asked';
COMMENT ON COLUMN trueup.report_runs.is_cut IS 'Whether a query had more rows than are kept';

GRANT INSERT ON ledger.report_runs TO trueup_writer;
GRANT USAGE ON SEQUENCE ledger.report_runs_run_id_seq TO trueup_writer; -- a run knows its number while it is made

CREATE VIEW trueup.audit AS SELECT audit_id, at, actor, action, subject, detail FROM ledger.audit;
COMMENT ON VIEW trueup.audit IS 'Every change that a person made: who, when, what, and of what';
