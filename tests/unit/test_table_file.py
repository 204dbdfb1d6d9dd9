"""The table file of the earlier system: read as it is, merged by the rule that docs/strategies.md states."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cdc.config import Config, load_config
from cdc.errors import ConfigError
from cdc.table_file import parse_table_file

CONFIG = """\
name: shop
source: {url: "mysql://repl@127.0.0.1", server_id: 42}
sinks: [{name: a, url: "postgresql://cdc@127.0.0.1/x"}]
tables:
"""


def load(directory: Path, monkeypatch: pytest.MonkeyPatch, tables: str, entries: object) -> Config:
    (directory / "tables.json").write_text(entries if isinstance(entries, str) else json.dumps(entries, indent=1))
    (directory / "config.yaml").write_text(CONFIG + tables)
    monkeypatch.chdir(directory)
    return load_config(Path("config.yaml"), environ={})


def test_its_tables_are_captured_and_its_entries_are_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        {"table": "shop.orders", "primary_key": "id", "modifier": "updated_at", "sync_strategy": "incremental"},
        {"table": "crm.people", "primary_key": ["a", "b"], "sync_strategy": "full_refresh", "batch_size": 50},
    ]
    config = load(tmp_path, monkeypatch, "  file: tables.json\n", entries)
    assert config.tables.include == ("shop.orders", "crm.people")
    orders, people = config.tables.override_for("shop", "orders"), config.tables.override_for("crm", "people")
    assert orders is not None
    assert people is not None
    assert (orders.primary_key, orders.modifier, orders.sync_strategy) == (("id",), "updated_at", "incremental")
    assert (people.primary_key, people.sync_strategy, people.batch_size) == (("a", "b"), "full_refresh", 50)


def test_what_the_configuration_says_wins_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [{"table": "orders", "modifier": "changed", "sync_strategy": "incremental", "batch_size": 9}]
    tables = "  include: [shop.*]\n  file: tables.json\n  overrides: [{table: shop.orders, batch_size: 7}]\n"
    config = load(tmp_path, monkeypatch, tables, entries)
    assert config.tables.include == ("shop.*",)  # it lets the table through already
    (override,) = config.tables.overrides
    assert (override.batch_size, override.modifier) == (7, "changed")


def test_a_name_is_taken_to_the_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(tmp_path, monkeypatch, "  file: tables.json\n", [{"table": "shop.a*b.c?"}])
    assert config.tables.matches("shop", "a*b.c?")
    assert not config.tables.matches("shop", "axb.cd")


@pytest.mark.parametrize(
    "tables, entries, expected",
    [
        ("  file: tables.json\n", [{"table": "orders"}], "tables.json:2 entry 1.table: the name has no database"),
        (
            "  include: [shop.*, crm.*]\n  file: tables.json\n",
            [{"table": "orders"}],
            "tables.json:2 entry 1.table: the name has no database",
        ),
        (
            "  file: tables.json\n",
            [{"table": "a.b"}, {"table": "a.b"}],
            "tables.json:5 entry 2.table: a.b has an entry already, tables.json:2 entry 1",
        ),
        ("  file: tables.json\n", [{"table": "a.b", "batch_size": 0}], "tables.json:2 entry 1.batch_size: 0 is not in"),
        (
            "  file: tables.json\n",
            [{"table": "a.b", "primary_key": ["x", "x"]}],
            "tables.json:2 entry 1.primary_key: a column is empty or named twice",
        ),
        (
            "  file: tables.json\n",
            [{"table": "a.b", "sync_strategy": "hourly"}],
            "tables.json:2 entry 1.sync_strategy: 'hourly' is not in cdc, incremental, full_refresh, auto",
        ),
        ("  file: tables.json\n", [7], "tables.json:2 entry 1: is not an object"),
        ("  file: tables.json\n", [{"table": "a.b", "key": 1}], "tables.json:2 entry 1: there is no key 'key'"),
        ("  file: tables.json\n", [{"batch_size": 1}], "tables.json:2 entry 1: has no table, which is text"),
        ("  file: tables.json\n", '[{"table": "a.b"}\n}', "tables.json:2: not valid JSON: , or ] is missing"),
        ("  file: tables.json\n", '[{"table": \n', "tables.json:2: not valid JSON"),
        ("  file: tables.json\n", '{"table": "a.b"}', "tables.json:1: is not a JSON list"),
        ("  file: tables.json\n", "[]\n\nx", "tables.json:3: something stands behind the list"),
        (
            "  file: tables.json\n",
            '[{"table": "a.b", "table": "c.d"}]',
            "tables.json:1 entry 1: the key 'table'",
        ),
        (
            "  exclude: [a.*]\n  file: tables.json\n",
            [{"table": "a.b"}],
            "tables.json:2 entry 1.table: tables.include and exclude do not let this table through",
        ),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: str, entries: object, expected: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, monkeypatch, tables, entries)
    assert expected in str(refused.value)


def test_a_null_counts_as_not_given() -> None:
    entries, problems = parse_table_file('[{"table": "a.b", "modifier": null, "primary_key": null}]')
    assert not problems
    assert entries[0].values == {"table": "a.b"}
