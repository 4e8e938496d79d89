"""Alerts (Alertmanager's webhook shape, version 4) -> subject, text, HTML.

Templates are Jinja in a sandbox that reads data and does nothing else: no attribute, call, import, macro or assignment,
loops no deeper than three and over data alone, a few filters. What they read is bounded before, and what they write is
cut, so no template runs long, and of a message nothing is shown that its payload does not say. HTML is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trueup.domain.message import Message
from trueup.errors import InvalidFile
from trueup.notifying.bounding import CUT, cut, one_line, plain
from trueup.settings import Notifying
from trueup.telemetry import log

NAMES = ("alert.subject.txt", "alert.txt", "alert.html")
TEMPLATE_CHARS = 64_000
VALUE_CHARS = 2_000
LABELS = 64
LOOPS = 3
MOST_DIGITS = 12
FILTERS = (
    *("capitalize", "d", "default", "dictsort", "e", "escape", "first", "float", "int", "items", "last"),
    *("length", "lower", "sort", "string", "striptags", "title", "trim", "truncate", "upper"),
)
_FORBIDDEN = (
    *(nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends),
    *(nodes.Block, nodes.Assign, nodes.AssignBlock, nodes.Call, nodes.Mul, nodes.Pow, nodes.Mod),
)
_LOOP = frozenset(("index", "index0", "first", "last", "length"))


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a person reads."""

    subject: str
    text: str
    html: str


class Rendering:
    """Renders by templates of ``bounds.templates``, or as shipped."""

    def __init__(self, bounds: Notifying) -> None:
        """Raises InvalidFile for a template of one's own that cannot be used."""
        self._bounds = bounds
        self._own = {name: _own(bounds.templates, name) for name in NAMES}

    def alert(self, payload: Mapping[str, Any]) -> Rendered:
        """Of an alert group. A template of one's own that fails is told to the log, and the shipped one is used."""
        told = _shown(payload, self._bounds.rendered_alerts)
        subject, text, html = (self._rendered(name, told) for name in NAMES)
        return Rendered(
            one_line(subject, self._bounds.subject_chars),
            cut(text.strip() + "\n", self._bounds.text_chars),
            html if len(html) <= self._bounds.html_chars else "",
        )

    def worded(self, message: Message) -> Message:
        """Subject, text and HTML of an alert that has no text yet; other messages as they are."""
        if message.kind != "alert" or message.text:
            return message
        shown = self.alert(message.payload)
        return replace(message, subject=shown.subject, text=shown.text, html=shown.html)

    def _rendered(self, name: str, told: dict[str, Any]) -> str:
        most = self._bounds.html_chars if name.endswith(".html") else self._bounds.text_chars
        own = self._own[name]
        if own is not None:
            try:
                found = _bounded(own, told, most)
                if found.strip() or name.endswith(".html"):  # who wants no HTML has an empty template for it
                    return found
                log("notifying").error("template_failed", template=name, error="empty")
            except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
                log("notifying").error("template_failed", template=name, error=type(error).__name__)
        return _bounded(_shipped(name), told, most)


def lenient(bounds: Notifying) -> Rendering:
    """Rendering that never refuses: templates of one's own that cannot be used are told to the log, and the shipped
    ones are used. What an outbox words with, for an alert's commit must not fail."""
    try:
        return Rendering(bounds)
    except InvalidFile as error:
        log("notifying").error("template_failed", template="", error=error.message)
        return Rendering(bounds.model_copy(update={"templates": None}))


class _Sandbox(ImmutableSandboxedEnvironment):
    """Data is read by item, never by attribute; nothing is called."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Of a loop its place, of anything else its item."""
        if isinstance(obj, LoopContext) and attribute in _LOOP:
            return getattr(obj, attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Of mappings and lists alone."""
        if isinstance(obj, dict) and isinstance(argument, str) and argument in obj:
            return obj[argument]
        if isinstance(obj, list | tuple) and isinstance(argument, int) and 0 <= argument < len(obj):
            return obj[argument]
        return self.undefined(obj=obj, name=argument)

    def call(self, *parameters: Any, **named: Any) -> Any:
        """Nothing."""
        raise SecurityError("a template calls nothing")


def _environment(*, html: bool) -> _Sandbox:
    made = _Sandbox(autoescape=html, undefined=Undefined, trim_blocks=False, keep_trailing_newline=False)
    made.filters = {name: made.filters[name] for name in FILTERS} | {"round": _rounded}
    made.globals = {}
    made.tests["web_address"] = lambda value: isinstance(value, str) and value.startswith(("https://", "http://"))
    return made


def _rounded(value: Any, digits: int = 0) -> float:
    """Jinja's own computes any power of ten that it is asked for."""
    return round(float(value), max(0, min(digits, MOST_DIGITS)))


def _template(name: str, source: str) -> Callable[[dict[str, Any]], Any]:
    """Raises TemplateError, or InvalidFile for what a template may not do."""
    environment = _environment(html=name.endswith(".html"))
    tree = environment.parse(source)
    if len(source) > TEMPLATE_CHARS or next(tree.find_all(_FORBIDDEN), None) or _depth(tree) > LOOPS:
        raise InvalidFile(
            f"template {name} does what templates may not", next_step="see docs/reference/notifications.md"
        )
    return environment.from_string(source).generate


def _depth(node: nodes.Node) -> int:
    """How deep its loops are; one that calls itself has no end."""
    inner = max((_depth(child) for child in node.iter_child_nodes()), default=0)
    if isinstance(node, nodes.For):
        return LOOPS + 1 if node.recursive else inner + 1
    return inner


def _bounded(template: Callable[[dict[str, Any]], Any], told: dict[str, Any], most: int) -> str:
    """Ends where it has become too long."""
    pieces: list[str] = []
    written = 0
    for piece in template(told):
        pieces.append(piece)
        written += len(piece)
        if written > most:
            return "".join(pieces)[:most] + CUT
    return "".join(pieces)


@cache
def _shipped(name: str) -> Callable[[dict[str, Any]], Any]:
    return _template(name, files("trueup.notifying").joinpath("templates", name).read_text(encoding="utf-8"))


def _own(folder: Path | None, name: str) -> Callable[[dict[str, Any]], Any] | None:
    if folder is None or not (folder / name).is_file():
        return None
    try:
        with (folder / name).open(encoding="utf-8") as file:
            return _template(name, file.read(TEMPLATE_CHARS + 1))
    except TemplateError as error:
        raise InvalidFile(f"template {name} is not valid, line {getattr(error, 'lineno', '?')}") from None
    except (OSError, UnicodeDecodeError):
        raise InvalidFile(f"template {name} cannot be read") from None


def _shown(payload: Mapping[str, Any], most: int) -> dict[str, Any]:
    """What templates see: plain values of the payload, within bounds."""
    told = plain(payload)
    given = told.get("alerts")
    every = [alert for alert in given if isinstance(alert, dict)] if isinstance(given, list) else []
    firing = sum(alert.get("status") == "firing" for alert in every)
    alerts = [
        {**_texts(alert), "labels": _texts(alert.get("labels")), "annotations": _texts(alert.get("annotations"))}
        for alert in every[:most]
    ]
    truncated = told.get("truncatedAlerts")
    return {
        "status": str(told.get("status") or "firing"),
        "receiver": str(told.get("receiver") or ""),
        "externalURL": str(told.get("externalURL") or ""),
        **{name: _texts(told.get(name)) for name in ("groupLabels", "commonLabels", "commonAnnotations")},
        "alerts": alerts,
        "firing": firing,
        "resolved": len(every) - firing,
        "more": len(every) - len(alerts) + (truncated if isinstance(truncated, int) else 0),
    }


def _texts(given: Any) -> dict[str, Any]:
    """Its values that are texts or numbers, cut."""
    found = given.items() if isinstance(given, dict) else ()
    shown = {name: value for name, value in list(found)[:LABELS] if isinstance(value, str | int | float)}
    return {name: cut(value, VALUE_CHARS) if isinstance(value, str) else value for name, value in shown.items()}
