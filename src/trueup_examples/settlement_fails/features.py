"""Features from the history of balances: one function for training, replay and live scoring.

The history is dense: settlement days x securities. What is known about day t is what files
published so far say about days up to t; nothing later is looked at. Days before a gap of
more than ``MAX_GAP_DAYS`` calendar days are forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup_examples.settlement_fails.files import FailsFile

LARGE = 100_000.0  # USD
RECENT = 20  # settlement days: who has failed within them is in the universe
WINDOW = 60  # settlement days: how far back features look
MAX_GAP_DAYS = 40

Floats = NDArray[np.float64]


class History:
    """Balances as published so far: value (USD), quantity, price, as rows of one day each."""

    def __init__(self) -> None:
        self.days: list[np.datetime64] = []
        self.cusips: list[str] = []
        self._index: dict[str, int] = {}
        self._symbol: list[str] = []
        self._flags: list[tuple[bool, bool, bool, bool]] = []
        self._value: list[Floats] = []
        self._quantity: list[Floats] = []
        self._price: list[Floats] = []  # last known price on that day

    def add(self, file: FailsFile) -> list[int]:
        """Adds a published file and returns the places of its days in ``days``."""
        places = []
        columns = np.array([self._column(c, d) for c, d in zip(file.cusip, file.description, strict=True)], np.intp)
        for day in np.unique(file.day):
            chosen = np.flatnonzero(file.day == day)
            at = columns[chosen]
            price = self._known_price(day)
            quoted = ~np.isnan(file.price[chosen])
            price[at[quoted]] = file.price[chosen][quoted]
            quantity = np.zeros(len(self.cusips))
            quantity[at] = file.quantity[chosen]
            for place, symbol in zip(at.tolist(), file.symbol[chosen], strict=True):
                self._symbol[place] = symbol
            places.append(len(self.days))
            self.days.append(day)
            self._price.append(price)
            self._quantity.append(quantity)
            self._value.append(quantity * np.nan_to_num(price))
        return places

    def values(self, place: int) -> Floats:
        """Balance in USD of every security known by now on the day at ``place``."""
        return _padded(self._value[place], len(self.cusips))

    def universe(self, place: int) -> NDArray[np.intp]:
        """Securities with a balance within the last ``RECENT`` settlement days."""
        recent = self._window(self._quantity, place, RECENT)
        return np.flatnonzero((recent > 0).any(axis=0))

    def features(self, place: int, members: NDArray[np.intp] | None = None) -> dict[str, Any]:
        """Columns for the contract, one row a member (default: the universe) on the day at ``place``."""
        everyone = self.universe(place)
        rows = everyone if members is None else members
        value = self._window(self._value, place)
        market = value[-1, everyone]
        # numpy adds a single column pairwise and several ones row by row: two columns at the least
        # make a security's features the same alone as among all, to the last bit.
        wide = np.concatenate([rows, rows]) if len(rows) == 1 else rows
        part = _Part(
            value[:, wide], self._window(self._quantity, place)[:, wide], self._window(self._price, place)[:, wide]
        )
        flags = np.array([self._flags[i] for i in rows.tolist()], bool).reshape(len(rows), 4)
        n = len(rows)
        day = self.days[place]
        return {
            "cusip": np.array([self.cusips[i] for i in rows.tolist()], object),
            "settlement_date": np.full(n, day, "datetime64[D]"),
            "symbol": np.array([self._symbol[i] for i in rows.tolist()], object),
            "last_value": part.value[-1, :n].copy(),
            **{name: measure[:n] for name, measure in _measures(part).items()},
            "market_log_value": np.full(n, np.log1p(market.sum())),
            "market_large_share": np.full(n, (market > LARGE).mean() if len(market) else 0.0),
            "weekday": np.full(n, float((int(day.astype("datetime64[D]").astype(np.int64)) + 3) % 7)),
            **{name: flags[:, i] for i, name in enumerate(("is_cins", "is_fund", "is_warrant_or_unit", "is_adr"))},
        }

    def _column(self, cusip: str, description: str) -> int:
        place = self._index.get(cusip)
        if place is None:
            place = self._index[cusip] = len(self.cusips)
            self.cusips.append(cusip)
            self._symbol.append("")
            self._flags.append(_flags(cusip, description))
        return place

    def _known_price(self, day: np.datetime64) -> Floats:
        """The last price of each security before ``day``; none across a gap, for it would be months old."""
        n = len(self.cusips)
        if not self._price or day - self.days[-1] > np.timedelta64(MAX_GAP_DAYS, "D"):
            return np.full(n, np.nan)
        return _padded(self._price[-1], n, np.nan).copy()

    def _window(self, rows: list[Floats], place: int, days: int = WINDOW) -> Floats:
        """Up to ``days`` days until ``place``, at least three (days x securities), the newest last.

        Ends at a gap, across which nothing is compared; what is missing to three days is zero.
        """
        n, first = len(self.cusips), place
        while first > max(0, place - days + 1):
            if self.days[first] - self.days[first - 1] > np.timedelta64(MAX_GAP_DAYS, "D"):
                break
            first -= 1
        listed = [np.nan_to_num(_padded(rows[at], n)) for at in range(first, place + 1)]
        return np.array([np.zeros(n)] * (3 - len(listed)) + listed)


@dataclass(frozen=True)
class _Part:
    """Windows (days x members), the newest day last."""

    value: Floats
    quantity: Floats
    price: Floats


def _measures(part: _Part) -> dict[str, Floats]:
    log, failing, large = np.log1p(part.value), part.quantity > 0, part.value > LARGE
    price = np.log1p(part.price[-2:])
    log20, week, month = log[-RECENT:], _weights(len(log), 7.0), _weights(len(log), 30.0)
    return {
        **{f"log_value_{back}" if back else "log_value": _back(log, back) for back in (0, 1, 2, 3, 4, 9)},
        "log_value_mean_5": log[-5:].mean(axis=0),
        "log_value_mean_10": log[-10:].mean(axis=0),
        "log_value_mean_20": log20.mean(axis=0),
        "log_value_mean_60": log.mean(axis=0),
        "log_value_min_5": log[-5:].min(axis=0, initial=np.inf),
        "log_value_max_5": log[-5:].max(axis=0, initial=0.0),
        "log_value_max_20": log20.max(axis=0, initial=0.0),
        "log_value_max_60": log.max(axis=0, initial=0.0),
        "log_value_median_20": np.sort(log20, axis=0)[len(log20) // 2],
        "log_value_std_20": log20.std(axis=0),
        "log_value_week": _weighted(week, log),
        "log_value_month": _weighted(month, log),
        "large_week": _weighted(week, large),
        "large_month": _weighted(month, large),
        "failing_share_5": failing[-5:].mean(axis=0),
        "failing_share_20": failing[-RECENT:].mean(axis=0),
        "failing_share_60": failing.mean(axis=0),
        "large_share_5": large[-5:].mean(axis=0),
        "large_share_20": large[-RECENT:].mean(axis=0),
        "large_share_60": large.mean(axis=0),
        "large_flips": np.abs(np.diff(large.astype(np.float64), axis=0)).mean(axis=0),
        "failing_run": _run(failing),
        "large_run": _run(large),
        "days_since_fail": _run(~failing),
        "days_since_large": _run(~large),
        "days_observed": np.where(failing.any(axis=0), len(failing) - failing.argmax(axis=0), 0).astype(np.float64),
        "value_change": log[-1] - log[-2],
        "log_quantity": np.log1p(part.quantity[-1]),
        "log_usual_value": np.log1p(part.price[-1] * part.quantity[-RECENT:].mean(axis=0)),
        "log_price": price[-1].copy(),
        "price_change": np.where(part.price[-2] > 0, price[-1] - price[-2], 0.0),
    }


def _back(log: Floats, back: int) -> Floats:
    return log[-1 - back].copy() if back < len(log) else np.zeros(log.shape[1])


def _weighted(weights: Floats, values: NDArray[Any]) -> Floats:
    """Weighted sum over the days. Not ``@``: BLAS adds in an order that depends on the width."""
    total: Floats = (weights[:, None] * values).sum(axis=0)
    return total


def _weights(days: int, scale: float) -> Floats:
    """Exponentially falling weights, the newest day last, with sum 1."""
    weights = np.exp(-np.arange(days)[::-1] / scale)
    normed: Floats = weights / weights.sum()
    return normed


def _run(holds: NDArray[np.bool_]) -> Floats:
    """Days in a row, counted back from the newest, in which the condition holds."""
    broken = ~holds[::-1]
    return np.where(broken.any(axis=0), broken.argmax(axis=0), len(holds)).astype(np.float64)


def _padded(row: Floats, n: int, fill: float = 0.0) -> Floats:
    return row if len(row) == n else np.concatenate([row, np.full(n - len(row), fill)])


def _flags(cusip: str, description: str) -> tuple[bool, bool, bool, bool]:
    words = set(description.upper().replace("(", " ").replace(".", " ").split())
    fund = bool(words & {"ETF", "TRUST", "TR", "FUND", "FD", "ETN", "SHARES", "ISHARES"})
    warrant = bool(words & {"WT", "WTS", "WARRANT", "WARRANTS", "UNIT", "UNITS", "RT", "RTS", "RIGHTS"})
    return cusip[:1].isalpha(), fund, warrant, bool(words & {"ADR", "ADS", "ADRS"})
