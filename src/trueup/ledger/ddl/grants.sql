-- Least privilege. The writer appends; nobody but the owner changes or deletes. The reader sees views only.
GRANT USAGE ON SCHEMA ledger TO trueup_writer;
GRANT USAGE ON SCHEMA trueup TO trueup_writer, trueup_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO trueup_writer;
GRANT INSERT ON ledger.batches, ledger.predictions, ledger.refusals, ledger.outcomes, ledger.request_days, ledger.audit,
    ledger.reads, ledger.owed_replies, ledger.dead_letters
    TO trueup_writer;
GRANT USAGE ON SEQUENCE ledger.batches_batch_id_seq TO trueup_writer; -- numbers batches ahead
REVOKE ALL ON FUNCTION ledger.ensure_partitions(date[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.ensure_partitions(date[]) TO trueup_writer;
REVOKE ALL ON FUNCTION ledger.move_position(integer, text, text, integer, bigint, bigint),
    ledger.replies_sent(bigint[]), ledger.letters_sent(bigint[]), ledger.letters_replayed(bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.move_position(integer, text, text, integer, bigint, bigint),
    ledger.replies_sent(bigint[]), ledger.letters_sent(bigint[]), ledger.letters_replayed(bigint[]) TO trueup_writer;
GRANT SELECT ON ALL TABLES IN SCHEMA trueup TO trueup_reader, trueup_writer;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA trueup TO trueup_reader, trueup_writer;
