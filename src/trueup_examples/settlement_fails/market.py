"""A market that fails: files in exactly the regulator's format, for when there are none.

Each security has a liability to fail that persists from day to day (an autoregressive
log-intensity), heavy-tailed sizes, regimes of calm and stress for all, and, in the middle
of the sample, a short squeeze in which a few prices and balances explode.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trueup.contracts.horizon import holidays_of

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Market:
    """How large a market to make. The same seed makes the same files."""

    securities: int = 2_000
    first: date = date(2024, 1, 2)
    months: int = 6
    seed: int = 1


def write_files(market: Market, folder: Path) -> list[Path]:
    """Writes the half-month files and returns them; files that exist with their content are left."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(market.seed)
    days = settlement_days(market.first, market.months)
    quantity, price = _simulate(market, rng, len(days))
    cusips = [cusip(i) for i in range(market.securities)]
    kinds = rng.choice(["INC COM", "CORP CL A", "ETF TR", "UNIT 1 COM & 1 WT", "SPONSORED ADR"], market.securities)
    written = []
    halves = [f"{d.year}{d.month:02d}{'a' if d.day <= 15 else 'b'}" for d in days]
    for half in sorted(set(halves)):
        path = folder / f"cnsfails{half}.txt"
        chosen = [i for i, h in enumerate(halves) if h == half]
        _write(path, [days[i] for i in chosen], quantity[chosen], price[chosen], cusips, kinds)
        written.append(path)
    return written


def settlement_days(first: date, months: int) -> list[date]:
    """US settlement days of the months that begin with ``first``'s."""
    start = np.datetime64(first, "M")
    days = np.arange(start.astype("datetime64[D]"), (start + months).astype("datetime64[D]"))
    closed = holidays_of("us-settlement", first.year, first.year + months // 12 + 1)
    open_days: list[date] = days[np.is_busday(days, holidays=closed)].tolist()
    return open_days


def cusip(number: int) -> str:
    """A CUSIP with a valid check digit; one in eleven is foreign (begins with a letter)."""
    head = "GHJLMNPQRY"[number % 10] if number % 11 == 0 else "123456789"[number % 9]
    body = f"{head}{number:05d}"
    issue = f"{body}{'10' if number % 3 else 'AA'}"
    total = 0
    for i, character in enumerate(issue):
        value = _DIGITS.index(character) * (2 if i % 2 else 1)
        total += value // 10 + value % 10
    return f"{issue}{(10 - total % 10) % 10}"


def _simulate(market: Market, rng: np.random.Generator, days: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Quantities (days x securities, 0 for none) and prices."""
    n = market.securities
    level = rng.normal(-0.6, 1.6, n)  # some fail nearly always, most rarely
    size = rng.normal(7.5, 1.8, n)
    log_price = rng.normal(2.6, 1.1, n)
    squeezed = rng.choice(n, max(2, n // 400), replace=False)
    state, stress = rng.normal(0, 1, n), 0.0
    quantity = np.zeros((days, n), np.int64)
    price = np.zeros((days, n))
    for day in range(days):
        stress = 0.95 * stress + rng.normal(0, 0.12)
        state = 0.8 * state + rng.normal(0, 0.6, n)
        boost = np.zeros(n)
        if abs(day - int(days * 0.65)) <= 6:
            boost[squeezed] = 4.0
        log_price += rng.normal(0, 0.02, n) + 0.15 * boost * (day <= int(days * 0.65)) / 4
        fails = rng.random(n) < 1 / (1 + np.exp(-(level + state + stress + boost)))
        shares = np.exp(size + 0.7 * state + boost / 2 + rng.standard_t(4, n) * 0.8)
        quantity[day] = np.where(fails, np.clip(shares, 1, 5e8), 0)
        price[day] = np.exp(log_price)
    return quantity, price


def _write(
    path: Path,
    days: list[date],
    quantity: NDArray[np.int64],
    price: NDArray[np.float64],
    cusips: list[str],
    kinds: NDArray[np.str_],
) -> None:
    lines = ["SETTLEMENT DATE|CUSIP|SYMBOL|QUANTITY (FAILS)|DESCRIPTION|PRICE"]
    for row, day in enumerate(days):
        stamp = day.strftime("%Y%m%d")
        for i in np.flatnonzero(quantity[row]).tolist():
            shown = "." if (i + row) % 97 == 0 else f"{price[row, i]:.2f}"
            lines.append(f"{stamp}|{cusips[i]}|S{i:05d}|{quantity[row, i]}|SECURITY {i} {kinds[i]}|{shown}")
    lines.append(f"Trailer record count {len(lines) - 1}")
    lines.append(f"Trailer total quantity of shares {int(quantity.sum())}")
    text = "\n".join(lines) + "\n"
    if not path.exists() or path.read_text(encoding="ascii") != text:
        path.write_text(text, encoding="ascii")
