"""Definitions out of a file: CREATE TABLE statements as the servers print them, or what `cdc checkpoint history` wrote.

For logs that name no columns, where neither the server nor a history can be asked. A statement is read for what
decides how rows are read: names, types, signs, character sets, members, keys. Other than `schema.creation`, which has
to prove what a statement does to a target, it passes over what is about no row (foreign keys, partitions, defaults).
What is not understood is an error of the table that it is about, and only when that table is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from cdc.errors import ConfigError, UnsupportedData
from cdc.model import ColumnDefinition, Flavor, SourcePosition, TableDefinition, TableName, UniqueKey, ValueKind
from cdc.schema.tokens import NotUnderstood, Reader, Token, tokens_of
from cdc.source.definitions import column_of, unescaped
from checkpoints.history import TableHistory, histories_of

__all__ = ["SchemaFile", "read_schema_file"]

# What clients give a routine's text between: none of it is run.
_ROUTINES = re.compile(r"^DELIMITER (?!;\s*$).*?^DELIMITER ;\s*$", re.MULTILINE | re.DOTALL | re.IGNORECASE)
_SYNONYMS = {
    "integer": "int",
    "int1": "tinyint",
    "int2": "smallint",
    "int3": "mediumint",
    "int4": "int",
    "int8": "bigint",
    "middleint": "mediumint",
    "bool": "tinyint",
    "boolean": "tinyint",
    "dec": "decimal",
    "numeric": "decimal",
    "fixed": "decimal",
    "real": "double",
    "character": "char",
}
_LENGTHS = {
    "tinytext": 255,
    "text": 65_535,
    "mediumtext": 16_777_215,
    "longtext": 4_294_967_295,
    "tinyblob": 255,
    "blob": 65_535,
    "mediumblob": 16_777_215,
    "longblob": 4_294_967_295,
}
_TEXTS = ("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set")
_SIZED = ("char", "varchar", "binary", "varbinary")
_TIMES = ("datetime", "timestamp", "time")
_NO_COLUMN = ("PRIMARY", "UNIQUE", "KEY", "INDEX", "FULLTEXT", "SPATIAL", "CONSTRAINT", "FOREIGN", "CHECK", "PERIOD")
_HINT = "give the statement as SHOW CREATE TABLE prints it"


class SchemaFile:
    """The tables of one file."""

    def __init__(
        self, name: str, statements: Mapping[TableName, Sequence[Token]], histories: Mapping[TableName, TableHistory]
    ) -> None:
        self._name = name
        self._statements = statements
        self._histories = histories

    def tables(self) -> list[TableName]:
        """Those that it has; the database is '' where the file does not say it."""
        return sorted({*self._statements, *self._histories})

    def find(self, table: TableName, flavor: Flavor, at: SourcePosition | None) -> TableDefinition | None:
        """The table's definition, of a history the one as of `at`; None where the file has none.

        Raises ConfigError where the table's statement is not understood.
        """
        history = self._histories.get(table)
        if history is not None and at is not None:
            # A file of a log does not say whose it is: whoever gives both says that they belong together.
            server = at.server if at.server.uuid or history.upto is None else history.upto.server
            if (found := history.at(replace(at, server=server))) is not None:
                return found
        tokens = self._statements.get(table) or self._statements.get(TableName("", table.table))
        if tokens is None:
            return None
        try:
            return _Creation(table, tokens, flavor).read()
        except (NotUnderstood, IndexError, ValueError):
            problem = f"{self._name}: the CREATE TABLE of {table} is not understood"
        except UnsupportedData as error:
            problem = f"{self._name}: {error.message}"
        raise ConfigError(problem, hint=_HINT) from None


def read_schema_file(path: Path) -> SchemaFile:
    """Raises ConfigError for a file that cannot be read, or has no table."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ConfigError(f"--schema {path}: {error.strerror}", hint="name a file of CREATE TABLE statements") from None
    if text.lstrip()[:1] in ("{", "["):
        try:
            histories = histories_of(orjson.loads(text.encode("utf-8", "surrogateescape")))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            raise ConfigError(
                f"--schema {path} is JSON, and none that `cdc checkpoint history --json` writes",
                hint="write it anew with that command",
            ) from None
        return SchemaFile(str(path), {}, histories)
    statements = dict(_tables(_ROUTINES.sub("", text)))
    if not statements:
        raise ConfigError(
            f"--schema {path} has no CREATE TABLE statement",
            hint="`mysqldump --no-data`, SHOW CREATE TABLE, or `cdc checkpoint history --json` give what it may hold",
        )
    return SchemaFile(str(path), statements, {})


def _tables(text: str) -> Iterator[tuple[TableName, Sequence[Token]]]:
    """Each CREATE TABLE, by the table's name, with what follows it."""
    database = ""
    for tokens in _statements(text):
        reader = Reader(tokens, database)
        if reader.take("USE"):
            database = reader.name()
            continue
        reader.take("CREATE")
        reader.take("OR", "REPLACE")
        if reader.at == 0 or not reader.take("TABLE"):
            continue
        reader.take("IF", "NOT", "EXISTS")
        yield reader.table(), tokens[reader.at :]


def _statements(text: str) -> Iterator[list[Token]]:
    statement: list[Token] = []
    for token in tokens_of(text, ansi_quotes=False, backslash_escapes=True):
        if token.text == ";" and not token.is_quoted:
            if statement:
                yield statement
            statement = []
        else:
            statement.append(token)
    if statement:
        yield statement


@dataclass(slots=True)
class _Column:
    """A column as it is read: as information_schema would show it, as far as it matters to rows."""

    row: dict[str, str | None]
    is_text: bool
    is_json: bool = False
    is_key: bool = False
    is_unique: bool = False


class _Creation:
    """What stands behind CREATE TABLE and the table's name."""

    def __init__(self, name: TableName, tokens: Sequence[Token], flavor: Flavor) -> None:
        self._name = name
        self._reader = Reader(list(tokens), name.database)
        self._flavor = flavor
        self._columns: list[_Column] = []
        self._primary_key: tuple[str, ...] = ()
        self._unique_keys: list[UniqueKey] = []
        self._json: set[str] = set()

    def read(self) -> TableDefinition:
        """Raises NotUnderstood, UnsupportedData, IndexError, ValueError."""
        elements, options = _parted(self._reader.tokens)
        for element in elements:
            self._element(Reader(element, self._name.database))
        charset, collation = _charset_of(Reader(options, ""))
        engine = Reader(options, "")
        is_versioned = Reader(options, "").seek("SYSTEM", "VERSIONING")
        if is_versioned:
            raise self._refused("is system versioned, which is not captured")
        columns = tuple(self._definition(column, charset, collation) for column in self._columns)
        inline = tuple(column.name for column, read in zip(columns, self._columns, strict=True) if read.is_key)
        unique = [
            UniqueKey(column.name, (column.name,))
            for column, read in zip(columns, self._columns, strict=True)
            if read.is_unique
        ]
        engine.seek("ENGINE")
        engine.take("=")
        primary_key = self._spelled(self._primary_key or inline, columns)
        keys = [replace(key, columns=self._spelled(key.columns, columns)) for key in (*self._unique_keys, *unique)]
        return TableDefinition(
            name=self._name,
            columns=tuple(replace(c, is_nullable=False) if c.name in primary_key else c for c in columns),
            primary_key=primary_key,
            unique_keys=tuple(sorted(keys, key=lambda key: key.name)),
            engine=engine.name() if not engine.is_over() else "InnoDB",
            charset=charset,
            collation=collation,
            flavor=self._flavor,
        )

    def _refused(self, problem: str) -> UnsupportedData:
        return UnsupportedData(f"{self._name} {problem}", table=str(self._name))

    def _spelled(self, names: Sequence[str], columns: Sequence[ColumnDefinition]) -> tuple[str, ...]:
        by_name = {column.name.lower(): column.name for column in columns}
        try:
            return tuple(by_name[name.lower()] for name in names)
        except KeyError:
            raise NotUnderstood from None

    # -- keys

    def _element(self, reader: Reader) -> None:
        word = reader.peek()
        if word not in _NO_COLUMN and not (word == "VECTOR" and reader.peek(1) in ("KEY", "INDEX")):
            self._columns.append(self._column(reader))
            return
        if reader.take("CONSTRAINT") and reader.peek() not in ("PRIMARY", "UNIQUE", "FOREIGN", "CHECK"):
            reader.name()
        if reader.take("PRIMARY", "KEY"):
            self._primary_key, _ = _key_columns(reader)
        elif reader.take("UNIQUE"):
            reader.take_any("KEY", "INDEX")
            name = reader.name() if reader.peek() not in ("(", "USING") else ""
            columns, has_prefix = _key_columns(reader)
            if columns:
                self._unique_keys.append(UniqueKey(name or columns[0], columns, has_prefix))
        elif reader.take("CHECK"):
            self._note_json(reader)
        elif reader.take("PERIOD"):
            raise self._refused("has a PERIOD, which is not captured")

    def _note_json(self, reader: Reader) -> None:
        """MariaDB's JSON is LONGTEXT with this check."""
        while reader.take("("):
            pass
        if reader.take("JSON_VALID", "("):
            self._json.add(reader.name().lower())

    # -- columns

    def _column(self, reader: Reader) -> _Column:
        name = reader.name()
        word = reader.name().lower()
        word = _SYNONYMS.get(word, word)
        if word == "char" and reader.take("VARYING"):
            word = "varchar"
        if word == "double":
            reader.take("PRECISION")
        arguments = _arguments(reader)
        signs = set()
        while (sign := reader.peek()) in ("UNSIGNED", "SIGNED", "ZEROFILL"):
            signs.add(sign)
            reader.at += 1
        row = _row(name, word, arguments, signs)
        column = _Column(row, is_text=word in _TEXTS, is_json=word == "json" and self._flavor == "mariadb")
        if column.is_json:
            row |= {"DATA_TYPE": "longtext", "COLUMN_TYPE": "longtext", "CHARACTER_MAXIMUM_LENGTH": "4294967295"}
            row |= {"CHARACTER_SET_NAME": "utf8mb4", "COLLATION_NAME": "utf8mb4_bin"}
        self._attributes(reader, column)
        return column

    def _attributes(self, reader: Reader, column: _Column) -> None:
        row = column.row
        extra: list[str] = []
        while not reader.is_over():
            if reader.take("NOT", "NULL"):
                row["IS_NULLABLE"] = "NO"
            elif reader.take("CHARACTER", "SET") or reader.take("CHARSET"):
                row["CHARACTER_SET_NAME"] = reader.name().lower()
            elif reader.take("COLLATE"):
                row["COLLATION_NAME"] = reader.name().lower()
                row["CHARACTER_SET_NAME"] = row["CHARACTER_SET_NAME"] or (row["COLLATION_NAME"] or "").partition("_")[0]
            elif reader.take("PRIMARY", "KEY"):
                column.is_key = True
            elif reader.take("UNIQUE"):
                reader.take("KEY")
                column.is_unique = True
            elif reader.take("AS") or reader.take("GENERATED", "ALWAYS", "AS"):
                extra.append("GENERATED")
            elif reader.take("CHECK"):
                self._note_json(reader)
            elif reader.take("COMMENT"):
                row["COLUMN_COMMENT"] = unescaped(reader.literal())
            elif reader.peek() in ("INVISIBLE", "AUTO_INCREMENT"):
                extra.append(reader.peek())
                reader.at += 1
            elif reader.take("COMPRESSED"):
                row["COLUMN_TYPE"] = f"{row['COLUMN_TYPE']} /*M!100301 COMPRESSED*/"
            elif reader.take("WITHOUT", "SYSTEM", "VERSIONING") or reader.peek() != "(":
                reader.at += 1
            else:
                _arguments(reader)
        row["EXTRA"] = " ".join(extra)

    def _definition(self, column: _Column, charset: str | None, collation: str | None) -> ColumnDefinition:
        row = column.row
        if column.is_text and row["CHARACTER_SET_NAME"] is None:
            row |= {"CHARACTER_SET_NAME": charset, "COLLATION_NAME": collation}
            if charset is None:
                raise self._refused(f"has no character set, and its column {row['COLUMN_NAME']} neither")
        names = (row["COLUMN_NAME"] or "",) if (row["COLUMN_NAME"] or "").lower() in self._json else ()
        made = column_of(self._name, row, names)
        return replace(made, kind=ValueKind.JSON) if column.is_json else made


def _row(name: str, word: str, arguments: Sequence[Token], signs: Collection[str]) -> dict[str, str | None]:
    """The column as information_schema.COLUMNS shows it."""
    if word in ("enum", "set"):
        shown = ",".join("'" + token.text.replace("'", "''") + "'" for token in arguments if token.is_quoted)
        numbers: list[str] = []
    else:
        numbers = [token.text for token in arguments if token.text != ","]
        if not all(number.isdigit() for number in numbers):
            raise NotUnderstood
        if word == "decimal":
            numbers = [*numbers, *(["10"] if not numbers else []), "0"][:2] if len(numbers) < 2 else numbers
        shown = ",".join(numbers)
    first = numbers[0] if numbers else None
    length = first or "1" if word in _SIZED else str(_LENGTHS[word]) if word in _LENGTHS else None
    if word == "bit":
        first = first or "1"
    text = f"{word}({shown})" if shown else word
    if "UNSIGNED" in signs or "ZEROFILL" in signs:
        text += " unsigned" + " zerofill" * ("ZEROFILL" in signs)
    return {
        "COLUMN_NAME": name,
        "DATA_TYPE": word,
        "COLUMN_TYPE": text,
        "IS_NULLABLE": "YES",
        "CHARACTER_MAXIMUM_LENGTH": length,
        "NUMERIC_PRECISION": first if word in ("decimal", "bit") else None,
        "NUMERIC_SCALE": numbers[1] if word == "decimal" else None,
        "DATETIME_PRECISION": first or "0" if word in _TIMES else None,
        "CHARACTER_SET_NAME": None,
        "COLLATION_NAME": None,
        "EXTRA": "",
        "COLUMN_DEFAULT": None,
        "COLUMN_COMMENT": "",
    }


def _arguments(reader: Reader) -> list[Token]:
    """What stands between the parentheses that come next, if any do."""
    if not reader.take("("):
        return []
    depth, start = 1, reader.at
    while depth:
        if reader.is_over():
            raise NotUnderstood
        depth += (reader.peek() == "(") - (reader.peek() == ")")
        reader.at += 1
    return reader.tokens[start : reader.at - 1]


def _parted(tokens: list[Token]) -> tuple[list[list[Token]], list[Token]]:
    """The elements between the table's parentheses, and what follows these."""
    reader = Reader(tokens, "")
    if reader.peek() != "(":
        raise NotUnderstood  # LIKE, AS SELECT
    inside = _arguments(reader)
    elements: list[list[Token]] = [[]]
    depth = 0
    for token in inside:
        mark = "" if token.is_quoted else token.text
        depth += (mark == "(") - (mark == ")")
        if mark == "," and depth == 0:
            elements.append([])
        else:
            elements[-1].append(token)
    return elements, tokens[reader.at :]


def _charset_of(options: Reader) -> tuple[str | None, str | None]:
    charset = collation = None
    while not options.is_over():
        if options.take("CHARSET") or options.take("CHARACTER", "SET"):
            options.take("=")
            charset = options.name().lower()
        elif options.take("COLLATE"):
            options.take("=")
            collation = options.name().lower()
        elif options.peek() in ("PARTITION", "PARTITIONS"):
            break
        else:
            options.at += 1
    return charset or (collation.partition("_")[0] if collation else None), collation


def _key_columns(reader: Reader) -> tuple[tuple[str, ...], bool]:
    """The columns of an index; none where one is an expression."""
    while reader.peek() != "(":  # USING BTREE
        reader.at += 1
        if reader.is_over():
            raise NotUnderstood
    parts = Reader(_arguments(reader), "")
    columns: list[str] = []
    has_prefix = False
    while not parts.is_over():
        if parts.peek() == "(":
            return (), False
        columns.append(parts.name())
        has_prefix = bool(_arguments(parts)) or has_prefix
        parts.take_any("ASC", "DESC")
        parts.take(",")
    return tuple(columns), has_prefix
