"""ALTER TABLE for the MySQL family, as text: what somebody has made wider on the target stays so."""

from __future__ import annotations

import pytest

from cdc.schema.alteration import TargetAlteration
from cdc.schema.column_text import Unproven
from cdc.schema.target import SinkKind, TargetTable
from cdc.sinks.alter_mysql import alter_statements
from cdc.sinks.base import ExistingTable
from tests.unit.sinks.builders import ID, K, column, table, target_of


def _target(name: str, *, is_nullable: bool) -> TargetTable:
    text = column(name, K.TEXT, "varchar(20)", length=20, is_nullable=is_nullable)
    return target_of(table(ID, text), "mysql")


def _renamed(found: str, version: tuple[int, ...], kind: SinkKind, *, is_nullable: bool = False) -> list[str]:
    before, after = _target("a", is_nullable=False), _target("b", is_nullable=False)
    change = TargetAlteration(before, after, renamed=((before.columns[1], after.columns[1]),))
    suffix = before.columns[1].sql_type.partition(" ")[2]
    existing = ExistingTable(
        {"id": ("int", False, False), "a": (f"{found} {suffix}".strip(), is_nullable, False)}, ("id",), True
    )
    return alter_statements(change, existing, kind, version)


@pytest.mark.parametrize("kind,version", [("mysql", (8, 0, 11)), ("mysql", (9, 7)), ("mariadb", (10, 5, 2))])
@pytest.mark.parametrize("found", ["varchar(20)", "varchar(300)"])
def test_a_rename_takes_no_new_definition(kind: SinkKind, version: tuple[int, ...], found: str) -> None:
    assert _renamed(found, version, kind) == ["ALTER TABLE `n`.`t` RENAME COLUMN `a` TO `b`"]


@pytest.mark.parametrize("kind,version", [("mysql", (5, 7, 44)), ("mariadb", (10, 4, 34))])
def test_where_there_is_no_rename_a_wider_column_is_none_that_can_be_followed(
    kind: SinkKind, version: tuple[int, ...]
) -> None:
    (statement,) = _renamed("varchar(20)", version, kind)
    assert statement.startswith("ALTER TABLE `n`.`t` CHANGE COLUMN `a` `b` varchar(20)")
    assert statement.endswith("NOT NULL")
    (statement,) = _renamed("varchar(20)", version, kind, is_nullable=True)
    assert statement.endswith(" NULL")
    assert not statement.endswith("NOT NULL")
    with pytest.raises(Unproven):
        _renamed("varchar(300)", version, kind)
