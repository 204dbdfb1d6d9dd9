"""Table definitions as text, to be kept beside the checkpoint that they belong to.

The encoding carries a version; an unknown one is refused, never guessed at.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson

from cdc.errors import ResyncRequired
from cdc.model import ColumnDefinition, TableDefinition, TableName, UniqueKey, ValueKind

__all__ = ["decode_definition", "encode_definition"]

_FORMAT = 1
_TABLE_FIELDS = tuple(field.name for field in dataclasses.fields(TableDefinition))
_COLUMN_FIELDS = tuple(field.name for field in dataclasses.fields(ColumnDefinition))
_COLUMN_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(ColumnDefinition)
    if field.default is not dataclasses.MISSING
}


# What was encoded last: a record of a table, its digest and its history ask for one definition's text in a row.
_KEPT_MAX, _KEPT_CHARS_MAX = 256, 16_384
_kept: dict[int, tuple[TableDefinition, str]] = {}


def encode_definition(definition: TableDefinition) -> str:
    """As JSON; attributes of columns at their default are left out."""
    kept = _kept.get(id(definition))
    if kept is not None and kept[0] is definition:
        return kept[1]
    text = _encoded(definition)
    if len(text) <= _KEPT_CHARS_MAX:
        if len(_kept) >= _KEPT_MAX:
            _kept.clear()
        _kept[id(definition)] = (definition, text)  # holding it, so that its id is nobody else's
    return text


def _encoded(definition: TableDefinition) -> str:
    content: dict[str, Any] = {name: getattr(definition, name) for name in _TABLE_FIELDS}  # `asdict` copies each value
    content["columns"] = [
        {
            name: value
            for name in _COLUMN_FIELDS
            if (value := getattr(column, name)) != _COLUMN_DEFAULTS.get(name, dataclasses.MISSING)
        }
        for column in definition.columns
    ]
    return orjson.dumps({"format": _FORMAT, **content}).decode()


def decode_definition(text: str) -> TableDefinition:
    """What `encode_definition` wrote. Raises ResyncRequired for another version's text."""
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError:
        content = None
    if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
        raise ResyncRequired(
            "a table definition in the sink's metadata is damaged, or was written by another version of cdc",
            hint="run the version that wrote it, or load again with `cdc checkpoint reset`",
        )
    columns = tuple(
        ColumnDefinition(**{**c, "kind": ValueKind(c["kind"]), "members": tuple(c.get("members", ()))})
        for c in content.pop("columns")
    )
    unique_keys = tuple(UniqueKey(k["name"], tuple(k["columns"]), k["has_prefix"]) for k in content.pop("unique_keys"))
    name = content.pop("name")
    return TableDefinition(
        name=TableName(name["database"], name["table"]),
        columns=columns,
        primary_key=tuple(content.pop("primary_key")),
        unique_keys=unique_keys,
        **content,
    )
