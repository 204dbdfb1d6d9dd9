"""Which columns identify a row: the configured key, the primary key, a unique key that cannot hold NULL; or none."""

from __future__ import annotations

from cdc.errors import UnsupportedData
from cdc.model import TableDefinition

__all__ = ["choose_key"]


def choose_key(definition: TableDefinition, override: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """The key's columns, in key order; () where only all columns together tell a row (docs/keyless.md).

    Raises UnsupportedData when an override names a column that is not there.
    """
    table = str(definition.name)
    names = {column.name: column for column in definition.columns}
    if override:
        missing = [name for name in override if name not in names]
        if missing:
            raise UnsupportedData(
                f"{table}: the configured primary_key names {', '.join(missing)}, which the table does not have",
                table=table,
                column=missing[0],
                hint=f"its columns are {', '.join(names)}",
            )
        return override
    if definition.primary_key:
        return definition.primary_key
    for key in sorted(definition.unique_keys, key=lambda key: (len(key.columns), key.name)):
        if not key.has_prefix and all(not names[column].is_nullable for column in key.columns):
            return key.columns
    return ()
