"""A first contract from what a real MLflow model and a real ONNX graph say of themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import trueup
from trueup.domain.contract import FieldType
from trueup.errors import ContractError, InvalidFile


def mlflow_model(folder: Path, frame: pd.DataFrame) -> Path:
    from mlflow.models import infer_signature
    from mlflow.pyfunc import save_model

    save_model(
        folder / "m", python_model=lambda rows: [0.5] * len(rows), signature=infer_signature(frame), pip_requirements=[]
    )  # type: ignore[arg-type]
    return folder / "m"


def onnx_model(folder: Path, features: int) -> Path:
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, features)).astype(np.float32)
    fitted = LogisticRegression().fit(x, x[:, 0] > 0)
    graph = to_onnx(fitted, x[:1], options={"zipmap": False})
    (folder / "m.onnx").write_bytes(graph.SerializeToString())
    return folder / "m.onnx"


def test_an_mlflow_signature_gives_typed_fields(tmp_path: Path):
    frame = pd.DataFrame({"Amount (EUR)": [1.0], "lots": [3], "name": ["x"], "open": [True], "seen": [pd.Timestamp(0)]})
    contract = trueup.infer_from_mlflow(str(mlflow_model(tmp_path, frame)), name="Trades")
    assert contract.name == "trades"
    assert [(f.name, f.type) for f in contract.fields] == [
        ("amount_eur", FieldType.FLOAT64),
        ("lots", FieldType.INT64),
        ("name", FieldType.STRING),
        ("open", FieldType.BOOL),
        ("seen", FieldType.TIMESTAMP),
    ]
    assert trueup.load_contract(trueup.dump_contract(contract)) == contract


def test_columns_that_become_one_name_are_refused(tmp_path: Path):
    frame = pd.DataFrame({"a b": [1.0], "a_b": [2.0]})
    with pytest.raises(ContractError):
        trueup.infer_from_mlflow(str(mlflow_model(tmp_path, frame)))


def test_an_onnx_graph_gives_numbered_features(tmp_path: Path):
    contract = trueup.infer_from_onnx(onnx_model(tmp_path, 4), name="m")
    assert [(f.name, f.type) for f in contract.features] == [(f"f{i}", FieldType.FLOAT64) for i in range(4)]


def test_what_is_no_model_is_a_clear_error(tmp_path: Path):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(InvalidFile):
        trueup.infer_from_onnx(tmp_path / "m.onnx")
    with pytest.raises(InvalidFile):
        trueup.infer_from_mlflow(str(tmp_path))
