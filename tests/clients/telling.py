"""What the client programs share: the instances they send, and how they tell what they saw."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

INSTANCES = {
    "account": ("BYTES", np.array(["é", "007"], object)),
    "amount": ("FP64", np.array([250_000.0, 750_000.0])),
    "trades": ("INT64", np.array([3, 2**60])),
}
# What must be refused: one thing is wrong in each.
WRONG = {
    "wrong shape": {"amount": ("FP64", np.array([[1.0, 2.0]]))},
    "wrong datatype": {"amount": ("INT64", np.array([1, 2]))},
    "wrong name": {"amounts": ("FP64", np.array([1.0, 2.0]))},
    "too few": {"amount": ("FP64", np.array([1.0]))},
}


def changed(change: dict[str, tuple[str, Any]]) -> dict[str, tuple[str, Any]]:
    """The instances, with ``change`` instead of the amount."""
    return {name: tensor for name, tensor in INSTANCES.items() if name != "amount"} | change


def plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, np.ndarray):
        return [plain(v) for v in value.tolist()]
    return value.decode() if isinstance(value, bytes) else value


def fault(call: Callable[[], Any], kind: type[Exception], tell: Callable[[Any], Any] = str) -> Any:
    """How the client tells of a failure; None where the call succeeds."""
    try:
        call()
    except kind as error:
        return tell(error)
    return None


def tell(seen: dict[str, Any]) -> None:
    """Prints what was seen, for the test that asked."""
    json.dump(seen, sys.stdout)
