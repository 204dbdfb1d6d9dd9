"""Views over the metadata for people and dashboards: what is loaded, how many rows, since when, and what is wrong.

Made once with the metadata where the sink's user may; the service does without them. `etl_load_status` and
`etl_copy_status` say the same in two vocabularies (docs/layouts.md has every column). Nothing of ours reads them.
"""

from __future__ import annotations

from cdc.errors import CdcError, TransientError
from checkpoints.store import InSinkStore, MetadataSink

__all__ = ["VIEWS", "create_views", "view_sql"]

# What each view calls the state of the table, the rows of its last load, and the end of that.
VIEWS = {
    "etl_load_status": ("load_status", "rows_loaded", "last_loaded"),
    "etl_copy_status": ("copy_status", "rows_copied", "last_copied"),
}
_STATUS = {
    "ready": "success",
    "parked": "failed",
    "snapshotting": "running",
    "pending": "pending",
    "dropped": "dropped",
}


def view_sql(sink: MetadataSink, name: str) -> str:
    """CREATE VIEW, for `execute` (with `%` doubled where the sink's names have it)."""
    status, rows, loaded = VIEWS[name]
    is_postgresql = sink.kind == "postgresql"
    field = _postgresql_field if is_postgresql else _mysql_field
    time = _postgresql_time if is_postgresql else _mysql_time
    cases = " ".join(f"WHEN '{state}' THEN '{text}'" for state, text in _STATUS.items())
    columns = {
        "pipeline": "t.pipeline",
        "source_database": field("t.source_table", 0),
        "table_name": field("t.source_table", 1),
        "target": "t.target",
        status: f"CASE t.state {cases} ELSE t.state END",
        "state": "t.state",
        rows: "t.rows_loaded",
        "load_began": time("l.began_us"),
        loaded: time("l.loaded_us"),
        "duration_seconds": "round((l.loaded_us - l.began_us) / 1000000.0, 3)",
        "last_changed": time("t.last_change_us"),
        "error_class": field("t.error", "class"),
        "error_message": field("t.error", "message"),
        "error_hint": field("t.error", "hint"),
        "updated_at": time("t.updated_us"),
    }
    listed = ", ".join(f"{expression} AS {column}" for column, expression in columns.items())
    return (
        f"CREATE VIEW {sink.metadata_table(name)} AS SELECT {listed} FROM {sink.metadata_table('tables')} t "
        f"LEFT JOIN {sink.metadata_table('loads')} l ON l.pipeline = t.pipeline AND l.source_table = t.source_table"
    )


def _postgresql_field(column: str, key: str | int) -> str:
    # The one character that JSON has and PostgreSQL's text has not: one message with it would fail the whole view.
    text = f"replace({column}, '\\u0000', '\\ufffd')"
    return f"({text}::json ->> {key if isinstance(key, int) else _quoted(key)})"


def _mysql_field(column: str, key: str | int) -> str:
    path = f"$[{key}]" if isinstance(key, int) else f"$.{key}"
    return f"JSON_UNQUOTE(JSON_EXTRACT({column}, {_quoted(path)}))"


def _quoted(text: str) -> str:
    return f"'{text}'"


def _postgresql_time(column: str) -> str:
    return f"to_timestamp({column} / 1000000.0)"


def _mysql_time(column: str) -> str:
    # In UTC whatever the reader's session has, and beyond 2038.
    return f"TIMESTAMPADD(MICROSECOND, {column}, CAST('1970-01-01 00:00:00' AS DATETIME(6)))"


def create_views(store: InSinkStore) -> CdcError | None:
    """Make the views that are missing; why that cannot be, if so: nothing depends on it.

    Raises SinkUnavailable. The metadata tables have to be there.
    """
    for name in VIEWS:
        if store.exists(name):
            continue
        try:
            with store.sink.transaction() as tx:
                tx.execute(view_sql(store.sink, name))
                tx.commit()
        except TransientError:
            raise
        except CdcError as error:
            # Another lane or instance may be at it, too.
            if not store.exists(name):
                return error
    return None
