"""How often verdicts of drift are wrong, ours and by rules in common use: the table of docs/explanation/drift.md.

A window has 20 fields and is compared with a reference of 10,000 rows. Per rule and kind of window: the share of
windows in which at least one field raised an alarm (where nothing has changed), or in which the one changed field did.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from trueup.domain.measuring import DriftMetric, DriftScore, Profile, Verdict
from trueup.monitoring import distances
from trueup.monitoring.binning import counts, numeric_profile
from trueup.monitoring.evidence import drift_scores, judge

FIELDS, REFERENCE = 20, 10_000
WILD = 1e9
OURS = (DriftMetric.PSI, DriftMetric.KS, DriftMetric.WASSERSTEIN)


def joined_bins(reference: np.ndarray, window: np.ndarray) -> bool:
    """PSI above 0.1, of equal-width bins (Sturges) over both samples joined, empty bins at 0.0001."""
    edges = np.histogram_bin_edges(np.concatenate([reference, window]), "sturges")
    p, q = (np.maximum(np.histogram(side, edges)[0] / len(side), 1e-4) for side in (reference, window))
    return float(((q - p) * np.log(q / p)).sum()) > 0.1


RULES: dict[str, Callable[[np.ndarray, np.ndarray, Profile], bool]] = {
    "PSI > 0.1, ten quantile bins": lambda r, w, p: distances.psi(p.grouped(p.counts), p.grouped(counts(p, w))) > 0.1,
    "PSI > 0.1, equal-width bins of both joined": lambda r, w, p: joined_bins(r, w),
    "KS, p < 0.05 for each field": lambda r, w, p: stats.ks_2samp(r, w, method="asymp").pvalue < 0.05,
    "Wasserstein / sigma > 0.1": lambda r, w, p: distances.wasserstein_of_samples(r, w, p.deviation) > 0.1,
}
WINDOWS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "nothing": lambda random, m: random.normal(size=m),
    "one wild value": lambda random, m: np.append(random.normal(size=m - 1), WILD),
    "0.03 sigma": lambda random, m: random.normal(0.03, 1, size=m),
    "0.5 sigma": lambda random, m: random.normal(0.5, 1, size=m),
    "one sigma and one wild value": lambda random, m: np.append(random.normal(1, 1, size=m - 1), WILD),
}


Field = tuple[np.ndarray, Profile]


def scored(field: Field, window: np.ndarray) -> dict[DriftMetric, DriftScore]:
    profile = field[1]
    return {score.metric: score for score in drift_scores(profile, counts(profile, window), OURS)}


def alarms(random: np.random.Generator, fields: list[Field], m: int) -> dict[str, dict[str, bool]]:
    """Per rule and kind of window, whether there was an alarm. The first field is the one that changes."""
    found: dict[str, dict[str, bool]] = {name: {} for name in [*RULES, *(f"ours, {metric}" for metric in OURS)]}
    calm = [WINDOWS["nothing"](random, m) for _ in fields]
    scores = [scored(field, window) for field, window in zip(fields, calm, strict=True)]
    for kind, draw in WINDOWS.items():
        changed = calm[0] if kind == "nothing" else draw(random, m)
        asked = list(zip(fields, calm, strict=True)) if kind == "nothing" else [(fields[0], changed)]
        for name, rule in RULES.items():
            found[name][kind] = any(rule(reference, window, profile) for (reference, profile), window in asked)
        scores[0] = scored(fields[0], changed)
        for metric in OURS:
            judged = judge([of_field[metric] for of_field in scores])
            found[f"ours, {metric}"][kind] = any(j.verdict is not Verdict.OK for j in judged[: len(asked)])
    return found


def main() -> None:
    """Prints a Markdown table for each size of window."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--rows", type=int, nargs="*", default=[200, 1_000, 10_000])
    given = parser.parse_args()
    random = np.random.default_rng(6)
    for m in given.rows:
        share = {name: dict.fromkeys(WINDOWS, 0.0) for name in [*RULES, *(f"ours, {metric}" for metric in OURS)]}
        for i in range(given.windows):
            if i % 10 == 0:
                references = [random.normal(size=REFERENCE) for _ in range(FIELDS)]
                fields = [(reference, numeric_profile(reference)) for reference in references]
            for rule, hits in alarms(random, fields, m).items():
                for kind, hit in hits.items():
                    share[rule][kind] += hit / given.windows
        print(f"\n{m:,} rows\n\n| rule | {' | '.join(WINDOWS)} |\n|---|{'---|' * len(WINDOWS)}")
        for rule, found in share.items():
            print(f"| {rule} | {' | '.join(f'{100 * v:.0f} %' for v in found.values())} |", flush=True)


if __name__ == "__main__":
    main()
