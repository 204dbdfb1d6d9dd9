"""What a source table becomes on a sink: one table of rules, in code.

`RULES` drives both `map_table` and docs/type-mapping.md (`python -m cdc.schema.mapping > docs/type-mapping.md`). What
the values look like on their way is in `cdc.model`; how each is written, in `cdc.sinks.encode_postgres` and
`cdc.sinks.encode_mysql`. Knows no connection: a sink's version is not asked, so every type below exists on every
version of its kind that is supported.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition, Flavor, TableDefinition, ValueKind
from cdc.schema.asked_types import asked_type, characters_max
from cdc.schema.defaults import with_attributes
from cdc.schema.filters import bind
from cdc.schema.identifiers import column_name_problem, folded, namespace_problem, table_name_problem
from cdc.schema.modes import with_mode
from cdc.schema.options import TableOptions, kept_columns
from cdc.schema.target import Masking, MetadataKind, Policies, SinkKind, SourceColumn, TargetColumn, TargetTable

__all__ = ["RULES", "SOURCE_COLUMN", "TypeRule", "map_table", "rule_for", "sink_collation", "type_mapping_page"]

POSTGRES_COLUMNS_MAX = 1600  # MaxHeapAttributeNumber; dropped columns count too
INNODB_COLUMNS_MAX = 1017  # REC_MAX_USER_N_FIELDS: 1023 less the six that InnoDB keeps for itself
VARBINARY_VECTOR_BYTES_MAX = 16_384  # a longer VARBINARY would crowd the 65535 bytes that a row may declare

Mapper = Callable[[ColumnDefinition, Flavor, bool], str]


@dataclass(frozen=True, slots=True)
class TypeRule:
    """One row of the mapping.

    The mappers take the column, the source's flavor and whether the column is part of the key.

    Attributes:
        matches: is this the rule for that column? The first rule that says so counts.
        can_be_key: may a column of this type be part of the sink table's key: on PostgreSQL, on the MySQL family.
        may_turn_null: does `zero_dates: null` apply to it on PostgreSQL?
    """

    title: str
    matches: Callable[[ColumnDefinition, Flavor], bool]
    postgresql: Mapper
    mysql: Mapper
    mariadb: Mapper
    examples: tuple[tuple[ColumnDefinition, Flavor], ...]
    note: str = ""
    can_be_key: tuple[bool, bool] = (True, True)
    may_turn_null: bool = False

    def sql_type(self, column: ColumnDefinition, flavor: Flavor, kind: SinkKind, *, is_key: bool) -> str:
        """The column's type on a sink of that kind."""
        mapper = {"postgresql": self.postgresql, "mysql": self.mysql, "mariadb": self.mariadb}[kind]
        return mapper(column, flavor, is_key)


_NO_OPTIONS = TableOptions()


def map_table(
    definition: TableDefinition,
    *,
    kind: SinkKind,
    namespace: str,
    name: str,
    key: tuple[str, ...],
    policies: Policies,
    options: TableOptions = _NO_OPTIONS,
) -> TargetTable:
    """Describe the sink table of `definition`.

    Args:
        kind: of the sink; `mysql` and `mariadb` differ.
        namespace: schema (PostgreSQL) or database (MySQL family).
        key: columns of the primary key, in order, as the source calls them; () for a table without one.
        options: rows left out, columns left out, renamed and masked; the source column, which comes first.
    Returns:
        Every column of the source that the options keep, generated and invisible ones included, as a plain column:
        nullable where the source's is or where a policy or a mask may put NULL, never in the key.
    Raises:
        UnsupportedData: a name, a type, the key or the number of columns that this kind of sink cannot hold; options
            that name a column which is not there, or touch the key's values.
    """
    table = str(definition.name)
    for problem in (namespace_problem(namespace, kind), table_name_problem(name, kind)):
        if problem:
            raise UnsupportedData(
                f"{table} cannot go to {namespace}.{name}: it {problem}",
                table=table,
                hint="route it to another name, or exclude it in tables.exclude",
            )
    _check_options(definition, options, key)
    kept = kept_columns(definition, options)
    added = [(METADATA_COLUMNS[of], sink_name, of) for of, sink_name in (*options.metadata, *options.mode_columns)]
    shared = options.source_column
    first = [] if shared is None else [(_source_column(definition, shared, key), shared.name)]
    _check_columns(definition, [*first, *kept, *((column, sink_name) for column, sink_name, _ in added)], kind)
    _check_key(definition, key)
    if not key:
        _check_keyless(definition, options)
    names = {column.name: sink_name for column, sink_name in kept}
    columns = tuple(
        _kept_column(definition, column, sink_name, options, kind, key, policies) for column, sink_name in kept
    )
    columns += tuple(
        replace(_map_column(definition, column, sink_name, None, kind, (), policies), metadata=of)
        for column, sink_name, of in added
    )
    columns = (
        *(_map_column(definition, column, name, None, kind, (SOURCE_COLUMN,), policies) for column, name in first),
        *columns,
    )
    row_filter = bind(options.row_filter, definition) if options.row_filter is not None else None
    key = (*(name for _, name in first), *(names[part] for part in key))
    target = TargetTable(namespace, name, columns, key, definition, policies, row_filter, shared)
    return with_attributes(with_mode(target, options.mode), options.attributes, kind)


def _check_options(definition: TableDefinition, options: TableOptions, key: tuple[str, ...]) -> None:
    """Options that cannot be kept to stop the table: a mask that finds no column would let the values through."""
    table = str(definition.name)
    names = {column.name for column in definition.columns}
    for column in options.named_columns:
        if column not in names:
            raise UnsupportedData(
                f"{table} has no column {column}, which its entry in tables.overrides names",
                table=table,
                column=column,
                hint=f"its columns are {', '.join(c.name for c in definition.columns)}",
            )
    for column in key:
        is_masked = options.of_column(column).masking is not None
        if options.keeps(column) and not is_masked:
            continue
        raise UnsupportedData(
            f"{table}: column {column} is part of the key ({', '.join(key)}) and cannot be "
            f"{'masked or hashed' if is_masked else 'left out'}: without it the rows cannot be told apart",
            table=table,
            column=column,
            hint="keep it as it is in tables.overrides, or name other columns that identify a row: primary_key",
        )


def _check_columns(definition: TableDefinition, kept: list[tuple[ColumnDefinition, str]], kind: SinkKind) -> None:
    table = str(definition.name)
    sources = [column.name for column, _ in kept]
    if len(set(sources)) < len(sources):
        doubled = next(name for name in sources if sources.count(name) > 1)
        raise UnsupportedData(
            f"{table}: its column {doubled} has a name that stands for a metadata column here",
            table=table,
            column=doubled,
            hint="rename the column at the source, or take the table out of tables.metadata_columns: tables",
        )
    if not kept:
        raise UnsupportedData(f"{table} has no columns", table=table, hint="exclude it in tables.exclude")
    if kind == "postgresql" and len(kept) > POSTGRES_COLUMNS_MAX:
        raise UnsupportedData(
            f"{table} has {len(kept)} columns, and PostgreSQL holds {POSTGRES_COLUMNS_MAX}",
            table=table,
            hint="exclude it in tables.exclude, or columns of it in tables.overrides: exclude_columns",
        )
    if kind != "postgresql" and len(kept) > INNODB_COLUMNS_MAX:
        raise UnsupportedData(
            f"{table} has {len(kept)} columns, and InnoDB holds {INNODB_COLUMNS_MAX}",
            table=table,
            hint="exclude it in tables.exclude, or columns of it in tables.overrides: exclude_columns",
        )
    seen: dict[str, str] = {}
    for (same, name), (column, _) in zip(folded((name for _, name in kept), kind), kept, strict=True):
        problem = column_name_problem(name, kind)
        if problem is None and same in seen:
            problem = f"has the same name on the sink as {seen[same]}"
        if problem:
            raise UnsupportedData(
                f"{table}: column {name} {problem}",
                table=table,
                column=column.name,
                hint="rename or exclude the column in tables.overrides, or exclude the table in tables.exclude",
            )
        seen[same] = name


def _check_key(definition: TableDefinition, key: tuple[str, ...]) -> None:
    table = str(definition.name)
    names = {column.name for column in definition.columns}
    missing = [column for column in key if column not in names]
    if missing:
        raise UnsupportedData(
            f"{table} has no column {missing[0]}, which its configured key names",
            table=table,
            column=missing[0],
            hint="correct primary_key in tables.overrides",
        )
    if len(set(key)) < len(key):
        raise UnsupportedData(
            f"{table}: the key names a column twice: {', '.join(key)}",
            table=table,
            hint="correct primary_key in tables.overrides",
        )


def _check_keyless(definition: TableDefinition, options: TableOptions) -> None:
    """Options that tell rows apart by their key."""
    table = str(definition.name)
    if any(of == "row_id" for of, _ in options.metadata):
        raise UnsupportedData(
            f"{table} has no key, of which the metadata column row_id would be made",
            table=table,
            hint="name the columns that identify a row in tables.overrides (primary_key), or take the table out of "
            "tables.metadata_columns: tables, or row_id out of its columns",
        )


def _map_column(
    definition: TableDefinition,
    column: ColumnDefinition,
    name: str,
    masking: Masking | None,
    kind: SinkKind,
    key: tuple[str, ...],
    policies: Policies,
) -> TargetColumn:
    is_key = column.name in key
    if masking is not None:
        column = _masked(definition, column, masking)
    rule = rule_for(column, definition.flavor)
    if is_key and not rule.can_be_key[0 if kind == "postgresql" else 1]:
        raise UnsupportedData(
            f"{definition.name}: {column.name} has the type {column.column_type}, "
            f"which cannot be in a key on {_KIND_NAMES[kind]}",
            table=str(definition.name),
            column=column.name,
            hint="name other columns that identify a row in tables.overrides: primary_key",
        )
    may_turn_null = kind == "postgresql" and rule.may_turn_null and policies.zero_dates == "null"
    return TargetColumn(
        source=column,
        name=name,
        sql_type=rule.sql_type(column, definition.flavor, kind, is_key=is_key),
        is_nullable=not is_key and (column.is_nullable or may_turn_null),
        is_key=is_key,
        masking=masking,
    )


def _kept_column(
    definition: TableDefinition,
    column: ColumnDefinition,
    name: str,
    options: TableOptions,
    kind: SinkKind,
    key: tuple[str, ...],
    policies: Policies,
) -> TargetColumn:
    """A column of the source's, with the type and the policies of its own. Raises UnsupportedData."""
    option = options.of_column(column.name)
    own = option.policies(policies)
    mapped = _map_column(definition, column, name, option.masking, kind, key, own)
    mapped = replace(mapped, policies=own if own != policies else None)
    asked = options.type_of(column)
    if asked is None or mapped.masking is not None:
        return mapped
    sql_type = asked_type(column, asked, mapped.sql_type, kind)
    most = characters_max(asked)
    is_longtext = kind != "postgresql" and sql_type is not None and sql_type.startswith("longtext")
    if sql_type is None or (mapped.is_key and (is_longtext or (most is not None and most < column.length))):
        raise UnsupportedData(
            f"{definition.name}: column {column.name} has the type {column.column_type}, which cannot become {asked}"
            f"{' in a key' if sql_type else ''}",
            table=str(definition.name),
            column=column.name,
            hint="correct its `type` in tables.overrides, or targets.types; docs/targets.md says what goes with what",
        )
    return replace(mapped, sql_type=sql_type, characters_max=most)


def _metadata_column(name: str, length: int, *, is_nullable: bool) -> ColumnDefinition:
    return ColumnDefinition(
        name=f"({name})",
        kind=ValueKind.TEXT,
        column_type=f"varchar({length})",
        is_nullable=is_nullable,
        length=length,
        charset="ascii",
        collation="ascii_bin",
    )


def _metadata_time(name: str, *, is_nullable: bool) -> ColumnDefinition:
    return ColumnDefinition(
        f"({name})", ValueKind.TIMESTAMP, "timestamp(6)", is_nullable=is_nullable, fraction_digits=6
    )


def _metadata_integer(name: str, column_type: str, bits: int) -> ColumnDefinition:
    return ColumnDefinition(f"({name})", ValueKind.INTEGER, column_type, is_nullable=False, length=bits)


# As what they come to the sink. No usual column of a source has such a name.
METADATA_COLUMNS: dict[MetadataKind, ColumnDefinition] = {
    "load_id": _metadata_column("load_id", 32, is_nullable=False),
    "row_id": _metadata_column("row_id", 32, is_nullable=False),
    "commit_time": _metadata_time("commit_time", is_nullable=True),
    "operation": _metadata_column("operation", 6, is_nullable=False),
    "position": _metadata_column("position", 300, is_nullable=True),
    "is_deleted": _metadata_integer("is_deleted", "tinyint(1)", 8),
    "deleted_at": _metadata_time("deleted_at", is_nullable=True),
    "sequence": _metadata_integer("sequence", "bigint", 64),
    "change_operation": _metadata_column("change_operation", 6, is_nullable=False),
    "change_time": _metadata_time("change_time", is_nullable=True),
    "change_position": _metadata_column("change_position", 300, is_nullable=True),
    "valid_from": _metadata_time("valid_from", is_nullable=False),
    "valid_to": _metadata_time("valid_to", is_nullable=True),
}
# Likewise, for the column that says whose a row is in a target of several tables.
SOURCE_COLUMN = "(source)"
HASH_DIGITS = 64
_UNHASHED = frozenset({ValueKind.FLOAT, ValueKind.DOUBLE, ValueKind.BIT, ValueKind.GEOMETRY, ValueKind.VECTOR})


def _source_column(definition: TableDefinition, shared: SourceColumn, key: tuple[str, ...]) -> ColumnDefinition:
    """The source column as its values come. Raises UnsupportedData for a value that could pass for another's."""
    if not key:  # its rows would be told apart by all of their columns, in a target whose key is the source column
        raise UnsupportedData(
            f"{definition.name} has no key, and shares its target by the source column {shared.name}",
            table=str(definition.name),
            hint="name columns that identify a row in tables.overrides: primary_key; or route it without source_column",
        )
    problem = None
    if len(shared.value) > shared.length:
        problem = f"is longer than the {shared.length} characters that the column holds"
    elif shared.value.endswith(" ") or "\0" in shared.value:
        problem = "ends in a space, or holds a NUL: on some sinks it would be the same as another value"
    if problem:
        raise UnsupportedData(
            f"{definition.name}: its value {shared.value!r} of the source column {shared.name} {problem}",
            table=str(definition.name),
            hint="write another source_column: value in tables.routes",
        )
    return ColumnDefinition(
        name=SOURCE_COLUMN,
        kind=ValueKind.TEXT,
        column_type=f"varchar({shared.length})",
        is_nullable=False,
        length=shared.length,
        charset="utf8mb4",
        collation="utf8mb4_bin",
    )


def _masked(definition: TableDefinition, column: ColumnDefinition, masking: Masking) -> ColumnDefinition:
    """The column as its masked values are: what the sink is given. Raises UnsupportedData."""
    if masking.form == "null":
        return replace(column, is_nullable=True)
    problem = None
    if masking.form == "hash" and column.kind in _UNHASHED:
        problem = "cannot be hashed: such a value has no one text"
    if masking.form in ("keep_first", "keep_last"):
        if column.kind is ValueKind.TEXT:
            return column
        problem = f"is no text, of which mask: {masking.form} could keep characters"
    if problem:
        raise UnsupportedData(
            f"{definition.name}: column {column.name} ({column.column_type}) {problem}",
            table=str(definition.name),
            column=column.name,
            hint="tables.overrides: mask it with `null` or `text`, or exclude it",
        )
    is_hash = masking.form == "hash"
    length = HASH_DIGITS if is_hash else max(len(masking.text), 1)
    charset = "ascii" if is_hash else "utf8mb4"
    return ColumnDefinition(
        name=column.name,
        kind=ValueKind.TEXT,
        column_type=f"varchar({length})",
        is_nullable=column.is_nullable,
        length=length,
        charset=charset,
        collation=f"{charset}_bin",
    )


def rule_for(column: ColumnDefinition, flavor: Flavor) -> TypeRule:
    """The one rule for that column."""
    for rule in RULES:
        if rule.matches(column, flavor):
            return rule
    raise AssertionError(f"no rule for {column.kind}")  # a test maps every kind


# ---------------------------------------------------------------- types of the MySQL family

_KIND_NAMES = {"postgresql": "PostgreSQL", "mysql": "MySQL", "mariadb": "MariaDB"}
_COMMENT = re.compile(r"\s*/\*.*?\*/", re.DOTALL)
_DISPLAY_WIDTH = re.compile(r"^((?:tiny|small|medium|big)?int)\(\d+\)")


def own_type(column: ColumnDefinition) -> str:
    """The source's own type, without what is no part of its values.

    Comments go (`/*M!100301 COMPRESSED*/`, `/* mariadb-5.3 */`), and so do display widths, which MySQL 8.0 gave up,
    except with ZEROFILL, where they are seen, and in TINYINT(1), which clients take for a boolean.
    """
    text = _COMMENT.sub("", column.column_type).strip()
    lowered = text.lower()
    if "zerofill" in lowered or lowered == "tinyint(1)":
        return lowered
    return _DISPLAY_WIDTH.sub(r"\1", lowered)


def _own(column: ColumnDefinition, _flavor: Flavor, _is_key: bool) -> str:
    return own_type(column)


_ROUNDED = re.compile(r"^(float|double)\(\d+,\d+\)")


def _unrounded(column: ColumnDefinition, _flavor: Flavor, _is_key: bool) -> str:
    """FLOAT and DOUBLE without (M,D): the server would round again what it has rounded, and may miss by a bit."""
    return _ROUNDED.sub(r"\1", own_type(column))


def _year(_column: ColumnDefinition, _flavor: Flavor, _is_key: bool) -> str:
    return "year"


def _with_collation(sink: Flavor) -> Mapper:
    def text_type(column: ColumnDefinition, flavor: Flavor, is_key: bool) -> str:
        if column.kind in (ValueKind.ENUM, ValueKind.SET):
            members = ",".join(_quoted_member(member) for member in column.members)
            base = f"{column.kind.value}({members})"
        else:
            base = own_type(column)
        charset, collation = sink_collation(column.charset, column.collation, flavor, sink, is_key=is_key)
        return f"{base} CHARACTER SET {charset} COLLATE {collation}"

    return text_type


def _quoted_member(member: str) -> str:
    return "'" + member.replace("\\", "\\\\").replace("'", "''").replace("\0", "\\0") + "'"


def _plain_text(text: str) -> Mapper:
    return lambda _column, _flavor, _is_key: text


_ASCII = "CHARACTER SET ascii COLLATE ascii_bin"
_JSON_TEXT = "longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"


def _json_on_mysql(_column: ColumnDefinition, flavor: Flavor, _is_key: bool) -> str:
    return "json" if flavor == "mysql" else _JSON_TEXT


def _geometry(sink: Flavor) -> Mapper:
    def geometry_type(column: ColumnDefinition, _flavor: Flavor, _is_key: bool) -> str:
        name = own_type(column).split(" ")[0]
        return "geometrycollection" if name == "geomcollection" and sink == "mariadb" else name

    return geometry_type


def _vector(sink: Flavor) -> Mapper:
    def vector_type(column: ColumnDefinition, flavor: Flavor, _is_key: bool) -> str:
        if flavor == sink:
            return f"vector({column.length})"
        size = 4 * column.length
        return f"varbinary({size})" if 0 < size <= VARBINARY_VECTOR_BYTES_MAX else "mediumblob"

    return vector_type


# ---------------------------------------------------------------- collations

_MYSQL_ONLY = re.compile(r"_0900_|^gb18030_|_tolower_ci$")
_MARIADB_ONLY = re.compile(r"_uca1400_|_nopad_|_croatian_mysql561_ci$|_general1400_|_myanmar_ci$|_thai_520_w2$")
_UCA_CHARSETS = frozenset({"utf8mb3", "utf8mb4", "ucs2", "utf16", "utf32"})


def sink_collation(
    charset: str | None, collation: str | None, source: Flavor, sink: Flavor, *, is_key: bool
) -> tuple[str, str]:
    """Character set and collation of a text column on a sink of the MySQL family.

    What the sink knows is kept. What it does not becomes the nearest that it has; in a key column a binary one
    without padding, so that keys which are two at the source never become one.
    """
    charset = _renamed(charset or "utf8mb4")
    collation = _renamed(collation or f"{charset}_bin")
    if source == sink:
        return charset, collation
    if sink == "mariadb":
        if not _MYSQL_ONLY.search(collation):
            return charset, collation
        if charset == "gb18030":
            charset = "utf8mb4"
        if is_key:
            return charset, f"{charset}_nopad_bin"
        if collation.endswith("_ci"):
            return charset, f"{charset}_unicode_520_ci"
        return charset, f"{charset}_bin"
    if not _MARIADB_ONLY.search(collation):
        return charset, collation
    if is_key:
        is_padded = "_nopad_" not in collation
        return (charset, f"{charset}_bin") if is_padded and charset != "utf8mb4" else ("utf8mb4", "utf8mb4_0900_bin")
    return charset, _nearest_on_mysql(charset, collation)


def _nearest_on_mysql(charset: str, collation: str) -> str:
    if collation.endswith(("_bin", "_cs")) and charset != "utf8mb4":
        return f"{charset}_bin"
    if collation.endswith("_bin"):
        return "utf8mb4_0900_bin"
    if "_uca1400_" in collation and charset == "utf8mb4":
        return {"ai_ci": "utf8mb4_0900_ai_ci", "as_ci": "utf8mb4_0900_as_ci"}.get(collation[-5:], "utf8mb4_0900_as_cs")
    if charset in _UCA_CHARSETS and "_general_" not in collation:
        return f"{charset}_unicode_520_ci"
    return collation.replace("_nopad_", "_")


def _renamed(name: str) -> str:
    """`utf8` is what servers before MySQL 8.0.30 and MariaDB 10.6 call `utf8mb3`."""
    return re.sub(r"^utf8(?=_|$)", "utf8mb3", name)


# ---------------------------------------------------------------- types of PostgreSQL

_NEXT_LARGER = {"smallint": "integer", "integer": "bigint", "bigint": "numeric(20)"}


def _postgres_integer(column: ColumnDefinition, _flavor: Flavor, _is_key: bool) -> str:
    signed = {8: "smallint", 16: "smallint", 24: "integer", 32: "integer", 64: "bigint"}[column.length]
    return _NEXT_LARGER[signed] if column.is_unsigned else signed


def _postgres_varchar(column: ColumnDefinition, _flavor: Flavor, _is_key: bool) -> str:
    return f"varchar({max(column.length, 1)})"  # MySQL has VARCHAR(0), PostgreSQL begins with 1


def _postgres_json(_column: ColumnDefinition, flavor: Flavor, _is_key: bool) -> str:
    return "jsonb" if flavor == "mysql" else "json"


def _with_fraction(name: str) -> Mapper:
    return lambda column, _flavor, _is_key: f"{name}({column.fraction_digits})"


# ---------------------------------------------------------------- the table


def _is(*kinds: ValueKind) -> Callable[[ColumnDefinition, Flavor], bool]:
    return lambda column, _flavor: column.kind in kinds


def _is_short_text(column: ColumnDefinition, _flavor: Flavor) -> bool:
    return column.kind is ValueKind.TEXT and re.match(r"(var)?char\b", own_type(column)) is not None


def _is_short_binary(column: ColumnDefinition, _flavor: Flavor) -> bool:
    is_varbinary = column.kind is ValueKind.BLOB and own_type(column).startswith("varbinary")
    return column.kind is ValueKind.BINARY or is_varbinary


def _example(
    kind: ValueKind,
    column_type: str,
    *,
    flavor: Flavor = "mysql",
    length: int = 0,
    precision: int = 0,
    scale: int = 0,
    fraction_digits: int = 0,
    collation: str | None = None,
    members: tuple[str, ...] = (),
) -> tuple[ColumnDefinition, Flavor]:
    column = ColumnDefinition(
        name="c",
        kind=kind,
        column_type=column_type,
        is_unsigned="unsigned" in column_type,
        length=length,
        precision=precision,
        scale=scale,
        fraction_digits=fraction_digits,
        charset=collation.partition("_")[0] if collation else None,
        collation=collation,
        members=members,
    )
    return column, flavor


_K = ValueKind
RULES: tuple[TypeRule, ...] = (
    TypeRule(
        "TINYINT, SMALLINT, MEDIUMINT, INT, BIGINT",
        _is(_K.INTEGER),
        _postgres_integer,
        _own,
        _own,
        (
            _example(_K.INTEGER, "tinyint(4)", length=8),
            _example(_K.INTEGER, "tinyint(1)", length=8),
            _example(_K.INTEGER, "smallint(6)", length=16),
            _example(_K.INTEGER, "mediumint(9)", length=24),
            _example(_K.INTEGER, "int(11)", length=32),
            _example(_K.INTEGER, "int(5) unsigned zerofill", length=32),
            _example(_K.INTEGER, "bigint(20)", length=64),
            _example(_K.INTEGER, "tinyint unsigned", length=8),
            _example(_K.INTEGER, "mediumint unsigned", length=24),
            _example(_K.INTEGER, "int unsigned", length=32),
            _example(_K.INTEGER, "bigint unsigned", length=64),
        ),
        note="Unsigned: the next larger. BOOL is TINYINT(1) and may hold any of its numbers. "
        "AUTO_INCREMENT: `targets.identity`.",
    ),
    TypeRule(
        "DECIMAL",
        _is(_K.DECIMAL),
        lambda column, _flavor, _is_key: f"numeric({column.precision},{column.scale})",
        _own,
        _own,
        (
            _example(_K.DECIMAL, "decimal(10,2)", precision=10, scale=2),
            _example(_K.DECIMAL, "decimal(65,30)", precision=65, scale=30),
        ),
        note="Exact.",
    ),
    TypeRule(
        "FLOAT",
        _is(_K.FLOAT),
        _plain_text("real"),
        _unrounded,
        _unrounded,
        (_example(_K.FLOAT, "float"), _example(_K.FLOAT, "float(7,3) unsigned")),
        note="The stored bits, -0 included. (M,D) is left out: it would round the value again.",
    ),
    TypeRule(
        "DOUBLE",
        _is(_K.DOUBLE),
        _plain_text("double precision"),
        _unrounded,
        _unrounded,
        (_example(_K.DOUBLE, "double"), _example(_K.DOUBLE, "double(20,10)")),
        note="As FLOAT. MariaDB 10 as a sink stores -0 as 0, which it takes for the same number.",
    ),
    TypeRule(
        "BIT",
        _is(_K.BIT),
        lambda column, _flavor, _is_key: f"bit({column.length})",
        _own,
        _own,
        (_example(_K.BIT, "bit(9)", length=9),),
    ),
    TypeRule(
        "YEAR",
        _is(_K.YEAR),
        _plain_text("smallint"),
        _year,
        _year,
        (_example(_K.YEAR, "year(4)"),),
        note="The year 0000 is 0.",
    ),
    TypeRule(
        "DATE",
        _is(_K.DATE),
        _plain_text("date"),
        _own,
        _own,
        (_example(_K.DATE, "date"),),
        note="Zero dates, impossible dates and the year 0: `zero_dates`; kept as they are on MySQL and MariaDB.",
        may_turn_null=True,
    ),
    TypeRule(
        "DATETIME",
        _is(_K.DATETIME),
        _with_fraction("timestamp"),
        _own,
        _own,
        (_example(_K.DATETIME, "datetime"), _example(_K.DATETIME, "datetime(6)", fraction_digits=6)),
        note="As DATE.",
        may_turn_null=True,
    ),
    TypeRule(
        "TIMESTAMP",
        _is(_K.TIMESTAMP),
        _with_fraction("timestamptz"),
        _own,
        _own,
        (_example(_K.TIMESTAMP, "timestamp"), _example(_K.TIMESTAMP, "timestamp(6)", fraction_digits=6)),
        note="The instant, in UTC. The zero timestamp: as DATE. MySQL ends in 2038, MariaDB 11.5 in 2106.",
        may_turn_null=True,
    ),
    TypeRule(
        "TIME",
        _is(_K.TIME),
        _with_fraction("interval"),
        _own,
        _own,
        (_example(_K.TIME, "time"), _example(_K.TIME, "time(6)", fraction_digits=6)),
        note="-838:59:59 to 838:59:59. MariaDB also has 838:59:59.999999, which MySQL refuses.",
    ),
    TypeRule(
        "CHAR, VARCHAR",
        _is_short_text,
        _postgres_varchar,
        _with_collation("mysql"),
        _with_collation("mariadb"),
        (
            _example(_K.TEXT, "char(10)", length=10, collation="latin1_swedish_ci"),
            _example(_K.TEXT, "varchar(50)", length=50, collation="utf8mb4_0900_ai_ci"),
            _example(_K.TEXT, "varchar(50)", flavor="mariadb", length=50, collation="utf8mb4_uca1400_ai_ci"),
        ),
        note="Any character set becomes UTF-8 on PostgreSQL. NUL characters: `nul_bytes`; kept on MySQL and MariaDB.",
    ),
    TypeRule(
        "TINYTEXT, TEXT, MEDIUMTEXT, LONGTEXT",
        _is(_K.TEXT),
        _plain_text("text"),
        _with_collation("mysql"),
        _with_collation("mariadb"),
        (_example(_K.TEXT, "mediumtext", length=16777215, collation="utf8mb4_general_ci"),),
        note="As VARCHAR. In no key on MySQL and MariaDB, which would need a prefix length.",
        can_be_key=(True, False),
    ),
    TypeRule(
        "ENUM",
        _is(_K.ENUM),
        _plain_text("text"),
        _with_collation("mysql"),
        _with_collation("mariadb"),
        (_example(_K.ENUM, "enum('a','it''s')", members=("a", "it's"), collation="utf8mb4_general_ci"),),
        note="The label. The error value (index 0) is '' on PostgreSQL, itself on MySQL and MariaDB. Members with "
        "characters beyond U+FFFF, which the source's dictionary shows as `?`, are asked for; MySQL 5.7 and before "
        "cannot tell them: a value of such a member parks its table when it is loaded, and is what the dictionary "
        "shows when it is streamed.",
    ),
    TypeRule(
        "SET",
        _is(_K.SET),
        _plain_text("text"),
        _with_collation("mysql"),
        _with_collation("mariadb"),
        (_example(_K.SET, "set('a','b')", members=("a", "b"), collation="utf8mb4_general_ci"),),
        note="The labels in the order of the definition, joined by commas; no member is ''.",
    ),
    TypeRule(
        "BINARY, VARBINARY",
        _is_short_binary,
        _plain_text("bytea"),
        _own,
        _own,
        (_example(_K.BINARY, "binary(16)", length=16), _example(_K.BLOB, "varbinary(20)", length=20)),
        note="BINARY keeps its trailing zero bytes.",
    ),
    TypeRule(
        "TINYBLOB, BLOB, MEDIUMBLOB, LONGBLOB",
        _is(_K.BLOB),
        _plain_text("bytea"),
        _own,
        _own,
        (_example(_K.BLOB, "blob", length=65535),),
        note="In no key on MySQL and MariaDB.",
        can_be_key=(True, False),
    ),
    TypeRule(
        "JSON",
        _is(_K.JSON),
        _postgres_json,
        _json_on_mysql,
        _plain_text(_JSON_TEXT),
        (_example(_K.JSON, "json"), _example(_K.JSON, "longtext", flavor="mariadb")),
        note="MySQL: the value; its numbers keep their digits. MariaDB: the text, character by character. MariaDB as "
        "a sink checks it with json_valid, which takes 31 levels. U+0000 in jsonb: `nul_bytes`. A lone surrogate stops "
        "the table.",
        can_be_key=(False, False),
    ),
    TypeRule(
        "GEOMETRY and its kinds",
        _is(_K.GEOMETRY),
        _plain_text("bytea"),
        _geometry("mysql"),
        _geometry("mariadb"),
        (_example(_K.GEOMETRY, "point"), _example(_K.GEOMETRY, "geomcollection")),
        note="PostgreSQL: WKB, x before y; an SRID other than 0 is left out and counted as `srid`.",
        can_be_key=(False, False),
    ),
    TypeRule(
        "VECTOR",
        _is(_K.VECTOR),
        _plain_text("real[]"),
        _vector("mysql"),
        _vector("mariadb"),
        (_example(_K.VECTOR, "vector(3)", length=3), _example(_K.VECTOR, "vector(3)", flavor="mariadb", length=3)),
        note="Between MySQL and MariaDB the same bytes (little-endian float32) as VARBINARY. A sink of the source's "
        "own family needs MySQL 9 or MariaDB 11.7.",
        can_be_key=(False, False),
    ),
    TypeRule(
        "UUID",
        _is(_K.UUID),
        _plain_text("uuid"),
        _plain_text(f"char(36) {_ASCII}"),
        _own,
        (_example(_K.UUID, "uuid", flavor="mariadb", length=16),),
        note="MySQL has no such type: the text that MariaDB's SELECT shows.",
    ),
    TypeRule(
        "INET4",
        _is(_K.INET4),
        _plain_text("inet"),
        _plain_text(f"varchar(15) {_ASCII}"),
        _own,
        (_example(_K.INET4, "inet4", flavor="mariadb", length=4),),
        note="As UUID.",
    ),
    TypeRule(
        "INET6",
        _is(_K.INET6),
        _plain_text("inet"),
        _plain_text(f"varchar(45) {_ASCII}"),
        _own,
        (_example(_K.INET6, "inet6", flavor="mariadb", length=16),),
        note="As UUID.",
    ),
)


# ---------------------------------------------------------------- the page

_HEAD = """\
<!-- Generated by `python -m cdc.schema.mapping > docs/type-mapping.md`; edit cdc/schema/mapping.py instead. -->

# Type mapping

What a column of the source becomes on each kind of sink. All columns become plain columns: no ON UPDATE, no generated
columns (their values are stored), no foreign keys, no triggers; defaults, comments, numbering and indexes as
`targets` says, and other types where `type` or `targets.types` asks for one ([targets.md](targets.md)). Between servers
of the MySQL family the source's own definition is kept, except for the translations below.

- **Nullable** where the source's column is, and on PostgreSQL wherever `zero_dates: null` may put NULL. Key columns are
  NOT NULL.
- **Policies.** `zero_dates` (`null`, `error`, `infinity`) and `nul_bytes` (`replace` by U+FFFD, `strip`, `error`) say
  what happens to values that PostgreSQL cannot hold. Each value changed is counted by table, column and policy. In a
  key column nothing is changed: the table stops with an error.
- **Character sets and collations** are kept where the sink knows them, else the nearest is taken (from MySQL's `0900`
  to MariaDB's `unicode_520` or `bin`, from MariaDB's `uca1400` to MySQL's `0900`). In a key column an unknown collation
  becomes a binary one, so that keys which are two at the source never become one.
- **Refused**, with an error that names the table: names longer than 63 bytes on PostgreSQL (never shortened), columns
  with the names of its system columns, more than 1600 columns (1017 on the MySQL family), two columns with one name,
  and key columns of a type that the sink cannot index.

"""


def type_mapping_page() -> str:
    """docs/type-mapping.md."""
    return _HEAD + "\n".join(_page_lines()) + "\n"


def _page_lines() -> Iterator[str]:
    yield "| Source type | of | PostgreSQL | MySQL | MariaDB |"
    yield "|---|---|---|---|---|"
    for rule in RULES:
        for column, flavor in rule.examples:
            cells = [rule.sql_type(column, flavor, kind, is_key=False) for kind in ("postgresql", "mysql", "mariadb")]
            yield f"| `{column.column_type}` | {_KIND_NAMES[flavor]} | " + " | ".join(f"`{c}`" for c in cells) + " |"
    yield ""
    yield "## Notes"
    yield ""
    for rule in RULES:
        if rule.note:
            yield f"- **{rule.title}.** {rule.note}"


if __name__ == "__main__":
    sys.stdout.write(type_mapping_page())
