"""What predictions are compared with: profiles of all fields and slices, made once from a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Columns
from trueup.domain.contract import Contract, Field, FieldRole, FieldType, OutputKind
from trueup.domain.measuring import Profile, ProfileKind
from trueup.domain.monitoring import Monitoring, Ranking
from trueup.domain.profiling import SCORE, References
from trueup.errors import InvalidInput
from trueup.monitoring.binning import category_profile, counts, numeric_profile
from trueup.monitoring.selecting import profiled_fields


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Columns by field (n,): float64 with NaN where missing, or object of str with None.

    ``segments`` are the texts of the fields that slices are made of. ``first`` and ``last`` are event days.
    """

    columns: Mapping[str, NDArray[Any]]
    segments: Mapping[str, NDArray[np.object_]]
    origin: str
    first: date | None = None
    last: date | None = None


def references_of(contract: Contract, sample: Sample, declared: Monitoring) -> References:
    """The profiles of a sample's fields: over all rows, and with the same bins in each of the largest slices.

    A field that the sample does not have has no profile: the score of training data, where none was handed over.
    """
    found: dict[tuple[str, str], Profile] = {}
    masks = _slices(sample, declared)
    for name, kind in profiled_fields(contract):
        if name not in sample.columns:
            continue
        values = sample.columns[name]
        profile = (
            category_profile(values) if kind is ProfileKind.CATEGORY else numeric_profile(values, bins=declared.bins)
        )
        found[name, ""] = profile
        for slice_, mask in masks.items():
            found[name, slice_] = replace(profile, counts=counts(profile, values[mask]))
    if not found:
        raise InvalidInput(
            "the reference has none of the contract's features", next_step="name its columns as they are"
        )
    return References(found, sample.origin, sample.first, sample.last)


def _slices(sample: Sample, declared: Monitoring) -> dict[str, NDArray[np.bool_]]:
    """The rows of the largest slices of each segment, by ``segment=value``."""
    found = {}
    for segment in declared.segments:
        values = sample.segments.get(segment)
        if values is None:
            continue
        sizes = Counter(v for v in values.tolist() if v is not None)
        for value, _ in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[: declared.most_slices]:
            found[f"{segment}={value}"] = np.asarray(values == value, bool)
    return found


def reference_contract(contract: Contract, declared: Monitoring) -> Contract:
    """What rows look like that somebody hands over as a reference: features, segments, and the score if known."""
    segments = [
        replace(contract.by_name[name], role=FieldRole.CONTEXT, nullable=True)
        for name in declared.segments
        if contract.by_name[name].role is not FieldRole.FEATURE
    ]
    is_class = contract.output.kind is OutputKind.CLASS
    score = Field(SCORE, FieldType.STRING if is_class else FieldType.FLOAT64, FieldRole.CONTEXT, nullable=True)
    answers = () if SCORE in contract.by_name else (score,)
    return replace(
        contract,
        fields=(*contract.features, *segments, *answers),
        labels=(),
        decision=None,
        expected_cost="",
        event_time="",
    )


def sample_of(contract: Contract, declared: Monitoring, rows: Columns, most: int) -> Sample:
    """The sample that somebody hands over, of ``reference_contract``. Raises InvalidInput."""
    if not 1 <= len(rows) <= most:
        raise InvalidInput(f"a reference has 1 to {most} rows", next_step="hand over a random part of them")
    columns = {}
    for name, kind in profiled_fields(contract):
        column = rows.column(name) if kind is ProfileKind.CATEGORY else rows.numeric(name)
        if name != SCORE or not rows.nulls(name).all():
            columns[name] = column
    segments = {name: _texts(rows, name) for name in declared.segments}
    return Sample(columns, segments, f"{len(rows)} rows of training")


def check_fits(declared: Monitoring, contract: Contract) -> None:
    """Raises InvalidInput where a contract lacks what the declaration names."""
    for name in declared.segments:
        found = contract.by_name.get(name)
        if found is None or found.type in (FieldType.FLOAT64, FieldType.DECIMAL, FieldType.TIMESTAMP):
            raise InvalidInput(
                f"{name} is no field of the contract that rows could be sliced by",
                next_step="slice by a category, a text, a whole number, a day or a yes/no",
            )
    if missing := sorted(set(declared.unjudged) - {f.name for f in contract.features}):
        raise InvalidInput(f"{missing[0]} is no feature of the contract", next_step="`unjudged` names features")
    if declared.rank_by is Ranking.EXPECTED_COST and not contract.expected_cost:
        raise InvalidInput("the contract has no expected cost to rank by", next_step="rank by score")


def _texts(rows: Columns, name: str) -> NDArray[np.object_]:
    """The values as the database writes them; None where null."""
    nulls = rows.nulls(name).tolist()
    values = [None if null else str(value) for value, null in zip(rows.column(name).tolist(), nulls, strict=True)]
    return np.array(values, object)
