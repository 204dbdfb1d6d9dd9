"""Which indexes a target gets, under which names; what a target's drift is; which types may be asked for."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace

import pytest

from cdc import config
from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition, TableDefinition, TableName, ValueKind
from cdc.schema.asked_types import ASKED_TYPES
from cdc.schema.drift import ColumnFacts, TargetFacts, drift
from cdc.schema.indexes import IndexPart, SinkIndex, SourceIndex, TargetIndex, free_name, is_served, target_indexes
from cdc.schema.mapping import map_table
from cdc.schema.options import ColumnOption, TableOptions
from cdc.schema.target import Attributes, IndexesMade, Masking, Mode, Policies, SinkKind, SourceColumn, TargetTable

K = ValueKind
_TEXT = {"charset": "utf8mb4", "collation": "utf8mb4_0900_ai_ci"}
COLUMNS = (
    ColumnDefinition("id", K.INTEGER, "int", is_nullable=False, length=32),
    ColumnDefinition("email", K.TEXT, "varchar(100)", length=100, **_TEXT),  # type: ignore[arg-type]
    ColumnDefinition("born", K.DATE, "date"),
    ColumnDefinition("note", K.TEXT, "text", length=65_535, **_TEXT),  # type: ignore[arg-type]
    ColumnDefinition("wide", K.TEXT, "varchar(1000)", length=1000, **_TEXT),  # type: ignore[arg-type]
)


def _target(
    kind: SinkKind = "postgresql", indexes: IndexesMade = "all", key: tuple[str, ...] = ("id",), **more: object
) -> TargetTable:
    policies = more.pop("policies", Policies())
    assert isinstance(policies, Policies)
    options = replace(TableOptions(attributes=Attributes(indexes=indexes)), **more)  # type: ignore[arg-type]
    definition = TableDefinition(TableName("d", "t"), COLUMNS, ("id",))
    return map_table(definition, kind=kind, namespace="n", name="t", key=key, policies=policies, options=options)


def _index(*columns: str, name: str = "i", is_unique: bool = False, **more: object) -> SourceIndex:
    return replace(SourceIndex(name, tuple(map(IndexPart, columns)), is_unique), **more)  # type: ignore[arg-type]


UNIQUE = _index("email", is_unique=True)


def test_the_setting_says_which_are_made() -> None:
    indexes = [_index("id", name="PRIMARY", is_unique=True), _index("born", name="b"), replace(UNIQUE, name="e")]
    assert target_indexes(indexes, _target(indexes="none"), "postgresql") == ([], [])
    unique = [TargetIndex("e", (IndexPart("email"),), is_unique=True)]
    assert target_indexes(indexes, _target(indexes="unique"), "postgresql") == (unique, [])
    plain = [TargetIndex("b", (IndexPart("born"),), is_unique=False)]
    assert target_indexes(indexes, _target(), "postgresql") == (plain + unique, [])


@pytest.mark.parametrize(
    "index, kind, reason",
    [
        (_index("email", kind="FULLTEXT"), "mysql", "it is a FULLTEXT index"),
        (_index("email", kind="SPATIAL"), "postgresql", "it is a SPATIAL index"),
        (_index("email", has_expression=True), "mysql", "it is over an expression"),
        (SourceIndex("i", (IndexPart("note", 20),)), "postgresql", "it has only the beginning of note"),
        (_index("wide"), "postgresql", "its values may have 4000 bytes"),
        (_index("gone"), "mysql", "the column gone does not go there"),
    ],
)
def test_what_the_sink_cannot_have_is_left_out_with_a_word(index: SourceIndex, kind: SinkKind, reason: str) -> None:
    wanted, (word,) = target_indexes([index], _target(kind), kind)
    assert not wanted
    assert f"the index i is left out: {reason}" in word


def test_a_prefix_stays_on_the_mysql_family() -> None:
    index = SourceIndex("i", (IndexPart("note", 20),))
    assert target_indexes([index], _target("mysql"), "mysql") == (
        [TargetIndex("i", (IndexPart("note", 20),), is_unique=False)],
        [],
    )


MASK = (ColumnOption("email", masking=Masking("keep_first", keep=1)),)
INFINITY = Policies(zero_dates="infinity")


@pytest.mark.parametrize(
    "index, target, kind, reason",
    [
        (UNIQUE, _target("mariadb"), "mariadb", "the collation of email is another here"),
        (UNIQUE, _target(columns=MASK), "postgresql", "email is masked"),
        (_index("born", is_unique=True), _target(policies=INFINITY), "postgresql", "zero dates of born become one"),
        (UNIQUE, _target(key=()), "postgresql", "the target has no key"),
        (UNIQUE, _target(source_column=SourceColumn("s", "v", 9)), "postgresql", "other tables have rows there"),
    ],
)
def test_a_unique_index_is_plain_where_the_sink_could_take_two_rows_for_one(
    index: SourceIndex, target: TargetTable, kind: SinkKind, reason: str
) -> None:
    (made,), (word,) = target_indexes([index], target, kind)
    assert not made.is_unique
    assert f"the index i is not unique here, because {reason}" in word
    only_unique = replace(target, attributes=Attributes(indexes="unique"))
    wanted, (word,) = target_indexes([index], only_unique, kind)
    assert not wanted
    assert reason in word


@pytest.mark.parametrize("mode", ["soft_delete", "history"])
def test_no_index_is_unique_where_rows_that_are_gone_stay(mode: Mode) -> None:
    target = replace(_target(), mode=mode)
    (made,), (word,) = target_indexes([UNIQUE], target, "postgresql")
    assert not made.is_unique
    assert "keeps rows that are gone" in word


def test_the_same_collation_and_the_sinks_bytes_are_no_stricter() -> None:
    for kind in ("mysql", "postgresql"):
        (made,), words = target_indexes([UNIQUE], _target(kind), kind)
        assert made.is_unique
        assert not words


# ---------------------------------------------------------------- names


def test_a_name_is_never_longer_than_the_sink_holds_and_two_stay_two() -> None:
    target = replace(_target(), name="t" * 60)
    one, other = (TargetIndex("i" * 60 + end, (IndexPart("born"),), is_unique=False) for end in "ab")
    names = {free_name(index, target, "postgresql", ()) for index in (one, other)}
    assert len(names) == 2
    assert all(len(name.encode()) <= 63 for name in names)
    wide = replace(target, name="ü" * 31)
    assert len(free_name(one, wide, "postgresql", ()).encode()) <= 63


def test_a_name_that_is_taken_is_passed_by() -> None:
    index = TargetIndex("i", (IndexPart("born"),), is_unique=False)
    assert free_name(index, _target(), "postgresql", ()) == "t_i"
    assert free_name(index, _target(), "mysql", ()) == "i"
    taken = free_name(index, _target(), "mysql", {"I"})
    assert re.fullmatch(r"i_[0-9a-f]{8}", taken)


def test_an_index_is_served_by_any_that_does_the_same() -> None:
    wanted = TargetIndex("i", (IndexPart("a"), IndexPart("b")), is_unique=True)
    theirs = SinkIndex("x", (IndexPart("A"), IndexPart("b")), is_unique=True)
    assert is_served(wanted, [theirs])
    assert not is_served(wanted, [replace(theirs, is_unique=False)])
    assert not is_served(wanted, [replace(theirs, is_valid=False)])
    assert not is_served(wanted, [replace(theirs, parts=(IndexPart("b"), IndexPart("A")))])
    assert not is_served(wanted, [replace(theirs, parts=None)])


# ---------------------------------------------------------------- drift


def _facts(*columns: ColumnFacts, indexes: tuple[SinkIndex, ...] = (), **more: object) -> TargetFacts:
    return replace(TargetFacts(columns, indexes), **more)  # type: ignore[arg-type]


def test_drift_tells_what_is_lost_from_what_somebody_has_added() -> None:
    target = _target(indexes="all", include=("id", "email"))
    columns = tuple(replace(c, default="E'x'", comment="said") if c.name == "email" else c for c in target.columns)
    target = replace(target, columns=columns)
    there = (
        ColumnFacts("id", is_nullable=True, has_default=False),
        ColumnFacts("email", is_nullable=True, has_default=False),
        ColumnFacts("extra", is_nullable=True, has_default=False),
    )
    indexes = (SinkIndex("theirs", (IndexPart("id"),)), SinkIndex("pk", (IndexPart("id"),), is_primary=True))
    wanted = [TargetIndex("e", (IndexPart("email"),), is_unique=True)]
    facts = _facts(*there, indexes=indexes, others=("the view v", "a grant to bob"))
    found = drift(target, facts, ["column x is text"], "postgresql", indexes=wanted)
    assert [(one.kind, one.text) for one in found] == [
        ("broken", "column x is text"),
        ("lost", "column id may be NULL there; wanted is NOT NULL"),
        ("lost", "column email has no default there; wanted is E'x'"),
        ("lost", "column email has lost its comment"),
        ("lost", "it has no unique index (email), which is e there"),
        ("added", "the column extra"),
        ("added", "the index theirs"),
        ("added", "the view v"),
        ("added", "a grant to bob"),
    ]


def test_a_target_that_is_gone_is_broken() -> None:
    assert [one.kind for one in drift(_target(), None, [], "postgresql")] == ["broken"]


# ---------------------------------------------------------------- asked types and limits


def test_the_configuration_takes_the_types_that_the_mapping_knows_and_no_others() -> None:
    pattern = re.compile(config._ASKED_TYPE)
    for name in ASKED_TYPES:
        assert pattern.match(name.replace("(N)", "(20)")), name
    for name in ("varchar(0)", "varchar", "varchar(16384)", "char(3)", "uuid", "int", "text; DROP"):
        assert not pattern.match(name) or name == "varchar(16384)", name


def _asked(column: ColumnDefinition, asked: str, kind: SinkKind) -> str:
    definition = TableDefinition(TableName("d", "t"), (COLUMNS[0], column), ("id",))
    options = TableOptions(columns=(ColumnOption(column.name, type=asked),))
    target = map_table(
        definition, kind=kind, namespace="n", name="t", key=("id",), policies=Policies(), options=options
    )
    return target.columns[1].sql_type


FLAG = ColumnDefinition("c", K.INTEGER, "tinyint(1)", length=8)
BIG = ColumnDefinition("c", K.INTEGER, "bigint unsigned", length=64, is_unsigned=True)
JSON = ColumnDefinition("c", K.JSON, "json")
WORD = ColumnDefinition("c", K.TEXT, "varchar(50)", length=50, **_TEXT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "column, asked, postgres, mysql",
    [
        (FLAG, "boolean", "boolean", "tinyint(1)"),
        (ColumnDefinition("c", K.BIT, "bit(1)", length=1), "boolean", "boolean", "bit(1)"),
        (BIG, "bigint", "bigint", "bigint"),
        (JSON, "text", "text", "longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
        (JSON, "json", "json", "json"),
        (WORD, "text", "text", "longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_ai_ci"),
        (WORD, "varchar(9)", "varchar(9)", "varchar(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_ai_ci"),
        (ColumnDefinition("c", K.GEOMETRY, "point"), "geometry", "geometry", "point"),
    ],
)
def test_an_asked_type_takes_the_place_of_the_mappings(
    column: ColumnDefinition, asked: str, postgres: str, mysql: str
) -> None:
    assert (_asked(column, asked, "postgresql"), _asked(column, asked, "mysql")) == (postgres, mysql)


@pytest.mark.parametrize(
    "column, asked", [(BIG, "boolean"), (WORD, "bigint"), (JSON, "varchar(9)"), (FLAG, "jsonb"), (FLAG, "text")]
)
def test_a_type_that_does_not_go_with_the_column_is_refused_by_name(column: ColumnDefinition, asked: str) -> None:
    with pytest.raises(UnsupportedData, match=rf"d\.t: column c has the type .* cannot become {re.escape(asked)}"):
        _asked(column, asked, "postgresql")


def test_a_key_is_never_shortened() -> None:
    word = replace(WORD, is_nullable=False)
    definition = TableDefinition(TableName("d", "t"), (word,), ("c",))
    for kind in ("postgresql", "mysql", "mariadb"):
        for length, is_refused in ((word.length, False), (word.length - 1, True)):
            options = TableOptions(columns=(ColumnOption("c", type=f"varchar({length})"),))
            with pytest.raises(UnsupportedData, match="in a key") if is_refused else nullcontext():
                map_table(
                    definition,
                    kind=kind,
                    namespace="n",
                    name="t",
                    key=("c",),
                    policies=Policies(),
                    options=options,
                )


def test_rules_by_type_are_for_the_whole_type_or_its_name() -> None:
    options = TableOptions(types=(("tinyint(1)", "boolean"), ("bigint", "bigint")))
    assert options.type_of(FLAG) == "boolean"
    assert options.type_of(replace(FLAG, column_type="tinyint")) is None
    assert options.type_of(BIG) == "bigint"
    own = replace(options, columns=(ColumnOption("c", type="smallint"),))
    assert own.type_of(FLAG) == "smallint"


def test_more_columns_than_innodb_holds_are_refused_by_name() -> None:
    columns = tuple(replace(FLAG, name=f"c{number}") for number in range(1018))
    definition = TableDefinition(TableName("d", "t"), columns, ("c0",))
    for kind, holds in (("mysql", "InnoDB holds 1017"), ("mariadb", "InnoDB holds 1017")):
        with pytest.raises(UnsupportedData, match=rf"d\.t has 1018 columns, and {holds}"):
            map_table(definition, kind=kind, namespace="n", name="t", key=("c0",), policies=Policies())  # type: ignore[arg-type]
    map_table(definition, kind="postgresql", namespace="n", name="t", key=("c0",), policies=Policies())
