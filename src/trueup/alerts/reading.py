"""Reading alert rules: SQL files with a front matter that says when, for how long, and whom to tell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from trueup.alerts.durations import parse_duration
from trueup.alerts.grouping import EVERY_LABEL
from trueup.alerts.matching import LABEL, MOST_VALUE
from trueup.alerts.wording import check_template
from trueup.contracts import schedules
from trueup.domain.alert import (
    ALERTNAME,
    NO_DATA,
    RULE_BROKEN,
    AlertRule,
    Escalation,
    NoData,
    Severity,
    Timing,
)
from trueup.domain.job import Missed
from trueup.errors import InvalidFile, no_rule
from trueup.sql.files import SqlFile, read_folder

MAIN, EXPECTED = "main", "expected"
SHIPPED = Path(__file__).parents[1] / "sql" / "alerts"
KEYS = frozenset({
    "name", "owner", "severity", "schedule", "for", "keep_firing_for", "labels", "label_columns", "runbook", "summary",
    "description", "no_data", "expected", "group_by", "receivers", "mute", "escalate", "missed",
})  # fmt: skip
NEEDED = ("name", "owner", "severity", "schedule", "summary")
MOST_LIST = 100
_NAME = re.compile(r"[A-Z][A-Za-z0-9]{0,99}\Z")
_OWN = frozenset({ALERTNAME, "severity", "rule"})
_E = TypeVar("_E", NoData, Severity, Missed)


@dataclass(frozen=True, slots=True)
class RuleFile:
    """A rule and the file that it was read from."""

    rule: AlertRule
    file: SqlFile

    @property
    def name(self) -> str:
        """Of the file, by which commands and tables call the rule; its alerts carry ``rule.name``."""
        return self.file.name


@dataclass(frozen=True, slots=True)
class Rules:
    """What lies in the folders: rules by file name, and why the others are none."""

    readable: Mapping[str, RuleFile]
    broken: Mapping[str, InvalidFile]


def read_rules(folders: Sequence[Path]) -> Rules:
    """All rules of the shipped folder and of ``folders``; of one file name the last. Raises InvalidFile where a
    folder is none."""
    broken: dict[str, InvalidFile] = {}
    files = read_folder([SHIPPED, *folders], broken.__setitem__)
    readable: dict[str, RuleFile] = {}
    taken: dict[str, str] = {}
    for name, file in files.items():
        try:
            rule = rule_of(file)
            if taken.setdefault(rule.name, name) != name:
                raise InvalidFile(f"{name}.sql: name: {taken[rule.name]}.sql has it already")
            readable[name] = RuleFile(rule, file)
        except InvalidFile as error:
            broken[name] = error
    return Rules(readable, broken)


class RuleFolders:
    """The rules in some folders, read again where a file has changed."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [SHIPPED, *folders]
        self._seen: list[tuple[str, int, int]] | None = None
        self._rules = Rules({}, {})

    def read(self) -> Rules:
        """What lies there now. Raises InvalidFile where a folder is none."""
        seen = [_signature(path) for folder in self._folders for path in sorted(folder.glob("*.sql"))]
        if seen != self._seen:
            self._rules, self._seen = read_rules(self._folders[1:]), seen
        return self._rules

    def path(self, name: str) -> Path:
        """Where the file of that name lies. Raises NotFound."""
        for folder in reversed(self._folders):
            if (folder / f"{name}.sql").is_file():
                return folder / f"{name}.sql"
        raise no_rule()

    def rule(self, name: str) -> RuleFile:
        """Raises NotFound, or InvalidFile where it cannot be read."""
        rules = self.read()
        if name in rules.broken:
            raise rules.broken[name]
        if name not in rules.readable:
            raise no_rule()
        return rules.readable[name]


def _signature(path: Path) -> tuple[str, int, int]:
    try:
        known = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), known.st_mtime_ns, known.st_size


def rule_of(file: SqlFile) -> AlertRule:
    """The rule that a file declares. Raises InvalidFile, which names the key."""
    try:
        return _rule(file)
    except InvalidFile as error:
        raise InvalidFile(f"{file.name}.sql: {error.message}", next_step=error.next_step) from None


def _rule(file: SqlFile) -> AlertRule:
    front = file.front
    if unknown := sorted(set(front) - KEYS):
        raise InvalidFile(f"{unknown[0]}: not a key of an alert rule", next_step="docs/reference/alert-rules.md")
    if missing := [key for key in NEEDED if key not in front]:
        raise InvalidFile(f"{missing[0]}: is needed")
    queries = [query.name for query in file.queries]
    if queries not in ([MAIN], [MAIN, EXPECTED]):
        raise InvalidFile("an alert rule has one query, or two that are called main and expected")
    if required := [p.name for p in file.parameters if p.required]:
        raise InvalidFile(f"parameters.{required[0]}: needs a default, for nobody is there to give it")
    rule = AlertRule(
        name=_name(front["name"]),
        owner=_text(front["owner"], "owner"),
        severity=_one_of(Severity, front["severity"], "severity"),
        schedule=schedules.declared(front["schedule"]),
        timing=Timing(
            parse_duration(front.get("for", 0), "for"),
            parse_duration(front.get("keep_firing_for", 0), "keep_firing_for"),
        ),
        labels=_labels(front.get("labels", {}), "labels"),
        label_columns=_label_columns(front),
        no_data=_one_of(NoData, front.get("no_data", "ok"), "no_data"),
        expected=tuple(_labels(one, "expected") for one in _list(front.get("expected", []), "expected")),
        expects_by_query=EXPECTED in queries,
        summary=check_template(front["summary"], "summary"),
        description=check_template(front.get("description", ""), "description"),
        runbook=_text(front.get("runbook", ""), "runbook"),
        group_by=_group_by(front.get("group_by", [ALERTNAME])),
        receivers=_texts(front.get("receivers", []), "receivers"),
        mute=_texts(front.get("mute", []), "mute"),
        escalation=_escalation(front.get("escalate")),
        missed=_one_of(Missed, front.get("missed", "latest"), "missed"),
    )
    if rule.expected and rule.expects_by_query:
        raise InvalidFile("expected: is declared twice, in the front matter and as a query")
    if "no_data" in front and not (rule.expected or rule.expects_by_query):
        raise InvalidFile("no_data: needs expected instances", next_step="declare `expected`, or a query of that name")
    return rule


def _name(value: object) -> str:
    if not isinstance(value, str) or not _NAME.match(value) or value in (NO_DATA, RULE_BROKEN):
        raise InvalidFile("name: a name like ScoreDrift is needed")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or len(value) > 1_000:
        raise InvalidFile(f"{what}: a text is needed")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > MOST_LIST:
        raise InvalidFile(f"{what}: a list of at most {MOST_LIST} is needed")
    return value


def _texts(value: object, what: str) -> tuple[str, ...]:
    found = tuple(_text(one, what) for one in _list(value, what))
    if len(set(found)) < len(found) or "" in found:
        raise InvalidFile(f"{what}: each is said once, and none is empty")
    return found


def _one_of(kind: type[_E], value: object, what: str) -> _E:
    allowed = [str(one) for one in kind]
    if value not in allowed:
        raise InvalidFile(f"{what}: one of {', '.join(allowed)} is needed")
    return kind(value)


def _labels(value: object, what: str) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > 20:
        raise InvalidFile(f"{what}: at most 20 labels, `name: value`, are needed")
    for name, text in value.items():
        if not isinstance(name, str) or not LABEL.match(name) or name in _OWN:
            raise InvalidFile(f"{what}: a label's name is letters, digits and _, and none of {', '.join(sorted(_OWN))}")
        if not isinstance(text, str) or not 0 < len(text) <= MOST_VALUE:
            raise InvalidFile(f"{what}.{name}: a text of at most {MOST_VALUE} characters is needed")
    return dict(value)


def _label_columns(front: Mapping[str, Any]) -> tuple[str, ...] | None:
    if "label_columns" not in front:
        return None
    found = _texts(front["label_columns"], "label_columns")
    if any(not LABEL.match(name) or name in _OWN or name in ("value", "active") for name in found):
        raise InvalidFile("label_columns: names of columns that can be labels are needed")
    if both := set(found) & set(front.get("labels") or {}):
        raise InvalidFile(f"label_columns: {min(both)} is among the labels too")
    return found


def _group_by(value: object) -> tuple[str, ...]:
    found = _texts(value, "group_by")
    if any(name != EVERY_LABEL and not LABEL.match(name) for name in found):
        raise InvalidFile("group_by: names of labels, or ... for all, are needed")
    return found


def _escalation(value: object) -> Escalation | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {"after", "receivers"}:
        raise InvalidFile("escalate: after and receivers are needed")
    receivers = _texts(value["receivers"], "escalate.receivers")
    if not receivers:
        raise InvalidFile("escalate.receivers: somebody is needed")
    return Escalation(parse_duration(value["after"], "escalate.after"), receivers)
