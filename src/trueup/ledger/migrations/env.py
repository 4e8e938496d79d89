"""Alembic's environment: runs on the connection that ``trueup.ledger.migrating`` hands over."""

from alembic import context

from trueup.ledger.tables import metadata

connection = context.config.attributes["connection"]
connection.exec_driver_sql("CREATE SCHEMA IF NOT EXISTS ledger")
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table_schema="ledger",
    include_schemas=True,
    transactional_ddl=True,
)
context.run_migrations()
