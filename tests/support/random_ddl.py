"""Random actions of ALTER TABLE on a table whose definition is known; some are proven, some are not."""

from __future__ import annotations

import random

from cdc.demo.servers import Server
from cdc.model import ColumnDefinition, TableDefinition, ValueKind

__all__ = ["RandomDdl"]

_TYPES = (
    "INT",
    "INT NULL DEFAULT 7",
    "BIGINT UNSIGNED NOT NULL",
    "TINYINT(1) NOT NULL DEFAULT 1",
    "VARCHAR(20)",
    "VARCHAR(10) NOT NULL DEFAULT 'so'",
    "VARCHAR(8) COLLATE utf8mb4_bin NULL",
    "DECIMAL(8,2) NOT NULL DEFAULT 1.5",
    "DATETIME(3) NULL",
    "DATE DEFAULT '2020-02-02'",
    "ENUM('a','b') NOT NULL",
    "TEXT NULL",
    "VARBINARY(12) NULL",
    "DOUBLE NULL",
    "DATETIME DEFAULT CURRENT_TIMESTAMP",
)
_ODD_NAMES = ("rank", "Größe", "with space", "a`b", 'q"q', "a.b", "UPPER", "key")


class RandomDdl:
    """Statements from a seed. The first column of the primary key stays."""

    def __init__(self, seed: int, *, is_simple: bool = False) -> None:
        self._random = random.Random(seed)
        self._is_simple = is_simple  # names that need no quoting
        self._count = 0

    def execute(self, server: Server, database: str, statement: str) -> bool:
        """Run it; False where the server refuses it."""
        try:
            server.execute(statement, database=database)
        except Exception:  # noqa: BLE001 - a random statement may well be wrong
            return False
        return True

    def actions(self, definition: TableDefinition) -> str:
        """One to three actions that do not touch the same column."""
        columns = [column for column in definition.columns if column.name not in definition.primary_key]
        self._random.shuffle(columns)
        parts = []
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            choice = self._random.random()
            if choice < 0.35 or len(columns) < 3:
                parts.append(f"ADD COLUMN {self._name()} {self._random.choice(_TYPES)}{self._place(definition)}")
            elif choice < 0.5:
                parts.append(f"DROP COLUMN {_quoted(columns.pop().name)}")
            elif choice < 0.6:
                parts.append(f"RENAME COLUMN {_quoted(columns.pop().name)} TO {self._name()}")
            elif choice < 0.9:
                column = columns.pop()
                parts.append(self._changed(column) + self._place(definition))
            else:
                parts.append(self._random.choice(("COMMENT 'x'", "ENGINE=InnoDB", "ALGORITHM=DEFAULT", "FORCE")))
        return ", ".join(dict.fromkeys(parts))

    def _name(self) -> str:
        self._count += 1
        if not self._is_simple and self._random.random() < 0.2:
            return _quoted(f"{self._random.choice(_ODD_NAMES)}{self._count}")
        return f"c{self._count}"

    def _place(self, definition: TableDefinition) -> str:
        choice = self._random.random()
        if choice < 0.7:
            return ""
        if choice < 0.8:
            return " FIRST"
        return f" AFTER {_quoted(self._random.choice(definition.columns).name)}"

    def _changed(self, column: ColumnDefinition) -> str:
        wider = self._wider(column)
        if self._random.random() < 0.3:
            return f"CHANGE COLUMN {_quoted(column.name)} {self._name()} {wider}"
        return f"MODIFY {_quoted(column.name)} {wider}"

    def _wider(self, column: ColumnDefinition) -> str:
        """A definition that holds every value of the column, most of the time."""
        null = "NULL" if column.is_nullable or self._random.random() < 0.5 else "NOT NULL"
        match column.kind:
            case ValueKind.INTEGER:
                return f"BIGINT{' UNSIGNED' if column.is_unsigned else ''} {null}"
            case ValueKind.DECIMAL:
                return f"DECIMAL({min(column.precision + 2, 60)},{column.scale}) {null}"
            case ValueKind.TEXT if column.column_type.startswith("varchar"):
                return f"VARCHAR({column.length + 5}) {null}"
            case ValueKind.DATETIME:
                return f"DATETIME(6) {null}"
            case ValueKind.ENUM:
                members = ",".join(f"'{m}'" for m in (*column.members, f"m{self._count}"))
                return f"ENUM({members}) {null}"
            case _:
                return f"{column.column_type} {null}"


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
