"""What CREATE TABLE makes: the definition of a table that has no rows yet.

Worked out from the words of the statement, as `schema.ddl` works out what ALTER TABLE makes of one, and held to the
source's own definition in the same way later. What the words leave to the database or the server is given (`Defaults`).

Source: MySQL 8.4 sql/sql_yacc.yy, table_element and create_table_option; MariaDB 11.8 sql/sql_yacc.yy,
create_field_list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cdc.model import ColumnDefinition, Flavor, TableDefinition, TableName, UniqueKey
from cdc.schema.column_text import FIXED_COLLATIONS, Dialect, Unproven, read_column, read_comment
from cdc.schema.ddl import StatementText
from cdc.schema.moves import reader_of
from cdc.schema.tokens import NotUnderstood, Reader

__all__ = ["Defaults", "created_definition"]


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a statement may leave unsaid: of the database the collation, of the server the engine."""

    collation: str
    engine: str


# Options of a table, with one value, that are about no value and no column.
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
_PLAIN_ENGINES = {"innodb": "InnoDB"}


def created_definition(
    statement: StatementText,
    name: TableName,
    *,
    flavor: Flavor,
    server_version: tuple[int, ...],
    spelled: Callable[[TableName], TableName],
    find: Callable[[TableName], TableDefinition | None],
    defaults: Callable[[], Defaults],
    is_absent: bool = True,
) -> TableDefinition | None:
    """The definition of the table `name` that the statement makes; None where it is no CREATE TABLE.

    `find` gives the definition that a table has at this place in the stream, `spelled` makes of a name in the
    statement the one that the server knows it by. `defaults` is asked where the statement leaves something unsaid.
    `is_absent`: the stream has shown that no such table is there; else IF NOT EXISTS may have found one, with rows.
    Raises Unproven.
    """
    reader = reader_of(statement)
    if not reader.take("CREATE", "TABLE"):
        return None  # OR REPLACE, of a table that may be there
    if reader.take("IF", "NOT", "EXISTS") and not is_absent:
        raise Unproven("the table may have been there before, unseen (IF NOT EXISTS)")
    try:
        if spelled(reader.table()) != name:
            raise Unproven("it is about another table")
        like = _liked(reader)
        if like is not None:
            return _copy(find(spelled(like)), name, like)
        return _Creation(reader, name, flavor, server_version, defaults).read()
    except NotUnderstood:
        at = reader.tokens[reader.at].text if not reader.is_over() else "its end"
        raise Unproven(f"a form of CREATE TABLE that is not known, at {at}") from None


def _liked(reader: Reader) -> TableName | None:
    """The table after LIKE, with or without parentheses; None for another form."""
    start = reader.at
    is_inside = reader.take("(")
    if not reader.take("LIKE"):
        reader.at = start
        return None
    table = reader.table()
    if (is_inside and not reader.take(")")) or not reader.is_over():
        raise NotUnderstood
    return table


def _copy(like: TableDefinition | None, name: TableName, table: TableName) -> TableDefinition:
    if like is None:
        raise Unproven(f"{table} is not known")
    return replace(like, name=name)


class _Creation:
    """The columns, keys and options of one CREATE TABLE."""

    def __init__(
        self,
        reader: Reader,
        name: TableName,
        flavor: Flavor,
        version: tuple[int, ...],
        defaults: Callable[[], Defaults],
    ) -> None:
        self._reader = reader
        self._name = name
        self._flavor = flavor
        self._version = version
        self._defaults = defaults
        self._columns: list[ColumnDefinition] = []
        self._primary_key: tuple[str, ...] = ()
        self._unique_keys: list[UniqueKey] = []
        self._engine = ""
        self._charset = ""
        self._collation = ""
        self._comment = ""

    def read(self) -> TableDefinition:
        """Raises Unproven, NotUnderstood."""
        reader = self._reader
        start = reader.at
        self._skip_parentheses()
        while not reader.is_over() and reader.peek() != "PARTITION":
            self._option()
            reader.take(",")
        if reader.take("PARTITION"):
            self._require_no_query()
        self._settle_collation()
        reader.at = start + 1
        dialect = Dialect(self._flavor, self._version, self._collation.partition("_")[0], self._collation)
        while True:
            self._element(dialect)
            if reader.take(")"):
                break
            if not reader.take(","):
                raise NotUnderstood
        return self._definition()

    # ------------------------------------------------------------ options

    def _option(self) -> None:
        reader = self._reader
        if reader.take_any(*_STORAGE_OPTIONS):
            reader.take("=")
            if reader.is_over():
                raise NotUnderstood
            reader.at += 1
        elif reader.take("ENGINE"):
            reader.take("=")
            self._engine = reader.name() if not reader.tokens[reader.at].is_quoted else reader.literal()
        elif reader.take("COMMENT"):
            reader.take("=")
            self._comment = read_comment(reader)
        else:
            self._charset_option()

    def _charset_option(self) -> None:
        reader = self._reader
        reader.take("DEFAULT")
        if reader.take("CHARACTER", "SET") or reader.take("CHARSET"):
            reader.take("=")
            self._charset = reader.name().lower()
        elif reader.take("COLLATE"):
            reader.take("=")
            self._collation = reader.name().lower()
        else:
            raise NotUnderstood  # AS SELECT, START TRANSACTION, UNION, WITH SYSTEM VERSIONING

    def _require_no_query(self) -> None:
        """Behind PARTITION nothing is read: it is about where rows are kept, but a query may follow it."""
        words = {token.text.upper() for token in self._reader.tokens[self._reader.at :] if not token.is_quoted}
        if words & {"AS", "SELECT", "TABLE", "WITH", "IGNORE", "REPLACE", "START", "SYSTEM_TIME"}:
            raise Unproven("a query behind PARTITION BY")
        self._reader.at = len(self._reader.tokens)

    def _settle_collation(self) -> None:
        self._collation = self._collation or FIXED_COLLATIONS.get(self._charset, "")
        if self._charset and not self._collation:
            raise Unproven(f"the collation that CHARACTER SET {self._charset} stands for depends on the server")
        if not self._collation or not self._engine:
            given = self._defaults()
            self._collation = self._collation or given.collation
            self._engine = self._engine or given.engine
        if self._charset and self._charset != self._collation.partition("_")[0]:
            raise Unproven(f"the character set of {self._collation}")
        if self._engine.lower() not in _PLAIN_ENGINES:
            raise Unproven(f"ENGINE = {self._engine}")
        self._engine = _PLAIN_ENGINES[self._engine.lower()]

    # ------------------------------------------------------------ columns and keys

    def _element(self, dialect: Dialect) -> None:
        reader = self._reader
        word = reader.peek()
        if word == "CONSTRAINT":
            reader.at += 1
            if reader.peek() not in ("UNIQUE", "PRIMARY", "CHECK", "FOREIGN"):
                reader.name()
            word = reader.peek()
        if word == "PRIMARY":
            self._key(is_primary=True)
        elif word == "UNIQUE":
            self._key(is_primary=False)
        elif word in ("INDEX", "KEY", "FULLTEXT", "SPATIAL", "VECTOR") or (word == "CHECK" and self._flavor == "mysql"):
            self._skip_element()
        elif word in ("FOREIGN", "CHECK", "PERIOD"):
            # Cascades may not show in the log; a CHECK is on MariaDB what makes a LONGTEXT a JSON.
            raise Unproven("FOREIGN KEY" if word == "FOREIGN" else word)
        else:
            self._column(dialect)

    def _column(self, dialect: Dialect) -> None:
        reader = self._reader
        name = reader.name()
        written = read_column(reader, name, dialect, is_new_table=True)
        if written.after is not None:
            raise NotUnderstood
        self._columns.append(written.column)
        if written.key == "primary":
            if self._primary_key:
                raise NotUnderstood
            self._primary_key = (name,)
        elif written.key == "unique":
            self._unique_keys.append(UniqueKey(name, (name,)))

    def _key(self, *, is_primary: bool) -> None:
        reader = self._reader
        reader.at += 1
        reader.take_any("KEY", "INDEX")
        name = "" if reader.peek() in ("(", "USING") else reader.name()
        if reader.take("USING"):
            reader.name()
        if not reader.take("("):
            raise NotUnderstood
        columns, has_prefix = self._key_columns()
        self._skip_element()
        if is_primary:
            if self._primary_key or not columns or has_prefix:
                raise Unproven("a primary key of parts of columns")
            self._primary_key = columns
        elif columns:
            self._unique_keys.append(UniqueKey(name or columns[0], columns, has_prefix))

    def _key_columns(self) -> tuple[tuple[str, ...], bool]:
        """The columns of an index, behind its parenthesis; none where one is an expression."""
        reader = self._reader
        start = reader.at - 1
        columns: list[str] = []
        has_prefix = False
        while not reader.take(")"):
            if reader.peek() == "(":
                reader.at = start
                self._skip_parentheses()
                return (), False
            columns.append(reader.name())
            if reader.take("("):
                reader.digits()
                has_prefix = True
                if not reader.take(")"):
                    raise NotUnderstood
            reader.take_any("ASC", "DESC")
            reader.take(",")
        return tuple(columns), has_prefix

    def _skip_element(self) -> None:
        """To the comma behind it, or the parenthesis that ends them all."""
        reader = self._reader
        while reader.peek() not in (",", ")"):
            if reader.is_over():
                raise NotUnderstood
            if reader.peek() == "(":
                self._skip_parentheses()
            else:
                reader.at += 1

    def _skip_parentheses(self) -> None:
        reader = self._reader
        if reader.peek() != "(":
            raise NotUnderstood
        depth = 0
        while not reader.is_over():
            depth += (reader.peek() == "(") - (reader.peek() == ")")
            reader.at += 1
            if depth == 0:
                return
        raise NotUnderstood

    # ------------------------------------------------------------ what comes of it

    def _definition(self) -> TableDefinition:
        spelled = {column.name.lower(): column.name for column in self._columns}
        if len(spelled) < len(self._columns) or not self._columns:
            raise NotUnderstood

        def of(names: tuple[str, ...]) -> tuple[str, ...]:
            try:
                return tuple(spelled[name.lower()] for name in names)
            except KeyError:
                raise Unproven("a key over a column that is not known") from None

        primary_key = of(self._primary_key)
        unique_keys = [replace(key, columns=of(key.columns)) for key in self._unique_keys]
        if len({key.name.lower() for key in unique_keys}) < len(unique_keys):
            raise Unproven("the names that the server gives to indexes without one")
        columns = [
            replace(column, is_nullable=False, default=None if column.default == "NULL" else column.default)
            if column.name in primary_key
            else column
            for column in self._columns
        ]
        return TableDefinition(
            name=self._name,
            columns=tuple(columns),
            primary_key=primary_key,
            unique_keys=tuple(sorted(unique_keys, key=lambda key: key.name)),
            engine=self._engine,
            charset=self._collation.partition("_")[0],
            collation=self._collation,
            comment=self._comment,
            flavor=self._flavor,
        )
