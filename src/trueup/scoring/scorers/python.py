"""A plain Python function ``score(columns) -> array``, named ``python:module:attribute``.

``?{"name": value}`` behind it gives the function keyword arguments. They are part of the
address and so of the digest: weights cannot change under an approved version.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import msgspec
import numpy as np

from trueup.domain.batch import Columns, Floats
from trueup.domain.deployment import Serving
from trueup.errors import ModelRefused, ScoringError
from trueup.ports import Scorer


def load(uri: str, serving: Serving) -> Scorer:
    """Imports the function. Raises ModelRefused when there is none."""
    place, _, arguments = uri.removeprefix("python:").partition("?")
    module, _, attribute = place.partition(":")
    try:
        function = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError):
        raise ModelRefused("there is no such Python function", next_step="write python:module:function") from None
    if not callable(function):
        raise ModelRefused("the named attribute is no function")
    try:
        keywords = msgspec.json.decode(arguments, type=dict[str, Any]) if arguments else {}
    except msgspec.DecodeError:
        raise ModelRefused("the arguments behind `?` are no JSON object") from None
    return PythonScorer(partial(function, **keywords))


class PythonScorer:
    """Calls the function and checks what comes back."""

    def __init__(self, function: Callable[[Columns], Any]) -> None:
        self._function = function

    def score(self, columns: Columns) -> Floats:
        """The function's answer as float64 (n, k)."""
        try:
            return np.asarray(self._function(columns), np.float64).reshape(len(columns), -1)
        except Exception:  # the function is somebody else's
            raise ScoringError("the Python model could not score the features") from None

    def contributions(self, columns: Columns) -> Floats | None:
        """A function explains nothing."""
        return None

    def close(self) -> None:
        """Nothing is held."""
