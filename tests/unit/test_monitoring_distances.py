"""Distances are those of scipy where definitions coincide, and metrics where they claim to be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from scipy.spatial.distance import jensenshannon

from trueup.monitoring import distances
from trueup.monitoring.binning import counts, numeric_profile

EXACT = 1e-9
RANDOM = np.random.default_rng(11)
EDGES = np.arange(7.0)
OF_COUNTS: dict[str, Callable[[Any, Any], Any]] = {
    "psi": distances.psi,
    "js_distance": distances.js_distance,
    "chi_square": distances.chi_square,
    "l_infinity": distances.l_infinity,
    "ks": distances.kolmogorov_smirnov,
    "wasserstein": lambda a, b: distances.wasserstein(a, b, EDGES),
}
COUNTS = hnp.arrays(np.int64, 8, elements=st.integers(0, 1_000)).filter(lambda a: a.sum() > 0)
VALUES = st.lists(st.floats(-1e6, 1e6).map(lambda v: round(v, 3)), min_size=1, max_size=60)
each = pytest.mark.parametrize("distance", OF_COUNTS.values(), ids=OF_COUNTS)


@each
@given(a=COUNTS)
def test_nothing_is_between_a_sample_and_itself(distance: Callable[..., float], a: np.ndarray):
    assert distance(a, a) == pytest.approx(0, abs=1e-12)
    assert distance(a, 3 * a) == pytest.approx(0, abs=1e-7) or (distance is distances.psi and (a == 0).any())


@each
@given(a=COUNTS, b=COUNTS)
def test_either_side_may_be_the_reference(distance: Callable[..., float], a: np.ndarray, b: np.ndarray):
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-9, abs=1e-12)
    assert distance(a, b) >= 0


@pytest.mark.parametrize("name", ["psi", "js_distance", "chi_square", "l_infinity"])
@given(a=COUNTS, b=COUNTS, order=st.permutations(range(8)))
def test_unordered_distances_know_no_order_of_bins(name: str, a: np.ndarray, b: np.ndarray, order: list[int]):
    assert OF_COUNTS[name](a[order], b[order]) == pytest.approx(OF_COUNTS[name](a, b), rel=1e-9, abs=1e-12)


@each
def test_many_windows_at_once_are_each_as_alone(distance: Callable[..., Any]):
    a, many = RANDOM.integers(1, 50, 8), RANDOM.integers(1, 50, (5, 8))
    assert distance(a, many).tolist() == pytest.approx([float(distance(a, one)) for one in many])


@each
def test_a_side_without_rows_has_no_distance(distance: Callable[..., float]):
    full, none = np.ones(8), np.zeros(8)
    assert math.isnan(distance(full, none))
    assert math.isnan(distance(none, full))


@each
def test_a_larger_shift_is_a_larger_distance(distance: Callable[..., float]):
    sample = RANDOM.normal(3, 1, 20_000)
    profile = [np.histogram(sample + shift, [-100, *EDGES, 100])[0] for shift in (0, 0.2, 0.5, 1, 2)]
    found = [float(distance(profile[0], shifted)) for shifted in profile[1:]]
    assert found == sorted(found)
    assert found[0] > 0


@given(COUNTS, COUNTS)
def test_jensen_shannon_is_scipys(a: np.ndarray, b: np.ndarray):
    # scipy takes the root of what rounding left, so near 0 only the divergence can be compared
    assert distances.js_distance(a, b) ** 2 == pytest.approx(float(jensenshannon(a, b)) ** 2, abs=EXACT)
    assert distances.js_distance(a, b) <= math.sqrt(math.log(2)) + EXACT


@given(COUNTS, COUNTS)
def test_chi_square_is_scipys(a: np.ndarray, b: np.ndarray):
    used = a + b > 0
    assume(used.sum() > 1)
    expected = stats.chi2_contingency(np.stack([a, b])[:, used], correction=False)
    assert distances.chi_square(a, b) == pytest.approx(expected.statistic, rel=EXACT, abs=EXACT)
    v = stats.contingency.association(np.stack([a, b])[:, used], method="cramer")
    assert distances.cramer_v(distances.chi_square(a, b), a.sum(), b.sum()) == pytest.approx(v, rel=1e-7, abs=1e-7)


@given(VALUES, VALUES)
def test_kolmogorov_smirnov_of_samples_is_scipys(a: list[float], b: list[float]):
    expected = stats.ks_2samp(a, b, method="asymp").statistic
    assert distances.kolmogorov_smirnov_of_samples(a, b) == pytest.approx(expected, abs=EXACT)


@given(VALUES, VALUES)
def test_wasserstein_of_samples_is_scipys(a: list[float], b: list[float]):
    expected = stats.wasserstein_distance(a, b)
    assert distances.wasserstein_of_samples(a, b) == pytest.approx(expected, rel=EXACT, abs=1e-6 * EXACT + EXACT)


@given(st.lists(st.integers(0, 20), min_size=40, max_size=200), st.lists(st.integers(0, 20), min_size=1, max_size=200))
def test_where_each_value_has_its_own_bin_binned_distances_are_exact(a: list[int], b: list[int]):
    profile = numeric_profile(np.repeat(a, 2))  # each value at least twice
    inside = np.asarray(a)[np.asarray(b) % len(a)]
    reference, current = profile.ordered(profile.counts), profile.ordered(counts(profile, inside))
    exact = distances.kolmogorov_smirnov_of_samples(a, inside)
    assert distances.kolmogorov_smirnov(reference, current) == pytest.approx(exact, abs=EXACT)
    exact = distances.wasserstein_of_samples(a, inside)
    assert distances.wasserstein(reference, current, profile.edges) == pytest.approx(exact, abs=EXACT)


@pytest.mark.parametrize("draw", [RANDOM.normal, RANDOM.exponential, RANDOM.standard_cauchy])
def test_two_hundred_bins_are_nearly_exact(draw: Callable[..., np.ndarray]):
    reference, current = draw(size=20_000), draw(size=4_000) * 1.3 + 0.2
    profile = numeric_profile(reference)
    a, b = profile.ordered(profile.counts), profile.ordered(counts(profile, current))
    exact = distances.kolmogorov_smirnov_of_samples(reference, current)
    assert exact - 1 / 200 - 1e-4 <= distances.kolmogorov_smirnov(a, b) <= exact + EXACT
    held = (np.clip(side, profile.low, profile.high) for side in (reference, current))
    exact = distances.wasserstein_of_samples(*held, profile.scale)
    assert distances.wasserstein(a, b, profile.held_edges, profile.scale) == pytest.approx(exact, rel=0.05, abs=0.01)


def test_one_wild_value_moves_wasserstein_by_a_row_at_the_edge_and_no_more():
    reference, current = RANDOM.normal(size=5_000), RANDOM.normal(size=500)
    profile = numeric_profile(reference)
    a = profile.ordered(profile.counts)
    calm, wild = (profile.ordered(counts(profile, np.append(current, v))) for v in (reference.max(), 1e12))
    far = [distances.wasserstein(a, b, profile.held_edges, profile.scale) for b in (calm, wild)]
    assert far[1] == pytest.approx(far[0], abs=1e-9)
    assert distances.wasserstein_of_samples(reference, np.append(current, 1e12)) > 1e9


def test_psi_is_the_formula_and_an_empty_bin_is_half_a_row():
    a, b = np.array([50, 30, 20]), np.array([10, 0, 30])
    p, q = np.array([0.5, 0.3, 0.2]), np.array([10, 0.5, 30]) / 40
    assert distances.psi(a, b) == pytest.approx(float(((q - p) * np.log(q / p)).sum()), abs=EXACT)
    assert distances.psi([50, 50, 0], [50, 50, 0]) == 0


def test_distances_of_a_field_without_variety_are_nought():
    profile = numeric_profile([4.0] * 10)
    a, b = profile.ordered(profile.counts), profile.ordered(counts(profile, [4.0] * 7))
    assert distances.wasserstein(a, b, profile.held_edges, profile.scale) == 0
    assert distances.kolmogorov_smirnov(a, b) == 0
    assert distances.wasserstein_of_samples([4, 4], [5], 0) == math.inf
    assert math.isnan(distances.wasserstein_of_samples([], [1.0]))
    assert math.isnan(distances.kolmogorov_smirnov_of_samples([np.nan], [1.0]))
