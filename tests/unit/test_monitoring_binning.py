"""Bins are frozen from the reference, count every row once, and a wild value moves none of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueup.domain.measuring import Profile
from trueup.monitoring.binning import category_profile, counts, numeric_profile

NUMBERS = st.lists(
    st.one_of(
        st.floats(allow_nan=True, allow_infinity=True),
        st.integers(-3, 3).map(float),
        st.sampled_from([0.0, -0.0, 5e-324, 1e308, -1e308]),
    ),
    max_size=300,
)
NAMES = st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "missing", "unseen", ""]), st.text(max_size=2)))
RANDOM = np.random.default_rng(7)


def same(a: Profile, b: Profile) -> bool:
    return a.document() == b.document()


@given(NUMBERS, NUMBERS)
def test_every_number_is_counted_once_and_the_reference_as_it_was_profiled(sample: list[float], window: list[float]):
    profile = numeric_profile(sample)
    assert profile.counts.tolist() == counts(profile, sample).tolist()
    assert profile.n == len(sample)
    found = counts(profile, window)
    assert found.sum() == len(window)
    assert len(found) == len(profile.names) == len(profile.groups)
    assert profile.missing(found) == sum(v != v for v in window)


@given(NUMBERS, NUMBERS)
def test_numbers_lie_in_the_interval_that_holds_them(sample: list[float], window: list[float]):
    profile = numeric_profile(sample)
    assert (np.diff(profile.edges) > 0).all()
    for value in window:
        place = int(np.flatnonzero(counts(profile, [value]))[0])
        if value != value:
            assert place == 0
        elif len(profile.edges) == 0 or value < profile.edges[0]:
            assert profile.names[place] == "below"
        elif value >= profile.edges[-1]:
            assert profile.names[place] == "above"
        else:
            assert profile.edges[place - 2] <= value < profile.edges[place - 1]


@given(NUMBERS, NUMBERS, NUMBERS)
def test_numbers_counted_apart_and_added_are_counted_together(sample: list[float], a: list[float], b: list[float]):
    profile = numeric_profile(sample)
    assert (counts(profile, a) + counts(profile, b)).tolist() == counts(profile, a + b).tolist()


@given(NUMBERS, st.randoms())
def test_the_order_of_rows_is_nothing_to_a_profile(sample: list[float], random):
    shuffled = random.sample(sample, len(sample))
    assert same(numeric_profile(sample), numeric_profile(shuffled))


@given(st.lists(st.tuples(st.integers(-5, 5).map(float), st.integers(0, 4)), max_size=60))
def test_a_frequency_is_as_many_rows(rows: list[tuple[float, int]]):
    values, repeats = [v for v, _ in rows], [r for _, r in rows]
    by_frequency, row_by_row = numeric_profile(values, repeats), numeric_profile(np.repeat(values, repeats))
    assert same(by_frequency, row_by_row)
    assert counts(by_frequency, values, repeats).tolist() == counts(row_by_row, np.repeat(values, repeats)).tolist()


@given(NAMES, NAMES, NAMES)
def test_every_category_is_counted_once_and_parts_add_up(sample: list, a: list, b: list):
    profile = category_profile(sample)
    assert profile.counts.tolist() == counts(profile, sample).tolist()
    assert profile.n == len(sample)
    assert (counts(profile, a) + counts(profile, b)).tolist() == counts(profile, a + b).tolist()
    assert profile.missing(counts(profile, a)) == a.count(None)
    assert profile.unseen(counts(profile, a)) == sum(v is not None and v not in sample for v in a)


@given(st.one_of(NUMBERS.map(numeric_profile), NAMES.map(category_profile)))
def test_a_profile_survives_json(profile: Profile):
    read = Profile.read(json.loads(json.dumps(profile.document())))
    assert same(read, profile)
    assert read.counts.dtype == np.int64


@given(st.one_of(NUMBERS.map(numeric_profile), NAMES.map(category_profile)))
def test_groups_hold_every_bin_once(profile: Profile):
    assert profile.grouped(profile.counts).sum() == profile.n
    assert set(profile.groups.tolist()) <= set(range(len(profile.group_names)))
    two = np.stack([profile.counts, profile.counts * 2])
    assert profile.grouped(two)[1].tolist() == (2 * profile.grouped(profile.counts)).tolist()


def test_a_continuous_field_has_ten_groups_of_a_tenth_and_two_hundred_intervals():
    profile = numeric_profile(RANDOM.lognormal(size=50_000))
    assert len(profile.edges) == 201
    inner = profile.grouped(profile.counts)[2:-1]
    assert len(inner) == 10
    assert inner.max() - inner.min() < 0.02 * 50_000
    assert not profile.distinct


@pytest.mark.parametrize("wild", [1e12, -1e300, np.inf])
def test_a_wild_value_of_the_reference_moves_no_edge_but_the_outer_ones(wild: float):
    sample = RANDOM.normal(size=5_000)
    calm, shaken = numeric_profile(sample), numeric_profile(np.append(sample, wild))
    moved = np.setdiff1d(shaken.edges[2:-2], calm.edges)
    assert len(moved) <= 200
    assert np.abs(shaken.edges[2:-2] - calm.edges[2:-2]).max() < 0.2


def test_an_often_tied_value_has_a_bin_and_a_group_of_its_own():
    sample = np.where(RANDOM.random(10_000) < 0.4, 0.0, RANDOM.normal(size=10_000))
    profile = numeric_profile(sample)
    assert "0" in profile.names
    assert "0" in profile.group_names
    ties = int((sample == 0).sum())
    assert profile.counts[profile.names.index("0")] == ties
    assert profile.grouped(profile.counts)[profile.group_names.index("0")] == ties


def test_few_distinct_values_have_a_bin_each_and_what_is_between_them_is_unseen():
    profile = numeric_profile([1.0] * 50 + [2.0] * 30 + [5.0] * 2)
    assert profile.distinct
    assert profile.group_names == ("missing", "below", "1", "2", "5", "above", "unseen")
    found = counts(profile, [0, 1, 1.5, 2, 3, 5, 6, np.nan, np.inf])
    assert profile.grouped(found).tolist() == [1, 1, 1, 1, 1, 2, 2]
    assert profile.unseen(found) == 2
    assert profile.outside(found) == 3


def test_a_small_reference_of_a_continuous_field_calls_no_value_unseen():
    profile = numeric_profile(RANDOM.normal(size=90))
    assert not profile.distinct
    assert profile.unseen(counts(profile, RANDOM.normal(size=500))) == 0


@pytest.mark.parametrize("sample", [[7.0] * 20, [7.0], [np.nan] * 3, [], [np.inf, -np.inf]])
def test_a_field_without_variety_has_a_profile_and_counts(sample: list[float]):
    profile = numeric_profile(sample)
    found = counts(profile, [6.0, 7.0, 8.0, np.nan])
    assert found.sum() == 4
    assert profile.constant(counts(profile, [7.0, 7.0]))
    assert profile.deviation == 0
    assert np.isfinite(profile.mean)


def test_the_mean_and_deviation_are_those_of_the_values():
    sample = RANDOM.normal(3, 2, 1_000)
    profile = numeric_profile(np.append(sample, [np.nan, np.inf]))
    assert profile.mean == pytest.approx(sample.mean(), abs=1e-9)
    assert profile.deviation == pytest.approx(sample.std(), abs=1e-9)


def test_the_intervals_stay_bounded_however_the_values_are_tied():
    sample = np.concatenate([np.repeat(np.arange(120), 50), RANDOM.normal(60, 30, 6_000)])
    assert len(numeric_profile(sample).edges) <= 301
    assert len(numeric_profile(np.repeat(np.arange(100), 3)).names) <= 203


def test_a_category_keeps_the_frequent_names_and_tells_other_rare_and_unseen_apart():
    sample = ["x"] * 600 + ["y"] * 300 + ["z"] * 99 + ["w"] * 40 + ["only once"] + [None] * 5
    profile = category_profile(sample, bins=3)
    assert profile.names == ("missing", "x", "y", "z", "other", "rare", "unseen")
    assert profile.counts.tolist() == [5, 600, 300, 99, 40, 1, 0]
    assert profile.group_names == ("missing", "x", "y", "z", "other", "rare")
    found = counts(profile, np.array(["x", "w", "only once", "new", None, float("nan")], object))
    assert found.tolist() == [2, 1, 0, 0, 1, 1, 1]
    assert profile.grouped(found).tolist() == [2, 1, 0, 0, 1, 2]


def test_categories_beyond_the_bound_are_unseen_in_the_reference_too():
    profile = category_profile([f"c{i}" for i in range(50) for _ in range(i + 1)], known=10)
    assert len(profile.categories) == 10
    assert profile.unseen(profile.counts) == sum(range(1, 41))


def test_rare_and_unseen_categories_together_keep_their_share():
    """Most of a long tail is unseen next time; as a bin of its own that would be drift every day."""
    shares = 1 / np.arange(1, 5_001) ** 1.2
    shares /= shares.sum()
    excess, unseen = [], []
    for _ in range(40):
        reference, window = (RANDOM.choice(5_000, 4_000, p=shares).astype(str) for _ in range(2))
        profile = category_profile(reference)
        rare = [profile.grouped(counts(profile, side))[-1] for side in (reference, window)]
        excess.append((rare[1] - rare[0]) / 4_000)
        unseen.append(profile.unseen(counts(profile, window)) / 4_000)
    assert np.mean(unseen) > 0.05
    assert abs(np.mean(excess)) < 0.1 * np.mean(unseen)


def test_numbers_and_flags_are_categories_by_their_text():
    profile = category_profile(np.array([True, False, True]))
    assert set(profile.categories) == {"True", "False"}
    assert counts(profile, ["True"]).tolist() == counts(profile, [True]).tolist()
