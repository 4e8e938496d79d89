-- What is to be told to somebody outside.
CREATE VIEW trueup.messages AS
    SELECT m.message_id, m.key, m.receiver, m.kind, m.ordering, m.subject, m.state, m.attempts, m.added_at,
           CASE WHEN m.state = 'waiting' THEN m.due_at END AS due_at, m.leased_until, m.ended_at, m.last_error,
           (SELECT count(*) FROM ledger.message_attachments a WHERE a.message_id = m.message_id) AS attachments
    FROM ledger.messages m;
COMMENT ON VIEW trueup.messages IS
    'Each message with its state (waiting, sent, given_up), attempts and last error, without its content; leased_until: somebody is sending it, and until then nobody else does';

CREATE VIEW trueup.message_totals AS
    SELECT receiver, state, count(*) AS messages, min(added_at) AS oldest_at, max(attempts) AS attempts,
           max(ended_at) AS last_ended_at
    FROM ledger.messages GROUP BY receiver, state;
COMMENT ON VIEW trueup.message_totals IS
    'Messages by receiver and state, with the oldest one: what waits grows where a receiver is away, given_up is for a person to look at';

CREATE OR REPLACE FUNCTION ledger.forget_messages(sent_before timestamptz, given_up_before timestamptz, most integer)
RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH old AS (
        SELECT message_id FROM ledger.messages
        WHERE (state = 'sent' AND ended_at < sent_before) OR (state = 'given_up' AND ended_at < given_up_before)
        ORDER BY ended_at LIMIT most FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM ledger.messages m USING old WHERE m.message_id = old.message_id RETURNING 1
    )
    SELECT count(*) FROM gone
$$;
COMMENT ON FUNCTION ledger.forget_messages(timestamptz, timestamptz, integer) IS
    'Removes messages that ended before these moments, with their attachments';

GRANT INSERT ON ledger.messages, ledger.message_attachments TO trueup_writer;
GRANT UPDATE (state, attempts, due_at, lease, leased_until, ended_at, last_error) ON ledger.messages TO trueup_writer;
REVOKE ALL ON FUNCTION ledger.forget_messages(timestamptz, timestamptz, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.forget_messages(timestamptz, timestamptz, integer) TO trueup_writer;
