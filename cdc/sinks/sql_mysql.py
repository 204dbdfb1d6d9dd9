"""SQL of MySQL and MariaDB as pure text. Identifiers go through `quote`; values come as literals of `encode_mysql`.

The literals suppose the session's sql_mode (backslash escapes, no ANSI_QUOTES) and character set (utf8mb4), which
`mysql.MysqlSink` sets and checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from cdc.model import ColumnDefinition, ValueKind
from cdc.schema.sharing import Alteration
from cdc.schema.target import SinkKind, TargetColumn, TargetTable

__all__ = [
    "alter_table",
    "can_hold",
    "canonical_type",
    "chunks",
    "clear",
    "column_definition",
    "complete_staged",
    "create_stage",
    "create_table",
    "definition_check",
    "delete_keys",
    "delete_prefix",
    "delete_staged",
    "delete_staged_keys",
    "drop_stage",
    "holds",
    "insert_prefix",
    "insert_staged",
    "is_list_of_members",
    "key_condition",
    "keys_stage_of",
    "load_data",
    "own_rows",
    "qualified",
    "quote",
    "select_all",
    "self_updating",
    "slim_stage",
    "stage_of",
    "stray_value",
    "text_literal",
    "unmatched_staged",
    "update_row",
    "update_staged",
    "upsert_suffix",
]


def quote(name: str) -> str:
    """A quoted identifier. Not for SQL that is executed with parameters: there a `%` must be doubled as well."""
    if "\0" in name or not name:
        raise ValueError("an identifier is not empty and holds no NUL")
    return "`" + name.replace("`", "``") + "`"


def qualified(namespace: str, name: str) -> str:
    """`` `database`.`table` ``."""
    return f"{quote(namespace)}.{quote(name)}"


def _table(target: TargetTable) -> str:
    return qualified(target.namespace, target.name)


def _names(columns: Iterable[TargetColumn]) -> str:
    return ", ".join(quote(column.name) for column in columns)


def own_rows(target: TargetTable) -> str:
    """The condition of the rows that are the source table's, where others have rows in the target, too; else ''."""
    shared = target.source_column
    return "" if shared is None else f" WHERE {quote(shared.name)} = {text_literal(shared.value)}"


def stray_value(target: TargetTable, values: Sequence[str]) -> str:
    """A value of the source column that is none of those; at least one is given."""
    shared = target.source_column
    name = quote(shared.name if shared is not None else "")
    return f"SELECT {name} FROM {_table(target)} WHERE {name} NOT IN ({', '.join(map(text_literal, values))}) LIMIT 1"


def clear(target: TargetTable) -> str:
    """Delete every row of the source table's."""
    return f"DELETE FROM {_table(target)}{own_rows(target)}"


def key_columns(target: TargetTable) -> tuple[TargetColumn, ...]:
    """The key's columns, in the key's order."""
    by_name = {column.name: column for column in target.columns}
    return tuple(by_name[name] for name in target.key)


def live_rows(target: TargetTable) -> str:
    """The condition of the rows that the source has now, where the target keeps others, too; else ''."""
    return "" if target.live_column is None else f" WHERE {quote(target.live_column)} IS NULL"


def create_table(target: TargetTable, kind: SinkKind) -> str:
    """The table with its primary key, where it has one, and no other index: InnoDB, every attribute explicit."""
    lines = [column_definition(column, kind) for column in target.columns]
    if target.key:
        lines.append(f"PRIMARY KEY ({', '.join(quote(name) for name in target.key)})")
    return (
        f"CREATE TABLE {_table(target)} (\n    "
        + ",\n    ".join(lines)
        + "\n) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        + (f" COMMENT={text_literal(target.comment)}" if target.comment else "")
    )


def alter_table(target: TargetTable, alterations: Sequence[Alteration], kind: SinkKind) -> str:
    """Alter columns of the target, in one statement."""
    clauses = []
    for alteration in alterations:
        match alteration.action:
            case "add":
                clauses.append(f"ADD COLUMN {column_definition(alteration.column, kind)}")
            case "drop":
                clauses.append(f"DROP COLUMN {quote(alteration.column.name)}")
            case "change":
                clauses.append(f"MODIFY COLUMN {column_definition(alteration.column, kind)}")
    return f"ALTER TABLE {_table(target)} {', '.join(clauses)}"


def column_definition(column: TargetColumn, kind: SinkKind) -> str:
    """A column of CREATE and ALTER TABLE."""
    name = quote(column.name)
    text = f"{name} {column.sql_type} {'NULL' if column.is_nullable else 'NOT NULL'}"
    if column.is_identity:
        text += " AUTO_INCREMENT"
    elif column.default is not None:
        text += f" DEFAULT {column.default}"
    elif column.source.kind is ValueKind.TIMESTAMP:
        # With explicit_defaults_for_timestamp off, a bare TIMESTAMP would become NOT NULL with ON UPDATE.
        text += " DEFAULT NULL" if column.is_nullable else " DEFAULT '1970-01-01 00:00:01'"
    if column.comment:
        text += f" COMMENT {text_literal(column.comment)}"
    if column.source.kind is ValueKind.JSON and kind == "mariadb":
        text += f" CHECK (json_valid({name}))"
    return text


# ---------------------------------------------------------------- changing rows


def insert_prefix(target: TargetTable) -> str:
    """Before the rows' value lists."""
    return f"INSERT INTO {_table(target)} ({_names(target.columns)}) VALUES "


def upsert_suffix(target: TargetTable, *, has_row_alias: bool) -> str:
    """After the rows' value lists: overwrite every column, the key's own spelling included, where the key is there.

    Only for a table whose one unique index is its primary key: with another, it could overwrite another row.
    """
    if has_row_alias:  # MySQL 8.0.19; VALUES() is deprecated there, and warns
        updates = ", ".join(f"{quote(c.name)} = `_cdc_new`.{quote(c.name)}" for c in target.columns)
        return f" AS `_cdc_new` ON DUPLICATE KEY UPDATE {updates}"
    updates = ", ".join(f"{quote(c.name)} = VALUES({quote(c.name)})" for c in target.columns)
    return f" ON DUPLICATE KEY UPDATE {updates}"


def delete_prefix(target: TargetTable) -> str:
    """Before the key conditions of `key_condition`."""
    return f"DELETE FROM {_table(target)} WHERE "


def delete_keys(target: TargetTable, keys: Sequence[bytes]) -> bytes:
    """DELETE of those keys (`key_item`)."""
    before, between, after = (text.encode() for text in key_condition(target))
    return delete_prefix(target).encode() + before + between.join(keys) + after


def definition_check(target: TargetTable) -> tuple[str, str]:
    """Lock the definition until the end of the transaction, then show it."""
    return f"SELECT 1 FROM {_table(target)} LIMIT 0", f"SHOW CREATE TABLE {_table(target)}"


def key_condition(target: TargetTable) -> tuple[str, str, str]:
    """How keys become a condition that uses the primary key: (before, between, after) the keys' texts of `key_item`."""
    if len(target.key) == 1:
        return f"{quote(target.key[0])} IN (", ", ", ")"
    return "", " OR ", ""


def key_item(target: TargetTable, literals: Sequence[str]) -> str:
    """One key, for `key_condition`."""
    if len(literals) == 1:
        return literals[0]
    pairs = zip(target.key, literals, strict=True)
    return "(" + " AND ".join(f"{quote(name)} = {literal}" for name, literal in pairs) + ")"


def chunks(items: Iterable[bytes], *, bytes_max: int, count_max: int) -> Iterator[list[bytes]]:
    """Items in order, in lists whose joined length (two bytes between) stays in `bytes_max`; a larger item alone."""
    chunk: list[bytes] = []
    size = 0
    for item in items:
        if chunk and (size + len(item) > bytes_max or len(chunk) >= count_max):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += len(item) + 4  # " OR " is the longest separator
    if chunk:
        yield chunk


# ---------------------------------------------------------------- rows in bulk

# Charsets in which the bytes of UTF-8 are stored as they come, and looked at on the way.
_UTF8 = re.compile(r" CHARACTER SET utf8(?:mb[34])? ")


def load_data(
    token: str,
    table: str,
    columns: Sequence[TargetColumn],
    *,
    replaces: bool = False,
    more: Sequence[str] = (),
) -> str:
    """LOAD DATA LOCAL of the lines that `encode_mysql.load_lines` writes for those columns.

    Args:
        token: what the server is to ask for: the name of no file.
        table: its quoted name.
        replaces: a row there with the same primary key is overwritten; else the new one is skipped.
        more: further assignments.
    """
    fields, assignments = [], []
    for index, column in enumerate(columns):
        expression = _loaded(column, f"@_cdc_{index}")
        fields.append(quote(column.name) if expression is None else f"@_cdc_{index}")
        if expression is not None:
            assignments.append(f"{quote(column.name)} = {expression}")
    assignments += more
    return (
        f"LOAD DATA LOCAL INFILE '{token}' {'REPLACE ' if replaces else ''}INTO TABLE {table} CHARACTER SET binary "
        r"FIELDS TERMINATED BY '\t' ENCLOSED BY '' ESCAPED BY '\\' LINES TERMINATED BY '\n' STARTING BY '' "
        f"({', '.join(fields)})" + (f" SET {', '.join(assignments)}" if assignments else "")
    )


def _loaded(column: TargetColumn, variable: str) -> str | None:
    """The value of a column from the bytes in a variable; None where the bytes go straight into the column."""
    match column.source.kind:
        case ValueKind.ENUM | ValueKind.SET:
            return f"CAST({variable} AS UNSIGNED)"  # as a text, the number of a member could be the label of another
        case ValueKind.TEXT | ValueKind.JSON if not _UTF8.search(column.sql_type):
            return f"CONVERT({variable} USING utf8mb4)"
        case _:
            return None


# ---------------------------------------------------------------- staging
#
# A session's temporary table, `s`, beside its target. Its key `_cdc_key_0` ... is the one that a row has in the target
# now; its other columns are the target's own. (The target has no alias: a DELETE would look for it in the session's
# database, and there is none.)

STAGE_NAME = "_cdc_stage"
KEYS_STAGE_NAME = "_cdc_keys"  # keys alone are staged while rows are, of the same target
SET_COLUMN = "_cdc_set"  # which of several sets of columns a row of the stage has
ROW_COLUMN = "_cdc_row"  # which row of its batch it is
_FOUND = "`_cdc_found`"


def keys_stage_of(target: TargetTable) -> TargetTable:
    """The staging table for keys alone."""
    stage = stage_of(target, ())
    return replace(stage, name=KEYS_STAGE_NAME, columns=stage.columns[: len(target.key)])


def stage_of(target: TargetTable, columns: Sequence[TargetColumn]) -> TargetTable:
    """The staging table for those columns of `target`, as a table that rows are written into."""
    keys = tuple(
        replace(_bare(column), source=replace(column.source, name=name), name=name, is_nullable=False, is_key=True)
        for column, name in zip(key_columns(target), stage_key(target), strict=True)
    )
    values = tuple(replace(_bare(column), is_nullable=True, is_key=False) for column in columns)
    numbers = tuple(
        TargetColumn(ColumnDefinition(name, ValueKind.INTEGER, "int", length=32), name, "int", is_nullable=False)
        for name in (SET_COLUMN, ROW_COLUMN)
    )
    return replace(target, name=STAGE_NAME, columns=(*keys, *values, *numbers), key=stage_key(target))


def _bare(column: TargetColumn) -> TargetColumn:
    return replace(column, default=None, comment="", is_identity=False)


def stage_key(target: TargetTable) -> tuple[str, ...]:
    """The names of the staging table's key columns."""
    return tuple(f"_cdc_key_{index}" for index in range(len(target.key)))


def create_stage(stage: TargetTable, kind: SinkKind) -> str:
    """Make the staging table. Neither this nor `drop_stage` commits.

    Its primary key is a number that nobody reads, for servers that demand one: it is read from end to end, and two
    keys to delete may be one to its collation.
    """
    lines = [*(column_definition(column, kind) for column in stage.columns), f"{_FOUND} BOOL NULL"]
    lines.append("`_cdc_number` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY")
    return f"CREATE TEMPORARY TABLE {_table(stage)} ({', '.join(lines)}) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4"


_INLINE_TYPE = re.compile(r"^(?:var)?(char|binary)\(\d+\)", re.IGNORECASE)


def slim_stage(stage: TargetTable) -> TargetTable:
    """The staging table with its texts and bytes outside the rows, whose length is limited."""

    def slim(match: re.Match[str]) -> str:
        return "text" if match[1].lower() == "char" else "blob"

    return replace(stage, columns=tuple(replace(c, sql_type=_INLINE_TYPE.sub(slim, c.sql_type)) for c in stage.columns))


def drop_stage(stage: TargetTable) -> str:
    return f"DROP TEMPORARY TABLE IF EXISTS {_table(stage)}"


def _stage(target: TargetTable) -> str:
    return qualified(target.namespace, STAGE_NAME)


def _matched(target: TargetTable) -> str:
    """The staged rows, first, and the row of the target that each is about, by its primary key."""
    return _joined(target, stage_key(target))


def _matched_anew(target: TargetTable) -> str:
    """The same by the key that the staged rows are going to have."""
    return _joined(target, target.key)


def _joined(target: TargetTable, names: Sequence[str], *, stage: str = STAGE_NAME) -> str:
    table = _table(target)
    pairs = zip(target.key, names, strict=True)
    condition = " AND ".join(f"{table}.{quote(name)} = s.{quote(staged)}" for name, staged in pairs)
    return f"{qualified(target.namespace, stage)} s STRAIGHT_JOIN {table} ON {condition}"


def update_staged(target: TargetTable, columns: Sequence[TargetColumn]) -> str:
    """Give the target's rows the staged values; matches a row a staged one."""
    table = _table(target)
    changes = [f"{table}.{quote(c.name)} = s.{quote(c.name)}" for c in columns]
    changes += [f"{table}.{quote(c.name)} = {table}.{quote(c.name)}" for c in self_updating(target, columns)]
    return f"UPDATE {_matched(target)} SET {', '.join(changes)}"


def self_updating(target: TargetTable, columns: Sequence[TargetColumn]) -> list[TargetColumn]:
    """Columns that may be ON UPDATE CURRENT_TIMESTAMP, which a value of their own prevents; without `columns`."""
    given = {column.name for column in columns}
    kinds = (ValueKind.TIMESTAMP, ValueKind.DATETIME)
    return [c for c in target.columns if c.source.kind in kinds and not c.is_key and c.name not in given]


def complete_staged(target: TargetTable, number: int, missing: Sequence[TargetColumn], *, by_new_key: bool) -> str:
    """Fetch into the staged rows of set `number` what they lack; not into those that have been found already."""
    changes = [f"s.{quote(c.name)} = {_table(target)}.{quote(c.name)}" for c in missing]
    matched = _matched_anew(target) if by_new_key else _matched(target)
    return (
        f"UPDATE {matched} SET {', '.join([*changes, f's.{_FOUND} = 1'])} "
        f"WHERE s.{quote(SET_COLUMN)} = {number} AND s.{_FOUND} IS NULL"
    )


def unmatched_staged(target: TargetTable) -> str:
    """Set and row of a staged row whose target row was not there."""
    names = f"{quote(SET_COLUMN)}, {quote(ROW_COLUMN)}"
    return f"SELECT {names} FROM {_stage(target)} WHERE {_FOUND} IS NULL ORDER BY {names} LIMIT 1"


def delete_staged(target: TargetTable, *, by_new_key: bool = False) -> str:
    """Delete the target's rows that the staged ones, as far as found, stand for; or those in their new places."""
    matched = _matched_anew(target) if by_new_key else _matched(target)
    return f"DELETE {_table(target)} FROM {matched} WHERE s.{_FOUND} = 1"


def delete_staged_keys(target: TargetTable) -> str:
    """Delete the target's rows that have a key of the staging table for keys."""
    return f"DELETE {_table(target)} FROM {_joined(target, stage_key(target), stage=KEYS_STAGE_NAME)}"


def insert_staged(target: TargetTable) -> str:
    names = _names(target.columns)
    return f"INSERT INTO {_table(target)} ({names}) SELECT {names} FROM {_stage(target)} WHERE {_FOUND} = 1"


def update_row(target: TargetTable, columns: Sequence[TargetColumn], values: Sequence[str], key: str) -> str:
    """UPDATE of one row. `values`: a literal a column; `key`: its `key_item`."""
    before, _, after = key_condition(target)
    changes = [f"{quote(column.name)} = {value}" for column, value in zip(columns, values, strict=True)]
    changes += [f"{quote(column.name)} = {quote(column.name)}" for column in self_updating(target, columns)]
    return f"UPDATE {_table(target)} SET {', '.join(changes)} WHERE {before}{key}{after}"


# ---------------------------------------------------------------- reading back


def select_all(target: TargetTable) -> str:
    """Every row that the source table has, each column as `canonical.from_mysql` reads it.

    FLOAT and DOUBLE come as number and sign of zero.
    """
    expressions = ", ".join(_expression(column) for column in target.columns)
    return f"SELECT {expressions} FROM {_table(target)}{own_rows(target)}{live_rows(target)}"


def _expression(column: TargetColumn) -> str:
    name = quote(column.name)
    match column.source.kind:
        case ValueKind.FLOAT | ValueKind.DOUBLE:
            # The plain text of a FLOAT has six digits; the sign of zero is lost in text on MariaDB 10.
            return f"{name} * 1e0, {name} = 0 AND ATAN2({name}, -1) < 0"
        case ValueKind.TEXT | ValueKind.JSON:
            return f"CAST(CONVERT({name} USING utf8mb4) AS BINARY)"
        case ValueKind.BINARY | ValueKind.BLOB | ValueKind.GEOMETRY | ValueKind.VECTOR:
            return f"HEX({name})"
        case ValueKind.ENUM | ValueKind.SET | ValueKind.BIT | ValueKind.YEAR:
            return f"CAST({name} AS UNSIGNED)"
        case _:
            return f"CAST({name} AS CHAR)"


# ---------------------------------------------------------------- comparing types

_WIDTH = re.compile(r"^((?:tiny|small|medium|big)?int)\(\d+\)")
_COMMENT = re.compile(r"\s*/\*.*?\*/", re.DOTALL)
_MEMBERS = re.compile(r"^(enum|set)\((.*)\)$", re.DOTALL | re.IGNORECASE)
_MEMBER = re.compile(r"'((?:[^'\\]|''|\\.)*)'", re.DOTALL)
_ESCAPED = re.compile(r"''|\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "Z": "\x1a"}


def canonical_type(column_type: str, charset: str | None = None, collation: str | None = None) -> str:
    """A column's type as one text over versions: no display widths or comments, `utf8` as `utf8mb3`, `year`.

    Character set and collation are those given, or the ones at the end of `column_type`.
    """
    text, _, written = column_type.rpartition(" CHARACTER SET ") if charset is None else (column_type, "", "")
    if charset is None:
        text = text or column_type
        charset, _, collation = written.partition(" COLLATE ") if text != column_type else ("", "", "")
    if match := _MEMBERS.match(text):
        text = f"{match[1].lower()}({','.join(map(text_literal, members_of(match[2])))})"
    else:
        text = _COMMENT.sub("", text).strip().lower()
        text = _WIDTH.sub(r"\1", text).replace("year(4)", "year").replace("geomcollection", "geometrycollection")
    if charset:
        text += f" CHARACTER SET {_utf8mb3(charset)} COLLATE {_utf8mb3(collation or '')}"
    return text


def is_list_of_members(column_type: str) -> bool:
    """Is it an ENUM or a SET?"""
    return _MEMBERS.match(column_type) is not None


def members_of(text: str) -> list[str]:
    """The members between the parentheses of an ENUM or SET, as information_schema or we write them."""
    found = _MEMBER.findall(text)
    return [_ESCAPED.sub(lambda m: "'" if m[1] is None else _ESCAPES.get(m[1], m[1]), member) for member in found]


def text_literal(text: str) -> str:
    """A text, in a session whose sql_mode has no NO_BACKSLASH_ESCAPES."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''").replace("\0", "\\0") + "'"


def _utf8mb3(name: str) -> str:
    return re.sub(r"^utf8(?=_|$)", "utf8mb3", name)


_INTEGERS = ("tinyint", "smallint", "mediumint", "int", "bigint")
_TEXTS = ("tinytext", "text", "mediumtext", "longtext")
_BLOBS = ("tinyblob", "blob", "mediumblob", "longblob")
_TYPE = re.compile(
    r"^(?P<name>[a-z0-9]+)(?:\((?P<size>[\d,]+)\))?(?P<unsigned> unsigned)?(?: zerofill)?"
    r"(?: character set (?P<charset>\w+) collate (?P<collation>\w+))?$",
    re.IGNORECASE,
)


def can_hold(existing: str, wanted: str, *, is_key: bool) -> bool:
    """Does a column of type `existing` hold every value of type `wanted` unchanged? Both as `canonical_type` gives."""
    if existing == wanted:
        return True
    if _MEMBERS.match(_without_charset(wanted)):
        return _holds_members(existing, wanted, is_key=is_key)
    has, wants = _TYPE.match(existing), _TYPE.match(wanted)
    if has is None or wants is None:
        return False
    if (has["charset"] is None) != (wants["charset"] is None) or not _charset_holds(has, wants, is_key=is_key):
        return False
    has_size, wants_size = _size(has), _size(wants)
    name = wants["name"].lower()
    for family in (_INTEGERS, _TEXTS, _BLOBS):
        if name in family and has["name"].lower() in family:
            return has["unsigned"] == wants["unsigned"] and family.index(has["name"].lower()) >= family.index(name)
    if has["name"].lower() != name or has["unsigned"] != wants["unsigned"]:
        return False
    if name == "decimal":
        return has_size[1] >= wants_size[1] and has_size[0] - has_size[1] >= wants_size[0] - wants_size[1]
    if name in ("varchar", "varbinary", "datetime", "timestamp", "time"):
        return has_size[0] >= wants_size[0]
    return has_size == wants_size


def holds(existing: str, wanted: str, is_key: bool) -> bool:
    """As `schema.sharing` asks it: does a column of the first type hold every value of the second?"""
    return can_hold(canonical_type(existing), canonical_type(wanted), is_key=is_key)


def _without_charset(text: str) -> str:
    return text.rpartition(" CHARACTER SET ")[0] or text


def _holds_members(existing: str, wanted: str, *, is_key: bool) -> bool:
    """The same members in the same places, and perhaps more after them."""
    has, wants = _MEMBERS.match(_without_charset(existing)), _MEMBERS.match(_without_charset(wanted))
    if has is None or wants is None or has[1] != wants[1]:
        return False
    if is_key and existing.rpartition(" COLLATE ")[2] != wanted.rpartition(" COLLATE ")[2]:
        return False
    has_members, wanted_members = members_of(has[2]), members_of(wants[2])
    return has_members[: len(wanted_members)] == wanted_members


def _charset_holds(has: re.Match[str], wants: re.Match[str], *, is_key: bool) -> bool:
    if is_key and has["collation"] != wants["collation"]:
        return False  # keys that are two at the source could be one here
    return has["charset"] in (wants["charset"], "utf8mb4")


def _size(match: re.Match[str]) -> tuple[int, int]:
    first, _, second = (match["size"] or "0").partition(",")
    return int(first), int(second or 0)
