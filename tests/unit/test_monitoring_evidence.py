"""A verdict of drift needs evidence and an effect: chance gives few, a wild value none, and a real shift is found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from trueup.domain.measuring import DriftMetric, DriftScore, Floor, Judged, Profile, Verdict
from trueup.monitoring import distances
from trueup.monitoring.binning import category_profile, counts, numeric_profile
from trueup.monitoring.chance import ks_critical, psi_critical
from trueup.monitoring.evidence import FLOORS, benjamini_hochberg, drift_scores, judge

RANDOM = np.random.default_rng(13)
REFERENCE = RANDOM.normal(size=5_000)
NORMAL = numeric_profile(REFERENCE)
NO_FLOORS = dict.fromkeys(DriftMetric, Floor(0.0))
ALARMS = (Verdict.DRIFT, Verdict.BREACH)
DRAWS = {
    "normal": lambda random, n: random.normal(size=n),
    "lognormal": lambda random, n: random.lognormal(0, 2, size=n),
    "mostly nought": lambda random, n: np.where(random.random(n) < 0.4, 0, random.exponential(size=n)),
    "counts": lambda random, n: random.poisson(3, size=n).astype(float),
    "missing": lambda random, n: np.where(random.random(n) < 0.1, np.nan, random.normal(size=n)),
    "category": lambda random, n: random.choice(list("abcdef"), n, p=[0.5, 0.3, 0.1, 0.06, 0.03, 0.01]),
    "names": lambda random, n: random.zipf(1.8, size=n).astype(str),
}


def profiled(values: np.ndarray) -> Profile:
    return category_profile(values) if values.dtype.kind == "U" else numeric_profile(values)


def verdicts(profile: Profile, window: np.ndarray, **options) -> dict[str, Judged]:
    return {j.score.metric.value: j for j in judge(drift_scores(profile, counts(profile, window), **options))}


# Outliers: what peers get wrong.


@pytest.mark.parametrize("wild", [1e3, 1e12, -1e300, math.inf, 1.7e308])
@pytest.mark.parametrize("m", [100, 500, 5_000])
def test_no_shift_and_one_wild_value_is_no_drift(wild: float, m: int):
    random = np.random.default_rng(m)
    found = verdicts(NORMAL, np.append(random.normal(size=m), wild))
    assert {name: j.verdict for name, j in found.items() if j.verdict is not Verdict.OK} == {}


@pytest.mark.parametrize("wild", [1e3, 1e12, -1e300, math.inf, 1.7e308])
@pytest.mark.parametrize("m", [100, 500, 5_000])
def test_a_shift_of_one_sigma_and_one_wild_value_is_drift_by_every_distance(wild: float, m: int):
    random = np.random.default_rng(m)
    found = verdicts(NORMAL, np.append(random.normal(1, 1, size=m), wild))
    assert len(found) == 6
    assert {name: j.verdict for name, j in found.items() if j.verdict not in ALARMS} == {}


@pytest.mark.parametrize("wild", [1e6, -1e300])
def test_a_wild_value_in_the_reference_hides_nothing_and_invents_nothing(wild: float):
    random = np.random.default_rng(3)
    profile = numeric_profile(np.append(REFERENCE, wild))
    calm, shifted = random.normal(size=1_000), random.normal(1, 1, size=1_000)
    assert {j.verdict for j in verdicts(profile, calm).values()} == {Verdict.OK}
    assert {j.verdict for j in verdicts(profile, shifted).values()} <= set(ALARMS)


# Chance.


@pytest.mark.parametrize(
    ("n", "m", "kinds", "windows"),
    [
        (1_000, 200, ("normal",), 120),
        (300, 2_000, ("counts", "missing"), 60),
        (20_000, 150, ("category", "names", "normal"), 40),
        (2_000, 1_000, tuple(DRAWS), 20),
        (1_500, 400, ("normal", "missing", "lognormal") * 4, 12),
    ],
)
def test_windows_without_drift_raise_no_more_alarms_than_the_nominal_level(
    n: int, m: int, kinds: tuple[str, ...], windows: int
):
    """By evidence alone, without any floor: at most 5 % of windows, for each distance over all fields together."""
    random = np.random.default_rng(n + m)
    alarmed = dict.fromkeys(DriftMetric, 0)
    for window in range(windows):
        scores: dict[DriftMetric, list[DriftScore]] = {metric: [] for metric in DriftMetric}
        for kind in kinds:
            profile = profiled(DRAWS[kind](random, n))
            current = counts(profile, DRAWS[kind](random, m))
            for score in drift_scores(profile, current, floors=NO_FLOORS, seed=window):
                scores[score.metric].append(score)
        for metric, family in scores.items():
            alarmed[metric] += any(j.verdict is not Verdict.OK for j in judge(family))
    too_many = {k: v for k, v in alarmed.items() if stats.binomtest(v, windows, 0.05, "greater").pvalue < 0.001}
    assert too_many == {}


def test_one_shifted_field_among_forty_is_the_one_that_is_found():
    random = np.random.default_rng(21)
    scores = []
    for i in range(40):
        profile = numeric_profile(random.normal(size=2_000))
        window = random.normal(0.6 if i == 17 else 0, 1, size=400)
        scores += drift_scores(profile, counts(profile, window), [DriftMetric.PSI], subject=f"field {i}")
    found = judge(scores)
    assert [j.score.subject for j in found if j.verdict is not Verdict.OK] == ["field 17"]


def test_a_tiny_shift_of_very_many_rows_is_evident_and_does_not_matter():
    profile = numeric_profile(RANDOM.normal(size=200_000))
    found = verdicts(profile, RANDOM.normal(0.03, 1, size=200_000))
    assert all(j.q_value < 0.001 for j in found.values())
    assert {j.verdict for j in found.values()} == {Verdict.OK}


def test_a_large_distance_of_few_rows_is_no_drift():
    """PSI of ten bins is above its floor by chance alone in a third of windows of 100 rows."""
    found = [verdicts(NORMAL, RANDOM.normal(size=100), metrics=[DriftMetric.PSI])["psi"] for _ in range(60)]
    assert sum(j.score.effect >= 0.1 for j in found) > 10
    assert sum(j.verdict in ALARMS for j in found) < 10


def test_missing_values_unseen_names_and_values_out_of_range_are_drift():
    emptied = np.where(RANDOM.random(1_000) < 0.15, np.nan, RANDOM.normal(size=1_000))
    assert verdicts(NORMAL, emptied)["psi"].verdict is Verdict.BREACH
    above = np.append(RANDOM.normal(size=900), np.full(100, 50.0))
    assert verdicts(NORMAL, above)["psi"].verdict is Verdict.BREACH
    names = category_profile(["a"] * 600 + ["b"] * 400)
    assert verdicts(names, np.array(["a"] * 540 + ["b"] * 360 + ["new"] * 100))["psi"].verdict is Verdict.BREACH


# What the figures are.


@pytest.mark.parametrize(("m", "alpha", "critical"), [(500, 0.05, 0.036), (1_000, 0.001, 0.031), (5_000, 0.05, 0.005)])
def test_the_critical_psi_is_yurdakuls(m: int, alpha: float, critical: float):
    assert psi_critical(10_000, m, 10, alpha) == pytest.approx(critical, abs=5e-4)


def test_the_critical_ks_is_near_smirnovs():
    assert ks_critical(10_000, 2_000) == pytest.approx(1.358 * math.sqrt(12_000 / (10_000 * 2_000)), rel=0.01)


def test_p_values_of_many_rows_are_scipys():
    profile = category_profile(["a"] * 500 + ["b"] * 300 + ["c"] * 200)
    current = counts(profile, ["a"] * 260 + ["b"] * 160 + ["c"] * 80)
    (chi,) = drift_scores(profile, current, [DriftMetric.CHI_SQUARE])
    table = np.stack([side[1:4] for side in (profile.counts, current)])
    theirs = stats.chi2_contingency(table, correction=False)
    assert (chi.value, chi.p_value) == pytest.approx((theirs.statistic, theirs.pvalue), abs=1e-9)
    assert chi.critical == pytest.approx(stats.chi2.isf(0.05, 2), abs=1e-9)
    window = np.random.default_rng(4).choice(REFERENCE, 700)
    (ks,) = drift_scores(NORMAL, counts(NORMAL, window), [DriftMetric.KS])
    assert ks.p_value == pytest.approx(stats.kstwo.sf(ks.value, round(5_000 * 700 / 5_700)), abs=1e-9)


def test_dealt_p_values_are_those_of_every_possible_deal():
    """Two bins, few rows: the hypergeometric distribution says how probable each hand is."""
    profile = category_profile(["a"] * 17 + ["b"] * 3)
    current = counts(profile, ["a"] * 6 + ["b"] * 6)
    found = drift_scores(profile, current, [DriftMetric.CHI_SQUARE, DriftMetric.L_INFINITY, DriftMetric.PSI])
    hands = np.arange(10)  # of b, in the window of 12 among 32 rows of which 9 are b
    probability = stats.hypergeom(32, 9, 12).pmf(hands)
    gap = np.abs(hands / 12 - (9 - hands) / 20)
    exact = probability[gap >= 6 / 12 - 3 / 20 - 1e-12].sum()
    assert [s.p_value for s in found[:2]] == pytest.approx([exact, exact], abs=4 * math.sqrt(exact / 1_000))


@pytest.mark.parametrize("metric", [DriftMetric.WASSERSTEIN, DriftMetric.L_INFINITY])
def test_the_fluctuations_of_many_rows_are_those_of_dealt_rows(metric: DriftMetric):
    """The limit distribution, against dealing the very rows."""
    random = np.random.default_rng(8)
    rows = random.lognormal(size=9_000)
    profile = numeric_profile(rows[:6_000])
    (found,) = drift_scores(profile, counts(profile, rows[6_000:]), [metric])
    dealt = []
    for _ in range(1_000):
        shuffled = random.permutation(rows)
        dealt.append(distance_of(profile, metric, counts(profile, shuffled[:6_000]), counts(profile, shuffled[6_000:])))
    assert found.critical == pytest.approx(np.quantile(dealt, 0.95), rel=0.08)
    assert found.p_value == pytest.approx(np.mean(np.array(dealt) >= found.value), abs=0.05)


def distance_of(profile: Profile, metric: DriftMetric, a: np.ndarray, b: np.ndarray) -> float:
    if metric is DriftMetric.L_INFINITY:
        return distances.l_infinity(profile.grouped(a), profile.grouped(b))
    return distances.wasserstein(profile.ordered(a), profile.ordered(b), profile.held_edges, profile.scale)


@given(hnp.arrays(float, st.integers(1, 30), elements=st.floats(0, 1)))
def test_benjamini_hochberg_is_scipys(p: np.ndarray):
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p), abs=1e-12)


def test_the_same_window_is_judged_the_same_again():
    window = counts(NORMAL, RANDOM.normal(size=150))
    assert drift_scores(NORMAL, window, seed=5) == drift_scores(NORMAL, window, seed=5)


def scored(p_value: float | None, effect: float, n: int = 1_000, severe: float | None = 0.25) -> DriftScore:
    return DriftScore(DriftMetric.PSI, effect, effect, 0.1, p_value, 0.1, n, 1_000, severe)


def test_verdicts_follow_from_evidence_and_effect():
    given_scores = [
        scored(0.0001, 0.3),
        scored(0.0001, 0.2),
        scored(0.0001, 0.05),
        scored(0.9, 0.9),
        scored(0.0001, 0.9, severe=None),
        scored(0.0, 0.9, n=99),
        scored(None, 0.0),
    ]
    assert [j.verdict.value for j in judge(given_scores)] == [
        *("breach", "drift", "ok", "ok", "drift", "insufficient", "insufficient"),
    ]
    assert [j.q_value is None for j in judge(given_scores)] == [False] * 5 + [True] * 2


def test_what_is_insufficient_makes_nothing_else_less_evident():
    alone = judge([scored(0.04, 0.2)])
    among = judge([scored(0.04, 0.2), *[scored(0.9, 0.2, n=5)] * 50])
    assert alone[0].verdict is among[0].verdict is Verdict.DRIFT
    assert judge([]) == ()


def test_windows_and_references_of_nothing_have_no_distance():
    empty = numeric_profile([])
    for profile, window in ((NORMAL, []), (empty, [1.0]), (empty, []), (NORMAL, [np.nan] * 3)):
        found = drift_scores(profile, counts(profile, window))
        assert len(found) == 6
        for score in found:
            by_order = score.metric in (DriftMetric.KS, DriftMetric.WASSERSTEIN)
            if by_order or len(window) == 0 or profile is empty:
                assert (score.value, score.effect, score.critical, score.p_value) == (None,) * 4
    assert {j.verdict for j in judge(found)} == {Verdict.INSUFFICIENT}


def test_a_category_has_no_ordered_distances_and_floors_are_as_given():
    profile = category_profile(["a", "b"] * 100)
    found = drift_scores(profile, profile.counts, floors=dict(FLOORS) | {DriftMetric.PSI: Floor(0.7, 0.8)}, subject="x")
    assert [s.metric.value for s in found] == ["psi", "js_distance", "chi_square", "l_infinity"]
    assert (found[0].floor, found[0].severe, found[0].subject) == (0.7, 0.8, "x")
    assert all(s.value == pytest.approx(0) for s in found)
