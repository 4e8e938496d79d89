"""trueup: serve models, book every prediction exactly once, true it up with the outcome.

Names are loaded when first used, so that ``import trueup`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trueup.contracts.comparing import compare as compare_contracts
    from trueup.contracts.inferring import infer_from_mlflow, infer_from_onnx
    from trueup.contracts.reading import dump_contract, load_contract
    from trueup.domain.action import Action
    from trueup.domain.batch import Channel, Role, Status
    from trueup.domain.contract import Contract, Field, FieldRole, FieldType, Label, Output
    from trueup.domain.deployment import Deployment, Fallback, Mode, ReplayGrade, Runtime, Serving, Untreated
    from trueup.doors.python import Batch, Scores, Table, Trueup, connect
    from trueup.errors import TrueupError
    from trueup.ports import PredictionFilter
    from trueup.settings import Settings

_HOME = {
    "compare_contracts": ("trueup.contracts.comparing", "compare"),
    "infer_from_mlflow": ("trueup.contracts.inferring", "infer_from_mlflow"),
    "infer_from_onnx": ("trueup.contracts.inferring", "infer_from_onnx"),
    "dump_contract": ("trueup.contracts.reading", "dump_contract"),
    "load_contract": ("trueup.contracts.reading", "load_contract"),
    "TrueupError": ("trueup.errors", "TrueupError"),
    "Action": ("trueup.domain.action", "Action"),
    "PredictionFilter": ("trueup.ports", "PredictionFilter"),
    "Settings": ("trueup.settings", "Settings"),
    **{n: ("trueup.domain.batch", n) for n in ("Channel", "Role", "Status")},
    **{n: ("trueup.domain.contract", n) for n in ("Contract", "Field", "FieldRole", "FieldType", "Label", "Output")},
    **{
        n: ("trueup.domain.deployment", n)
        for n in ("Deployment", "Fallback", "Mode", "ReplayGrade", "Runtime", "Serving", "Untreated")
    },
    **{n: ("trueup.doors.python", n) for n in ("Batch", "Scores", "Table", "Trueup", "connect")},
}

__all__ = [
    "Action",
    "Batch",
    "Channel",
    "Contract",
    "Deployment",
    "Fallback",
    "Field",
    "FieldRole",
    "FieldType",
    "Label",
    "Mode",
    "Output",
    "PredictionFilter",
    "ReplayGrade",
    "Role",
    "Runtime",
    "Scores",
    "Serving",
    "Settings",
    "Status",
    "Table",
    "Trueup",
    "TrueupError",
    "Untreated",
    "compare_contracts",
    "connect",
    "dump_contract",
    "infer_from_mlflow",
    "infer_from_onnx",
    "load_contract",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'trueup' has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
