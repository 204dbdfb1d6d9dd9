"""A column as DDL writes it, as the column that information_schema shows afterwards.

Knows the forms that are in daily use; any other is `Unproven`, as is what a form leaves to settings that are not known
here (the default collation of a character set, what a bare TIMESTAMP means). Tests hold what comes out of this to the
servers' own information_schema, column by column.

Source: MySQL 8.4 sql/sql_yacc.yy (column_def, field_def, column_attribute), MariaDB 11.8 sql/sql_yacc.yy.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass, replace
from typing import Literal

from cdc.model import ColumnDefinition, Flavor, ValueKind
from cdc.schema.tokens import NotUnderstood, Reader

__all__ = ["FIXED_COLLATIONS", "Dialect", "Unproven", "WrittenColumn", "default_text", "read_column", "read_default"]


class Unproven(Exception):
    """Why what a statement does cannot be shown to be the same elsewhere: its table is loaded again."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The server that ran the statement, and what the table gives to a text column that says nothing of its own."""

    flavor: Flavor
    version: tuple[int, ...]
    charset: str | None
    collation: str | None

    @property
    def shows_widths(self) -> bool:
        """Does information_schema print `int(11)`?"""
        return self.flavor == "mariadb" or self.version < (8, 0, 19)


@dataclass(frozen=True, slots=True)
class WrittenColumn:
    """A column definition in a statement.

    `existing` is the value that rows which are there already get where the column is added (None: NULL), as a literal
    of both kinds of sink would have it between quotes; `unknown` says why it is not known. `after` is None where the
    statement says nothing of the place, '' for FIRST. `key`: an index over it that stands with the column.
    """

    column: ColumnDefinition
    existing: str | None = None
    unknown: str = ""
    after: str | None = None
    key: Literal["", "primary", "unique"] = ""


_INTEGERS = {
    "TINYINT": ("tinyint", 8, 4, 3),
    "SMALLINT": ("smallint", 16, 6, 5),
    "MEDIUMINT": ("mediumint", 24, 9, 8),
    "INT": ("int", 32, 11, 10),
    "INTEGER": ("int", 32, 11, 10),
    "BIGINT": ("bigint", 64, 20, 20),
}
_TEXTS = {"TINYTEXT": 255, "TEXT": 65_535, "MEDIUMTEXT": 16_777_215, "LONGTEXT": 4_294_967_295}
_BLOBS = {"TINYBLOB": 255, "BLOB": 65_535, "MEDIUMBLOB": 16_777_215, "LONGBLOB": 4_294_967_295}
_TIMES = {"DATETIME": ValueKind.DATETIME, "TIMESTAMP": ValueKind.TIMESTAMP, "TIME": ValueKind.TIME}
_DECIMALS = ("DECIMAL", "NUMERIC", "DEC", "FIXED")
_TEXT_KINDS = (ValueKind.TEXT, ValueKind.ENUM, ValueKind.SET)
_NUMBERS = (ValueKind.INTEGER, ValueKind.DECIMAL, ValueKind.FLOAT, ValueKind.DOUBLE)
# A row has 65535 bytes: what is longer than this in four bytes a character may become a TEXT without a word.
_VARCHAR_MAX = 16_000
_WHOLE_IN_FLOAT = 1 << 24
# Where no setting that is in use anywhere says otherwise; what it says decides about no value.
FIXED_COLLATIONS = {"ascii": "ascii_general_ci", "latin1": "latin1_swedish_ci"}
_MARIADB_QUOTES_DEFAULTS_SINCE = (10, 2, 7)


def read_column(reader: Reader, name: str, dialect: Dialect, *, is_new_table: bool = False) -> WrittenColumn:
    """The definition that follows a column's name, up to a comma or whatever else is no part of it.

    `is_new_table`: there are no rows, so that a key may stand with it. Raises Unproven, NotUnderstood.
    """
    column = replace(_read_type(reader, dialect), name=name)
    attributes = _Attributes(may_have_key=is_new_table)
    while attributes.read(reader):
        pass
    if not reader.is_over() and reader.peek() not in (",", ")"):
        raise Unproven(f"{name} has the attribute {reader.tokens[reader.at].text}")
    if column.kind in _TEXT_KINDS:
        if is_new_table and attributes.collation is None:
            attributes.collation = FIXED_COLLATIONS.get(attributes.charset or "")
        charset, collation = _charset(attributes, dialect)
        column = replace(column, charset=charset, collation=collation)
    elif attributes.charset or attributes.collation:
        raise Unproven(f"{name} is no text and has a character set")
    if column.kind is ValueKind.TIMESTAMP and attributes.is_nullable is None:
        raise Unproven(f"whether {name} TIMESTAMP is NOT NULL and updates itself depends on the server")
    is_nullable = attributes.is_nullable is not False and not attributes.is_auto_increment
    column = replace(
        column,
        is_nullable=is_nullable,
        is_invisible=attributes.is_invisible,
        is_auto_increment=attributes.is_auto_increment,
        comment=attributes.comment,
    )
    existing, unknown = _existing(column, attributes.default)
    column = replace(column, default=default_text(column, attributes.default, dialect))
    return WrittenColumn(column, existing, unknown, attributes.after, attributes.key)


# ---------------------------------------------------------------- types


def _read_type(reader: Reader, dialect: Dialect) -> ColumnDefinition:
    word = reader.peek()
    reader.at += 1
    if word in _INTEGERS:
        return _integer(reader, word, dialect)
    if word in ("BOOL", "BOOLEAN"):
        return ColumnDefinition("", ValueKind.INTEGER, "tinyint(1)", length=8)
    if word in _DECIMALS:
        return _decimal(reader)
    if word in ("FLOAT", "DOUBLE"):
        reader.take("PRECISION")
        is_unsigned = _sign(reader)
        kind = ValueKind.FLOAT if word == "FLOAT" else ValueKind.DOUBLE
        return ColumnDefinition("", kind, word.lower() + " unsigned" * is_unsigned, is_unsigned=is_unsigned)
    if word in ("CHAR", "VARCHAR", "BINARY", "VARBINARY", "BIT"):
        return _sized(reader, word)
    if word in _TEXTS:
        return ColumnDefinition("", ValueKind.TEXT, word.lower(), length=_TEXTS[word])
    if word in _BLOBS:
        return ColumnDefinition("", ValueKind.BLOB, word.lower(), length=_BLOBS[word])
    if word == "DATE":
        return ColumnDefinition("", ValueKind.DATE, "date")
    if word in _TIMES:
        digits = int(_in_parentheses(reader) or 0)
        text = word.lower() + (f"({digits})" if digits else "")
        return ColumnDefinition("", _TIMES[word], text, fraction_digits=digits)
    if word == "YEAR":
        if _in_parentheses(reader) not in (None, "4"):
            raise Unproven("YEAR(2)")
        return ColumnDefinition("", ValueKind.YEAR, "year(4)" if dialect.shows_widths else "year")
    if word in ("ENUM", "SET"):
        return _members(reader, word)
    if word == "JSON":
        if dialect.flavor == "mysql":
            return ColumnDefinition("", ValueKind.JSON, "json")
        return ColumnDefinition("", ValueKind.JSON, "longtext", charset="utf8mb4", collation="utf8mb4_bin")
    raise Unproven(f"the type {word or '?'}")


def _in_parentheses(reader: Reader) -> str | None:
    """The number in parentheses that comes next, if any."""
    if not reader.take("("):
        return None
    digits = str(int(reader.digits()))
    if not reader.take(")"):
        raise NotUnderstood
    return digits


def _sign(reader: Reader) -> bool:
    """UNSIGNED, or SIGNED, or nothing."""
    is_unsigned = reader.take("UNSIGNED")
    if not is_unsigned:
        reader.take("SIGNED")
    if reader.peek() == "ZEROFILL":
        raise Unproven("ZEROFILL")
    return is_unsigned


def _integer(reader: Reader, word: str, dialect: Dialect) -> ColumnDefinition:
    name, bits, signed_width, unsigned_width = _INTEGERS[word]
    width = _in_parentheses(reader)
    is_unsigned = _sign(reader)
    text = name
    if dialect.shows_widths:
        text += f"({width or (unsigned_width if is_unsigned else signed_width)})"
    elif name == "tinyint" and width == "1" and not is_unsigned:
        text += "(1)"
    text += " unsigned" * is_unsigned
    return ColumnDefinition("", ValueKind.INTEGER, text, is_unsigned=is_unsigned, length=bits)


def _decimal(reader: Reader) -> ColumnDefinition:
    precision, scale = 10, 0
    if reader.take("("):
        precision = int(reader.digits()) or 10
        if reader.take(","):
            scale = int(reader.digits())
        if not reader.take(")"):
            raise NotUnderstood
    is_unsigned = _sign(reader)
    text = f"decimal({precision},{scale})" + " unsigned" * is_unsigned
    return ColumnDefinition("", ValueKind.DECIMAL, text, is_unsigned=is_unsigned, precision=precision, scale=scale)


def _sized(reader: Reader, word: str) -> ColumnDefinition:
    kinds = {"BINARY": ValueKind.BINARY, "VARBINARY": ValueKind.BLOB, "BIT": ValueKind.BIT}
    if word == "CHAR" and reader.take("VARYING"):
        word = "VARCHAR"
    size = int(_in_parentheses(reader) or 1)
    if size > _VARCHAR_MAX:
        raise Unproven(f"{word}({size}) may become another type")
    return ColumnDefinition("", kinds.get(word, ValueKind.TEXT), f"{word.lower()}({size})", length=size)


def _members(reader: Reader, word: str) -> ColumnDefinition:
    if not reader.take("("):
        raise NotUnderstood
    members = [_plain_literal(reader)]
    while reader.take(","):
        members.append(_plain_literal(reader))
    if not reader.take(")"):
        raise NotUnderstood
    if any(member.endswith(" ") for member in members):
        raise Unproven(f"a member of an {word} that ends in a space")
    listed = ",".join("'" + member.replace("'", "''") + "'" for member in members)
    kind = ValueKind.ENUM if word == "ENUM" else ValueKind.SET
    return ColumnDefinition("", kind, f"{word.lower()}({listed})", members=tuple(members))


def _plain_literal(reader: Reader) -> str:
    """A string that is the same in every character set and under every sql_mode."""
    text = reader.literal()
    if not text.isascii() or not text.isprintable() or "\\" in text:
        raise Unproven("a literal that is not plain ASCII")
    return text


# ---------------------------------------------------------------- attributes


@dataclass(frozen=True, slots=True)
class Default:
    """What follows DEFAULT. `text` of a literal is what stands in it; `is_now`: CURRENT_TIMESTAMP, with its digits."""

    text: str | None
    is_number: bool = False
    is_now: bool = False


@dataclass(slots=True)
class _Attributes:
    is_nullable: bool | None = None
    default: Default | None = None
    charset: str | None = None
    collation: str | None = None
    comment: str = ""
    is_auto_increment: bool = False
    is_invisible: bool = False
    after: str | None = None
    may_have_key: bool = False
    key: Literal["", "primary", "unique"] = ""

    def read(self, reader: Reader) -> bool:
        """Take one attribute in; False when what comes next is none of those that are known."""
        if reader.take("NOT", "NULL"):
            self.is_nullable = False
        elif reader.take("NULL"):
            self.is_nullable = True
        elif reader.take("DEFAULT"):
            self.default = read_default(reader)
        elif reader.take("CHARACTER", "SET") or reader.take("CHARSET"):
            self.charset = reader.name().lower()
        elif reader.take("COLLATE"):
            self.collation = reader.name().lower()
        elif reader.take("COMMENT"):
            self.comment = read_comment(reader)
        elif reader.take("AUTO_INCREMENT"):
            self.is_auto_increment = True
        elif reader.take("ON", "UPDATE"):
            if not read_default(reader).is_now:
                raise NotUnderstood
        elif reader.take("INVISIBLE"):
            self.is_invisible = True
        elif reader.take("FIRST"):
            self.after = ""
        elif reader.take("AFTER"):
            self.after = reader.name()
        elif not self.may_have_key or self.key:
            return reader.take("VISIBLE")
        elif reader.take("PRIMARY", "KEY") or reader.take("KEY"):
            self.key = "primary"
        elif reader.take("UNIQUE"):
            reader.take("KEY")
            self.key = "unique"
        else:
            return reader.take("VISIBLE")
        return True


def read_default(reader: Reader) -> Default:
    """What follows DEFAULT, or ON UPDATE. Raises Unproven for an expression."""
    if reader.take("NULL"):
        return Default(None)
    if reader.take_any("CURRENT_TIMESTAMP", "NOW", "LOCALTIME", "LOCALTIMESTAMP"):
        digits = ""
        if reader.take("("):
            digits = reader.digits() if reader.peek() != ")" else ""
            if not reader.take(")"):
                raise NotUnderstood
        return Default(str(int(digits or 0)), is_now=True)
    if reader.take("TRUE"):
        return Default("1", is_number=True)
    if reader.take("FALSE"):
        return Default("0", is_number=True)
    sign = "-" if reader.take("-") else ""
    reader.take("+")
    if reader.peek()[:1].isdigit():
        text = sign + reader.digits()
        return Default(text + (f".{reader.digits()}" if reader.take(".") else ""), is_number=True)
    if sign or reader.peek():
        raise Unproven("a default that is an expression")
    return Default(_plain_literal(reader))


_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "Z": "\x1a"}


def read_comment(reader: Reader) -> str:
    """The text of COMMENT: about nothing that goes to a sink."""
    return _ESCAPED.sub(lambda match: _ESCAPES.get(match[1], match[1]), reader.literal())


def _charset(attributes: _Attributes, dialect: Dialect) -> tuple[str, str]:
    charset, collation = attributes.charset, attributes.collation
    if collation is None:
        if charset is not None:
            raise Unproven(f"the collation that CHARACTER SET {charset} stands for depends on the server")
        charset, collation = dialect.charset, dialect.collation
    else:
        of_collation = collation.partition("_")[0]
        if charset is not None and charset != of_collation:
            raise Unproven(f"the character set of {collation}")
        charset = of_collation
    if not charset or not collation or charset in ("binary", "utf8", "uca1400"):
        raise Unproven(f"the character set {charset or '?'}")
    return charset, collation


# ---------------------------------------------------------------- defaults

_WHOLE = re.compile(r"-?[0-9]+")
_DATE = re.compile(r"[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}")
_DATETIME = re.compile(_DATE.pattern + r" [0-9]{2}:[0-9]{2}:[0-9]{2}")
_DECIMAL = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?")


def _existing(column: ColumnDefinition, default: Default | None) -> tuple[str | None, str]:
    """What rows that are there get in this column when it is added; and why that is not known, else ''."""
    try:
        if default is None:
            return (None if column.is_nullable else _implicit(column)), ""
        return _value(column, default), ""
    except Unproven as error:
        return None, str(error)


def _implicit(column: ColumnDefinition) -> str:
    """For NOT NULL without a default."""
    if column.is_auto_increment:
        raise Unproven(f"the numbers that AUTO_INCREMENT gives {column.name} in the rows that are there")
    if column.kind in _NUMBERS:
        return "0"
    if column.kind in (ValueKind.TEXT, ValueKind.BLOB):
        return ""
    if column.kind is ValueKind.ENUM:
        return column.members[0]
    raise Unproven(f"what {column.name} {column.column_type} NOT NULL without a default is in the rows that are there")


def _value(column: ColumnDefinition, default: Default) -> str | None:
    """The value of a literal, as the column keeps it."""
    unknown = Unproven(f"what the default of {column.name} {column.column_type} is in the rows that are there")
    text = default.text
    if text is None:
        if not column.is_nullable:
            raise unknown
        return None
    if default.is_now:
        raise unknown
    if column.kind is ValueKind.DECIMAL:
        return _fixed_point(column, text)
    is_whole = _WHOLE.fullmatch(text) is not None
    if column.kind is ValueKind.INTEGER and is_whole:
        return str(int(text))
    is_float = column.kind in (ValueKind.FLOAT, ValueKind.DOUBLE)
    if is_float and is_whole and text != "-0" and abs(int(text)) < _WHOLE_IN_FLOAT:
        return str(int(text))
    if default.is_number or not _is_kept(column, text):
        raise unknown
    return text


def _is_kept(column: ColumnDefinition, text: str) -> bool:
    """Does the column keep a string as it is written?"""
    match column.kind:
        case ValueKind.ENUM:
            return text in column.members
        case ValueKind.TEXT:
            is_short = column.column_type.startswith(("char", "varchar"))  # others have no such defaults on MySQL
            return is_short and len(text) <= column.length and not text.endswith(" ")
        case ValueKind.DATE:
            return _DATE.fullmatch(text) is not None and _is_in_calendar(text)
        case ValueKind.DATETIME:
            return _DATETIME.fullmatch(text) is not None and _is_in_calendar(text)
        case _:
            return False


def _fixed_point(column: ColumnDefinition, text: str) -> str:
    match = _DECIMAL.fullmatch(text)
    if match is None or len(match[3] or "") > column.scale:
        raise Unproven(f"how the default of {column.name} is rounded")
    sign, whole, fraction = match[1], str(int(match[2])), (match[3] or "").ljust(column.scale, "0")
    number = f"{whole}.{fraction}" if column.scale else whole
    return number if not number.strip("0.") else sign + number


def _is_in_calendar(text: str) -> bool:
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def default_text(column: ColumnDefinition, default: Default | None, dialect: Dialect) -> str | None:
    """The default as information_schema prints it. Raises Unproven where that is not known."""
    is_mariadb = dialect.flavor == "mariadb"
    if is_mariadb and dialect.version < _MARIADB_QUOTES_DEFAULTS_SINCE:
        raise Unproven("a MariaDB that prints defaults without quotes")
    if default is None or default.text is None:
        is_shown = is_mariadb and column.is_nullable and not column.is_auto_increment
        return "NULL" if is_shown else None
    if default.is_now:
        digits = f"({default.text})" if default.text != "0" else ""
        return f"current_timestamp{digits or '()'}" if is_mariadb else f"CURRENT_TIMESTAMP{digits}"
    text = _value(column, default)
    if text is None:
        raise Unproven(f"the default of {column.name}")
    if column.kind is ValueKind.DATETIME and column.fraction_digits:
        text += "." + "0" * column.fraction_digits
    return "'" + text.replace("'", "''") + "'" if is_mariadb and column.kind not in _NUMBERS else text
