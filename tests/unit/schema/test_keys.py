"""Which columns tell a table's rows apart."""

from __future__ import annotations

import pytest

from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition, TableDefinition, TableName, UniqueKey, ValueKind
from cdc.schema.keys import choose_key


def table(primary: str = "", *unique: UniqueKey, nullable: str = "") -> TableDefinition:
    """Columns a to e; those of `nullable` may be NULL."""
    columns = tuple(
        ColumnDefinition(name, ValueKind.INTEGER, "int", length=32, is_nullable=name in nullable) for name in "abcde"
    )
    return TableDefinition(TableName("shop", "t"), columns, tuple(primary), unique)


def unique(name: str, columns: str, *, has_prefix: bool = False) -> UniqueKey:
    return UniqueKey(name, tuple(columns), has_prefix)


@pytest.mark.parametrize(
    "definition, key",
    [
        (table("a"), "a"),
        (table("ba", unique("u", "c")), "ba"),  # in the index's order, and before any unique key
        (table("", unique("u", "c")), "c"),
        (table("", unique("wide", "ab"), unique("z", "c")), "c"),  # the narrowest
        (table("", unique("z", "a"), unique("y", "b")), "b"),  # then by name: the same at every start
        (table("", unique("n", "a"), unique("u", "bc"), nullable="a"), "bc"),  # NULLs are equal to nothing
        (table("", unique("n", "ab"), unique("u", "cde"), nullable="b"), "cde"),
        (table("", unique("p", "a", has_prefix=True), unique("u", "bc")), "bc"),  # a prefix does not tell apart
    ],
)
def test_the_key_is_the_primary_one_or_the_narrowest_unique_one_without_null(
    definition: TableDefinition, key: str
) -> None:
    assert choose_key(definition) == tuple(key)


@pytest.mark.parametrize(
    "definition", [table(), table("", unique("n", "a"), nullable="a"), table("", unique("p", "a", has_prefix=True))]
)
def test_a_table_without_a_key_has_none_unless_one_is_configured(definition: TableDefinition) -> None:
    assert choose_key(definition) == ()
    assert choose_key(definition, ("a",)) == ("a",), "a nullable unique key, if it is named"


def test_the_configured_key_goes_before_all_others() -> None:
    assert choose_key(table("a"), ("c", "b")) == ("c", "b")
    with pytest.raises(UnsupportedData, match="x, y") as caught:
        choose_key(table("a"), ("a", "x", "y"))
    assert caught.value.column == "x"
