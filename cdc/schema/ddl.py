"""What a statement makes of one table: the definition afterwards, and what became of the rows that were there.

For each form that can be shown to do the same elsewhere; any other is `Unproven`, and its table is loaded again
(docs/ddl.md has the list). The definition is worked out from the one before and the words of the statement, because
what the source says of the table now may be of another version. Knows no sink and no connection.

Source: MySQL 8.4 sql/sql_table.cc, prepare_fields_and_keys; MariaDB 11.8 sql/sql_table.cc, mysql_prepare_alter_table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cdc.model import ColumnDefinition, TableDefinition, UniqueKey, ValueKind
from cdc.schema.column_text import (
    Dialect,
    Unproven,
    WrittenColumn,
    default_text,
    read_column,
    read_comment,
    read_default,
)
from cdc.schema.tokens import NotUnderstood, Reader, tokens_of

__all__ = ["Effect", "StatementText", "effect_of", "holds_same_values"]


@dataclass(frozen=True, slots=True)
class StatementText:
    """A statement and what of its session decides how it is read. `database` is the default one."""

    text: str
    database: str = ""
    ansi_quotes: bool = False
    backslash_escapes: bool = True


@dataclass(frozen=True, slots=True)
class Effect:
    """What a statement did.

    Attributes:
        definition: the table's, afterwards.
        added: what the rows that were there hold in each new column (None: NULL), as text.
        dropped: names before.
        renamed: name before: name afterwards.
        is_emptied: every row is gone.
    """

    definition: TableDefinition
    added: Mapping[str, str | None] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    renamed: Mapping[str, str] = field(default_factory=dict)
    is_emptied: bool = False


def effect_of(statement: StatementText, before: TableDefinition, *, server_version: tuple[int, ...]) -> Effect:
    """The effect on the table `before`, which is the one that the statement touches. Raises Unproven, with the reason.

    `server_version` is that of the server which ran it, as numbers.
    """
    if "/*!" in statement.text or "/*M!" in statement.text:
        raise Unproven("an executable comment")
    tokens = tokens_of(statement.text, ansi_quotes=statement.ansi_quotes, backslash_escapes=statement.backslash_escapes)
    reader = Reader(list(tokens), statement.database)
    dialect = Dialect(before.flavor, server_version, before.charset, before.collation)
    try:
        return _read(reader, before, dialect)
    except NotUnderstood:
        at = reader.tokens[reader.at].text if not reader.is_over() else "its end"
        raise Unproven(f"a form that is not known, at {at}") from None


def _read(reader: Reader, before: TableDefinition, dialect: Dialect) -> Effect:
    if reader.take("TRUNCATE"):
        reader.take("TABLE")
        _expect_table(reader, before)
        _wait(reader)
        _expect_end(reader)
        return Effect(before, is_emptied=True)
    if reader.take("CREATE", "TABLE", "IF", "NOT", "EXISTS"):
        _expect_table(reader, before)
        return Effect(before)  # it does: it is followed
    if reader.take("DROP"):
        reader.take_any("ONLINE", "OFFLINE")
        if not reader.take_any("INDEX", "KEY"):
            raise NotUnderstood
        change = _Change(reader, before, dialect)
        change.drop_index()
        if not reader.take("ON"):
            raise NotUnderstood
        _expect_table(reader, before)
        return change.effect()  # what may follow is about how it is done
    if not reader.take("ALTER"):
        raise NotUnderstood
    reader.take_any("ONLINE", "OFFLINE")
    if not reader.take("TABLE"):
        raise NotUnderstood  # ALTER IGNORE removes rows
    reader.take("IF", "EXISTS")
    _expect_table(reader, before)
    _wait(reader)
    change = _Change(reader, before, dialect)
    change.read()
    return change.effect()


def _expect_table(reader: Reader, before: TableDefinition) -> None:
    table = reader.table()
    if table.lower() != before.name.lower():
        raise Unproven(f"it is about {table}")


def _expect_end(reader: Reader) -> None:
    if not reader.is_over():
        raise NotUnderstood


def _wait(reader: Reader) -> None:
    """MariaDB."""
    if reader.take("WAIT"):
        reader.digits()
    else:
        reader.take("NOWAIT")


# Actions on partitions that lose no row, alone in a statement: a row that no partition takes is an error (1526).
_PARTITIONS_KEEP = (
    ("ADD", "PARTITION"),
    ("COALESCE", "PARTITION"),
    ("REMOVE", "PARTITIONING"),
    ("PARTITION", "BY"),
    ("REBUILD", "PARTITION"),
    ("OPTIMIZE", "PARTITION"),
    ("ANALYZE", "PARTITION"),
    ("CHECK", "PARTITION"),
)
# Options of a table, with one value, that say how it is stored.
_STORAGE_OPTIONS = (
    "AUTO_INCREMENT",
    "AVG_ROW_LENGTH",
    "CHECKSUM",
    "COMPRESSION",
    "DELAY_KEY_WRITE",
    "ENCRYPTION",
    "KEY_BLOCK_SIZE",
    "MAX_ROWS",
    "MIN_ROWS",
    "PACK_KEYS",
    "PAGE_CHECKSUM",
    "ROW_FORMAT",
    "STATS_AUTO_RECALC",
    "STATS_PERSISTENT",
    "STATS_SAMPLE_PAGES",
    "TRANSACTIONAL",
)
_HOW = ("ALGORITHM", "LOCK")
_NOTHING = (("FORCE",), ("ENABLE", "KEYS"), ("DISABLE", "KEYS"), ("WITH", "VALIDATION"), ("WITHOUT", "VALIDATION"))
_DROPPED_OTHERS = ("PRIMARY", "CONSTRAINT", "CHECK", "PARTITION")


class _Change:
    """The actions of one ALTER TABLE. The names in them are those of before, but in AFTER."""

    def __init__(self, reader: Reader, before: TableDefinition, dialect: Dialect) -> None:
        self._reader = reader
        self._before = before
        self._dialect = dialect
        self._primary_key = before.primary_key
        self._unique_keys = list(before.unique_keys)
        self._dropped: set[str] = set()
        self._changed: dict[str, WrittenColumn] = {}  # by name before: CHANGE and MODIFY
        self._kept: dict[str, ColumnDefinition] = {}  # by name before: what else became of it
        self._written: list[tuple[str | None, WrittenColumn]] = []  # in order; the name before, None for ADD
        self._comment = before.comment
        self._collation: str | None = None

    # ------------------------------------------------------------ reading

    def read(self) -> None:
        """Every action, and the options of the table."""
        reader = self._reader
        if reader.is_over():
            return
        if any(reader.take(*words) for words in _PARTITIONS_KEEP):
            reader.at = len(reader.tokens)
            return
        if reader.take("REORGANIZE", "PARTITION"):
            self._reorganize_partitions()
            return
        while True:
            self._action()
            if reader.take(","):
                continue
            if reader.is_over():
                return
            if not self._is_at_option():
                raise NotUnderstood

    def _reorganize_partitions(self) -> None:
        """By LIST, rows that no new partition takes are deleted without a word. A range can only grow (1520)."""
        reader = self._reader
        if reader.seek("INTO") and not reader.seek("VALUES", "LESS", "THAN"):
            raise Unproven("REORGANIZE PARTITION of a list deletes rows that no new partition takes")
        reader.at = len(reader.tokens)

    def _is_at_option(self) -> bool:
        """Options of a table may follow each other without a comma."""
        word = self._reader.peek()
        return word in (*_STORAGE_OPTIONS, *_HOW, "COMMENT", "ENGINE", "DEFAULT", "CHARACTER", "CHARSET", "COLLATE")

    def _action(self) -> None:
        reader = self._reader
        if reader.take("ADD"):
            self._add()
        elif reader.take("DROP"):
            self._drop()
        elif reader.take("MODIFY"):
            reader.take("COLUMN")
            self._modify(self._column() if self._exists() else None)
        elif reader.take("CHANGE"):
            reader.take("COLUMN")
            self._modify(self._column() if self._exists() else None, is_renamed=True)
        elif reader.take("RENAME"):
            self._rename()
        elif reader.take("ALTER"):
            self._alter()
        elif not any(reader.take(*words) for words in _NOTHING):
            self._option()

    def _exists(self) -> bool:
        """IF EXISTS: is the column that comes next there?"""
        reader = self._reader
        if not reader.take("IF", "EXISTS"):
            return True
        name = reader.name()
        reader.at -= 1
        return self._find(name) is not None

    def _find(self, name: str) -> ColumnDefinition | None:
        return next((c for c in self._before.columns if c.name.lower() == name.lower()), None)

    def _column(self) -> ColumnDefinition:
        """A column of before, by the name that comes next."""
        name = self._reader.name()
        found = self._find(name)
        if found is None:
            raise Unproven(f"it is about a column {name}, which is not known")
        return found

    # ------------------------------------------------------------ ADD

    def _add(self) -> None:
        reader = self._reader
        if reader.take("COLUMN"):
            self._add_columns()
        elif reader.peek() in ("CONSTRAINT", "PRIMARY", "FOREIGN", "CHECK", "PARTITION", "PERIOD", "SYSTEM"):
            self._add_constraint()
        elif reader.peek() in ("INDEX", "KEY", "UNIQUE", "FULLTEXT", "SPATIAL", "VECTOR"):
            self._add_index()
        else:
            self._add_columns()

    def _add_constraint(self) -> None:
        reader = self._reader
        if reader.take("CONSTRAINT") and reader.peek() not in ("UNIQUE", "CHECK", "PRIMARY", "FOREIGN"):
            reader.name()
        if reader.peek() == "UNIQUE":
            self._add_index()
        elif reader.peek() == "CHECK" and self._before.flavor == "mysql":
            self._skip_action()
        else:
            # A key; a foreign key, whose cascades may not show in the log; on MariaDB what makes a LONGTEXT a JSON.
            raise Unproven(f"ADD {reader.peek() or 'CONSTRAINT'}")

    def _add_index(self) -> None:
        reader = self._reader
        is_unique = reader.take("UNIQUE")
        if not is_unique:
            is_special = reader.take_any("FULLTEXT", "SPATIAL", "VECTOR")
            if reader.peek() not in ("INDEX", "KEY") and is_special:
                raise NotUnderstood  # it may be a column's name
        reader.take_any("INDEX", "KEY")
        if reader.take("IF", "NOT", "EXISTS"):
            raise Unproven("ADD INDEX IF NOT EXISTS")
        name = "" if reader.peek() in ("(", "USING") else reader.name()
        if reader.take("USING"):
            reader.name()
        if not reader.take("("):
            raise NotUnderstood
        if not is_unique:
            reader.at -= 1
            self._skip_action()
            return
        columns, has_prefix = self._index_columns()
        self._skip_action()
        if columns:
            self._unique_keys.append(UniqueKey(name or columns[0], tuple(columns), has_prefix))

    def _index_columns(self) -> tuple[list[str], bool]:
        """The columns of an index, behind its parenthesis; none where one is an expression."""
        reader = self._reader
        start = reader.at - 1
        columns: list[str] = []
        has_prefix = False
        while not reader.take(")"):
            if reader.peek() == "(":
                reader.at = start
                self._skip_parentheses()
                return [], False
            name = reader.name()
            found = self._find(name)
            columns.append(found.name if found is not None else name)
            if reader.take("("):
                reader.digits()
                has_prefix = True
                if not reader.take(")"):
                    raise NotUnderstood
            reader.take_any("ASC", "DESC")
            reader.take(",")
        return columns, has_prefix

    def _add_columns(self) -> None:
        reader = self._reader
        is_checked = reader.take("IF", "NOT", "EXISTS")
        if not reader.take("("):
            self._add_column(is_checked=is_checked)
            return
        while True:
            self._add_column(is_checked=is_checked)
            if reader.take(")"):
                return
            if not reader.take(","):
                raise NotUnderstood

    def _add_column(self, *, is_checked: bool) -> None:
        name = self._reader.name()
        written = read_column(self._reader, name, self._dialect)
        if self._find(name) is not None and is_checked:
            return
        if written.unknown:
            raise Unproven(written.unknown)
        if written.column.is_auto_increment:
            raise Unproven(f"the numbers that AUTO_INCREMENT gives {name} in the rows that are there")
        self._written.append((None, written))

    # ------------------------------------------------------------ DROP

    def _drop(self) -> None:
        reader = self._reader
        if reader.take_any("INDEX", "KEY"):
            self.drop_index()
        elif reader.take("FOREIGN", "KEY"):
            reader.take("IF", "EXISTS")
            reader.name()
        elif reader.peek() == "CHECK" and self._before.flavor == "mysql":
            self._skip_action()
        elif reader.peek() in _DROPPED_OTHERS or reader.peek(1) in ("FOR", "VERSIONING"):
            raise Unproven(f"DROP {reader.peek()}")
        else:
            self._drop_column()

    def drop_index(self) -> None:
        """Behind DROP INDEX."""
        self._reader.take("IF", "EXISTS")
        name = self._reader.name().lower()
        if name == "primary":
            raise Unproven("DROP INDEX PRIMARY")
        self._unique_keys = [key for key in self._unique_keys if key.name.lower() != name]

    def _drop_column(self) -> None:
        reader = self._reader
        reader.take("COLUMN")
        if not self._exists():
            reader.name()
        else:
            self._dropped.add(self._column().name)
        reader.take_any("RESTRICT", "CASCADE")

    # ------------------------------------------------------------ what is there

    def _modify(self, column: ColumnDefinition | None, *, is_renamed: bool = False) -> None:
        """CHANGE and MODIFY; None: of a column that is not there, which is so by IF EXISTS."""
        reader = self._reader
        if column is None:
            reader.name()
        name = reader.name() if is_renamed else (column.name if column is not None else "")
        written = read_column(reader, name, self._dialect)
        if column is None:
            return
        if column.name in self._changed or column.name in self._kept:
            raise Unproven(f"several changes of {column.name} in one statement")
        _require_same_values(column, written.column)
        self._changed[column.name] = written
        self._written.append((column.name, written))

    def _rename(self) -> None:
        reader = self._reader
        if reader.take_any("INDEX", "KEY"):
            old = reader.name().lower()
            if not reader.take("TO"):
                raise NotUnderstood
            new = reader.name()
            self._unique_keys = [
                replace(key, name=new) if key.name.lower() == old else key for key in self._unique_keys
            ]
            return
        if not reader.take("COLUMN"):
            raise Unproven("RENAME of the table")
        if not self._exists():
            raise Unproven("RENAME COLUMN IF EXISTS of none")
        column = self._column()
        if not reader.take("TO"):
            raise NotUnderstood
        self._keep(column, replace(column, name=reader.name()))

    def _alter(self) -> None:
        reader = self._reader
        if reader.peek() in ("INDEX", "KEY", "CHECK", "CONSTRAINT"):
            if reader.peek() in ("CHECK", "CONSTRAINT") and self._before.flavor != "mysql":
                raise Unproven(f"ALTER {reader.peek()}")
            self._skip_action()
            return
        reader.take("COLUMN")
        if not self._exists():
            raise Unproven("ALTER COLUMN IF EXISTS of none")
        column = self._column()
        if reader.take("DROP", "DEFAULT"):
            self._keep(column, replace(column, default=None))
        elif reader.take("SET", "DEFAULT"):
            default = default_text(column, read_default(reader), self._dialect)
            self._keep(column, replace(column, default=default))
        elif reader.take("SET", "INVISIBLE"):
            self._keep(column, replace(column, is_invisible=True))
        elif reader.take("SET", "VISIBLE"):
            self._keep(column, replace(column, is_invisible=False))
        else:
            raise NotUnderstood

    def _keep(self, column: ColumnDefinition, after: ColumnDefinition) -> None:
        if column.name in self._changed or column.name in self._kept:
            raise Unproven(f"several changes of {column.name} in one statement")
        self._kept[column.name] = after

    # ------------------------------------------------------------ the table

    def _option(self) -> None:
        reader = self._reader
        if reader.take_any(*_HOW, *_STORAGE_OPTIONS):
            reader.take("=")
            reader.take("-")
            if reader.is_over():
                raise NotUnderstood
            reader.at += 1
        elif reader.take("COMMENT"):
            reader.take("=")
            self._comment = read_comment(reader)
        elif reader.take("ENGINE"):
            reader.take("=")
            engine = reader.name()
            if engine.lower() != "innodb" or self._before.engine.lower() != "innodb":
                raise Unproven(f"ENGINE = {engine}")
        else:
            self._charset_option()

    def _charset_option(self) -> None:
        reader = self._reader
        reader.take("DEFAULT")
        charset = None
        if reader.take("CHARACTER", "SET") or reader.take("CHARSET"):
            reader.take("=")
            charset = reader.name().lower()
        if not reader.take("COLLATE"):
            raise Unproven("the table's collation depends on the server") if charset else NotUnderstood
        reader.take("=")
        self._collation = reader.name().lower()
        if charset is not None and charset != self._collation.partition("_")[0]:
            raise Unproven(f"the character set of {self._collation}")

    def _skip_action(self) -> None:
        """To the comma behind the action, or to the end."""
        reader = self._reader
        while not reader.is_over() and reader.peek() != ",":
            if reader.peek() == "(":
                self._skip_parentheses()
            else:
                reader.at += 1

    def _skip_parentheses(self) -> None:
        reader = self._reader
        depth = 0
        while not reader.is_over():
            depth += (reader.peek() == "(") - (reader.peek() == ")")
            reader.at += 1
            if depth == 0:
                return
        raise NotUnderstood

    # ------------------------------------------------------------ what comes of it

    def effect(self) -> Effect:
        """Raises Unproven where the whole is not what its parts are."""
        before = self._before
        if self._collation is not None and self._written:
            raise Unproven("columns and the table's collation in one statement")
        if self._changed and any(column.is_generated for column in before.columns):
            raise Unproven("a change of a column in a table with generated columns")
        renamed = {
            old: new.name
            for old, new in (*self._kept.items(), *((old, w.column) for old, w in self._changed.items()))
            if old != new.name
        }
        columns = self._columns()
        names = [column.name.lower() for column in columns]
        if len(set(names)) < len(names) or self._dropped & (self._changed.keys() | self._kept.keys()):
            raise Unproven("columns of one name")
        if set(before.primary_key) & self._dropped:
            raise Unproven("a column of the primary key is dropped")
        nullable = {column.name for column in columns if column.is_nullable}
        primary_key = tuple(renamed.get(name, name) for name in self._primary_key)
        if nullable & set(primary_key):
            # The server makes it NOT NULL without a word.
            columns = [_in_key(column) if column.name in primary_key else column for column in columns]
        collation = self._collation or before.collation
        definition = replace(
            before,
            columns=tuple(columns),
            primary_key=primary_key,
            unique_keys=tuple(sorted(self._keys(renamed), key=lambda key: key.name)),
            collation=collation,
            charset=(collation or "").partition("_")[0] or None,
            comment=self._comment,
        )
        added = {w.column.name: w.existing for old, w in self._written if old is None}
        return Effect(definition, added, frozenset(self._dropped), renamed)

    def _columns(self) -> list[ColumnDefinition]:
        """In their order: those of before that have not been sent elsewhere, then each that is put somewhere."""
        columns: list[ColumnDefinition] = []
        for column in self._before.columns:
            written = self._changed.get(column.name)
            if column.name in self._dropped or (written is not None and written.after is not None):
                continue
            columns.append(self._kept.get(column.name, column) if written is None else written.column)
        for old, written in self._written:
            if written.after is None:
                if old is None:
                    columns.append(written.column)
            elif written.after == "":
                columns.insert(0, written.column)
            else:
                columns.insert(_place(columns, written.after) + 1, written.column)
        return columns

    def _keys(self, renamed: Mapping[str, str]) -> list[UniqueKey]:
        keys = []
        for key in self._unique_keys:
            columns = tuple(renamed.get(name, name) for name in key.columns if name not in self._dropped)
            if columns:
                keys.append(replace(key, columns=columns))
        return keys


def _in_key(column: ColumnDefinition) -> ColumnDefinition:
    return replace(column, is_nullable=False, default=None if column.default == "NULL" else column.default)


def _place(columns: list[ColumnDefinition], name: str) -> int:
    for index, column in enumerate(columns):
        if column.name.lower() == name.lower():
            return index
    raise Unproven(f"a place behind {name}, which is not known")


# ---------------------------------------------------------------- values that stay


_TEXT_SIZES = ("tinytext", "text", "mediumtext", "longtext")
_BLOB_SIZES = ("tinyblob", "blob", "mediumblob", "longblob")


def _require_same_values(before: ColumnDefinition, after: ColumnDefinition) -> None:
    """Raises Unproven unless every value that the column can hold is the same afterwards."""
    change = f"{before.name} from {before.column_type} to {after.column_type}"
    if before.is_generated:
        raise Unproven(f"{before.name} is a generated column")
    if after.is_auto_increment and not before.is_auto_increment:
        raise Unproven(f"the numbers that AUTO_INCREMENT gives {before.name} in rows with 0 or NULL")
    if before.is_nullable and not after.is_nullable:
        raise Unproven(f"what NULL in {before.name} has become")
    if before.kind is not after.kind or before.is_unsigned != after.is_unsigned:
        raise Unproven(change)
    if before.charset != after.charset:
        raise Unproven(f"{change}: its character set")
    if not _holds(before, after):
        raise Unproven(change)


def holds_same_values(before: ColumnDefinition, after: ColumnDefinition) -> bool:
    """Is a column that was the one and is the other known to hold the same values?"""
    try:
        _require_same_values(before, after)
    except Unproven:
        return False
    return True


def _holds(before: ColumnDefinition, after: ColumnDefinition) -> bool:
    match before.kind:
        case ValueKind.INTEGER:
            return after.length >= before.length and "zerofill" not in before.column_type.lower()
        case ValueKind.DECIMAL:
            return after.scale == before.scale and after.precision >= before.precision
        case ValueKind.FLOAT | ValueKind.DOUBLE:
            return "(" not in before.column_type and "zerofill" not in before.column_type.lower()
        case ValueKind.DATETIME | ValueKind.TIMESTAMP | ValueKind.TIME:
            return after.fraction_digits >= before.fraction_digits
        case ValueKind.ENUM | ValueKind.SET:
            return after.members[: len(before.members)] == before.members
        case ValueKind.TEXT | ValueKind.BLOB:
            return _holds_text(before, after)
        case ValueKind.DATE | ValueKind.YEAR | ValueKind.JSON:
            return True
        case _:
            return before.column_type == after.column_type


def _holds_text(before: ColumnDefinition, after: ColumnDefinition) -> bool:
    has, wants = _base(before), _base(after)
    if has == wants:
        return after.length >= before.length
    for sizes, short in ((_TEXT_SIZES, "varchar"), (_BLOB_SIZES, "varbinary")):
        if wants in sizes and has in sizes:
            return sizes.index(wants) >= sizes.index(has)
        if wants in sizes and has == short:
            return wants != sizes[0]
    return False


def _base(column: ColumnDefinition) -> str:
    return column.column_type.partition("(")[0].strip().lower()
