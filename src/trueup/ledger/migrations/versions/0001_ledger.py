"""The ledger's first tables and its two roles.

Revision 0001. The roles have no password: where the server asks for one they cannot log
in until the operator gives them one. They belong to the server, not to one database, and
stay when this migration is taken back.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

ROLES = """
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['trueup_writer', 'trueup_reader'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I LOGIN', wanted);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- another database of this server made it
        END;
        EXECUTE format('GRANT %I TO CURRENT_USER', wanted);
    END LOOP;
END $$;
"""


def upgrade() -> None:
    """Makes roles and tables."""
    op.execute(ROLES)
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("role IN ('reader', 'scorer', 'operator', 'admin')", name="api_keys_role"),
        sa.CheckConstraint("octet_length(key_hash) = 32", name="api_keys_hash"),
        sa.PrimaryKeyConstraint("key_id"),
        sa.UniqueConstraint("key_hash"),
        schema="ledger",
    )
    op.create_table(
        "audit",
        sa.Column("audit_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("audit_id"),
        schema="ledger",
    )
    op.create_table(
        "contracts",
        sa.Column("contract_id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("contract_id"),
        sa.UniqueConstraint("digest"),
        sa.UniqueConstraint("name", "version"),
        schema="ledger",
    )
    op.create_table(
        "deployments",
        sa.Column("deployment_id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("deployment_id"),
        sa.UniqueConstraint("name"),
        schema="ledger",
    )
    op.create_table(
        "outcomes",
        sa.Column("contract_name", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("business_key", sa.Text(), nullable=False),
        sa.Column("event_day", sa.Date(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("value_number", sa.Double(), nullable=True),
        sa.Column("value_text", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("observed_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("recorded_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("num_nonnulls(value_number, value_text) = 1", name="outcomes_one_value"),
        sa.CheckConstraint("revision >= 1", name="outcomes_revision"),
        sa.PrimaryKeyConstraint("contract_name", "label", "business_key", "event_day", "revision"),
        schema="ledger",
    )
    op.create_table(
        "predictions",
        sa.Column("prediction_id", sa.UUID(), nullable=False),
        sa.Column("event_day", sa.Date(), nullable=False),
        sa.Column("event_time", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("deployment_id", sa.Integer(), nullable=False),
        sa.Column("model_version_id", sa.Integer(), nullable=False),
        sa.Column("contract_id", sa.Integer(), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_key", sa.Text(), nullable=False),
        sa.Column("business_key", sa.Text(), nullable=False),
        sa.Column("content_digest", sa.LargeBinary(), nullable=False),
        sa.Column("floats", sa.ARRAY(sa.Double()), nullable=False),
        sa.Column("ints", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("texts", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("outputs", sa.ARRAY(sa.Double()), nullable=True),
        sa.Column("class", sa.Text(), nullable=True),
        sa.Column("decision", sa.Text(), nullable=True),
        sa.Column("expected_cost", sa.Double(), nullable=True),
        sa.Column("reason_fields", sa.ARRAY(sa.SmallInteger()), nullable=True),
        sa.Column("reason_values", sa.ARRAY(sa.REAL()), nullable=True),
        sa.Column("due_day", sa.Date(), nullable=True),
        sa.Column("received_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("booked_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("steps_us", sa.ARRAY(sa.Integer()), nullable=False),
        sa.CheckConstraint("channel IN ('rest', 'grpc', 'kafka', 'batch', 'python')", name="predictions_channel"),
        sa.CheckConstraint("event_day = (event_time AT TIME ZONE 'UTC')::date", name="predictions_event_day"),
        sa.CheckConstraint("role IN ('champion', 'challenger', 'shadow')", name="predictions_role"),
        sa.CheckConstraint("status <> 'abstained' OR decision IS NULL", name="predictions_abstained"),
        sa.CheckConstraint("status IN ('scored', 'abstained', 'fallback')", name="predictions_status"),
        sa.CheckConstraint(
            "(reason_fields IS NULL) = (reason_values IS NULL)"
            " AND cardinality(reason_fields) = cardinality(reason_values)",
            name="predictions_reasons",
        ),
        sa.CheckConstraint("due_day >= event_day", name="predictions_due"),
        sa.CheckConstraint("octet_length(content_digest) = 16", name="predictions_digest"),
        sa.CheckConstraint("score IS NOT NULL OR outputs IS NOT NULL OR class IS NOT NULL", name="predictions_answer"),
        sa.PrimaryKeyConstraint("prediction_id", "event_day"),
        schema="ledger",
        postgresql_partition_by="RANGE (event_day)",
    )
    op.create_index(
        "predictions_business_key", "predictions", ["business_key", "event_day"], unique=False, schema="ledger"
    )
    op.create_table(
        "request_days",
        sa.Column("deployment_id", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_key", sa.Text(), nullable=False),
        sa.Column("event_time", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("booked_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("deployment_id", "source", "source_key"),
        schema="ledger",
    )
    op.create_table(
        "batches",
        sa.Column("batch_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("deployment_id", sa.Integer(), nullable=False),
        sa.Column("contract_id", sa.Integer(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("predictions", sa.Integer(), nullable=False),
        sa.Column("received_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("booked_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("instances > 0 AND predictions >= instances", name="batches_not_empty"),
        sa.ForeignKeyConstraint(
            ["contract_id"],
            ["ledger.contracts.contract_id"],
        ),
        sa.ForeignKeyConstraint(
            ["deployment_id"],
            ["ledger.deployments.deployment_id"],
        ),
        sa.PrimaryKeyConstraint("batch_id"),
        schema="ledger",
    )
    op.create_table(
        "model_versions",
        sa.Column("model_version_id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("contract_id", sa.Integer(), nullable=False),
        sa.Column("artifacts", postgresql.JSONB(), nullable=False),
        sa.Column("libraries", postgresql.JSONB(), nullable=False),
        sa.Column("parity", postgresql.JSONB(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["contract_id"],
            ["ledger.contracts.contract_id"],
        ),
        sa.PrimaryKeyConstraint("model_version_id"),
        sa.UniqueConstraint("name", "version"),
        schema="ledger",
    )
    op.create_table(
        "refusals",
        sa.Column("refusal_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("deployment_id", sa.Integer(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_key", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("content_digest", sa.LargeBinary(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("event_day", sa.Date(), nullable=False),
        sa.Column("received_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("booked_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("channel IN ('rest', 'grpc', 'kafka', 'batch', 'python')", name="refusals_channel"),
        sa.CheckConstraint(
            "reason IN ('contract', 'failed', 'timed_out', 'overloaded', 'request', 'conflict')", name="refusals_reason"
        ),
        sa.CheckConstraint("attempt >= 1", name="refusals_attempt"),
        sa.ForeignKeyConstraint(
            ["deployment_id"],
            ["ledger.deployments.deployment_id"],
        ),
        sa.PrimaryKeyConstraint("refusal_id"),
        sa.UniqueConstraint(
            "deployment_id",
            "source",
            "source_key",
            "reason",
            "detail",
            "content_digest",
            name="refusals_once",
            postgresql_nulls_not_distinct=True,
        ),
        schema="ledger",
    )
    op.create_table(
        "deployment_revisions",
        sa.Column("deployment_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("champion_id", sa.Integer(), nullable=False),
        sa.Column("challenger_ids", sa.ARRAY(sa.Integer()), nullable=False),
        sa.Column("shadow_ids", sa.ARRAY(sa.Integer()), nullable=False),
        sa.Column("serving", postgresql.JSONB(), nullable=False),
        sa.Column("deployed_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deployed_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["champion_id"],
            ["ledger.model_versions.model_version_id"],
        ),
        sa.ForeignKeyConstraint(
            ["deployment_id"],
            ["ledger.deployments.deployment_id"],
        ),
        sa.PrimaryKeyConstraint("deployment_id", "revision"),
        schema="ledger",
    )


def downgrade() -> None:
    """Drops the tables and what hangs on them."""
    op.execute("DROP FUNCTION IF EXISTS ledger.ensure_partitions(date[])")
    op.execute("DROP VIEW IF EXISTS ledger.contract_labels, ledger.contract_features")
    op.drop_table("deployment_revisions", schema="ledger")
    op.drop_table("refusals", schema="ledger")
    op.drop_table("model_versions", schema="ledger")
    op.drop_table("batches", schema="ledger")
    op.drop_table("request_days", schema="ledger")
    op.drop_index("predictions_business_key", table_name="predictions", schema="ledger")
    op.drop_table("predictions", schema="ledger")
    op.drop_table("outcomes", schema="ledger")
    op.drop_table("deployments", schema="ledger")
    op.drop_table("contracts", schema="ledger")
    op.drop_table("audit", schema="ledger")
    op.drop_table("api_keys", schema="ledger")
