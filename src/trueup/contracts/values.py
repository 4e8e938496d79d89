"""One value against one field: the exact rules, for the slow path that names every fault.

No value is ever coerced: "1" is no number, 1.5 is no int64, ``True`` is neither.
A checked value comes back in its stored form (see ``FieldType``).
"""

from __future__ import annotations

import datetime as dt
import math
import re
from decimal import Decimal, InvalidOperation
from typing import Any

from trueup.domain.contract import Field, FieldType

EPOCH_DAY = dt.date(1970, 1, 1)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
EXACT_IN_DOUBLE = 2**53
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_DECIMAL_TEXT = re.compile(r"-?\d{1,200}(\.\d{1,200})?\Z")
_DATE_TEXT = re.compile(r"\d{4}-\d\d-\d\d\Z")


class JsonNumber(Decimal):
    """A JSON number with a fraction or exponent, kept exact until the field is known."""


class Fault(Exception):
    """Why a value is refused: a code and what was expected."""

    def __init__(self, code: str, expected: str) -> None:
        super().__init__(code)
        self.code = code
        self.expected = expected


def stored(f: Field, value: Any, max_chars: int) -> Any:
    """The value in its stored form, None where null. Raises Fault."""
    if value is None or (isinstance(value, float) and math.isnan(value) and not f.allow_nan):
        if f.nullable:
            return None
        raise Fault("null", f"{expected(f)}, never null")
    checked = _CHECKS[f.type](f, value, max_chars)
    _check_range(f, checked)
    return checked


def expected(f: Field) -> str:
    """The field's type in words for an error message."""
    if f.type is FieldType.DECIMAL:
        return f"decimal({f.precision},{f.scale}) as text"
    if f.type is FieldType.TIMESTAMP:
        return "timestamp with zone (ISO 8601)"
    if f.type is FieldType.DATE:
        return "date (YYYY-MM-DD)"
    return str(f.type)


def _wrong(f: Field) -> Fault:
    return Fault("type", expected(f))


def _float64(f: Field, value: Any, _: int) -> float:
    if isinstance(value, str) and value in _SPECIAL and (f.allow_nan or f.allow_infinity):
        number = _SPECIAL[value]
    elif isinstance(value, bool) or not isinstance(value, (int, float, JsonNumber)):
        raise _wrong(f)
    elif isinstance(value, int) and abs(value) > EXACT_IN_DOUBLE and int(_as_double(f, value)) != value:
        raise Fault("precision", "a float64 that holds the number exactly")
    else:
        number = _as_double(f, value)
    if math.isnan(number) and not f.allow_nan:
        raise Fault("nan", "a number")
    if math.isinf(number) and not f.allow_infinity:
        raise Fault("infinity", "a finite number")
    return number


def _as_double(f: Field, value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        raise Fault("range", "a float64") from None


def _int64(f: Field, value: Any, _: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(f)
    if not INT64_MIN <= value <= INT64_MAX:
        raise Fault("range", "an int64")
    return value


def _bool(f: Field, value: Any, _: int) -> int:
    if not isinstance(value, bool):
        raise _wrong(f)
    return int(value)


def _string(f: Field, value: Any, max_chars: int) -> str:
    if not isinstance(value, str):
        raise _wrong(f)
    if len(value) > max_chars:
        raise Fault("length", f"at most {max_chars} characters")
    if "\x00" in value or not _is_unicode(value):
        raise Fault("type", "text without NUL or lone surrogates")
    return value


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _category(f: Field, value: Any, max_chars: int) -> str:
    text = _string(f, value, max_chars)
    if not f.categories_open and text not in f.categories:
        raise Fault("category", "one of the contract's categories")
    return text


def _date(f: Field, value: Any, _: int) -> int:
    if isinstance(value, str) and _DATE_TEXT.match(value):
        try:
            value = dt.date.fromisoformat(value)
        except ValueError:
            raise _wrong(f) from None
    if isinstance(value, dt.datetime) or not isinstance(value, dt.date):
        raise _wrong(f)
    return (value - EPOCH_DAY).days


def _timestamp(f: Field, value: Any, _: int) -> int:
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            raise _wrong(f) from None
    if not isinstance(value, dt.datetime) or value.tzinfo is None:
        raise _wrong(f)
    return microseconds(value)


def microseconds(moment: dt.datetime) -> int:
    """Whole microseconds since 1970-01-01T00:00Z, without passing through a float."""
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _decimal(f: Field, value: Any, _: int) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        raise _wrong(f)
    if isinstance(value, str) and not _DECIMAL_TEXT.match(value):
        raise _wrong(f)
    try:
        number = Decimal(value)
    except (InvalidOperation, ValueError):
        raise _wrong(f) from None
    return canonical_decimal(f, number)


def canonical_decimal(f: Field, number: Decimal) -> str:
    """Text with exactly the field's scale. Raises Fault for NaN and for digits that do not fit."""
    precision, scale = f.precision or 0, f.scale or 0
    if not number.is_finite():
        raise _wrong(f)
    _, digits, exponent = number.as_tuple()
    places = -int(exponent)
    while places > scale and digits and digits[-1] == 0:
        digits, places = digits[:-1], places - 1
    if places > scale:
        raise Fault("scale", f"at most {scale} digits after the point")
    if number != 0 and number.adjusted() + 1 > precision - scale:
        raise Fault("precision", f"at most {precision - scale} digits before the point")
    text = f"{number:.{scale}f}"
    return text.removeprefix("-") if number == 0 else text


_CHECKS: dict[FieldType, Any] = {
    FieldType.FLOAT64: _float64,
    FieldType.INT64: _int64,
    FieldType.BOOL: _bool,
    FieldType.STRING: _string,
    FieldType.CATEGORY: _category,
    FieldType.DATE: _date,
    FieldType.TIMESTAMP: _timestamp,
    FieldType.DECIMAL: _decimal,
}


def _check_range(f: Field, value: Any) -> None:
    if f.minimum is None and f.maximum is None:
        return
    as_number: Any = Decimal if f.type is FieldType.DECIMAL else _same
    number = as_number(value)
    too_low = f.minimum is not None and number < as_number(f.minimum)
    if too_low or (f.maximum is not None and number > as_number(f.maximum)):
        raise Fault("range", "a value within the contract's range")


def _same(value: Any) -> Any:
    return value
