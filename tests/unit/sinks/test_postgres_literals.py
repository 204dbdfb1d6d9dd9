"""Literals made of COPY text, read back as PostgreSQL reads them: nothing in a value is ever SQL."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdc.sinks import sql_postgres as sql
from tests.unit.sinks.builders import ID, K, column, table, target_of

TARGET = target_of(table(column("k", K.TEXT, "longtext"), column("v", K.TEXT, "longtext"), key=("k",)))
NASTY = st.text(st.sampled_from("'\"\\NEtnr,(){} \t\n\r%é\U0001f600"), max_size=12) | st.text(max_size=6)
TEXTS = NASTY.filter(lambda text: "\0" not in text)
ROWS = st.lists(st.tuples(TEXTS, st.none() | TEXTS), min_size=1, max_size=9)

Row = tuple[str, str | None]

# E'...': a quote in it is doubled or escaped. Everything else that may be in the statements is named.
_LITERAL = re.compile(r"E'((?:[^'\\]|''|\\.)*)'", re.DOTALL)
_ESCAPED = re.compile(r"''|\\(.)", re.DOTALL)
_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|NULL', re.DOTALL)


def copy_lines(rows: list[Row]) -> str:
    """As cdc.sinks.encode_postgres says."""
    escapes = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
    return "".join(
        "\t".join("\\N" if value is None else value.translate(escapes) for value in row) + "\n" for row in rows
    )


def read_literal(text: str) -> str:
    """The value of what is between E' and '."""
    return _ESCAPED.sub(lambda m: "'" if m[1] is None else {"t": "\t", "n": "\n", "r": "\r"}.get(m[1], m[1]), text)


def read_array(text: str) -> list[str | None]:
    assert re.fullmatch(r'\{(?:"(?:[^"\\]|\\.)*"|NULL)(?:,(?:"(?:[^"\\]|\\.)*"|NULL))*\}', text, re.DOTALL)
    return [None if m[1] is None else re.sub(r"\\(.)", r"\1", m[1], flags=re.DOTALL) for m in _ELEMENT.finditer(text)]


def read_tuples(text: str) -> list[tuple[str | None, ...]]:
    """Lists of literals in parentheses, with nothing else between them."""
    cell = r"(?:E'(?:[^'\\]|''|\\.)*'|NULL)"
    one = rf"\({cell}(?:,{cell})*\)"
    assert re.fullmatch(rf"{one}(?:, {one})*", text, re.DOTALL), text
    rows = []
    for row in re.finditer(one, text, re.DOTALL):
        cells = re.finditer(cell, row[0], re.DOTALL)
        rows.append(tuple(None if c[0] == "NULL" else read_literal(c[0][2:-1]) for c in cells))
    return rows


@given(ROWS)
@example([("E'\\N'", "'\\N'"), ("\\N", None), ('"\\N"', 'NULL"'), ("\\", "\\\\'"), ("'),(E'", "\t\n\r"), ("", "")])
def test_rows_are_read_as_they_were(rows: list[Row]) -> None:
    values = sql.insert_lines(TARGET, copy_lines(rows), is_upsert=False).partition("SYSTEM VALUE ")[2]
    if len(rows) <= 4:
        assert read_tuples(values.removeprefix("VALUES ")) == rows
        return
    literals = list(_LITERAL.finditer(values))
    assert _LITERAL.sub("", values) == "SELECT * FROM unnest(::text[], ::text[])"
    columns = [read_array(read_literal(literal[1])) for literal in literals]
    assert list(zip(*columns, strict=True)) == rows


@given(st.lists(TEXTS, min_size=1, max_size=9))
def test_keys_are_read_as_they_were(keys: list[str]) -> None:
    lines = copy_lines([(key, None) for key in keys]).replace("\t\\N\n", "\n")
    listed = sql.delete_lines(TARGET, lines).partition(" IN (")[2][:-1]
    assert read_tuples(listed) == [(key,) for key in keys]


@given(ROWS)
def test_updates_are_read_as_they_were(rows: list[Row]) -> None:
    statements = sql.update_lines(TARGET, copy_lines(rows), TARGET.columns, must_hit=False)
    found = [[read_literal(m[1]) for m in _LITERAL.finditer(statement)] for statement in statements]
    shapes = [_LITERAL.sub("?", statement) for statement in statements]
    if len(rows) > 4:
        assert shapes == [
            'UPDATE "n"."t" AS t SET "v" = s.c1 FROM unnest(?::text[], ?::text[]) AS s(c0, c1) WHERE t."k" = s.c0'
        ]
        assert list(zip(*map(read_array, found[0]), strict=True)) == rows
        return
    for literals, shape, (key, value) in zip(found, shapes, rows, strict=True):
        assert literals == ([key] if value is None else [value, key])
        assert shape == f'UPDATE "n"."t" SET "v" = {"NULL" if value is None else "?"} WHERE "k" = ?'


@pytest.mark.parametrize("sql_type", ["bit(9)", "real[]", "character(3)", "point"])
def test_types_whose_arrays_are_something_else_go_as_values(sql_type: str) -> None:
    """`bit[]` is of single bits, `character[]` of single characters; arrays of arrays are taken apart wholly."""
    array = sql._array_of(sql_type)
    assert array == ("varbit[]" if sql_type.startswith("bit") else None)


def test_names_of_old_keys_are_beside_all_others() -> None:
    definition = table(ID, column("_cdc_old0", K.INTEGER, "int", length=32), key=("id", "_cdc_old0"))
    names = sql.old_key_names(target_of(definition))
    assert len(set(names)) == 2
    assert not any(name.startswith("_cdc_old0") for name in names)
