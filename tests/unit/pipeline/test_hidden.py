"""What sessions ask of a server whose foreign keys may act in silence: each time anew."""

from __future__ import annotations

from typing import Any

import pytest

from cdc.model import ServerIdentity, TableName
from cdc.pipeline.hidden import HiddenCascades
from cdc.pipeline.tables import Routing, TableRegistry
from cdc.schema.options import TableOptions
from cdc.schema.target import Policies
from checkpoints.store import TableRecord
from tests.unit.source.streams import A, B, definition


class _Server:
    """MySQL 9.7, or what it was before; B refers to A."""

    flavor = "mysql"
    version: tuple[int, ...] = (9, 7, 0)
    native = "OFF"
    uuid = "first"

    def variable(self, name: str) -> str:
        assert name == "innodb_native_foreign_keys"
        return self.native

    def identity(self) -> ServerIdentity:
        return ServerIdentity("mysql", self.uuid)

    def query_text(self, sql: str, _parameters: Any = ()) -> list[tuple[str, ...]]:
        if "REFERENTIAL_CONSTRAINTS" in sql:
            return [("shop", "b", "b_a", "shop", "a", "CASCADE", "NO ACTION")]
        return [("shop", "b", "b_a", "i32", "shop", "a", "i32")]


def _known(policy: str) -> tuple[HiddenCascades, TableRegistry]:
    routing = Routing(
        matches=lambda _database, _table: True,
        policies=lambda _database, _table: Policies(),
        key=lambda _database, _table: None,
        chunk_rows=lambda _database, _table: 1000,
        accepts_hidden_cascades=lambda _database, _table: policy == "accept",
        applies_hidden_cascades=lambda _database, _table: policy == "apply",
        options=lambda _database, _table: TableOptions(),
    )
    records = [TableRecord(name, target=name.table, state="ready", definition=definition(name)) for name in (A, B)]
    return HiddenCascades(routing), TableRegistry(routing, "postgresql", records)


@pytest.mark.parametrize("change", [{"native": "ON"}, {"version": (8, 4, 0), "uuid": "second"}])
@pytest.mark.parametrize(
    "policy,applied,refused", [("apply", {B}, set()), ("park", set(), {B}), ("accept", set(), set())]
)
def test_a_server_that_logs_cascades_no_more(
    change: dict[str, Any], policy: str, applied: set[TableName], refused: set[TableName]
) -> None:
    """It was started anew, or is another one: the tables that are followed are the same ones."""
    server: Any = _Server()
    hidden, tables = _known(policy)
    hidden.find(server, tables)
    assert (tables.cascades.keys, hidden.refused(server, tables)) == ((), {})
    for name, value in change.items():
        setattr(server, name, value)
    hidden.find(server, tables)
    assert {key.table for key in tables.cascades.graph.keys} == applied
    assert set(hidden.refused(server, tables)) == refused
