from __future__ import annotations

import pytest

from cdc.model import TableName
from cdc.schema.options import TableOptions
from cdc.schema.routing import route
from cdc.schema.target import SinkKind

ORDERS = TableName("shop", "orders")


@pytest.mark.parametrize(
    "kind,schema,database,options,place",
    [
        ("postgresql", None, None, TableOptions(), ("shop", "orders")),
        ("postgresql", "raw", None, TableOptions(), ("raw", "orders")),
        ("postgresql", None, "not used here", TableOptions(), ("shop", "orders")),
        ("mysql", None, None, TableOptions(), ("shop", "orders")),
        ("mariadb", None, "copy", TableOptions(), ("copy", "orders")),
        ("mariadb", "not used here", None, TableOptions(), ("shop", "orders")),
        ("postgresql", "raw", None, TableOptions(target_schema="s"), ("s", "orders")),
        ("mysql", None, "copy", TableOptions(target_schema="s", target_table="o"), ("s", "o")),
        ("mysql", None, "copy", TableOptions(target_table="o"), ("copy", "o")),
    ],
)
def test_what_is_said_of_the_table_comes_before_the_sink_and_that_before_the_source(
    kind: SinkKind, schema: str | None, database: str | None, options: TableOptions, place: tuple[str, str]
) -> None:
    assert route(kind, ORDERS, options, schema=schema, database=database) == place
