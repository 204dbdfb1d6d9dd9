"""What the records of a session's tables become as the stream goes on."""

from __future__ import annotations

from dataclasses import replace

from cdc.model import ColumnDefinition, FilePos, ServerIdentity, SourcePosition, TableDefinition, TableName, ValueKind
from cdc.pipeline.tables import Routing, TableRegistry
from cdc.schema.options import TableOptions
from cdc.schema.target import Policies
from checkpoints.store import TableRecord

HERE = ServerIdentity("mariadb", "here")
ROUTING = Routing(
    matches=lambda _database, _table: True,
    policies=lambda _database, _table: Policies(),
    key=lambda _database, _table: None,
    chunk_rows=lambda _database, _table: 1000,
    accepts_hidden_cascades=lambda _database, _table: False,
    options=lambda _database, _table: TableOptions(),
)


def at(pos: int) -> SourcePosition:
    return SourcePosition(HERE, FilePos.of("binlog.000001", pos), None)


def test_what_a_followed_ddl_has_left_to_be_done_outlasts_a_change_of_lanes() -> None:
    """A table that came to a lane behind its own is catching up, as after a load (`pipeline.dealing`)."""
    moved = TableRecord(
        source=TableName("shop", "orders"),
        target="shop.orders",
        state="snapshotting",
        loaded_from=at(20),
        ready_at=at(20).file,
        ready_server=HERE,
        step="worked out",
    )
    tables = TableRegistry(ROUTING, "postgresql", [moved])
    assert tables.catching_up(at(19)) == []
    (ready,) = tables.catching_up(at(20))
    assert (ready.state, ready.step) == ("ready", "worked out")


def test_a_target_is_mapped_anew_when_the_definition_or_what_it_lacks_is_another() -> None:
    ident = ColumnDefinition("id", ValueKind.INTEGER, "int", is_nullable=False, length=32)
    text = ColumnDefinition("v", ValueKind.TEXT, "varchar(9)", length=9, charset="utf8mb4")
    definition = TableDefinition(TableName("shop", "orders"), (ident, text), ("id",))
    tables = TableRegistry(ROUTING, "postgresql", [])
    target = tables.make_target(definition)
    assert tables.make_target(replace(definition)) is target
    assert [column.name for column in tables.make_target(definition, left_out=("v",)).columns] == ["id"]
    wider = replace(definition, columns=(ident, text, replace(text, name="w")))
    assert [column.name for column in tables.make_target(wider).columns] == ["id", "v", "w"]
    assert tables.make_target(definition) == target
