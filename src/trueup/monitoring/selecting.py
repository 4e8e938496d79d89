"""What a count needs of each prediction, as columns of one width.

Numbers stay numbers, with NaN where null. A text becomes the place of its bin, looked up by the server: texts have
many lengths, places have one. A segment's value becomes the number of its slice, 0 where it has none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trueup.domain.contract import Contract, Field, FieldType, OutputKind, Storage
from trueup.domain.measuring import Profile, ProfileKind
from trueup.domain.profiling import SCORE
from trueup.monitoring.copied import Layout

ROLES = ("champion", "challenger", "shadow")


@dataclass(frozen=True, slots=True)
class Selection:
    """The list after SELECT (of ``ledger.predictions p``), its parameters, and what its rows look like.

    ``numeric`` are names of fields whose values come in a column of their own, ``categories`` of those whose bins do,
    ``floats`` those in the array with their places; ``segments`` names with the slices that their numbers from 1 on
    stand for.
    """

    text: str
    parameters: dict[str, Any]
    layout: Layout
    numeric: tuple[str, ...]
    categories: tuple[str, ...]
    floats: tuple[tuple[str, int], ...]
    segments: tuple[tuple[str, tuple[str, ...]], ...]


def selection(
    contract: Contract, profiles: dict[str, Profile], slices: Sequence[str], late_after_days: int
) -> Selection:
    """Everything that counting the profiled fields needs, for predictions of one contract."""
    columns: list[tuple[str, str]] = [("day", "int"), ("role", "int"), ("late", "int")]
    parts = [
        "(p.event_day - date '1970-01-01')::int4",
        f"(CASE p.role WHEN '{ROLES[0]}' THEN 0 WHEN '{ROLES[1]}' THEN 1 ELSE 2 END)::int4",
        "((p.received_at AT TIME ZONE 'UTC')::date - p.event_day > %(late)s)::int4",
    ]
    parameters: dict[str, Any] = {"late": late_after_days}
    numeric, categories, floats = [], [], []
    for number, (name, profile) in enumerate(sorted(profiles.items())):
        if profile.kind is ProfileKind.CATEGORY:
            parameters[f"bins_{number}"] = json.dumps(
                dict(zip(profile.categories, profile.places.tolist(), strict=True))
            )
            text = text_of(contract, name)
            unseen = len(profile.names) - 1
            parts.append(
                f"coalesce((%(bins_{number})s::jsonb -> {text})::int4,"
                f" CASE WHEN {text} IS NULL THEN 0 ELSE {unseen} END)"
            )
            columns.append((name, "int"))
            categories.append(name)
        elif _is_in_array(contract, name):
            floats.append((name, contract.slots[name][1]))
        else:
            parts.append(number_of(contract, name))
            columns.append((name, "float"))
            numeric.append(name)
    segments = segments_of(slices)
    for number, (name, values) in enumerate(segments):
        parameters[f"slices_{number}"] = json.dumps({value: i + 1 for i, value in enumerate(values)})
        parts.append(f"coalesce((%(slices_{number})s::jsonb -> {text_of(contract, name)})::int4, 0)")
        columns.append((f"slice of {name}", "int"))
    width = contract.widths[Storage.FLOATS] if floats else 0
    if width:
        parts.append("p.floats")
    return Selection(
        ", ".join(parts),
        parameters,
        Layout(columns, width),
        tuple(numeric),
        tuple(categories),
        tuple(floats),
        tuple((name, tuple(f"{name}={value}" for value in values)) for name, values in segments),
    )


def profiled_fields(contract: Contract) -> tuple[tuple[str, ProfileKind], ...]:
    """Features and the score, and how each is binned."""
    found = [(f.name, _kind(f)) for f in contract.features]
    answers = ProfileKind.CATEGORY if contract.output.kind is OutputKind.CLASS else ProfileKind.NUMERIC
    return (*found, (SCORE, answers)) if SCORE not in contract.by_name else tuple(found)


def number_of(contract: Contract, name: str) -> str:
    """An expression of double precision, NaN where null."""
    if name not in contract.by_name:
        return "CASE WHEN p.status <> 'fallback' THEN coalesce(p.score, 'NaN') ELSE 'NaN' END"  # a rule's is no model's
    storage, place = contract.slots[name]
    return f"coalesce(p.{storage}[{place + 1}]::float8, 'NaN')"


def text_of(contract: Contract, name: str) -> str:
    """An expression of text, null where null."""
    if name not in contract.by_name:
        return "(CASE WHEN p.status <> 'fallback' THEN p.class END)"
    storage, place = contract.slots[name]
    return f"p.{storage}[{place + 1}]::text"


def segments_of(slices: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Each segment with the values of its slices, from their names `segment=value`."""
    found: dict[str, list[str]] = {}
    for slice_ in slices:
        name, _, value = slice_.partition("=")
        found.setdefault(name, []).append(value)
    return [(name, tuple(values)) for name, values in sorted(found.items())]


def _is_in_array(contract: Contract, name: str) -> bool:
    return name in contract.by_name and contract.by_name[name].storage is Storage.FLOATS


def _kind(field: Field) -> ProfileKind:
    is_text = field.storage is Storage.TEXTS and field.type is not FieldType.DECIMAL
    return ProfileKind.CATEGORY if is_text else ProfileKind.NUMERIC
