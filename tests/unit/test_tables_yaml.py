"""`tables.yml`: what a run writes anew, and what stays as somebody's hand left it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdc.commands.tables_yaml import TablesText, Wanted, merged, table_pattern
from cdc.config import Config, load_config, parse_table_name
from cdc.errors import ConfigError

HEAD = ("made by a run",)


def run(
    text: str, wanted: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]], *, force: bool = False
) -> tuple[str, list[str]]:
    parsed = TablesText.parse(text, "tables.yml")
    kept = merged(parsed, {name: Wanted(("seen",), s) for name, s in wanted.items()}, before, force=force)
    return parsed.render(HEAD), kept


def test_a_first_run_writes_what_is_advised() -> None:
    text, kept = run("", {"shop.b": {"priority": 2}, "shop.a": {"sync_strategy": "cdc", "priority": 1}}, {})
    assert text == (
        "#: made by a run\n\nshop.a:\n  #: seen\n  sync_strategy: cdc\n  priority: 1\n\n"
        "shop.b:\n  #: seen\n  priority: 2\n"
    )
    assert kept == []


def test_a_run_that_finds_the_same_writes_the_same() -> None:
    wanted = {"shop.a": {"sync_strategy": "cdc", "modifier": "no", "priority": 1}}
    first, _ = run("", wanted, {})
    second, kept = run(first, wanted, wanted)
    assert (second, kept) == (first, [])


def test_advice_that_is_as_the_last_run_wrote_it_is_brought_up_to_date() -> None:
    before = {"shop.a": {"modifier": "at", "priority": 1}}
    text, _ = run("shop.a:\n  modifier: at\n  priority: 1\n", {"shop.a": {"priority": 2}}, before)
    assert yaml.safe_load(text) == {"shop.a": {"priority": 2}}


EDITED = """\
# mine, at the top

# above the table
shop.a:  # beside its name
  #: an old note
  # above a setting
  priority: 7    # beside it
  row_filter: >
    status <> 'x'
    AND id > 0
  # at the end

shop.z: {batch_size: 5, columns: [{column: c, rename: d}]} # flow
# the last line
"""


def test_hand_edits_stay_to_the_letter() -> None:
    before = {"shop.a": {"priority": 1, "batch_size": 9}, "shop.z": {"batch_size": 8}, "shop.gone": {"priority": 1}}
    wanted = {
        "shop.a": {"priority": 2, "batch_size": 9},
        "shop.z": {"batch_size": 6},
        "shop.gone": {"priority": 1},
    }
    text, kept = run(EDITED, wanted, before)
    for line in EDITED.splitlines():
        if line and not line.startswith(("shop.z", "  #:")):
            assert line in text.splitlines(), line
    assert "#: an old note" not in text
    assert "  # flow" in text
    assert yaml.safe_load(text) == yaml.safe_load(EDITED)
    assert kept == [
        "shop.a: priority stays 7, advised is 2",
        "shop.a: batch_size was taken out by hand, advised is 9",
        "shop.z: batch_size stays 5, advised is 6",
        "shop.gone: was taken out of the file by hand",
    ]


def test_force_puts_the_advice_back_and_leaves_everything_else() -> None:
    before = {"shop.a": {"priority": 1, "batch_size": 9}, "shop.gone": {"priority": 1}}
    wanted = {"shop.a": {"priority": 2, "batch_size": 9}, "shop.gone": {"priority": 1}}
    text, kept = run(EDITED, wanted, before, force=True)
    said = yaml.safe_load(text)
    assert said["shop.a"] == {"priority": 2, "batch_size": 9, "row_filter": "status <> 'x' AND id > 0\n"}
    assert said["shop.gone"] == {"priority": 1}
    assert "  # above a setting\n  priority: 2\n" in text
    assert kept == ["shop.z: is not at the source, or not captured, and has settings of somebody's hand"]


def test_without_the_state_of_the_last_run_everything_counts_as_edited() -> None:
    text, kept = run("shop.a:\n  priority: 7\n", {"shop.a": {"priority": 2}}, {})
    assert yaml.safe_load(text) == {"shop.a": {"priority": 7}}
    assert len(kept) == 1


def test_a_table_that_is_gone_leaves_unless_it_was_edited() -> None:
    before = {"shop.a": {"priority": 1}, "shop.b": {"priority": 1}}
    text, kept = run("shop.a:\n  priority: 1\n\nshop.b:\n  priority: 3\n", {}, before)
    assert yaml.safe_load(text) == {"shop.b": {"priority": 3}}
    assert kept == ["shop.b: is not at the source, or not captured, and has settings of somebody's hand"]


@pytest.mark.parametrize(
    "text, problem",
    [
        ("- a\n", "tables.yml:1 is not a mapping"),
        ("shop.a: 5\n", "tables.yml:1 shop.a: its settings are no mapping"),
        ("shop.a:\n  priority: 1\nshop.a:\n  priority: 1\n", "tables.yml:3"),
        ("shop.a:\n  priority: 1\n  priority: 2\n", "tables.yml:3 shop.a: priority is given twice"),
        ("shop.a: {priority: [1}\n", "tables.yml:1"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        run(text, {}, {})


@pytest.mark.parametrize(
    "name", [("sh.op", "a.b"), ("s*", "t?"), ("back\\slash", "x"), ("1", "2"), ("é", "a: b #c"), ("no", "y")]
)
def test_any_name_is_written_so_that_it_is_read_as_itself(tmp_path: Path, name: tuple[str, str]) -> None:
    pattern = table_pattern(*name)
    assert parse_table_name(pattern) == name
    text, _ = run("", {pattern: {"priority": 3, "modifier": "é: #", "sync_strategy": "incremental"}}, {})
    assert run(text, {}, {})[0].count("modifier") == 1
    config = configured(tmp_path, text, include='["*.*"]')
    override = config.tables.override_for(*name)
    assert override is not None
    assert (override.priority, override.modifier) == (3, "é: #")


def configured(directory: Path, tables: str, *, include: str = '["shop.*"]', more: str = "") -> Config:
    file = directory / "tables.yml"
    file.write_text(tables)
    (directory / "config.yaml").write_text(
        f'name: shop\nsource: {{url: "mysql://repl@127.0.0.1", server_id: 42}}\n'
        f'sinks: [{{name: a, url: "postgresql://cdc@127.0.0.1/x"}}]\n'
        f"tables:\n  include: {include}\n  file: {file}\n{more}"
    )
    return load_config(directory / "config.yaml", environ={})


def test_the_configuration_itself_wins_key_by_key(tmp_path: Path) -> None:
    tables = "shop.a: {priority: 3, batch_size: 5}\nshop.b:\nother.c: {priority: 1}\nshop.tmp: {priority: 1}\n"
    more = '  exclude: ["shop.tmp"]\n  overrides: [{table: shop.a, batch_size: 9, mode: history}]\n'
    config = configured(tmp_path, tables, more=more)
    override = config.tables.override_for("shop", "a")
    assert override is not None
    assert (override.priority, override.batch_size, override.mode) == (3, 9, "history")
    assert [entry.table for entry in config.tables.overrides] == ["shop.a", "shop.b"]
    assert not config.tables.matches("other", "c")


@pytest.mark.parametrize(
    "tables, problem",
    [
        ("shop.a:\n  priority: 0\n", r"tables\.yml:2 .*priority: 0 is not in 1\.\.1000"),
        ("shop.a:\n  priorty: 1\n", r"tables\.yml:2 .*did you mean priority"),
        ("shop.a: 5\n", r"tables\.yml:1: shop\.a: its settings are not a mapping"),
        ("shop.a: {table: shop.b}\n", r"tables\.yml:1: shop\.a: the table is named by the key"),
        ("orders: {priority: 1}\n", r"tables\.yml:1: orders: not of the form"),
        ("- shop.a\n", r"tables\.yml:1: is not a mapping"),
    ],
)
def test_what_is_wrong_in_it_is_said_with_its_line(tmp_path: Path, tables: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        configured(tmp_path, tables)
