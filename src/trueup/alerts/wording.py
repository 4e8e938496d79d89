"""The sentences of alerts: small templates over the labels and the value of one instance."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trueup.errors import InvalidFile, InvalidQuery

MOST_TEMPLATE = 2_000
MOST_TEXT = 1_000


class _Sandbox(ImmutableSandboxedEnvironment):
    """Expressions only, and none that makes long texts or large numbers of small ones."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Numbers only, and no powers."""
        if operator == "**" or not all(isinstance(side, int | float) for side in (left, right)):
            raise TemplateError("only numbers are multiplied")
        return super().call_binop(context, operator, left, right)


def _percent(value: float | None, digits: int = 1) -> str:
    return "unknown" if value is None else f"{100 * value:.{min(digits, 9)}f} %"


def _number(value: float | None, digits: int = 3) -> str:
    return "unknown" if value is None else f"{value:.{min(digits, 9)}g}"


_ENVIRONMENT = _Sandbox(undefined=StrictUndefined, autoescape=False)
_ENVIRONMENT.filters.clear()
_ENVIRONMENT.filters.update(percent=_percent, number=_number, lower=str.lower, upper=str.upper)
_ENVIRONMENT.globals.clear()


def check_template(text: object, what: str) -> str:
    """The template. Raises InvalidFile, which names ``what``."""
    if not isinstance(text, str) or len(text) > MOST_TEMPLATE or "{%" in text:
        raise InvalidFile(f"{what}: a text of at most {MOST_TEMPLATE} characters with {{{{ ... }}}} is needed")
    try:
        _compiled(text)
    except TemplateError:
        raise InvalidFile(f"{what}: not a valid template", next_step="write {{ labels.deployment }}") from None
    return text


def rendered(text: str, labels: Mapping[str, str], value: float | None, columns: Mapping[str, str]) -> str:
    """The sentence, cut at ``MOST_TEXT`` characters. Raises InvalidQuery where the template names what is not there."""
    try:
        made = _compiled(text).render(labels=labels, value=value, **columns)
    except (TemplateError, TypeError, ValueError, ArithmeticError):
        raise InvalidQuery(
            "a template of the rule does not fit its rows", next_step="it may use labels, value and message columns"
        ) from None
    return made.strip()[:MOST_TEXT]


@lru_cache(maxsize=1024)
def _compiled(text: str) -> Template:
    return _ENVIRONMENT.from_string(text)
