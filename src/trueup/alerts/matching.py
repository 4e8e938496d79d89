"""Matchers of labels: `deployment="fails"`, `!=`, `=~`, `!~`, as in Alertmanager.

Regular expressions are anchored at both ends and of a subset that cannot be slow: alternatives of characters,
classes and escapes, at most ``MOST_REPEATS`` of them repeated, nothing in parentheses. Over a value of at most
``MOST_VALUE`` characters a backtracking engine then needs a bounded number of steps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from trueup.domain.alert import Comparison, Labels, Matcher
from trueup.errors import InvalidInput

MOST_MATCHERS = 20
MOST_VALUE = 256
MOST_REPEATS = 3
LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}\Z")
_MATCHER = re.compile(r'\s*([A-Za-z_][A-Za-z0-9_]{0,99})\s*(=~|!~|!=|=)\s*(?:"((?:[^"\\]|\\.)*)"|([^"\s,{}]*))\s*\Z')
_TOKEN = re.compile(
    r"""(?P<repeat>[*+?]|\{\d{1,3}(?:,\d{0,3})?\})
      | (?P<either>\|)
      | (?P<one>\\[dDwWsS] | \\[^A-Za-z0-9] | \[\^?(?:\\[dDwWsS]|\\[^A-Za-z0-9]|[^\\\]\[])+\] | [^\\()\[\]{}*+?|^$])""",
    re.VERBOSE,
)


def parse_matcher(text: str) -> Matcher:
    """``label="value"`` or ``label=value``. Raises InvalidInput."""
    found = _MATCHER.match(text) if len(text) <= 2 * MOST_VALUE else None
    if found is None:
        raise InvalidInput("a matcher is not valid", next_step='write label="value", or with !=, =~ or !~')
    label, comparison, quoted, bare = found.groups()
    value = bare if quoted is None else re.sub(r'\\(["\\])', r"\1", quoted)
    return checked(Matcher(label, Comparison(comparison), value))


def parse_matchers(texts: Sequence[str]) -> tuple[Matcher, ...]:
    """Between 1 and ``MOST_MATCHERS``. Raises InvalidInput."""
    if not 0 < len(texts) <= MOST_MATCHERS:
        raise InvalidInput(f"between 1 and {MOST_MATCHERS} matchers are needed")
    return tuple(parse_matcher(text) for text in texts)


def checked(matcher: Matcher) -> Matcher:
    """The matcher, if it can be used. Raises InvalidInput."""
    if not LABEL.match(matcher.label) or len(matcher.value) > MOST_VALUE:
        raise InvalidInput("a matcher's label or value is not valid", next_step=f"at most {MOST_VALUE} characters")
    if matcher.comparison in (Comparison.MATCHES, Comparison.NOT_MATCHES):
        _compiled(matcher.value)
    return matcher


def matches(matcher: Matcher, labels: Labels) -> bool:
    """Whether the labels fulfil it. A longer value than ``MOST_VALUE`` is compared by its beginning."""
    value = labels.get(matcher.label, "")
    match matcher.comparison:
        case Comparison.EQUAL:
            return value == matcher.value
        case Comparison.NOT_EQUAL:
            return value != matcher.value
        case Comparison.MATCHES:
            return _compiled(matcher.value).fullmatch(value[:MOST_VALUE]) is not None
        case Comparison.NOT_MATCHES:
            return _compiled(matcher.value).fullmatch(value[:MOST_VALUE]) is None


def all_match(matchers: Sequence[Matcher], labels: Labels) -> bool:
    """Whether the labels fulfil every one."""
    return all(matches(matcher, labels) for matcher in matchers)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    _check(pattern)
    try:
        return re.compile(pattern, re.ASCII)
    except (re.error, OverflowError):
        raise _refused() from None


def _check(pattern: str) -> None:
    """Raises InvalidInput for what is not of the subset."""
    at, repeats, can_repeat = 0, 0, False
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is None or (token["repeat"] and not can_repeat):
            raise _refused()
        repeats = 0 if token["either"] else repeats + bool(token["repeat"])
        if repeats > MOST_REPEATS:
            raise _refused()
        can_repeat = token["one"] is not None
        at = token.end()


def _refused() -> InvalidInput:
    return InvalidInput(
        "a regular expression is not of the kind that matchers know",
        next_step=f"use alternatives (a|b) without parentheses, each with at most {MOST_REPEATS} repeats",
    )
