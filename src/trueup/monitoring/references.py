"""What predictions are compared with: profiles of all fields and slices, made once from a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.domain.contract import Contract
from trueup.domain.measuring import Profile, ProfileKind
from trueup.domain.monitoring import Monitoring
from trueup.domain.profiling import References
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
