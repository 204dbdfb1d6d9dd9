"""Tables that refer to each other, and what their foreign keys do in no event (`policies.hidden_cascades: apply`).

Rows of `child` refer to `parent`, those of `grandchild` to `child`. The seed says by which rules. What a rule does is
worked out on the rows alone, as InnoDB does it: the log has the parent's event, and the children's table maps.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from cdc.binlog.constants import EventType, RowsFlag
from cdc.model import TableDefinition, TableName
from cdc.source.cascades import ACTIVE_RULES, ForeignKey
from tests.support.binlog_build import BuiltColumn, rows_body, table_map_body
from tests.unit.source.streams import COLUMNS, Stream, definition

__all__ = ["FAMILY", "Family"]

Row = tuple[Any, ...]
_PARENT, _CHILD, _GRANDCHILD = (TableName("shop", name) for name in ("parent", "child", "grandchild"))
_UP = replace(COLUMNS[0], definition=replace(COLUMNS[0].definition, name="up"))
_COLUMNS: Mapping[TableName, tuple[BuiltColumn, ...]] = {
    _PARENT: COLUMNS,
    _CHILD: (COLUMNS[0], _UP, COLUMNS[1]),
    _GRANDCHILD: (COLUMNS[0], _UP, COLUMNS[1]),
}
_IDS = {_PARENT: 81, _CHILD: 82, _GRANDCHILD: 83}
_KEYS = 5


def _definition(table: TableName) -> TableDefinition:
    plain = definition(table, _COLUMNS[table])
    return replace(plain, columns=tuple(replace(one, is_nullable=one.name != "i32") for one in plain.columns))


FAMILY: Mapping[TableName, TableDefinition] = {table: _definition(table) for table in _COLUMNS}


class Family:
    """Changes `rows` of these tables, and makes the events that a source would log of that."""

    def __init__(self, rng: random.Random, stream: Stream, rows: dict[TableName, list[Row]]) -> None:
        self._rng = rng
        self._stream = stream
        self._rows = rows
        self._written = 0
        self.keys = tuple(
            ForeignKey(
                table,
                f"fk_{table.table}",
                str(parent),
                rng.choice(("CASCADE", "CASCADE", "SET NULL", "RESTRICT")),
                rng.choice(("CASCADE", "SET NULL", "RESTRICT")),
                parent,
                ("up",),
                ("i32",),
            )
            for table, parent in ((_CHILD, _PARENT), (_GRANDCHILD, _CHILD))
        )

    def hidden_keys(self, tables: Collection[TableName]) -> tuple[ForeignKey, ...]:
        """Those of the tables that act in silence."""
        acting = (key for key in self.keys if key.on_delete in ACTIVE_RULES or key.on_update in ACTIVE_RULES)
        return tuple(key for key in acting if key.table in tables)

    def change(self) -> list[bytes]:
        """One statement; nothing where a foreign key restricts it."""
        table = self._rng.choice((_PARENT, _PARENT, _CHILD, _CHILD, _GRANDCHILD))
        checks = self._rng.random() < 0.85  # else by a session with foreign_key_checks = 0
        rows = self._rows[table]
        free = sorted(set(range(_KEYS)) - {row[0] for row in rows})
        self._written += 1
        choice = self._rng.random()
        if (choice < 0.5 and free) or not rows:
            row = self._row(table, self._rng.choice(free), checks=checks)
            rows.append(row)
            return self._events(EventType.WRITE_ROWS, table, [row], checks=checks)
        olds = self._rng.sample(rows, self._rng.choice((1, 1, 2)) if len(rows) > 1 else 1)
        if choice < 0.7:
            news: list[Row | None] = [self._row(table, olds[0][0], checks=checks)]
        elif choice < 0.8 and free:
            news = [(self._rng.choice(free), *olds[0][1:])]  # its key moves
        else:
            news = [None] * len(olds)
        pairs = list(zip(olds, news, strict=False))
        after = {name: list(found) for name, found in self._rows.items()}
        if not all(_changed(after, table, old, new, self.keys if checks else ()) for old, new in pairs):
            return []
        for name, found in after.items():
            self._rows[name][:] = found
        if news[0] is None:
            return self._events(EventType.DELETE_ROWS, table, [old for old, _ in pairs], checks=checks)
        return self._events(EventType.UPDATE_ROWS, table, [olds[0], news[0]], checks=checks)

    def _row(self, table: TableName, key: int, *, checks: bool) -> Row:
        text = f"v{self._written}"
        if table == _PARENT:
            return key, text
        parent = _PARENT if table == _CHILD else _CHILD
        there = [row[0] for row in self._rows[parent]] if checks else list(range(_KEYS))
        return key, self._rng.choice([None, *there, *there]), text

    def _events(self, kind: EventType, table: TableName, rows: list[Row], *, checks: bool) -> list[bytes]:
        names = [_PARENT, _CHILD, _GRANDCHILD]
        shown = names[names.index(table) :] if checks and kind is not EventType.WRITE_ROWS else [table]
        maps = [
            table_map_body(_COLUMNS[name], table_id=_IDS[name], database=name.database, table=name.table)
            for name in shown
        ]
        flags = int(RowsFlag.STMT_END) | (0 if checks else int(RowsFlag.NO_FOREIGN_KEY_CHECKS))
        is_update = kind is EventType.UPDATE_ROWS
        body = rows_body(_COLUMNS[table], rows, table_id=_IDS[table], flags=flags, is_update=is_update)
        return [*(self._stream.inner(EventType.TABLE_MAP, one) for one in maps), self._stream.inner(kind, body)]


def _changed(
    rows: dict[TableName, list[Row]], table: TableName, old: Row, new: Row | None, keys: Collection[ForeignKey]
) -> bool:
    """Take a row away, or put another in its place, with all that follows. False: a rule restricts it."""
    if old not in rows[table]:  # by a rule, with one that went before
        return False
    rows[table].remove(old)
    if new is not None:
        rows[table].append(new)
        if new[0] == old[0]:
            return True
    for key in keys:
        if key.parent_table != table:
            continue
        action = key.on_delete if new is None else key.on_update
        for row in [row for row in rows[key.table] if row[1] == old[0]]:
            if action not in ACTIVE_RULES:
                return False
            if action == "CASCADE" and new is None:
                if not _changed(rows, key.table, row, None, keys):
                    return False
                continue
            rows[key.table].remove(row)
            rows[key.table].append((row[0], new[0] if action == "CASCADE" and new is not None else None, *row[2:]))
    return True
