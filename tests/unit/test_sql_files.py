"""SQL files: what is read of them, what is refused and in which line, and what is bound."""

from __future__ import annotations

import re
import string
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueup.errors import InvalidFile, InvalidQuery
from trueup.sql.checking import check_query
from trueup.sql.files import Parameter, ParameterType, SqlFile, read_folder, read_sql_file

NOW = datetime(2021, 2, 15, 6, 30, tzinfo=UTC)
FILE = """/*---
title: Daily figures
audience: the desk
parameters:
  deployment: {type: text, description: "whose"}
  day: {type: date, default: yesterday - x}
  k: {type: integer, default: 200}
---*/
-- what the desk asks each morning
-- query: fails  Fails a day
SELECT event_day, count(*) AS n
FROM truth_as_known(%(now)s, %(known_by)s)
WHERE deployment = %(deployment)s AND event_day = %(day)s
GROUP BY event_day;
-- query: share
SELECT 100.0 * count(*) FILTER (WHERE outcome > 0) / count(*) AS share, count(*) %% 2 AS odd
FROM trueup.truth LIMIT %(k)s
""".replace("yesterday - x", "today - 1 day")


def of(sql: str, front: str = "title: x") -> SqlFile:
    return read_sql_file(f"/*---\n{front}\n---*/\n{sql}")


def test_a_file_is_read_whole() -> None:
    file = read_sql_file(FILE, "daily")
    assert file.front == {"title": "Daily figures", "audience": "the desk"}
    assert [(p.name, p.type, p.default, p.required) for p in file.parameters] == [
        ("deployment", ParameterType.TEXT, None, True),
        ("day", ParameterType.DATE, "today - 1 day", False),
        ("k", ParameterType.INTEGER, 200, False),
    ]
    assert [(q.name, q.title, q.line, sorted(q.relations)) for q in file.queries] == [
        ("fails", "Fails a day", 11, ["truth_as_known"]),
        ("share", "", 16, ["truth"]),
    ]
    assert not file.query("fails").text.endswith(";")
    with pytest.raises(InvalidQuery):
        file.query("other")


def test_values_are_bound_in_their_types_for_the_moment() -> None:
    file = read_sql_file(FILE)
    moment = NOW.astimezone(timezone(timedelta(hours=9)))
    assert file.bind({"deployment": "fails", "k": "50"}, now=moment, known_by="observed") == {
        "deployment": "fails", "day": date(2021, 2, 14), "k": 50, "now": NOW, "known_by": "observed",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "known_by"),
    [
        ({}, "recorded"),
        ({"deployment": "fails", "other": 1}, "recorded"),
        ({"deployment": None}, "recorded"),
        ({"deployment": "a\0b"}, "recorded"),
        ({"deployment": "fails", "k": 1.5}, "recorded"),
        ({"deployment": "fails", "k": True}, "recorded"),
        ({"deployment": "fails", "k": 2**63}, "recorded"),
        ({"deployment": "fails", "day": "2021-02-30"}, "recorded"),
        ({"deployment": "fails", "day": NOW}, "recorded"),
        ({"deployment": "fails", "day": "today - 100000 weeks"}, "recorded"),
        ({"deployment": "fails"}, "guessed"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, object], known_by: str) -> None:
    with pytest.raises(InvalidQuery):
        read_sql_file(FILE).bind(given, now=NOW, known_by=known_by)


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        (ParameterType.DATE, "today", date(2021, 2, 15)),
        (ParameterType.DATE, "today - 2 weeks", date(2021, 2, 1)),
        (ParameterType.TIMESTAMP, "now - 90 minutes", NOW - timedelta(minutes=90)),
        (ParameterType.TIMESTAMP, "2021-02-15T01:00:00+01:00", datetime(2021, 2, 15, tzinfo=UTC)),
        (ParameterType.NUMBER, "2.5e3", 2500.0),
        (ParameterType.NUMBER, 3, 3.0),
        (ParameterType.BOOLEAN, "false", False),
        (ParameterType.TEXT, "today", "today"),
    ],
)
def test_values(kind: ParameterType, given: object, value: object) -> None:
    found = Parameter("p", kind).value(given, NOW)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (ParameterType.DATE, "now"),
        (ParameterType.DATE, "today - 3 hours"),
        (ParameterType.TIMESTAMP, "2021-02-15T01:00:00"),
        (ParameterType.TIMESTAMP, date(2021, 1, 1)),
        (ParameterType.NUMBER, "nan"),
        (ParameterType.NUMBER, float("inf")),
        (ParameterType.NUMBER, 10**400),
        (ParameterType.NUMBER, "1e999"),
        (ParameterType.BOOLEAN, 1),
        (ParameterType.BOOLEAN, "yes"),
        (ParameterType.TEXT, 1),
        (ParameterType.TEXT, "x" * 10_001),
    ],
)
def test_values_of_another_type_are_refused(kind: ParameterType, given: object) -> None:
    with pytest.raises(InvalidQuery, match="parameter p"):
        Parameter("p", kind).value(given, NOW)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 AS one",
        "SELECT 1 AS one -- the end",
        "SELECT 1; -- the end",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT * FROM n",
        "SELECT * FROM a JOIN LATERAL (SELECT * FROM b WHERE b.x = a.x) q ON true",
        "SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY score) FROM truth",
        "SELECT last_value(score) OVER (ORDER BY event_day), has_outcome AND (score > 0) FROM truth",
        "SELECT extract(epoch FROM booked_at - received_at) FROM predictions",
        "SELECT date_trunc('day', %(now)s::timestamptz, 'UTC')",
        "SELECT day FROM generate_series(%(now)s::timestamptz - interval '7 days', %(now)s, '1 day') AS s(day)",
        "SELECT 'now()', '%%', 'pg_sleep(1)' FROM truth",
        'SELECT "current_user" FROM truth',
    ],
)
def test_a_select_over_views_is_taken(sql: str) -> None:
    assert of(sql).queries[0].text


@pytest.mark.parametrize(
    ("sql", "line"),
    [
        ("SELECT 1;\nSELECT 2", 5),
        ("", 4),
        ("SELEC 1", 4),
        ("SELECT (1", 4),
        ("INSERT INTO a VALUES (1)", 4),
        ("UPDATE a SET b = 1", 4),
        ("DELETE FROM a", 4),
        ("DROP TABLE a", 4),
        ("COPY a TO PROGRAM 'x'", 4),
        ("EXPLAIN SELECT 1", 4),
        ("SET ROLE x", 4),
        ("CALL x()", 4),
        ("DO $$ BEGIN END $$", 4),
        ("VALUES (1)", 4),
        ("SELECT a INTO b FROM c", 4),
        ("SELECT * FROM truth\nFOR UPDATE", 4),
        ("SELECT * FROM truth FOR NO KEY UPDATE", 4),
        ("SELECT * FROM (SELECT * FROM truth FOR SHARE) q", 4),
        ("WITH x AS (INSERT INTO a VALUES (1) RETURNING *) SELECT * FROM x", 4),
        ("WITH x AS (DELETE FROM a RETURNING *) SELECT * FROM x", 4),
        ("WITH x AS (UPDATE a SET b = 1 RETURNING *) SELECT * FROM x", 4),
        ("SELECT 1,\n pg_sleep(1)", 5),
        ('SELECT "pg_sleep"(1)', 4),
        ("SELECT pg_catalog.pg_read_file('x')", 4),
        ("SELECT * FROM pg_ls_dir('.')", 4),
        ('SELECT U&"pg\\005fsleep"(1)', 4),
        ("SELECT set_config('role', 'x', false)", 4),
        ("SELECT current_setting('data_directory')", 4),
        ("SELECT query_to_xml('select 1', true, false, '')", 4),
        ("SELECT lo_import('x')", 4),
        ("SELECT nextval('s')", 4),
        ("SELECT now()", 4),
        ("SELECT 1 WHERE event_day < current_date", 4),
        ("SELECT CURRENT_TIMESTAMP", 4),
        ("SELECT current_user", 4),
        ("SELECT random()", 4),
        ("SELECT * FROM truth TABLESAMPLE SYSTEM (1)", 4),
        ("SELECT *\nFROM truth, pg_class", 5),
        ("SELECT * FROM pg_catalog.pg_authid", 4),
        ("SELECT * FROM information_schema.tables", 4),
        ("SELECT * FROM ledger.predictions", 4),
        ("SELECT * FROM other.trueup.truth", 4),
        ("WITH q AS (SELECT * FROM ledger.audit) SELECT * FROM q", 4),
        ("SELECT %(day)s", 4),
        ("SELECT 5\n % 2", 5),
        ("SELECT '%(now)s'", 4),
        ("SELECT 1 -- at %(now)s", 4),
        ("-- query: one\nSELECT 1\n-- query: Two\nSELECT 2", 6),
        ("SELECT 1\n-- query: two\nSELECT 2", 3),
        ("-- query: a\nSELECT 1\n-- query: a\nSELECT 2", 6),
        ("-- query: a\nSELECT 1\n-- query: b\nSELECT now()", 7),
        ("SELECT " + "(" * 5_000 + "1" + ")" * 5_000, 4),
    ],
)
def test_anything_else_is_refused_with_its_line(sql: str, line: int) -> None:
    with pytest.raises(InvalidFile, match=rf"^line {line}: "):
        of(sql)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "",
        "/*---\ntitle: x\nSELECT 1",
        "/*---\ntitle: [\n---*/\nSELECT 1",
        "/*---\n- a\n---*/\nSELECT 1",
        "/*---\na: &x 1\nb: *x\n---*/\nSELECT 1",
        "/*---\na: 1\na: 2\n---*/\nSELECT 1",
        "/*---\n1: 2\n---*/\nSELECT 1",
        "/*---\na: !!python/object:os.system x\n---*/\nSELECT 1",
        "/*---\nparameters: [a]\n---*/\nSELECT 1",
        "/*---\nparameters: {A: text}\n---*/\nSELECT 1",
        "/*---\nparameters: {now: timestamp}\n---*/\nSELECT 1",
        "/*---\nparameters: {a: varchar}\n---*/\nSELECT 1",
        "/*---\nparameters: {a: {type: integer, default: x}}\n---*/\nSELECT 1",
        "/*---\nparameters: {a: {type: integer, default: 1, required: true}}\n---*/\nSELECT 1",
        "/*---\nparameters: {a: {type: integer, defualt: 1}}\n---*/\nSELECT 1",
        "/*---\nparameters: {a: {type: integer, required: 1}}\n---*/\nSELECT 1",
        "/*---\nparameters: {a: {type: integer, description: 1}}\n---*/\nSELECT 1",
        "/*---\ntitle: x\n---*/\nSELECT 1 -- \0",
        "/*---\ntitle: x\n---*/\nSELECT 1" + " " * 256 * 1024,
    ],
)
def test_a_file_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidFile):
        read_sql_file(text)


def test_a_folder_is_read_by_name_and_a_later_one_replaces(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, names in ((first, "ab"), (second, "bc")):
        folder.mkdir()
        for name in names:
            (folder / f"{name}.sql").write_text(f"/*---\ntitle: {folder.name}\n---*/\nSELECT 1")
    found = read_folder([first, second])
    assert {name: file.front["title"] for name, file in found.items()} == {"a": "first", "b": "second", "c": "second"}

    (second / "b.sql").write_text("SELECT 1")
    with pytest.raises(InvalidFile, match=r"b\.sql: line 1"):
        read_folder([first, second])
    told: list[str] = []
    assert sorted(read_folder([first, second], lambda name, _: told.append(name))) == ["a", "c"]
    assert told == ["b"]
    with pytest.raises(InvalidFile, match="no folder"):
        read_folder([tmp_path / "third"])


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but InvalidFile comes out of the reader."""
    for content in (text, f"/*---\n{text}\n---*/\nSELECT 1", f"/*---\na: 1\n---*/\n{text}"):
        with suppress(InvalidFile):
            assert read_sql_file(content).queries


_VALUES: dict[ParameterType, st.SearchStrategy[Any]] = {
    ParameterType.TEXT: st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50),
    ParameterType.INTEGER: st.integers(-(2**63), 2**63 - 1),
    ParameterType.NUMBER: st.floats(allow_nan=False, allow_infinity=False),
    ParameterType.BOOLEAN: st.booleans(),
    ParameterType.DATE: st.dates(),
    ParameterType.TIMESTAMP: st.datetimes(timezones=st.just(UTC)),
}
_NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=9).map("p_".__add__)


@given(st.data())
def test_a_value_and_its_text_are_bound_alike(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(list(ParameterType)))
    value = data.draw(_VALUES[kind])
    text = str(value).lower() if kind is ParameterType.BOOLEAN else str(value)
    name = data.draw(_NAMES)
    file = of(f"SELECT %({name})s", f"parameters: {{{name}: {kind}}}")
    assert file.bind({name: value}, now=NOW)[name] == value
    assert file.bind({name: text}, now=NOW)[name] == value


_KEYWORDS = st.sampled_from(
    ["SELECT", "FROM", "WITH x AS (", ")", "(", ";", "truth", "pg_class", "FOR UPDATE", "%(now)s", "%%", "%", "'", "--",
     "\n", ",", "1", "INSERT INTO a", "DELETE FROM a", "UNION", "RETURNING *", "now()", "*", "/*", "*/", "$$", '"']
)  # fmt: skip


@given(st.lists(_KEYWORDS, max_size=12).map(" ".join))
def test_what_is_taken_is_one_select_of_views(sql: str) -> None:
    """However the words stand: what passes holds none of the words that would do more than read."""
    try:
        checked = check_query(sql)
    except InvalidFile:
        return
    assert "pg_class" not in checked.relations
    assert not {";", "RETURNING", "INSERT", "DELETE"} & set(_outside_texts(checked.text))


def _outside_texts(sql: str) -> list[str]:
    plain = re.sub(r"'[^']*'|\"[^\"]*\"|\$\$.*?\$\$|--[^\n]*|/\*.*?\*/", " ", sql, flags=re.DOTALL)
    return plain.split()
