"""Whole columns at once: numpy arrays, Arrow tables and pandas frames in stored form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Bools
from trueup.domain.contract import Field, FieldType, Storage

_EXACT_IN_DOUBLE = 2**53


def fast_column(f: Field, column: Any) -> tuple[Any, Bools | None] | None:
    """The column in stored form and its null mask, or None when values must be looked at one by one."""
    if f.storage is Storage.TEXTS:
        return _texts(f, column)
    if not isinstance(column, np.ndarray):
        return None
    if f.type is FieldType.FLOAT64:
        return _floats(f, column)
    if f.type is FieldType.BOOL:
        return (column, None) if column.dtype.kind == "b" else None
    if f.type is FieldType.INT64:
        return (column, None) if column.dtype.kind == "i" else None
    if column.dtype.kind == "M":
        return _moments(f, column)
    return None


def _floats(f: Field, column: NDArray[Any]) -> tuple[Any, Bools | None] | None:
    if column.dtype.kind == "i":
        exact = column.size == 0 or int(np.abs(column).max()) <= _EXACT_IN_DOUBLE
        return (column, None) if exact else None
    if column.dtype.kind != "f" or column.dtype.itemsize > 8:
        return None
    if f.allow_nan or not f.nullable:
        return column, None
    nan = np.isnan(column)
    return column, nan if nan.any() else None


def _moments(f: Field, column: NDArray[Any]) -> tuple[Any, Bools | None] | None:
    nat = np.isnat(column)
    unit = "D" if f.type is FieldType.DATE else "us"
    whole = column.astype(f"datetime64[{unit}]")
    if f.type is FieldType.DATE and bool((whole[~nat] != column[~nat]).any()):
        return None
    numbers = whole.astype(np.int64)
    numbers[nat] = 0
    return numbers, nat if nat.any() else None


def _texts(f: Field, column: Any) -> tuple[Any, Bools | None] | None:
    """Text is handed on as it is (the block check looks at the distinct values); decimals are not."""
    if f.type is FieldType.DECIMAL:
        return None
    values = column.tolist() if isinstance(column, np.ndarray) else column
    return (values, None) if set(map(type, values)) <= {str, type(None)} else None


def arrow_columns(table: Any) -> Mapping[str, Any]:
    """Columns of an Arrow table: numpy where nothing is null, Python values elsewhere."""
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
        plain = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
        if plain and column.null_count == 0:
            columns[name] = column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()
        else:
            columns[name] = column.to_pylist()
    return columns


def pandas_columns(frame: Any) -> Mapping[str, Any]:
    """Columns of a pandas frame; NaN, NA and NaT are nulls, zoneless timestamps stay zoneless."""
    columns: dict[str, Any] = {}
    for name in frame.columns:
        series = frame[name]
        kind = series.dtype.kind if hasattr(series.dtype, "kind") else "O"
        native = isinstance(series.dtype, np.dtype)
        if native and kind in "fib":
            columns[str(name)] = series.to_numpy()
            continue
        missing = series.isna().to_numpy()
        if native and kind == "M":
            values: list[Any] = _days_or_moments(series)
        else:
            values = [v.to_pydatetime() if hasattr(v, "to_pydatetime") else v for v in series.tolist()]
        columns[str(name)] = [None if gone else value for value, gone in zip(values, missing, strict=True)]
    return columns


def _days_or_moments(series: Any) -> list[Any]:
    """Midnight-only columns are dates; pandas has no date type of its own."""
    values = series.to_numpy()
    days = values.astype("datetime64[D]")
    known = ~np.isnat(days)
    listed: list[Any] = (
        days if bool((days[known] == values[known]).all()) else values.astype("datetime64[us]")
    ).tolist()
    return listed
