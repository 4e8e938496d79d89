"""Two runtimes of one model: do they agree, and which is faster at which batch size?"""

from __future__ import annotations

import time

import numpy as np

from trueup.domain.batch import Columns, Floats
from trueup.domain.contract import Contract, Field, FieldType
from trueup.domain.deployment import ModelVersion, Parity, ReplayGrade, Serving
from trueup.errors import ParityError, ScoringError
from trueup.ports import Scorer

ROWS = 1_024
SIZES = (1, 8, 64, 512, ROWS)
ROUNDS = 5
ALONE = 16  # instances that are also scored alone


class SwitchingScorer:
    """The reference below ``switch_at`` rows, the other runtime from there on."""

    def __init__(self, reference: Scorer, other: Scorer, switch_at: int) -> None:
        self._reference = reference
        self._other = other
        self._switch_at = switch_at

    def score(self, columns: Columns) -> Floats:
        """By whichever is faster for so many rows."""
        chosen = self._other if len(columns) >= self._switch_at else self._reference
        return chosen.score(columns)

    def contributions(self, columns: Columns) -> Floats | None:
        """By the one that explains."""
        explained = self._reference.contributions(columns)
        return self._other.contributions(columns) if explained is None else explained

    def close(self) -> None:
        """Closes both."""
        self._reference.close()
        self._other.close()


def compare(version: ModelVersion, scorers: list[Scorer], serving: Serving) -> tuple[Parity, ...]:
    """Compares every further runtime with the first, and one instance alone with it in a batch.

    Raises ParityError beyond what the deployment's grade allows.

    Under the grade ``bitwise`` a runtime that differs at all is kept for its explanations
    only (``switch_at`` 0: never): one instance must have one score at any batch size.
    """
    sample = sample_columns(version.contract, ROWS)
    reference = scorers[0].score(sample)
    _same_alone(scorers[0], sample, reference, serving)
    found = []
    for artifact, scorer in zip(version.artifacts[1:], scorers[1:], strict=True):
        scores = scorer.score(sample)
        if scores.shape != reference.shape:
            raise ParityError("the runtimes of the model answer in different shapes")
        difference = float(np.abs(scores - reference).max())
        allowed = max(serving.tolerance, 1e-5)
        if difference > allowed:
            raise ParityError(
                f"{artifact.runtime} differs from {version.artifacts[0].runtime} by {difference:.2g}",
                next_step="deploy one runtime only, or convert the model again",
            )
        may_switch = difference == 0 or (
            serving.replay_grade is ReplayGrade.TOLERANCE and difference <= serving.tolerance
        )
        switch_at = _switch_at(scorers[0], scorer, sample) if may_switch else 0
        found.append(Parity(version.artifacts[0].runtime, artifact.runtime, ROWS, difference, switch_at))
    return tuple(found)


def _same_alone(scorer: Scorer, sample: Columns, together: Floats, serving: Serving) -> None:
    """Linear algebra libraries add in another order for one row than for many."""
    if serving.replay_grade is ReplayGrade.RECORD_ONLY or len(together) != len(sample):
        return
    allowed = serving.tolerance if serving.replay_grade is ReplayGrade.TOLERANCE else 0.0
    for row in range(0, ROWS, ROWS // ALONE):
        alone = scorer.score(sample.take(np.array([row])))
        difference = float(np.abs(alone - together[row : row + 1]).max())
        if difference > allowed:
            raise ParityError(
                f"an instance scored alone differs by {difference:.1g} from the same one in a batch",
                next_step="deploy with replay_grade='tolerance' and a tolerance, or with another runtime",
            )


def sample_columns(contract: Contract, rows: int) -> Columns:
    """Plausible instances from the contract's ranges and categories, always the same ones."""
    from trueup.contracts.decoding import Decoder
    from trueup.settings import Limits

    rng = np.random.default_rng(20_201_109)
    decoded = Decoder(contract, Limits()).columns({f.name: _sample(f, rng, rows) for f in contract.fields})
    if decoded.errors:
        raise ScoringError("no plausible instances can be made for the contract's ranges")
    return decoded.columns


def _sample(f: Field, rng: np.random.Generator, rows: int) -> object:
    if f.type is FieldType.FLOAT64:
        low = -3.0 if f.minimum is None else float(f.minimum)
        high = max(low + 6.0, low * 2) if f.maximum is None else float(f.maximum)
        return rng.uniform(low, high, rows)
    if f.type is FieldType.BOOL:
        return rng.integers(0, 2, rows).astype(bool)
    if f.type is FieldType.CATEGORY and f.categories:
        return [f.categories[i] for i in rng.integers(0, len(f.categories), rows)]
    if f.type in (FieldType.STRING, FieldType.CATEGORY):
        return [f"sample-{i}" for i in range(rows)]
    low_int = 0 if f.minimum is None else int(f.minimum)
    high_int = low_int + 20_000 if f.maximum is None else int(f.maximum)
    numbers = rng.integers(low_int, high_int, rows, endpoint=True)
    if f.type is FieldType.INT64:
        return numbers
    if f.type is FieldType.DATE:
        return numbers.astype("datetime64[D]")
    if f.type is FieldType.TIMESTAMP:
        return numbers.astype("datetime64[us]")
    return [f"{n % 10 ** min((f.precision or 1) - (f.scale or 0), 6)}" for n in numbers.tolist()]


def _switch_at(reference: Scorer, other: Scorer, sample: Columns) -> int:
    """Smallest tried batch size from which the other runtime is faster at every larger one; 0 for none."""
    switch = 0
    for size in reversed(SIZES):
        part = sample.take(np.arange(size))
        if _median_s(other, part) >= _median_s(reference, part):
            break
        switch = size
    return switch


def _median_s(scorer: Scorer, columns: Columns) -> float:
    scorer.score(columns)
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        scorer.score(columns)
        times.append(time.perf_counter() - began)
    return float(np.median(times))
