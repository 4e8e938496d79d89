"""Whether a text is one SELECT over the views of schema ``trueup``, and nothing more.

The first belt is the database's: the reader role sees these views only, and its transactions only read. This is
the second, and says where the fault lies before anything is sent. What is refused beside: whatever is not the same
when it is asked again (``now()``, ``random()``), because a file is run for a moment that is bound.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from trueup.errors import InvalidFile

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of what is refused below in words of our own

BOUND = ("now", "known_by")  # every query may use these
_PERCENT = re.compile(r"%(?:%|\(([A-Za-z_][A-Za-z0-9_]*)\)s|)")
_NOT_READING = (exp.DML, exp.DDL, exp.Command, exp.Copy, exp.TableSample)
# All that a query over views has no use for in pg_catalog: what waits, locks, writes, reads files, settings or
# catalogs, runs SQL from a text, or answers otherwise when asked again. A test compares it with the server's list.
_REFUSED = re.compile(
    r"(pg|lo|txid|to_reg|inet|binary_upgrade|brin|gin|plpgsql|fmgr|dblink)\w*"
    r"|(query|table|schema|database|cursor)_to_xml\w*|\w+_privilege|\w+handler|\w+_description"
    r"|(next|curr|last|set)val|(current|session|system)_\w+|set_config|setseed|currtid2|loread|lowrite|amvalidate"
    r"|random|random_normal|gen_random_uuid|uuidv[47]|array_sample|array_shuffle|bernoulli|system"
    r"|now|(clock|statement|transaction)_timestamp|timeofday|localtime|localtimestamp|user|getpgusername|version"
    r"|ts_stat|ts_rewrite|dsnowball\w*|row_security_active|aclexplode"
)
_CLOCKS = re.compile(
    r"current_(date|time|timestamp|user|role|catalog|schema)|localtime|localtimestamp|session_user|system_user"
)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a query reads: names of views and of table functions, and the parameters it uses."""

    text: str
    relations: frozenset[str]
    parameters: frozenset[str]


def check_query(text: str, first_line: int = 1) -> Checked:
    """The query without its closing semicolon, and what it reads.

    ``first_line`` is the line of the file in which the text begins. Raises InvalidFile, which names the line.
    """
    parameters = _parameters(text, first_line)
    plain = _PERCENT.sub(lambda found: found[0] if found[1] else "% ", text)
    try:
        tokens = sqlglot.tokenize(plain, dialect="postgres")
        statements = [s for s in sqlglot.parse(plain, dialect="postgres") if s and not isinstance(s, exp.Semicolon)]
    except SqlglotError as error:
        raise _fault(first_line, _line_of(error), "this is not valid PostgreSQL") from None
    except RecursionError:
        raise _fault(first_line, 1, "the query is nested too deeply") from None
    if len(statements) != 1:
        raise _fault(first_line, _second(tokens), "exactly one SELECT is needed")
    begun = next((t for t in tokens if t.token_type is not TokenType.L_PAREN), None)
    if begun is None or begun.token_type not in (TokenType.SELECT, TokenType.WITH):
        raise _fault(first_line, 1, "only SELECT is allowed")
    _refuse_names(plain, tokens, first_line)
    try:
        relations = _relations(statements[0], first_line)
        placed = sum(1 for _ in statements[0].find_all(exp.Placeholder))
    except RecursionError:
        raise _fault(first_line, 1, "the query is nested too deeply") from None
    if placed != len(parameters):
        raise _fault(first_line, 1, "a parameter stands inside a text or a comment, where nothing is bound")
    return Checked(_without_semicolon(text, tokens), relations, frozenset(parameters))


def _parameters(text: str, first_line: int) -> list[str]:
    """Names in the order they are used, as the driver finds them: everywhere in the text."""
    found = []
    for match in _PERCENT.finditer(text):
        if match[0] == "%":
            line = text.count("\n", 0, match.start()) + 1
            raise _fault(first_line, line, "a percent sign is written %%, and a parameter %(name)s")
        if match[1]:
            found.append(match[1])
    return found


def _refuse_names(text: str, tokens: list[Token], first_line: int) -> None:
    if escaped := re.search(r"\bu&[\"']", text, re.IGNORECASE):
        raise _fault(first_line, text.count("\n", 0, escaped.start()) + 1, "escaped names are not allowed")
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        name = token.text.lower()
        calls = after is not None and after.token_type is TokenType.L_PAREN
        quoted = token.token_type is TokenType.STRING
        if quoted or not ((calls and _REFUSED.fullmatch(name)) or _is_clock(token, name)):
            continue
        raise _fault(first_line, token.line, f"{name} is not allowed; the moment is bound as %(now)s")


def _is_clock(token: Token, name: str) -> bool:
    return token.token_type is not TokenType.IDENTIFIER and _CLOCKS.fullmatch(name) is not None


def _relations(statement: exp.Expr, first_line: int) -> frozenset[str]:
    """Names of what is read. Raises InvalidFile where it is not a view of trueup, or more than read."""
    if not isinstance(statement, exp.Query):
        raise _fault(first_line, 1, "only SELECT is allowed")
    for node in statement.find_all(*_NOT_READING, exp.Into, exp.Lock):
        what = "locks rows" if isinstance(node, exp.Lock) else "does more than read"
        raise _fault(first_line, _line(node), f"the query {what}; only SELECT is allowed")
    own = {cte.alias.lower() for cte in statement.find_all(exp.CTE)}
    read: set[str] = set()
    for table in statement.find_all(exp.Table):
        name = table.name.lower()
        if table.catalog or table.db.lower() not in ("", "trueup") or name.startswith("pg_"):
            raise _fault(first_line, _line(table), f"{name or 'this'} is not a view of trueup")
        if isinstance(table.this, exp.Anonymous):
            name = table.this.name.lower()
        if name and not (name in own and not table.db):
            read.add(name)
    return frozenset(read)


def _line(node: exp.Expr) -> int:
    return next((n.meta["line"] for n in node.walk() if "line" in n.meta), 1)


def _line_of(error: SqlglotError) -> int:
    details = getattr(error, "errors", None) or [{}]
    return int(details[0].get("line") or 1)


def _second(tokens: list[Token]) -> int:
    """The line on which a second statement begins."""
    ended = False
    for token in tokens:
        if ended:
            return token.line
        ended = token.token_type is TokenType.SEMICOLON
    return 1


def _without_semicolon(text: str, tokens: list[Token]) -> str:
    last = next((t for t in reversed(tokens) if t.token_type is TokenType.SEMICOLON), None)
    return (text if last is None else text[: last.start]).strip()


def _fault(first_line: int, line: int, message: str) -> InvalidFile:
    return InvalidFile(
        f"line {first_line + line - 1}: {message}", next_step="docs/reference/sql-files.md says what a query may be"
    )
