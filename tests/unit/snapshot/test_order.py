"""Tables are loaded by priority, then by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc.config import LOAD_PRIORITY, Config, load_config
from cdc.errors import ConfigError
from cdc.model import TableName
from checkpoints.store import TableRecord
from snapshot.order import in_load_order

CONFIG = """\
name: shop
source: {url: "mysql://repl@127.0.0.1", server_id: 42}
sinks: [{name: a, url: "postgresql://cdc@127.0.0.1/x"}]
tables:
  include: ["shop.*"]
"""


def config(directory: Path, overrides: str) -> Config:
    path = directory / "config.yaml"
    path.write_text(f"{CONFIG}  overrides: {overrides}\n")
    return load_config(path, environ={})


def test_the_lowest_number_is_first_and_equal_ones_go_by_name(tmp_path: Path) -> None:
    chosen = config(tmp_path, "[{table: shop.z, priority: 1}, {table: shop.a, priority: 500}]")
    records = [TableRecord(TableName("shop", name), "x", "pending") for name in ("a", "b", "c", "z")]
    ordered = in_load_order(reversed(records), chosen.priority_for)
    assert [record.source.table for record in ordered] == ["z", "b", "c", "a"]
    assert chosen.priority_for("shop", "b") == LOAD_PRIORITY


@pytest.mark.parametrize("value", ["0", "1001", "true", "high"])
def test_a_priority_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match="priority"):
        config(tmp_path, f"[{{table: shop.z, priority: {value}}}]")
