"""Bins frozen from a reference, and counting values into them.

A numeric field has about 200 intervals of equal mass, for distances that need the order of values, and about ten groups
of neighbouring intervals for those that do not. Bins are fixed once, so a wild value is one row in ``below`` or
``above``: it moves no edge (equal-width bins, or bins of both samples joined, let it).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trueup.domain.batch import Bools, Floats, Ints
from trueup.domain.measuring import Profile, ProfileKind

MISSING, BELOW, ABOVE, OTHER, RARE, UNSEEN = "missing", "below", "above", "other", "rare", "unseen"
_LARGEST = float(np.finfo(np.float64).max)  # there is no double above it to end an interval
_BLOCK = 65_536  # values sorted at a time: a block and its copy stay in the processor's cache


def numeric_profile(sample: ArrayLike, weights: ArrayLike | None = None, *, bins: int = 10, fine: int = 200) -> Profile:
    """The profile of a numeric reference ``sample`` (n,), NaN where missing.

    ``weights`` (n,) are frequencies: how many rows each value stands for. ``fine`` is about how many intervals there
    are, ``bins`` about how many groups of them. Where no more than ``fine / 2`` values are distinct and each is there
    more than once, each becomes an interval of its own, and what lies between two of them is *unseen*. Infinities lie
    outside any range, as does the largest double. A reference without finite values has no range: whatever comes is
    below it.
    """
    values = np.asarray(sample, np.float64).ravel() + 0.0  # one nought, not two
    repeats = _repeats(weights, len(values))
    usable = (np.abs(values) < _LARGEST) & (repeats > 0)
    distinct, place = np.unique(values[usable], return_inverse=True)
    mass = np.bincount(place, repeats[usable], len(distinct))
    separate = 0 < len(distinct) <= fine // 2 and bool((mass > 1).all())
    edges = _own_edges(distinct) if separate else _quantile_edges(distinct, mass, fine)
    counted = _weighted(edges, values, repeats)
    gaps = np.zeros(len(counted) - 3, bool) if not separate else ~np.isin(edges[:-1], distinct)
    each = separate and len(distinct) <= bins
    groups, group_names = _groups(edges, counted[2:-1], gaps, None if each else bins)
    low, high = _held(distinct, mass, fine)
    return Profile(
        kind=ProfileKind.NUMERIC,
        names=(MISSING, BELOW, *(_interval(edges, i, i + 1) for i in range(len(counted) - 3)), ABOVE),
        counts=counted,
        groups=groups,
        group_names=group_names,
        edges=edges,
        mean=_moments(distinct, mass)[0],
        deviation=_moments(distinct, mass)[1],
        low=low,
        high=high,
        scale=_moments(np.clip(distinct, low, high), mass)[1],
    )


def category_profile(
    sample: ArrayLike, weights: ArrayLike | None = None, *, bins: int = 50, known: int = 10_000
) -> Profile:
    """The profile of a reference ``sample`` (n,) of categories, None or NaN where missing; other values by their text.

    The ``bins`` most frequent categories have a bin each. Which rare categories a reference has is chance, and so is
    which are unseen later. By Good and Turing the categories seen less than r times, and those not seen, have together
    about the share that the rows of categories seen r times or less have in the reference (Good 1953, "The population
    frequencies of species", Biometrika 40). So with the least r that is no category's count (at most a hundredth of
    all rows) their share stays where nothing has changed: they are one group, ``rare``. Of more than ``known``
    categories the rarest are not remembered, and are unseen in the reference too.
    """
    found = _tally(sample, weights)
    frequencies = {name: count for name, count in found.items() if name is not None}
    categories = sorted(frequencies, key=lambda name: (-frequencies[name], name))[:known]
    held = set(frequencies.values())
    most = 1 + sum(found.values()) // 100
    least = next(count for count in range(1, most + 1) if count not in held or count == most)
    lasting = sum(frequencies[name] >= least for name in categories)
    own = min(lasting, bins)
    places = np.concatenate(
        [
            np.arange(1, own + 1),
            np.full(lasting - own, own + 1),
            np.full(len(categories) - lasting, own + 2),
        ]
    ).astype(np.int64)
    named = tuple(categories[:own])
    blank = Profile(
        kind=ProfileKind.CATEGORY,
        names=(MISSING, *named, OTHER, RARE, UNSEEN),
        counts=np.zeros(own + 4, np.int64),
        groups=np.append(np.arange(own + 3), own + 2),
        group_names=(MISSING, *named, OTHER, RARE),
        edges=np.zeros(0),
        categories=tuple(categories),
        places=places,
    )
    return replace(blank, counts=counts(blank, sample, weights))


def counts(profile: Profile, values: ArrayLike, weights: ArrayLike | None = None) -> Ints:
    """How many of ``values`` (n,) fall into each bin (bins,). Counts of parts add up to those of the whole.

    NaN and None are missing; the infinities are below and above. ``weights`` (n,) are frequencies.
    """
    if profile.kind is ProfileKind.CATEGORY:
        return _category_counts(profile, values, weights)
    numbers = np.asarray(values, np.float64).ravel()
    if weights is not None:
        return _weighted(profile.edges, numbers, _repeats(weights, len(numbers)))
    out = np.zeros(max(len(profile.edges), 1) + 2, np.int64)
    for start in range(0, len(numbers), _BLOCK):
        block = np.sort(numbers[start : start + _BLOCK])  # NaN last
        present = int(np.searchsorted(block, np.nan))
        below = np.searchsorted(block[:present], profile.edges)
        out[0] += len(block) - present
        if len(below):
            out[1:] += np.diff(below, prepend=0, append=present)
        else:
            out[1] += present
    return out


def _weighted(edges: Floats, values: Floats, repeats: Ints) -> Ints:
    """Counts by one search for each value; edges may be none."""
    missing = np.isnan(values)
    place = np.where(missing, 0, 1 + np.searchsorted(edges, values, "right"))
    out = np.zeros(max(len(edges), 1) + 2, np.int64)
    np.add.at(out, place, repeats)
    return out


def _category_counts(profile: Profile, values: ArrayLike, weights: ArrayLike | None) -> Ints:
    place: dict[str | None, int] = dict(zip(profile.categories, profile.places.tolist(), strict=True))
    place[None] = 0
    out = np.zeros(len(profile.names), np.int64)
    for name, count in _tally(values, weights).items():
        out[place.get(name, -1)] += count
    return out


def _tally(values: ArrayLike, weights: ArrayLike | None) -> Counter[str | None]:
    """How many rows each category has, None for the missing ones."""
    items: list[Any] = np.asarray(values, object).ravel().tolist()
    raw: Counter[Any] = Counter()
    if weights is None:
        raw.update(items)
    else:
        for item, repeat in zip(items, _repeats(weights, len(items)).tolist(), strict=True):
            raw[item] += repeat
    found: Counter[str | None] = Counter()
    for item, count in raw.items():
        missing = item is None or (isinstance(item, float) and math.isnan(item))
        found[None if missing else str(item)] += count
    return +found  # without those of no row


def _repeats(weights: ArrayLike | None, n: int) -> Ints:
    return np.ones(n, np.int64) if weights is None else np.asarray(weights).astype(np.int64).ravel()


def _after(values: Floats) -> Floats:
    """The next double above each."""
    return np.nextafter(values, np.inf)


def _own_edges(distinct: Floats) -> Floats:
    """An interval [value, next double) for each value, and one for each gap."""
    return np.unique(np.concatenate([distinct, _after(distinct)]))


def _quantile_edges(distinct: Floats, mass: NDArray[Any], fine: int) -> Floats:
    """Edges at values of the reference, about ``fine`` intervals of equal mass.

    A value that has the mass of two intervals gets one of its own. The least and the greatest value, where each is
    there once, are left to ``below`` and ``above``: of a reference taken again one row in n would lie beyond either,
    so bins that are empty in the reference by their making would look like drift when such a row comes.
    """
    if not len(distinct):
        return np.zeros(0)
    before = np.cumsum(mass)
    total = before[-1]
    at = np.searchsorted(before, total * np.arange(1, fine) / fine, "right")
    heavy = np.flatnonzero(mass * fine >= 2 * total)
    starts = np.unique(np.concatenate([[0], np.minimum(at, len(distinct) - 1), heavy]))
    ends = np.array([distinct[0], _after(distinct[-1])])
    if len(distinct) > 2:
        ends = np.where(mass[[0, -1]] == 1, [_after(distinct[0]), distinct[-1]], ends)
    return np.unique(np.clip(np.concatenate([distinct[starts], _after(distinct[heavy]), ends]), *ends))


def _held(distinct: Floats, mass: NDArray[Any], fine: int) -> tuple[float, float]:
    """The range without the outermost 1 / ``fine`` of all rows on either side; all of it if that is one value."""
    if not len(distinct):
        return 0.0, 0.0
    up_to = np.cumsum(mass)
    low, high = np.searchsorted(up_to, up_to[-1] * np.array([1 / fine, 1 - 1 / fine]), "right")
    if low == high:
        return float(distinct[0]), float(distinct[-1])
    return float(distinct[low]), float(distinct[min(high, len(distinct) - 1)])


def _moments(values: Floats, mass: NDArray[Any]) -> tuple[float, float]:
    """Mean and standard deviation of the population; of nothing, 0."""
    if not len(values):
        return 0.0, 0.0
    unit = float(np.abs(values).max()) or 1.0  # squares of what is left do not overflow
    total, scaled = mass.sum(), values / unit
    mean = float(mass @ scaled / total)
    return mean * unit, math.sqrt(float(mass @ (scaled - mean) ** 2 / total)) * unit


def _groups(edges: Floats, inside: Ints, gaps: Bools, bins: int | None) -> tuple[Ints, tuple[str, ...]]:
    """The group of each bin, and the names of groups. Every interval is its own group where ``bins`` is None.

    Neighbours are joined until another would pass the middle of the next share of 1 / bins; none stays below half
    a share.
    """
    kept = np.flatnonzero(~gaps)
    target = inside.sum() / bins if bins else 0.0
    starts: list[int] = []  # of groups, places in ``kept``
    masses: list[float] = []
    for i, mass in enumerate(inside[kept].tolist()):
        opens = not masses or masses[-1] + mass / 2 > target
        if opens and len(masses) > 1 and masses[-1] < target / 2:
            light = masses.pop()
            masses[-1] += light
            starts.pop()
        if opens:
            starts.append(i)
            masses.append(0.0)
        masses[-1] += mass
    if len(masses) > 1 and masses[-1] < target / 2:
        starts.pop()
    member = np.searchsorted(starts, np.arange(len(kept)), "right") + 1  # from 2 on: after missing and below
    groups = np.full(len(inside) + 3, len(starts) + 3, np.int64)  # gaps: after all others
    groups[[0, 1, -1]] = 0, 1, len(starts) + 2
    groups[2 + kept] = member
    stops = [*starts[1:], len(kept)][: len(starts)]
    names = [_interval(edges, kept[a], kept[b - 1] + 1) for a, b in zip(starts, stops, strict=True)]
    return groups, (MISSING, BELOW, *names, ABOVE, *([UNSEEN] if gaps.any() else []))


def _interval(edges: Floats, first: int, last: int) -> str:
    """The interval between two edges, or the value that is alone in it."""
    low, high = float(edges[first]), float(edges[last])
    return f"{low:.6g}" if high <= math.nextafter(low, math.inf) else f"[{low:.6g}, {high:.6g})"
