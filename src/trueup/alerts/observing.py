"""What a rule's SELECT says: rows with labels, values and messages, and which expected instances gave none.

Columns: ``value`` is a number. ``active`` (boolean) says whether the condition holds; without it every row's does.
``message`` and other columns that are no labels are annotations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from trueup.alerts.matching import LABEL
from trueup.alerts.wording import rendered
from trueup.domain.alert import ALERTNAME, NO_DATA, AlertRule, Labels, NoData, Row, fingerprint
from trueup.errors import InvalidQuery

MOST_LABEL = 1_000
_MESSAGES = frozenset({"message"})
_RESERVED = frozenset({ALERTNAME, "severity", "rule"})


@dataclass(frozen=True, slots=True)
class Observed:
    """``rows`` of the rule itself; ``kept`` are instances of which nothing is known; ``silent`` say so, as alerts."""

    rows: tuple[Row, ...]
    kept: frozenset[str] = frozenset()
    silent: tuple[Row, ...] = ()


def observed(rule: AlertRule, found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> Observed:
    """Rows as the rule means them. ``expected`` are the rows of its second query. Raises InvalidQuery."""
    rows = tuple(_row(rule, one) for one in found)
    wanted = [*rule.expected, *(_labels_of(rule, one) for one in expected)]
    if not wanted:
        return Observed(rows)
    if found and "active" not in found[0]:
        raise InvalidQuery(
            "a rule with expected instances needs the column `active`",
            next_step="give a row for each instance, active where the condition holds",
        )
    there = {fingerprint(row.labels) for row in rows}
    missing = [labels for one in wanted if fingerprint(labels := {**one, **rule.own_labels}) not in there]
    if rule.no_data is NoData.OK:
        return Observed(rows)
    kept = frozenset(fingerprint(labels) for labels in missing)
    return Observed(rows, kept, _silent(rule, missing) if rule.no_data is NoData.ALERT else ())


def _silent(rule: AlertRule, missing: Sequence[Labels]) -> tuple[Row, ...]:
    made = {}
    for labels in missing:
        own = {**labels, ALERTNAME: NO_DATA, "rule": rule.name}
        summary = f"{rule.name}: an expected instance gave no row"
        made[fingerprint(own)] = Row(own, None, _annotations(rule, {"summary": summary}))
    return tuple(made.values())


def _row(rule: AlertRule, one: Mapping[str, Any]) -> Row:
    value, active = _number(one.get("value")), one.get("active", True)
    if active is not None and not isinstance(active, bool):
        raise InvalidQuery("the column `active` is not a boolean")
    labels = _labels_of(rule, one)
    messages = {
        name: _plain(cell)
        for name, cell in one.items()
        if name not in labels and name not in ("value", "active") and cell is not None
    }
    merged = {**labels, **rule.own_labels}
    if not active:
        return Row(merged, value, {}, False)
    texts = {"summary": rule.summary, "description": rule.description}
    said = {name: rendered(text, merged, value, messages) for name, text in texts.items() if text}
    return Row(merged, value, _annotations(rule, {**messages, **said}))


def _annotations(rule: AlertRule, texts: Mapping[str, str]) -> dict[str, str]:
    return {**texts, **({"runbook_url": rule.runbook} if rule.runbook else {}), "owner": rule.owner}


def _labels_of(rule: AlertRule, one: Mapping[str, Any]) -> dict[str, str]:
    """The label columns; null and empty are no label. Raises InvalidQuery."""
    names = rule.label_columns
    if names is None:
        reserved = _MESSAGES | {"value", "active"}
        names = tuple(name for name, cell in one.items() if isinstance(cell, str) and name not in reserved)
    elif missing := [name for name in names if name not in one]:
        raise InvalidQuery(f"the query has no column {missing[0]}, which label_columns names")
    if bad := [name for name in names if not LABEL.match(name) or name in _RESERVED or name in rule.labels]:
        raise InvalidQuery(f"the column {bad[0][:100]} cannot be a label")
    found = {name: _plain(one[name]) for name in names if one[name] is not None}
    if any(len(text) > MOST_LABEL for text in found.values()):
        raise InvalidQuery(f"a label is longer than {MOST_LABEL} characters")
    return {name: text for name, text in found.items() if text}


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise InvalidQuery("the column `value` is not a number")
    number = float(value)
    return number if math.isfinite(number) else None


def _plain(cell: Any) -> str:
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, datetime | date):
        return cell.isoformat()
    if isinstance(cell, float):
        return f"{cell:.6g}"
    return str(cell)[: MOST_LABEL + 1]
