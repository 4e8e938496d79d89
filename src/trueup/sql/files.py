"""Files of SQL that people write: alert rules and reports.

A file begins with a block comment that holds YAML, its front matter; then comes one query, or several of which
each begins after a line ``-- query: NAME  Title``. See ``docs/reference/sql-files.md``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from trueup.errors import InvalidFile, InvalidQuery
from trueup.sql.checking import BOUND, check_query
from trueup.sql.parameters import Parameter, ParameterType

__all__ = ["NamedQuery", "Parameter", "ParameterType", "SqlFile", "read_folder", "read_sql_file"]

MAX_BYTES = 256 * 1024
MAX_FILES = 1_000
MAX_QUERIES = 50
MAX_PARAMETERS = 50
KNOWN_BY = ("recorded", "observed")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,54}\Z")
_FILE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,99}\Z")
_OPEN, _CLOSE = "/*---", "---*/"
_SEPARATOR = re.compile(r"^--[ \t]*query[ \t]*:(.*)$", re.MULTILINE)
_SEPARATED = re.compile(r"[ \t]*([a-z][a-z0-9_]{0,54})(?:[ \t]+(\S.*?))?[ \t]*\Z")
_DECLARED = {"type", "default", "description", "required"}
_ANY_DAY = datetime(2000, 1, 1, tzinfo=UTC)  # to try whether a default has its type


@dataclass(frozen=True, slots=True)
class NamedQuery:
    """One SELECT of a file. ``line`` is where it begins; ``relations`` the views and table functions it reads."""

    name: str
    text: str
    title: str = ""
    line: int = 1
    relations: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SqlFile:
    """A file as it was read. ``front`` is the front matter without ``parameters``; ``digest`` SHA-256 of the bytes."""

    name: str
    front: Mapping[str, Any]
    parameters: tuple[Parameter, ...]
    queries: tuple[NamedQuery, ...]
    digest: str

    def query(self, name: str) -> NamedQuery:
        """Raises InvalidQuery where the file has none of that name."""
        for one in self.queries:
            if one.name == name:
                return one
        raise InvalidQuery("the file has no such query", next_step=f"it has {', '.join(q.name for q in self.queries)}")

    def bind(self, given: Mapping[str, object], *, now: datetime, known_by: str = "recorded") -> dict[str, object]:
        """Every parameter's value in its type, and ``now`` and ``known_by``.

        ``given`` may hold texts, as a command line has them. Raises InvalidQuery: a name that is not declared, a
        value that is missing or of another type.
        """
        if now.tzinfo is None:
            raise ValueError("`now` needs its zone")
        if known_by not in KNOWN_BY:
            raise InvalidQuery(f"known_by is {' or '.join(KNOWN_BY)}")
        names = [p.name for p in self.parameters]
        if set(given) - set(names):
            raise InvalidQuery(
                "a parameter is given that the file does not declare",
                next_step=f"it declares {', '.join(names)}" if names else "it declares none",
            )
        missing = [p.name for p in self.parameters if p.required and p.name not in given]
        if missing:
            raise InvalidQuery(f"parameter {missing[0]} is needed")
        bound = {p.name: p.value(given.get(p.name, p.default), now) for p in self.parameters}
        return {**bound, "now": now.astimezone(UTC), "known_by": known_by}


def read_sql_file(source: Path | str, name: str = "") -> SqlFile:
    """The file at a Path, or the text itself (then ``name`` names it).

    Raises InvalidFile, which says in which line: front matter that is not plain YAML, parameters without a type,
    anything that is not a single SELECT over views of schema ``trueup``, more than 256 KiB.
    """
    if isinstance(source, Path):
        name, content = source.stem, _read(source)
    else:
        content = source.encode()
    try:
        return _parsed(name, content)
    except InvalidFile as error:
        where = f"{name}.sql: " if name else ""
        raise InvalidFile(f"{where}{error.message}", next_step=error.next_step) from None


def read_folder(
    folders: Sequence[Path], on_error: Callable[[str, InvalidFile], None] | None = None
) -> dict[str, SqlFile]:
    """All ``*.sql`` files by name; a later folder's file replaces an earlier one of the same name.

    A file that cannot be read is told to ``on_error`` with its name and left out (also an earlier one that it
    would replace); without ``on_error`` it raises InvalidFile.
    """
    found: dict[str, SqlFile] = {}
    for path in _paths(folders):
        found.pop(path.stem, None)
        try:
            found[path.stem] = read_sql_file(path)
        except InvalidFile as error:
            if on_error is None:
                raise
            on_error(path.stem, error)
    return dict(sorted(found.items()))


def _paths(folders: Sequence[Path]) -> list[Path]:
    paths: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise InvalidFile(f"there is no folder {folder.name}", next_step="check the setting that names it")
        paths += sorted(folder.glob("*.sql"))
    if len(paths) > MAX_FILES:
        raise InvalidFile(f"more than {MAX_FILES} files")
    return paths


def _read(path: Path) -> bytes:
    if not _FILE_NAME.match(path.stem):
        raise InvalidFile("a file is named by a-z, 0-9, _ and -, beginning with a letter")
    try:
        with path.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except OSError:
        raise InvalidFile(f"{path.name} cannot be read", next_step="check its name") from None


def _parsed(name: str, content: bytes) -> SqlFile:
    if len(content) > MAX_BYTES:
        raise InvalidFile(f"a file may have at most {MAX_BYTES // 1024} KiB")
    try:
        text = content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise InvalidFile("the file is not UTF-8") from None
    if "\0" in text:
        raise InvalidFile("the file holds a NUL character")
    matter, start = _front_matter(text)
    declared = matter.pop("parameters", None)
    parameters = _declarations({} if declared is None else declared)
    queries = tuple(_checked(one, {p.name for p in parameters}) for one in _split(text, start))
    return SqlFile(name, matter, parameters, queries, hashlib.sha256(content).hexdigest())


def _front_matter(text: str) -> tuple[dict[str, Any], int]:
    """The front matter, and where the text after it begins."""
    end = text.find(_CLOSE)
    if not text.startswith(_OPEN) or end < 0:
        raise InvalidFile(f"line 1: a file begins with its front matter, between {_OPEN} and {_CLOSE}")
    raw = text[len(_OPEN) : end]
    try:
        if any(isinstance(token, yaml.AliasToken | yaml.AnchorToken) for token in yaml.scan(raw, yaml.SafeLoader)):
            raise InvalidFile("YAML aliases are not allowed in front matter")
        matter = yaml.load(raw, _Strict)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidFile(f"line {line}: {error.problem or 'the front matter is not valid YAML'}") from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise InvalidFile("the front matter is not valid YAML", next_step="check indentation and quoting") from None
    if not isinstance(matter, dict) or not all(isinstance(key, str) for key in matter):
        raise InvalidFile("the front matter is `name: value` lines")
    return matter, end + len(_CLOSE)


class _Strict(yaml.SafeLoader):
    """Refuses a key that is said twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As SafeLoader's."""
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(problem="a key is said twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _declarations(declared: Any) -> tuple[Parameter, ...]:
    if not isinstance(declared, dict):
        raise InvalidFile("parameters: names with a type each are needed")
    if len(declared) > MAX_PARAMETERS:
        raise InvalidFile(f"parameters: at most {MAX_PARAMETERS}")
    return tuple(_declaration(name, body) for name, body in declared.items())


def _declaration(name: Any, body: Any) -> Parameter:
    if not isinstance(name, str) or not _NAME.match(name) or name in BOUND:
        raise InvalidFile("parameters: a name is a-z, 0-9 and _, and not `now` or `known_by`")
    body = {"type": body} if isinstance(body, str) else body
    if not isinstance(body, dict) or set(body) - _DECLARED:
        raise InvalidFile(f"parameters.{name}: type, default, description and required may be said")
    kinds = [str(kind) for kind in ParameterType]
    if body.get("type") not in kinds:
        raise InvalidFile(f"parameters.{name}: its type is one of {', '.join(kinds)}")
    required = body.get("required", "default" not in body)
    if not isinstance(required, bool) or (required and "default" in body):
        raise InvalidFile(f"parameters.{name}: required is true or false, and with a default it is false")
    default, description = body.get("default"), body.get("description", "")
    if not isinstance(description, str):
        raise InvalidFile(f"parameters.{name}: its description is a text")
    made = Parameter(name, ParameterType(body["type"]), default, description, required)
    if default is not None:
        try:
            made.value(default, _ANY_DAY)
        except InvalidQuery as error:
            raise InvalidFile(f"parameters.{name}.default: {error.message.partition(': ')[2]}") from None
    return made


def _split(text: str, start: int) -> list[NamedQuery]:
    """The named queries as written, not checked yet."""
    marks = [m for m in _SEPARATOR.finditer(text) if m.start() >= start]
    if not marks:
        return [_begun("main", "", text, start, len(text))]
    if len(marks) > MAX_QUERIES:
        raise InvalidFile(f"a file may have at most {MAX_QUERIES} queries")
    before = re.sub(r"--[^\n]*", "", text[start : marks[0].start()])
    if before.strip():
        raise InvalidFile(f"line {_line(text, start)}: SQL stands before the first `-- query:` line")
    queries: list[NamedQuery] = []
    ends = [*(m.start() for m in marks[1:]), len(text)]
    for mark, end in zip(marks, ends, strict=True):
        named, line = _SEPARATED.match(mark[1]), _line(text, mark.start())
        if named is None:
            raise InvalidFile(f"line {line}: `-- query: NAME  Title` is needed, with NAME of a-z, 0-9 and _")
        if any(q.name == named[1] for q in queries):
            raise InvalidFile(f"line {line}: a query of that name is there already")
        queries.append(_begun(named[1], named[2] or "", text, mark.end(), end))
    return queries


def _begun(name: str, title: str, text: str, start: int, end: int) -> NamedQuery:
    """The query between two places, without the blank lines before it."""
    start += len(text[start:end]) - len(text[start:end].lstrip())
    return NamedQuery(name, text[start:end], title, _line(text, start))


def _checked(query: NamedQuery, declared: set[str]) -> NamedQuery:
    checked = check_query(query.text, query.line)
    unknown = sorted(checked.parameters - declared - set(BOUND))
    if unknown:
        raise InvalidFile(f"line {query.line}: parameter {unknown[0]} is not declared in the front matter")
    return NamedQuery(query.name, checked.text, query.title, query.line, checked.relations)


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1
