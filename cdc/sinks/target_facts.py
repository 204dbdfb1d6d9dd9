"""What tables on a sink have beside columns and key, and the SQL of indexes and numberings: text and catalogues.

Works through an open sink's transactions; changes nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from cdc.errors import SinkUnavailable
from cdc.schema.drift import ColumnFacts, TargetFacts
from cdc.schema.indexes import IndexPart, SinkIndex, TargetIndex, marker
from cdc.schema.target import SinkKind, TargetTable
from cdc.sinks import sql_mysql, sql_postgres
from cdc.sinks.base import Sink, SinkTransaction

__all__ = [
    "create_index",
    "define_fenced",
    "drop_fenced",
    "drop_index",
    "drop_unique",
    "folds_table_names",
    "names_taken",
    "read_facts",
    "restart_numbering",
]


def read_facts(sink: Sink, target: TargetTable) -> TargetFacts | None:
    """The table's attributes; None where there is none. Raises SinkUnavailable, ConfigError."""
    return _read_postgres(sink, target) if sink.kind == "postgresql" else _read_mysql(sink, target)


def names_taken(sink: Sink, target: TargetTable, names: Sequence[str]) -> Collection[str]:
    """Those of the names that no new index can have."""
    if not names:
        return ()
    with sink.transaction() as tx:
        if sink.kind == "postgresql":
            rows = tx.execute(_TAKEN, (target.namespace, list(names)))
        else:
            rows = tx.execute(_MYSQL_INDEX_NAMES, (target.namespace, target.name))
    return {_text(row[0]) for row in rows}


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.decode() if isinstance(value, bytes) else str(value)


def define_fenced(
    sink: Sink, target: TargetTable, statements: list[str], fence: Callable[[SinkTransaction], None]
) -> None:
    """Only while the lease is ours: on PostgreSQL in the transaction that says so, elsewhere right behind it."""
    with sink.transaction() as tx:
        if sink.kind == "postgresql":
            sink.define(target, statements)
        fence(tx)
        tx.commit()
    if sink.kind != "postgresql":
        sink.define(target, statements)


def drop_fenced(sink: Sink, target: TargetTable, fence: Callable[[SinkTransaction], None]) -> None:
    """As `define_fenced`: a later holder may have a table of that name by now."""
    with sink.transaction() as tx:
        if sink.kind == "postgresql":
            sink.drop_table(target)
        fence(tx)
        tx.commit()
    if sink.kind != "postgresql":
        sink.drop_table(target)


def drop_unique(sink: Sink, target: TargetTable, fence: Callable[[SinkTransaction], None]) -> list[str]:
    """Drop the unique indexes of ours, for rows that may be two to them for a while; the names of those that went.

    One that waits for a lock in vain stays, with those behind it: should it refuse a row, that table stops, not all.
    """
    facts = read_facts(sink, target) if target.attributes.indexes != "none" else None
    unique = [index for index in facts.indexes if index.is_unique and index.source is not None] if facts else []
    dropped: list[str] = []
    for index in unique:
        try:
            define_fenced(sink, target, [drop_index(index, target, sink.kind)], fence)
        except SinkUnavailable as error:
            if not sink.has_waited_for_lock(error):
                raise
            break
        dropped.append(index.name)
    return dropped


def folds_table_names(sink: Sink) -> bool:
    """Are two names of tables one if they differ in nothing but case?"""
    if sink.kind == "postgresql":
        return False
    with sink.transaction() as tx:
        return bool(int(tx.execute("SELECT @@GLOBAL.lower_case_table_names")[0][0]))


# ---------------------------------------------------------------- SQL


def create_index(index: TargetIndex, name: str, target: TargetTable, kind: SinkKind) -> list[str]:
    """The index with the comment that says whose it is."""
    unique = "UNIQUE " if index.is_unique else ""
    if kind == "postgresql":
        columns = ", ".join(f"{sql_postgres.quote(p.column)}{' DESC' if p.is_descending else ''}" for p in index.parts)
        table = sql_postgres.qualified(target.namespace, target.name)
        create = f"CREATE {unique}INDEX {sql_postgres.quote(name)} ON {table} ({columns})"
        said = sql_postgres.text_literal(marker(index))
        return [create, f"COMMENT ON INDEX {sql_postgres.qualified(target.namespace, name)} IS {said}"]
    columns = ", ".join(_mysql_part(part) for part in index.parts)
    table = sql_mysql.qualified(target.namespace, target.name)
    comment = sql_mysql.text_literal(marker(index))
    return [f"ALTER TABLE {table} ADD {unique}INDEX {sql_mysql.quote(name)} ({columns}) COMMENT {comment}"]


def _mysql_part(part: IndexPart) -> str:
    prefix = f"({part.prefix})" if part.prefix is not None else ""
    return f"{sql_mysql.quote(part.column)}{prefix}{' DESC' if part.is_descending else ''}"


def drop_index(index: SinkIndex, target: TargetTable, kind: SinkKind) -> str:
    """Drop it; on PostgreSQL also where it is gone already."""
    if kind == "postgresql":
        return f"DROP INDEX IF EXISTS {sql_postgres.qualified(target.namespace, index.name)}"
    return f"ALTER TABLE {sql_mysql.qualified(target.namespace, target.name)} DROP INDEX {sql_mysql.quote(index.name)}"


def restart_numbering(target: TargetTable) -> list[str]:
    """PostgreSQL: the next number is past every row's. (The MySQL family keeps it so by itself.)"""
    table = sql_postgres.qualified(target.namespace, target.name)
    statements = []
    for column in target.columns:
        if column.is_identity:
            name = sql_postgres.quote(column.name)
            sequence = _sequence(table, column.name)
            statements.append(f"SELECT setval({sequence}, greatest(max({name}), 1), max({name}) >= 1) FROM {table}")
    return statements


def _sequence(table: str, column: str) -> str:
    return f"pg_get_serial_sequence({sql_postgres.text_literal(table)}, {sql_postgres.text_literal(column)})"


# ---------------------------------------------------------------- PostgreSQL

_POSTGRES_TABLE = """
SELECT c.oid, obj_description(c.oid, 'pg_class'), c.relkind = 'p',
       ARRAY(SELECT DISTINCT v.relname::text FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
             JOIN pg_class v ON v.oid = r.ev_class
             WHERE d.refobjid = c.oid AND d.classid = 'pg_rewrite'::regclass AND v.oid <> c.oid ORDER BY 1),
       ARRAY(SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END
             FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner ORDER BY 1)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')"""

_POSTGRES_COLUMNS = """
SELECT attname::text, NOT attnotnull, atthasdef, col_description(attrelid, attnum), attidentity <> ''
FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum"""

_POSTGRES_INDEXES = """
SELECT i.relname::text, x.indisunique, x.indisprimary, x.indisvalid, obj_description(i.oid, 'pg_class'),
       x.indexprs IS NULL AND x.indpred IS NULL AND m.amname = 'btree',
       ARRAY(SELECT a.attname::text FROM unnest(x.indkey) WITH ORDINALITY AS k(number, place)
             JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number
             WHERE k.place <= x.indnkeyatts ORDER BY k.place),
       ARRAY(SELECT o.bits & 1 FROM unnest(x.indoption) WITH ORDINALITY AS o(bits, place) ORDER BY o.place)
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am m ON m.oid = i.relam
WHERE x.indrelid = %s ORDER BY 1"""

_TAKEN = """
SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = ANY(%s)"""


def _read_postgres(sink: Sink, target: TargetTable) -> TargetFacts | None:
    with sink.transaction() as tx:
        found = tx.execute(_POSTGRES_TABLE, (target.namespace, target.name))
        if not found:
            return None
        oid, comment, is_partitioned, views, grantees = found[0]
        columns = tuple(
            ColumnFacts(name, bool(is_nullable), bool(has_default), said or "", bool(is_identity))
            for name, is_nullable, has_default, said, is_identity in tx.execute(_POSTGRES_COLUMNS, (oid,))
        )
        indexes = tuple(
            SinkIndex(
                name,
                tuple(IndexPart(c, None, bool(d)) for c, d in zip(names, order, strict=False)) if is_plain else None,
                bool(is_unique),
                bool(is_primary),
                bool(is_valid),
                said or "",
            )
            for name, is_unique, is_primary, is_valid, said, is_plain, names, order in tx.execute(
                _POSTGRES_INDEXES, (oid,)
            )
        )
    others = [f"the view {name}" for name in views] + [f"a grant to {name}" for name in grantees]
    if is_partitioned:
        others.append("partitions")
    return TargetFacts(columns, indexes, comment or "", tuple(others))


# ---------------------------------------------------------------- MySQL and MariaDB

_OF_TABLE = "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s"
_MYSQL_TABLE = f"SELECT TABLE_COMMENT, CREATE_OPTIONS FROM information_schema.TABLES {_OF_TABLE}"
_MYSQL_COLUMNS = (
    "SELECT COLUMN_NAME, IS_NULLABLE, COLUMN_DEFAULT, COLUMN_COMMENT, EXTRA FROM information_schema.COLUMNS "
    f"{_OF_TABLE} ORDER BY ORDINAL_POSITION"
)
_MYSQL_INDEXES = (
    "SELECT INDEX_NAME, NON_UNIQUE, COLUMN_NAME, SUB_PART, COLLATION, INDEX_TYPE, INDEX_COMMENT "
    f"FROM information_schema.STATISTICS {_OF_TABLE} ORDER BY INDEX_NAME, SEQ_IN_INDEX"
)
_MYSQL_INDEX_NAMES = f"SELECT DISTINCT INDEX_NAME FROM information_schema.STATISTICS {_OF_TABLE}"
_MYSQL_VIEWS = (
    "SELECT TABLE_NAME FROM information_schema.VIEWS WHERE TABLE_SCHEMA = %s AND LOCATE(%s, VIEW_DEFINITION) > 0 "
    "ORDER BY TABLE_NAME"
)
_MYSQL_GRANTS = f"SELECT DISTINCT GRANTEE FROM information_schema.TABLE_PRIVILEGES {_OF_TABLE} ORDER BY GRANTEE"


def _read_mysql(sink: Sink, target: TargetTable) -> TargetFacts | None:
    place = (target.namespace, target.name)
    with sink.transaction() as tx:
        found = tx.execute(_MYSQL_TABLE, place)
        if not found:
            return None
        comment, options = map(_text, found[0])
        columns = tuple(_mysql_column(*row) for row in tx.execute(_MYSQL_COLUMNS, place))
        parts: dict[str, list[tuple[Any, ...]]] = {}
        for name, *row in tx.execute(_MYSQL_INDEXES, place):
            parts.setdefault(_text(name), []).append(tuple(row))
        reference = sql_mysql.qualified(*place)
        views = [_text(row[0]) for row in tx.execute(_MYSQL_VIEWS, (target.namespace, reference))]
        grantees = [_text(row[0]) for row in tx.execute(_MYSQL_GRANTS, place)]
    others = [f"the view {name}" for name in views] + [f"a grant to {name}" for name in grantees]
    if "partitioned" in options:
        others.append("partitions")
    indexes = tuple(_mysql_index(name, rows) for name, rows in parts.items())
    return TargetFacts(columns, indexes, comment, tuple(others))


def _mysql_column(name: Any, is_nullable: Any, default: Any, comment: Any, extra: Any) -> ColumnFacts:
    # MariaDB shows `NULL` for a column without a default that may be NULL.
    has_default = default is not None and _text(default).upper() != "NULL"
    is_numbered = "auto_increment" in _text(extra).lower()
    return ColumnFacts(_text(name), _text(is_nullable) == "YES", has_default, _text(comment), is_numbered)


def _mysql_index(name: str, rows: list[tuple[Any, ...]]) -> SinkIndex:
    is_not_unique, *_, kind, comment = rows[0]
    is_plain = _text(kind).upper() == "BTREE" and all(row[1] is not None for row in rows)
    parts = tuple(
        IndexPart(_text(column), int(prefix) if prefix is not None else None, _text(order) == "D")
        for _, column, prefix, order, *_ in rows
    )
    return SinkIndex(
        name,
        parts if is_plain else None,
        is_unique=not int(is_not_unique),
        is_primary=name == "PRIMARY",
        comment=_text(comment),
    )
