from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.schema.target import SinkKind
from cdc.sinks import sql_mysql, sql_postgres
from cdc.sinks.cascades import update_children
from cdc.sinks.narrowing import first_refused
from tests.unit.sinks.builders import ID, K, column, table, target_of

NAMES = st.text(min_size=1).filter(lambda name: "\0" not in name)


@given(NAMES)
def test_a_quoted_identifier_is_one_identifier(name: str) -> None:
    for quote, mark in ((sql_postgres.quote, '"'), (sql_mysql.quote, "`")):
        quoted = quote(name)
        assert re.fullmatch(f"{mark}(?:[^{mark}]|{mark}{mark})*{mark}", quoted)
        assert quoted[1:-1].replace(mark * 2, mark) == name


@pytest.mark.parametrize("quote", [sql_postgres.quote, sql_mysql.quote])
@pytest.mark.parametrize("name", ["", "a\0b"])
def test_what_is_no_identifier_is_not_quoted(quote: object, name: str) -> None:
    assert callable(quote)
    with pytest.raises(ValueError, match="identifier"):
        quote(name)


@given(st.lists(st.binary(max_size=60)), st.integers(1, 100), st.integers(1, 5))
def test_chunks_hold_every_item_once_within_their_limits(items: list[bytes], bytes_max: int, count_max: int) -> None:
    chunks = list(sql_mysql.chunks(items, bytes_max=bytes_max, count_max=count_max))
    assert [item for chunk in chunks for item in chunk] == items
    for chunk in chunks:
        assert len(chunk) <= count_max
        assert len(chunk) == 1 or len(b" OR ".join(chunk)) <= bytes_max


@given(st.lists(st.booleans()))
def test_the_first_refused_row_is_found(refused: list[bool]) -> None:
    def is_refused(count: int) -> bool:
        return any(refused[:count])

    expected = refused.index(True) if True in refused else None
    assert first_refused(len(refused), is_refused) == expected


def test_a_timestamp_gets_no_default_of_the_servers_own() -> None:
    columns = [
        ID,
        column("a", K.TIMESTAMP, "timestamp", is_nullable=False),
        column("b", K.TIMESTAMP, "timestamp(6)"),
    ]
    text = sql_mysql.create_table(target_of(table(*columns), "mariadb"), "mariadb")
    assert "`a` timestamp NOT NULL DEFAULT '1970-01-01 00:00:01'" in text
    assert "`b` timestamp(6) NULL DEFAULT NULL" in text
    assert "ENGINE=InnoDB" in text


def test_an_upsert_of_nothing_but_a_key_changes_nothing_that_is_there() -> None:
    target = target_of(table(ID))
    assert sql_postgres.upsert_staged(target, "s").endswith('ON CONFLICT ("id") DO NOTHING')


@pytest.mark.parametrize(
    "text,canonical",
    [
        ("timestamptz(3)", "timestamp(3) with time zone"),
        ("timestamp(0)", "timestamp(0) without time zone"),
        ("timestamp without time zone", "timestamp without time zone"),
        ("varchar(7)", "character varying(7)"),
        ("numeric(20)", "numeric(20,0)"),
        ("real[]", "real[]"),
        ("interval(6)", "interval(6)"),
        ("double precision", "double precision"),
    ],
)
def test_types_of_postgresql_have_one_text(text: str, canonical: str) -> None:
    assert sql_postgres.canonical_type(text) == canonical


@pytest.mark.parametrize(
    "existing,wanted,holds",
    [
        ("integer", "integer", True),
        ("bigint", "smallint", True),
        ("smallint", "integer", False),
        ("numeric", "bigint", True),
        ("numeric(19,0)", "bigint", True),
        ("numeric(18,0)", "bigint", False),
        ("numeric(12,4)", "numeric(10,2)", True),
        ("numeric(10,3)", "numeric(10,2)", False),
        ("numeric(10,2)", "numeric(10,4)", False),
        ("text", "varchar(10)", True),
        ("varchar", "varchar(10)", True),
        ("varchar(11)", "varchar(10)", True),
        ("varchar(9)", "varchar(10)", False),
        ("varchar", "text", True),
        ("varchar(9999)", "text", False),
        ("character(10)", "varchar(10)", False),
        ("timestamp", "timestamp(3)", True),
        ("timestamp(0)", "timestamp(3)", False),
        ("timestamptz", "timestamp(3)", False),
        ("interval", "interval(6)", True),
        ("time", "interval(6)", False),
        ("double precision", "real", False),
        ("json", "jsonb", False),
        ("text", "jsonb", False),
        ("bit(8)", "bit(9)", False),
        ("boolean", "smallint", False),
    ],
)
def test_which_types_of_postgresql_hold_which(existing: str, wanted: str, holds: bool) -> None:
    assert sql_postgres.can_hold(sql_postgres.canonical_type(existing), sql_postgres.canonical_type(wanted)) is holds


@pytest.mark.parametrize(
    "left,right",
    [
        ("int(11)", "int"),
        ("int(10) unsigned", "int unsigned"),
        ("year(4)", "year"),
        ("geomcollection", "geometrycollection"),
        ("varchar(9) /*M!100301 COMPRESSED*/", "varchar(9)"),
        ("enum('a','b''c')", "ENUM('a','b\\'c')"),
        ("enum('a\\\\b')", "enum('a\\\\b')"),
        ("varchar(9) CHARACTER SET utf8 COLLATE utf8_bin", "varchar(9) CHARACTER SET utf8mb3 COLLATE utf8mb3_bin"),
    ],
)
def test_types_of_mysql_have_one_text(left: str, right: str) -> None:
    assert sql_mysql.canonical_type(left) == sql_mysql.canonical_type(right)


def test_a_character_set_given_apart_is_the_same() -> None:
    whole = "varchar(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    assert sql_mysql.canonical_type("varchar(9)", "utf8mb4", "utf8mb4_bin") == sql_mysql.canonical_type(whole)


UTF8 = " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
OTHER = " CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
LATIN = " CHARACTER SET latin1 COLLATE latin1_bin"


@pytest.mark.parametrize(
    "existing,wanted,holds,holds_key",
    [
        ("int", "int", True, True),
        ("bigint", "int", True, True),
        ("int", "bigint", False, False),
        ("bigint", "int unsigned", False, False),
        ("decimal(12,4)", "decimal(10,2)", True, True),
        ("decimal(10,3)", "decimal(10,2)", False, False),
        (f"varchar(9){UTF8}", f"varchar(9){OTHER}", True, False),
        (f"varchar(10){UTF8}", f"varchar(9){UTF8}", True, True),
        (f"varchar(8){UTF8}", f"varchar(9){UTF8}", False, False),
        (f"varchar(9){UTF8}", f"varchar(9){LATIN}", True, False),
        (f"varchar(9){LATIN}", f"varchar(9){UTF8}", False, False),
        ("varbinary(36)", f"varchar(9){UTF8}", False, False),
        (f"longtext{UTF8}", f"text{UTF8}", True, True),
        (f"text{UTF8}", f"longtext{UTF8}", False, False),
        ("datetime(6)", "datetime(3)", True, True),
        ("datetime", "datetime(3)", False, False),
        ("timestamp(6)", "datetime(6)", False, False),
        ("double", "float", False, False),
        (f"enum('a','b'){UTF8}", f"enum('a'){UTF8}", True, True),
        (f"enum('b','a'){UTF8}", f"enum('a','b'){UTF8}", False, False),
        (f"enum('a'){UTF8}", f"enum('a','b'){UTF8}", False, False),
        (f"enum('a'){UTF8}", f"enum('a'){OTHER}", True, False),
        (f"set('a'){UTF8}", f"enum('a'){UTF8}", False, False),
        ("json", f"longtext{UTF8}", False, False),
    ],
)
def test_which_types_of_mysql_hold_which(existing: str, wanted: str, holds: bool, holds_key: bool) -> None:
    has, wants = sql_mysql.canonical_type(existing), sql_mysql.canonical_type(wanted)
    assert sql_mysql.can_hold(has, wants, is_key=False) is holds
    assert sql_mysql.can_hold(has, wants, is_key=True) is holds_key


def test_what_a_foreign_key_changes_leaves_times_that_update_themselves() -> None:
    """A target that was altered to ON UPDATE CURRENT_TIMESTAMP keeps the source's time, as with any other UPDATE."""
    definition = table(ID, column("p", K.INTEGER, "int", length=32), column("at%", K.TIMESTAMP, "timestamp"))
    kinds: tuple[SinkKind, ...] = ("mariadb", "postgresql")
    changed = {kind: update_children(target_of(definition, kind), ["p"], 1, kind) for kind in kinds}
    assert changed == {
        "mariadb": "UPDATE `n`.`t` SET `p` = %s, `at%%` = `at%%` WHERE `p` IN (%s)",
        "postgresql": 'UPDATE "n"."t" SET "p" = %s WHERE "p" IN (%s)',
    }
