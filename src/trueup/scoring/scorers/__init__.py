"""One file a model runtime. Each has ``load(path, serving) -> Scorer`` and knows no other."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from trueup.domain.deployment import Runtime, Serving
from trueup.ports import Scorer


def load(runtime: Runtime, uri: str, serving: Serving) -> Scorer:
    """Loads a checked artifact with the file of its runtime. Raises ModelRefused, MissingExtra."""
    module: Callable[[str, Serving], Scorer] = import_module(f"{__name__}.{runtime.value}").load
    return module(uri, serving)
