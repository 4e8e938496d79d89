"""The typed view that every contract version gets: its fields as ordinary, named columns."""

from __future__ import annotations

from typing import Any

from psycopg import sql

from trueup.domain.contract import Contract, Field, FieldType, Storage

_COMMON = (
    ("prediction_id", "p.prediction_id", "Identity of the prediction"),
    ("deployment", "p.deployment", "Name it was asked for under"),
    ("model_version", "p.model_version", "Version that answered"),
    ("role", "p.role", "champion, challenger or shadow"),
    ("status", "p.status", "scored, abstained or fallback"),
    ("event_time", "p.event_time", "When the event happened (UTC)"),
    ("event_day", "p.event_day", "UTC day of the event; partitions follow it"),
    ("business_key", "p.business_key", "Joins predictions and outcomes"),
)
_ANSWER = (
    ("score", "p.score", "The model's answer"),
    ("class", "p.class", "Predicted class"),
    ("decision", "p.decision", "What the decision rule said"),
    ("expected_cost", "p.expected_cost", "Probability x amount, in the amount's unit"),
    ("due_day", "p.due_day", "Day the outcome is due; null: when published"),
    ("booked_at", "p.booked_at", "When the ledger took the row"),
)


def view_name(contract: Contract) -> str:
    """Name of the contract version's view in schema ``trueup``."""
    return f"{contract.name}_v{contract.version}"


def make_contract_view(connection: Any, contract: Contract, contract_id: int) -> None:
    """Creates the view with typed and commented columns. Names are checked and quoted."""
    name = sql.Identifier("trueup", view_name(contract))
    taken = {f.name for f in contract.fields}
    columns: list[tuple[str, sql.Composable, str]] = [
        (alias, sql.SQL(expression), comment) for alias, expression, comment in _COMMON if alias not in taken
    ]
    columns += [(f.name, _typed(contract, f), _comment(f)) for f in contract.fields]
    columns += [(alias, sql.SQL(expression), comment) for alias, expression, comment in _ANSWER if alias not in taken]
    selected = sql.SQL(", ").join(sql.SQL("{} AS {}").format(e, sql.Identifier(alias)) for alias, e, _ in columns)
    connection.execute(
        sql.SQL("CREATE OR REPLACE VIEW {} AS SELECT {} FROM trueup.predictions p WHERE p.contract_id = {}").format(
            name, selected, sql.Literal(contract_id)
        )
    )
    described = f"Predictions under contract {contract.name} version {contract.version}. {contract.description}".strip()
    connection.execute(sql.SQL("COMMENT ON VIEW {} IS {}").format(name, sql.Literal(described)))
    for alias, _, comment in columns:
        column = sql.Identifier("trueup", view_name(contract), alias)
        connection.execute(sql.SQL("COMMENT ON COLUMN {} IS {}").format(column, sql.Literal(comment)))
    connection.execute(sql.SQL("GRANT SELECT ON {} TO trueup_reader, trueup_writer").format(name))


def _typed(contract: Contract, f: Field) -> sql.Composable:
    storage, place = contract.slots[f.name]
    cell = sql.SQL("p.{}[{}]").format(sql.Identifier(storage.value), sql.Literal(place + 1))
    if storage is Storage.FLOATS or f.type in (FieldType.INT64, FieldType.STRING, FieldType.CATEGORY):
        return cell
    if f.type is FieldType.BOOL:
        return sql.SQL("({} <> 0)").format(cell)
    if f.type is FieldType.DATE:
        return sql.SQL("(date '1970-01-01' + {}::integer)").format(cell)
    if f.type is FieldType.TIMESTAMP:
        return sql.SQL("(timestamptz '1970-01-01 00:00:00+00' + {} * interval '1 microsecond')").format(cell)
    return sql.SQL("{}::numeric({}, {})").format(cell, sql.Literal(f.precision), sql.Literal(f.scale))


def _comment(f: Field) -> str:
    unit = f" [{f.unit}]" if f.unit else ""
    return f"{f.description or f.type}{unit}"
