"""Modes of tables in the configuration: what counts for which table, and what is refused in which words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cdc.app import table_options
from cdc.config import Config, load_config
from cdc.errors import ConfigError

MINIMAL = """\
name: shop
source:
  url: mysql://repl@db1
  server_id: 4242
sinks:
  - name: warehouse
    url: postgresql://cdc@pg/analytics
tables:
  include: ["shop.*"]
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Config]:
    """Load the minimal configuration with more lines under `tables`."""
    monkeypatch.chdir(tmp_path)

    def run(lines: str) -> Config:
        path = Path("config.yaml")
        path.write_text(MINIMAL + lines)
        return load_config(path, environ={})

    return run


def test_an_override_wins_over_the_mode_of_all_tables(load: Callable[[str], Config]) -> None:
    config = load("  mode: soft_delete\n  overrides: [{table: shop.a, mode: history}, {table: shop.b, mode: mirror}]\n")

    assert [config.tables.mode_for("shop", table) for table in "abc"] == ["history", "mirror", "soft_delete"]
    assert load("").tables.mode_for("shop", "a") == "mirror"


def test_a_mode_brings_its_columns_under_their_names(load: Callable[[str], Config]) -> None:
    config = load(
        "  mode: append_only\n  mode_columns: {operation: what, sequence: number}\n"
        "  overrides: [{table: shop.a, mode: history}, {table: shop.b, mode: mirror}]\n"
    )

    assert dict(table_options(config, "shop", "other").mode_columns) == {
        "sequence": "number",
        "change_operation": "what",
        "change_time": "_cdc_commit_time",
        "change_position": "_cdc_position",
    }
    assert dict(table_options(config, "shop", "a").mode_columns) == {
        "valid_from": "_cdc_valid_from",
        "valid_to": "_cdc_valid_to",
        "sequence": "number",
    }
    assert table_options(config, "shop", "b").description == {}


@pytest.mark.parametrize(
    "lines,problem",
    [
        (
            "  mode: historic\n",
            "config.yaml:10 tables.mode: 'historic' is not in mirror, soft_delete, append_only, history",
        ),
        (
            "  overrides:\n    - {table: shop.a, mode: append}\n",
            "config.yaml:11 tables.overrides[0].mode: 'append' is not in mirror, soft_delete, append_only, history",
        ),
        ("  mode_columns:\n    valid_to: ''\n", "config.yaml:11 tables.mode_columns.valid_to: is empty"),
        (
            "  mode_columns:\n    sequence: _cdc_operation\n",
            "tables.mode_columns.operation: _cdc_operation is the name of two of these columns",
        ),
        (
            "  mode_columns:\n    valid: x\n",
            "config.yaml:11 tables.mode_columns.valid: there is no such key; did you mean valid_to?",
        ),
    ],
)
def test_a_typing_error_is_named_with_its_line(load: Callable[[str], Config], lines: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(lines)
    assert problem in str(caught.value)
