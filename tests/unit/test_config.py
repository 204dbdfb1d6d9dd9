"""The configuration contract: what loads, what is refused and in which words, and that no password gets out."""

from __future__ import annotations

import copy
import json
import pickle
import re
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cdc.config import (
    Config,
    DatabaseUrl,
    Policies,
    Secret,
    SinkSettings,
    Tables,
    config_schema,
    configuration_markdown,
    load_config,
    parse_database_url,
    parse_table_name,
    parse_table_pattern,
    redacted,
    setting_paths,
    size_text,
)
from cdc.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "config.yaml"
EXAMPLE_VARIABLES = {"SOURCE_DB_PASS": "one", "WAREHOUSE_DB_PASS": "two", "REPLICA_DB_PASS": "three"}

MINIMAL = """\
name: shop
source:
  url: mysql://repl:hunter2@db1
  server_id: 4242
sinks:
  - name: warehouse
    url: postgresql://cdc@pg/analytics
tables:
  include: ["shop.*"]
"""

MINIMAL_ENVIRONMENT = {
    "CDC__NAME": "shop",
    "CDC__SOURCE__URL": "mysql://repl:hunter2@db1",
    "CDC__SOURCE__SERVER_ID": "4242",
    "CDC__SINKS__0__NAME": "warehouse",
    "CDC__SINKS__0__URL": "postgresql://cdc@pg/analytics",
    "CDC__TABLES__INCLUDE": '["shop.*"]',
}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """Load YAML text under the name config.yaml, in a directory of its own."""
    monkeypatch.chdir(tmp_path)

    def run(text: str | bytes | None, environ: Mapping[str, str] | None = None, env_file: str | None = None) -> Config:
        path = None
        if text is not None:
            path = Path("config.yaml")
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        if env_file is not None:
            Path("cdc.env").write_text(env_file)
        return load_config(path, environ=environ or {}, env_file=None if env_file is None else Path("cdc.env"))

    return run


def problems(
    load: Callable[..., Config], text: str | bytes | None, environ: Mapping[str, str] | None = None
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, environ)
    assert caught.value.hint
    return str(caught.value).splitlines()


def minimal(change: str, by: str) -> str:
    assert change in MINIMAL
    return MINIMAL.replace(change, by)


# -- what loads


def test_the_minimal_file_gets_the_documented_defaults(load: Callable[..., Config]) -> None:
    config = load(MINIMAL)

    assert config.source.url.port == 3306
    assert config.source.server_ids == range(4242, 4258)
    assert (config.source.position, config.source.ssl_mode) == ("auto", "required")
    assert (config.source.connect_timeout_seconds, config.source.read_timeout_seconds) == (10, 60)
    assert config.source.heartbeat_seconds == 1
    assert config.sinks[0].schema_name is None
    assert (config.sinks[0].pool_size, config.sinks[0].statement_timeout_seconds) == (3, 0)
    assert (config.flush.rows_max, config.flush.bytes_max, config.flush.age_ms_max) == (100_000, 16 << 20, 0)
    assert config.queue_bytes_max == 32 << 20
    assert config.snapshot.chunk_rows == 200_000
    assert (config.snapshot.workers, config.snapshot.chunk_seconds) == (2, 1)
    assert config.policies == Policies(zero_dates="null", nul_bytes="replace")
    assert config.lease.seconds == 15
    assert (config.retry.initial_seconds, config.retry.max_seconds) == (0.5, 30)
    assert (config.http.enabled, config.http.host, config.http.port) == (True, "127.0.0.1", 8089)
    assert (config.log.level, config.log.format) == ("info", "auto")
    assert config.var_dir == Path("var")


def test_the_contract_example_loads(load: Callable[..., Config]) -> None:
    text = """\
name: shop                                   # identity of this deployment in the sinks' metadata
source: {url: "mysql://repl:${SOURCE_DB_PASS}@db1:3306", server_id: 4242}   # first of a block of 16 (server_id_count)
sinks:
  - {name: warehouse, url: "postgresql://cdc@pg/analytics", schema: raw}
  - {name: replica,   url: "mysql://cdc@db2:3306/shop_copy"}
tables:
  include: ["shop.*"]
  exclude: ["shop.tmp_*"]
  overrides:
    - {table: shop.order_items, primary_key: [order_id, product_id], sync_strategy: cdc, batch_size: 5000}
http: {host: 127.0.0.1, port: 8089}
"""
    config = load(text, {"SOURCE_DB_PASS": "p@ss/word"})

    assert config.source.url.password.reveal() == "p@ss/word"
    assert [sink.name for sink in config.sinks] == ["warehouse", "replica"]
    assert config.sinks[0].schema_name == "raw"
    assert config.sinks[1].url.database == "shop_copy"
    assert config.chunk_rows_for("shop", "order_items") == 5000
    assert config.chunk_rows_for("shop", "orders") == 200_000


def test_settings_do_not_change(load: Callable[..., Config]) -> None:
    config = load(MINIMAL)
    with pytest.raises(ValidationError):
        config.name = "other"


def test_a_section_whose_keys_are_all_commented_out_is_its_default(load: Callable[..., Config]) -> None:
    assert load(MINIMAL + "http:\n  # port: 1\nlog:\n") == load(MINIMAL)


@pytest.mark.parametrize(
    "written, policy",
    [("null", "null"), ('"null"', "null"), ("", "null"), ("error", "error"), ("infinity", "infinity")],
)
def test_zero_dates_takes_the_null_of_yaml_and_the_word(load: Callable[..., Config], written: str, policy: str) -> None:
    config = load(MINIMAL + f"policies:\n  zero_dates: {written}\n")
    assert config.policies.zero_dates == policy


def test_an_override_of_null_is_not_the_same_as_none(load: Callable[..., Config]) -> None:
    text = MINIMAL + "  overrides:\n  - {table: shop.a, zero_dates: null}\n  - {table: shop.b, nul_bytes: strip}\n"
    config = load(text + "policies: {zero_dates: error}\n")

    assert config.policies_for("shop", "a") == Policies(zero_dates="null", nul_bytes="replace")
    assert config.policies_for("shop", "b") == Policies(zero_dates="error", nul_bytes="strip")
    assert config.policies_for("shop", "c") == Policies(zero_dates="error", nul_bytes="replace")


@pytest.mark.parametrize(
    "text, is_applied",
    [
        ("", False),
        ("policies: {hidden_cascades: apply}\n", True),
        ("  overrides: [{table: shop.a, hidden_cascades: apply}]\n", True),
        ("  overrides: [{table: shop.a, hidden_cascades: accept}]\n", False),
    ],
)
def test_hidden_cascades_are_applied_where_any_table_says_so(
    load: Callable[..., Config], text: str, is_applied: bool
) -> None:
    assert load(MINIMAL + text).applies_hidden_cascades is is_applied


def test_one_column_may_be_written_without_a_list(load: Callable[..., Config]) -> None:
    config = load(MINIMAL + "  overrides: [{table: shop.a, primary_key: id}]\n")
    override = config.tables.override_for("shop", "a")
    assert override is not None
    assert override.primary_key == ("id",)
    assert config.tables.override_for("shop", "b") is None


@pytest.mark.parametrize(
    "written, count",
    [("65536", 65536), ("64k", 65536), ("'64 KiB'", 65536), ("8MiB", 8 << 20), ("1g", 1 << 30), ("100KB", 100_000)],
)
def test_sizes_are_bytes_or_have_a_unit(load: Callable[..., Config], written: str, count: int) -> None:
    assert load(MINIMAL + f"flush: {{bytes_max: {written}}}\n").flush.bytes_max == count


@given(st.integers(min_value=0, max_value=1 << 40))
def test_size_text_is_exact(count: int) -> None:
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    match = re.fullmatch(r"([0-9]+)(\w+)?", size_text(count))
    assert match is not None
    assert int(match[1]) * units.get(match[2], 1) == count


@pytest.mark.parametrize(
    "host, mode",
    [("localhost", "preferred"), ("127.0.0.2", "preferred"), ("[::1]", "preferred"), ("db1", "required"),
     ("10.0.0.1", "required"), ("[2001:db8::1]", "required")],
)  # fmt: skip
def test_only_loopback_may_do_without_tls_by_default(load: Callable[..., Config], host: str, mode: str) -> None:
    text = minimal("@db1", f"@{host}").replace("mysql://repl:hunter2@" + host, f'"mysql://repl:hunter2@{host}"')
    assert load(text).source.ssl_mode == mode


def test_an_explicit_ssl_mode_wins_over_the_host(load: Callable[..., Config]) -> None:
    assert load(minimal("server_id: 4242", "server_id: 4242\n  ssl_mode: disabled")).source.ssl_mode == "disabled"


def test_anchors_and_merge_keys_work_as_in_yaml(load: Callable[..., Config]) -> None:
    text = MINIMAL.replace("  - name", "  - &first\n    pool_size: 5\n    name")
    config = load(text.replace("tables:", "  - {<<: *first, name: second}\ntables:"))
    assert [(sink.name, sink.pool_size) for sink in config.sinks] == [("warehouse", 5), ("second", 5)]


# -- every problem, with its line

AFTER_SOURCE = "  server_id: 4242"
AFTER_SINK = "    url: postgresql://cdc@pg/analytics"

BAD_FILES = [
    # the first argument is put after (or in place of) the line it names
    (AFTER_SOURCE, "  server_id: 0", ["config.yaml:4 source.server_id: 0 is not in 1..4294967295"]),
    (AFTER_SOURCE, "  server_id: '4294967296'", ["config.yaml:4 source.server_id: 4294967296 is not in 1..4294967295"]),
    (AFTER_SOURCE, "  server_id: abc", ["config.yaml:4 source.server_id: 'abc' is not a whole number"]),
    (AFTER_SOURCE, "  server_id: 1.5", ["config.yaml:4 source.server_id: 1.5 is not a whole number"]),
    (AFTER_SOURCE, "  server_id: true", ["config.yaml:4 source.server_id: true is not a number"]),
    (AFTER_SOURCE, "  server_id: [1]", ["config.yaml:4 source.server_id: a list is not a whole number"]),
    (AFTER_SOURCE, "  server_id:", ["config.yaml:4 source.server_id: is required"]),
    (AFTER_SOURCE, "  sever_id: 1",
     ["config.yaml:2 source.server_id: is required",
      "config.yaml:4 source.sever_id: there is no such key; did you mean server_id?"]),
    (AFTER_SOURCE, "  server_id: 1\n  server_id: 2",
     ["config.yaml:5 source.server_id: this key is given twice (first on line 4)"]),
    (AFTER_SOURCE, "  server_id: 4294967290\n  server_id_count: 7",
     ["config.yaml:5 source.server_id_count: the block server_id..server_id+6 goes beyond 4294967295"]),
    (AFTER_SOURCE, "  server_id: 4294967290\n  position: gtids",
     ["config.yaml:2 source.server_id_count: the block server_id..server_id+15 goes beyond 4294967295",
      "config.yaml:5 source.position: 'gtids' is not in auto, gtid, file"]),
    (AFTER_SOURCE, "  server_id: 1\n  heartbeat_seconds: 30",
     [("config.yaml:5 source.heartbeat_seconds: read_timeout_seconds must be more than two heartbeat_seconds, "
      "or an idle source looks dead")]),
    (AFTER_SOURCE, "  server_id: 1\n  read_timeout_seconds: .nan",
     ["config.yaml:5 source.read_timeout_seconds: nan is not in 1..3600"]),
    (AFTER_SOURCE, "  server_id: 1\n  ssl_mode: off",
     ["config.yaml:5 source.ssl_mode: false is not in disabled, preferred, required, verify_ca, verify_identity"]),
    (AFTER_SOURCE, "  server_id: 1\n  ssl_key: missing.pem",
     ["config.yaml:5 source.ssl_key: 'missing.pem' is not a file that can be read",
      "config.yaml:5 source.ssl_key: a key without ssl_cert proves nothing: give both, or neither"]),
    ("mysql://repl:hunter2@db1", "postgresql://repl@db1/x",
     ["config.yaml:3 source.url: a source is MySQL or MariaDB: the URL must begin with mysql:// or mariadb://"]),
    ("mysql://repl:hunter2@db1", "mysql://db1", ["config.yaml:3 source.url: the URL has no user: write mysql://USER@HOST"]),
    ("mysql://repl:hunter2@db1", "mysql://u@db1:0", ["config.yaml:3 source.url: the port is not in 1..65535"]),
    ("mysql://repl:hunter2@db1", "mysql://u@", ["config.yaml:3 source.url: the URL has no host"]),
    ("mysql://repl:hunter2@db1", "mysql://u@db1?sslmode=require",
     [("config.yaml:3 source.url: the URL has the option sslmode (write ssl_mode) after ?, and none is known: use the "
      "keys ssl_mode, ssl_ca, ssl_cert, ssl_key and connect_timeout_seconds beside url")]),
    ("mysql://repl:hunter2@db1", "{user: repl}", ["config.yaml:3 source.url: is not text"]),
    ("postgresql://cdc@pg/analytics", "postgres://cdc@pg",
     ["config.yaml:7 sinks[0].url: a PostgreSQL sink needs a database: postgresql://user@host/DATABASE"]),
    (AFTER_SINK, "    url: mysql://cdc@db2\n    schema: raw",
     [("config.yaml:8 sinks[0].schema: only PostgreSQL has schemas: name the target database in the url instead "
      "(mysql://user@host/NAME)")]),
    (AFTER_SINK, AFTER_SINK + "\n    schema: _cdc",
     ["config.yaml:8 sinks[0].schema: a schema of PostgreSQL itself or of this service's metadata: choose another"]),
    (AFTER_SINK, AFTER_SINK + "\n  - {name: warehouse, url: mysql://cdc@db2}",
     ["config.yaml:8 sinks[1].name: the same as sinks[0].name"]),
    ("name: warehouse", "name: Ware house",
     ["config.yaml:6 sinks[0].name: 'Ware house' does not match [a-z0-9_-], 1 to 63 characters, unique"]),
    ("name: shop", "name: -shop", ["config.yaml:1 name: '-shop' does not match [a-z0-9][a-z0-9_-]{0,62}"]),
    ("name: shop", "name: no", ["config.yaml:1 name: false is not text: put it in quotes"]),
    ("name: shop", "name: 2024-01-01", ["config.yaml:1 name: 2024-01-01 is not text: put it in quotes"]),
    ("name: shop", "name: 2024-13-41",
     ["config.yaml:1 name: cannot be read as the kind of value that it looks like: quote it"]),
    ("name: shop", "1: x\nname: shop", ["config.yaml:1: a key that is not text"]),
    ('include: ["shop.*"]', "include: []", ["config.yaml:9 tables.include: needs at least one entry"]),
    ('include: ["shop.*"]', "include: shop.*",
     ['config.yaml:9 tables.include: text is not a list, such as ["a", "b"]']),
    ('include: ["shop.*"]', "include:\n    - shop.*\n    - orders",
     ["config.yaml:11 tables.include[1]: not of the form db.table (for a whole database: db.*)"]),
    ('include: ["shop.*"]', "include: [mysql.user]",
     ["config.yaml:9 tables.include[0]: mysql is a system schema, which is never captured"]),
    ('include: ["shop.*"]', "include: [shop.*]\n  overrides:\n  - table: shop.a\n  - table: shop.a\n  - table: crm.b",
     ["config.yaml:12 tables.overrides[1].table: the same as tables.overrides[0].table",
      ("config.yaml:13 tables.overrides[2].table: tables.include and exclude do not let this table through, "
      "so the entry has no effect")]),
    ('include: ["shop.*"]', "include: [shop.*]\n  overrides: [{table: shop.*, primary_key: [a, a]}]",
     ["config.yaml:10 tables.overrides[0].primary_key: a column is empty or named twice",
      ("config.yaml:10 tables.overrides[0].table: an exact db.table is needed here, without * or ? "
      "(write \\* for the character itself)")]),
    ('include: ["shop.*"]', "include: [shop.*]\n  overrides: [{table: shop.a, sync_strategy: refresh}]",
     ["config.yaml:10 tables.overrides[0].sync_strategy: 'refresh' is not in cdc, incremental, full_refresh, auto"]),
    ('include: ["shop.*"]', "include: [shop.*]\n  overrides: [{table: shop.a, sync_strategy: incremental}]",
     [("config.yaml:10 tables.overrides[0].modifier: sync_strategy: incremental needs the column that says when a row "
      "changed")]),
    ('include: ["shop.*"]', "include: [shop.*]\n  file: nowhere/tables.json",
     ["config.yaml:10 tables.file: 'nowhere/tables.json' cannot be read: No such file or directory"]),
    ('include: ["shop.*"]', "include: [shop.*]\n  overrides: [{table: shop.a, batch_size: 0}]",
     ["config.yaml:10 tables.overrides[0].batch_size: 0 is not in 1..1000000"]),
    ("tables:", "flush: {bytes_max: 1k}\ntables:",
     ["config.yaml:8 flush.bytes_max: 1k is not in 64KiB..1GiB"]),
    ("tables:", "flush: {bytes_max: lots}\ntables:",
     [("config.yaml:8 flush.bytes_max: not a size: a whole number of bytes, or one with KiB, MiB, GiB (also k, M, G), "
      "such as 8MiB")]),
    ("tables:", "retry: {initial_seconds: 5, max_seconds: 2}\ntables:",
     ["config.yaml:8 retry.max_seconds: is less than retry.initial_seconds"]),
    ("tables:", "retry: {initial_seconds: 31}\ntables:",
     ["config.yaml:8 retry.max_seconds: is less than retry.initial_seconds"]),
    (AFTER_SOURCE, "  server_id: 1\n  read_timeout_seconds: 2",
     [("config.yaml:2 source.heartbeat_seconds: read_timeout_seconds must be more than two heartbeat_seconds, "
       "or an idle source looks dead")]),
    *((
        'include: ["shop.*"]',
        'include: ["shop.*"]\n  overrides:\n    - {table: shop.t, ' + override + "}",
        [f"config.yaml:{10 if problem.startswith(':') else 11} tables.overrides{problem}"],
    ) for override, problem in [
        ("primary_key: [id], exclude_columns: [id]",
         "[0].exclude_columns: id is part of primary_key, without which rows cannot be told apart"),
        ("primary_key: [id], include_columns: a",
         "[0].include_columns: id is part of primary_key, without which rows cannot be told apart"),
        ("include_columns: a, exclude_columns: b",
         "[0].exclude_columns: a table has include_columns or exclude_columns, not both"),
        ("exclude_columns: []", "[0].exclude_columns: needs at least one entry"),
        ("exclude_columns: [a], columns: [{column: a, rename: b}]",
         "[0].columns: a does not go to the sinks (include_columns, exclude_columns), so its entry has no effect"),
        ("include_columns: [a], columns: [{column: b, mask: }]",
         "[0].columns: b does not go to the sinks (include_columns, exclude_columns), so its entry has no effect"),
        ("columns: [{column: a, rename: b}, {column: a, mask: }]", "[0].columns: a has two entries"),
        ("columns: [{column: a}]",
         "[0].columns: the entry of a says nothing: rename, mask, hash, type or a policy is missing"),
        ("columns: [{rename: a}]", "[0].columns[0].column: is required"),
        ("columns: [{column: a, mask: sha1}]",
         "[0].columns[0].mask: 'sha1' is not in null, text, keep_first, keep_last"),
        ("columns: [{column: a, mask: text, mask_keep: 2}]",
         "[0].columns[0].mask_keep: goes with mask: keep_first or keep_last"),
        ("columns: [{column: a, mask: keep_last, mask_text: x}]", "[0].columns[0].mask_text: goes with mask: text"),
        ("columns: [{column: a, mask: keep_last, mask_keep: 0}]", "[0].columns[0].mask_keep: 0 is not in 1..255"),
        ('columns: [{column: a, mask: text, mask_text: "\\0"}]',
         "[0].columns[0].mask_text: not 0 to 255 printable characters"),
        ("columns: [{column: a, mask: text, hash: true}]",
         "[0].columns[0].hash: a column is masked or hashed, not both"),
        ("primary_key: a, columns: [{column: a, mask: text}]",
         "[0].columns: a is part of primary_key, whose values are not masked or hashed"),
        ('row_filter: "a = b"',
         ("[0].row_filter: 'b' is not known here: known are comparisons of a column with a literal, IN, BETWEEN, "
          "IS NULL, AND, OR, NOT and parentheses")),
        ("row_filter: [a]", "[0].row_filter: is not text"),
        ("columns: [{column: a, hash: true}]", ": a of shop.t is hashed, which needs tables.hash_salt"),
    ]),
    ('include: ["shop.*"]', "include: [shop.*]\n  metadata_columns: {load_id: a, position: a, tables: [shop]}",
     ["config.yaml:10 tables.metadata_columns.position: a is the name of two of these columns",
      "config.yaml:10 tables.metadata_columns.tables[0]: not of the form db.table (for a whole database: db.*)"]),
    ('include: ["shop.*"]', "include: [shop.*]\n  routes: [{tables: shop.*}]",
     ["config.yaml:10 tables.routes[0].target_table: a route needs target_schema, target_table or source_column"]),
    ('include: ["shop.*"]', "include: [shop.*]\n  routes: [{tables: 's*.?', source_column: {name: n, value: '{3}'}}]",
     ["config.yaml:10 tables.routes[0].source_column: its value has {3}, and known are {database}, {table}, {1}, {2}"]),
    ('include: ["shop.*"]', "include: [shop.*]\n  routes: [{tables: 's.a', source_column: {name: n, value: 'a}'}}]",
     [("config.yaml:10 tables.routes[0].source_column: its value has a single } (write }} for the character "
       "itself)")]),
    ('include: ["shop.*"]',
     "include: [shop.*]\n  routes: [{tables: 's.a', source_column: {name: n, value: '{table}{table}{table}{table}'}}]",
     [("config.yaml:10 tables.routes[0].source_column: its value may be longer than 255 characters, counting 64 a "
       "name")]),
    ('include: ["shop.*"]', "include: [shop.*]\n  routes: [{target_table: a}, {tables: shop, target_schema: ''}]",
     ["config.yaml:10 tables.routes[0].tables: is required",
      "config.yaml:10 tables.routes[1].tables: not of the form db.table (for a whole database: db.*)",
      "config.yaml:10 tables.routes[1].target_schema: is empty"]),
    ("tables:", "lease: {seconds: 2.9}\ntables:", ["config.yaml:8 lease.seconds: 2.9 is not in 3..600"]),
    ("tables:", "http: 8089\ntables:", ["config.yaml:8 http: 8089 is not a mapping (key: value)"]),
    ("tables:", "http: {enabled: perhaps}\ntables:", ["config.yaml:8 http.enabled: 'perhaps' is not true or false"]),
    ("tables:", "policies: {zero_dates: zero}\ntables:",
     ["config.yaml:8 policies.zero_dates: 'zero' is not in null, error, infinity"]),
    ("tables:", "log: {level: ${LEVEL}}\ntables:",
     [("config.yaml:8: not valid YAML: expected ',' or '}', but got '{' (inside { } or [ ], a value with ${...} must "
      "be quoted)")]),
    ("tables:", "log:\n  level: ${LEVEL}\n  format: ${}\ntables:",
     ["config.yaml:10 log.format: only ${NAME} and ${NAME:-default} are known (write $${ for the characters ${)",
      "config.yaml:9 log.level: the variable LEVEL is not set, nor is LEVEL_FILE (or write ${LEVEL:-default})"]),
    ("tables:", "var_dir: x${A\ntables:",
     ["config.yaml:8 var_dir: a ${ without its } (write $${ for the characters themselves)"]),
    ("tables:", "var_dir: *nothing\ntables:",
     ["config.yaml:8: not valid YAML: an alias that is not defined (a value that begins with * or & must be quoted)"]),
    ("tables:", "http: {host: x, <<: [1]}\ntables:", ["config.yaml:8 http: << does not name a mapping"]),
    ("tables:", "tables: &t [*t]\nx:",
     ["config.yaml:8 tables[0]: an alias that contains itself",
      "config.yaml:8 tables: a list is not a mapping (key: value)",
      ("config.yaml:9 x: there is no such key; known here: flush, history, http, lease, log, name, policies, polling, "
      "queue_bytes_max, recovery, retry, sinks, snapshot, source, staging, standby, tables, targets, var_dir")]),
]  # fmt: skip


@pytest.mark.parametrize("line, replacement, expected", BAD_FILES)
def test_a_problem_is_told_with_file_and_line(
    load: Callable[..., Config], line: str, replacement: str, expected: list[str]
) -> None:
    assert sorted(problems(load, minimal(line, replacement))) == sorted(expected)


def test_every_problem_is_told_at_once_and_in_the_order_of_the_file(load: Callable[..., Config]) -> None:
    text = """\
name: Shop
source:
  url: mysql://repl:hunter2@db1:notaport
  server_id: 0
  nonsense: 1
sinks:
  - name: a
    url: "postgresql://${NOBODY}@pg/x"
  - name: a
    url: mysql://cdc@db2
    schema: raw
    pool_size: 1000
tables: {include: []}
http: {port: 70000}
http: {port: 1}
"""
    lines = problems(load, text, {"CDC__FLUSH__ROWS_MAX": "-1", "CDC__SINKS__1__SSL_CA": "nowhere.pem"})

    assert [line.split(": ")[0] for line in lines] == [
        "config.yaml:1 name",
        "config.yaml:3 source.url",
        "config.yaml:4 source.server_id",
        "config.yaml:5 source.nonsense",
        "config.yaml:8 sinks[0].url",
        "config.yaml:9 sinks[1].name",
        "config.yaml:11 sinks[1].schema",
        "config.yaml:12 sinks[1].pool_size",
        "config.yaml:13 tables.include",
        "config.yaml:15 http",
        "environment CDC__FLUSH__ROWS_MAX",
        "environment CDC__SINKS__1__SSL_CA",
    ]


def test_an_empty_file_lacks_what_is_required(load: Callable[..., Config]) -> None:
    expected = [f"config.yaml:1 {key}: is required" for key in ("name", "sinks", "source", "tables")]
    assert sorted(problems(load, "# nothing\n")) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("- a\n", "config.yaml:1: a list is not a mapping (key: value)"),
        (b"name: shop\n# \xff\n", "config.yaml: line 2 is not UTF-8"),
        (b"name: shop\nsource: \x07\n", "config.yaml:2: a character that YAML does not allow"),
        ("name: a\n---\nname: b\n", "config.yaml:2: not valid YAML: but found another document"),
        ("name: [a\n", "config.yaml:2: not valid YAML: expected ',' or ']', but got '<stream end>'"),
    ],
)
def test_what_is_no_configuration_at_all_is_told_too(
    load: Callable[..., Config], text: str | bytes, expected: str
) -> None:
    assert problems(load, text) == [expected]


def test_a_missing_file_is_an_error_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.yaml"
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={})
    assert str(caught.value) == f"{path}: no such file"
    assert "-c" in caught.value.hint


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path, environ={})


# -- variables


@pytest.mark.parametrize(
    "written, variables, name",
    [
        ("${NAME}", {"NAME": "a"}, "a"),
        ("x${NAME}y${OTHER}", {"NAME": "a", "OTHER": "b"}, "xayb"),
        ("${NAME:-d}", {}, "d"),
        ("${NAME:-d}", {"NAME": ""}, "d"),
        ("${NAME:-d}", {"NAME": "a"}, "a"),
        ("${NAME:-${OTHER}}", {"OTHER": "b"}, "b"),
        ("${NAME:-${OTHER:-deep}}", {}, "deep"),
    ],
)
def test_variables_and_defaults(
    load: Callable[..., Config], written: str, variables: dict[str, str], name: str
) -> None:
    assert load(minimal("name: shop", f"name: {written}"), variables).name == name


@pytest.mark.parametrize(
    "written, text",
    [("$${X}", "${X}"), ("$$", "$$"), ("$X", "$X"), ("a$${b", "a${b"), ("${A}", "${B}"), ("${N:-$${Z}}", "${Z}")],
)
def test_a_dollar_can_be_written_and_values_are_not_read_again(
    load: Callable[..., Config], written: str, text: str
) -> None:
    config = load(MINIMAL + f'var_dir: "{written}"\n', {"A": "${B}", "B": "never"})
    assert str(config.var_dir) == text


def test_a_quoted_scalar_fits_a_number(load: Callable[..., Config]) -> None:
    config = load(minimal("server_id: 4242", 'server_id: "${ID}"') + 'http: {port: "${PORT:-1}"}\n', {"ID": "77"})
    assert (config.source.server_id, config.http.port) == (77, 1)


def test_a_plain_value_that_becomes_empty_counts_as_not_given(load: Callable[..., Config]) -> None:
    config = load(MINIMAL + "http:\n  port: ${PORT:-}\n")
    assert config.http.port == 8089


def test_a_refused_value_of_a_variable_is_not_quoted(load: Callable[..., Config]) -> None:
    text = minimal("server_id: 4242", "server_id: ${ID}").replace("name: shop", "name: ${ID}-${OTHER:-Hunter2}")
    assert problems(load, text, {"ID": "Hunter2"}) == [
        "config.yaml:1 name: the value of ${ID} and ${OTHER} does not match [a-z0-9][a-z0-9_-]{0,62}",
        "config.yaml:4 source.server_id: the value of ${ID} is not a whole number",
    ]


def test_a_secret_comes_from_the_file_that_name_file_names(load: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("p@ss:word/${X}\n")
    text = minimal("mysql://repl:hunter2@db1", '"mysql://repl:${PASS}@db1"')

    assert load(text, {"PASS_FILE": "secret"}).source.url.password.reveal() == "p@ss:word/${X}"
    assert load(text, {"PASS_FILE": "secret", "PASS": "wins"}).source.url.password.reveal() == "wins"
    assert load(text, {"PASS_FILE": "absent", "PASS": "wins"}).source.url.password.reveal() == "wins"


def test_a_secret_file_that_cannot_be_read_is_told_without_its_path(load: Callable[..., Config]) -> None:
    """A password put into NAME_FILE by mistake must not be shown."""
    text = minimal("mysql://repl:hunter2@db1", '"mysql://repl:${PASS}@db1"')
    for wrong in ("hunter2", "hunter2\0"):
        (line,) = problems(load, text, {"PASS_FILE": wrong})
        assert line.startswith("config.yaml:3 source.url: the file that PASS_FILE names cannot be read: ")
        assert "hunter2" not in line


def test_variables_are_taken_from_the_env_file_and_the_process_wins(load: Callable[..., Config]) -> None:
    env_file = """
# a comment
export PASS='p@ss # not a comment'
ID = 77   # the block
NAME="shop\\"x"
CDC__HTTP__PORT=1234
CDC__LOG__LEVEL=debug
EMPTY=
"""
    text = minimal("mysql://repl:hunter2@db1", '"mysql://repl:${PASS}@db1"').replace("4242", "${ID}")
    config = load(text + 'var_dir: "${NAME}${EMPTY}"\n', {"CDC__LOG__LEVEL": "error"}, env_file)

    assert config.source.url.password.reveal() == "p@ss # not a comment"
    assert config.source.server_id == 77
    assert str(config.var_dir) == 'shop"x'
    assert (config.http.port, config.log.level) == (1234, "error")


def test_a_bad_line_of_the_env_file_is_told_and_not_quoted(load: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(MINIMAL, {}, "A=1\nhunter2\nB='hunter2\n")
    assert str(caught.value).splitlines() == [
        "cdc.env:2 is not KEY=VALUE, or a quote is not closed",
        "cdc.env:3 is not KEY=VALUE, or a quote is not closed",
    ]


def test_a_missing_env_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(None, environ=MINIMAL_ENVIRONMENT, env_file=tmp_path / "nowhere.env")


# -- CDC__...


def test_the_environment_alone_is_enough(load: Callable[..., Config]) -> None:
    assert load(None, MINIMAL_ENVIRONMENT) == load(MINIMAL)


def test_the_environment_wins_over_the_file(load: Callable[..., Config]) -> None:
    environ = {
        "CDC__NAME": "123",
        "CDC__SOURCE__SERVER_ID": "1",
        "CDC__SINKS__0__URL": "mysql://cdc@db2",
        "CDC__SINKS__1": '{"name": "b", "url": "mysql://cdc@db3"}',
        "CDC__SINKS__1__POOL_SIZE": "9",
        "CDC__TABLES__INCLUDE": "- a.*\n- b.*",
        "CDC__TABLES__OVERRIDES": "[{table: a.b, primary_key: [x, y]}]",
        "CDC__TABLES__OVERRIDES__0__BATCH_SIZE": "7",
        "CDC__HTTP__PORT": "",
    }
    config = load(MINIMAL + "http: {port: 1}\n", environ)

    assert (config.name, config.source.server_id) == ("123", 1)
    assert config.sinks[0].url.kind == "mysql"
    assert (config.sinks[1].name, config.sinks[1].pool_size) == ("b", 9)
    assert config.tables.include == ("a.*", "b.*")
    assert config.tables.overrides[0].primary_key == ("x", "y")
    assert config.chunk_rows_for("a", "b") == 7
    assert config.http.port == 1  # set but empty: left out


def test_more_than_ten_list_entries_come_in_the_order_of_their_numbers(load: Callable[..., Config]) -> None:
    environ = {f"CDC__TABLES__INCLUDE__{index}": f"db{index}.*" for index in reversed(range(12))}
    assert load(minimal('include: ["shop.*"]', "exclude: []"), environ).tables.include == tuple(
        f"db{index}.*" for index in range(12)
    )


def test_variables_are_filled_in_environment_values_but_not_in_files(
    load: Callable[..., Config], tmp_path: Path
) -> None:
    (tmp_path / "url").write_text("mysql://repl:$%7Bliteral}@db9\n")
    filled = load(MINIMAL, {"CDC__SOURCE__URL": "mysql://repl:${PASS}@db9", "PASS": "p@ss"})
    read = load(MINIMAL, {"CDC__SOURCE__URL_FILE": "url"})

    assert filled.source.url.password.reveal() == "p@ss"
    assert (read.source.url.host, read.source.url.password.reveal()) == ("db9", "${literal}")


BAD_ENVIRONMENT = [
    ({"CDC__SOURCE__SERVER_ID": "0"}, "environment CDC__SOURCE__SERVER_ID: 0 is not in 1..4294967295"),
    ({"CDC__SOURCE__SERVER_ID": "many"}, "environment CDC__SOURCE__SERVER_ID: 'many' is not a whole number"),
    ({"CDC__SOURCE__SEVER_ID": "1"},
     "environment CDC__SOURCE__SEVER_ID: there is no such key; did you mean CDC__SOURCE__SERVER_ID?"),
    ({"CDC__SINKS__2__NAME": "x"}, "environment CDC__SINKS__2__NAME: the next index of this list is 1"),
    ({"CDC__NAME__X": "1"}, "environment CDC__NAME__X: nothing can be set below config.yaml:1, which is not a section"),
    ({"CDC__SINKS__1__NAME": "b"}, "environment CDC__SINKS__1__URL: is required and not set"),
    ({"CDC__TABLES__INCLUDE": "shop.*"},
     'environment CDC__TABLES__INCLUDE: text is not a list, such as ["a", "b"]'),
    ({"CDC__TABLES__INCLUDE": "[shop.*, oops]"},
     "environment CDC__TABLES__INCLUDE: tables.include[1]: not of the form db.table (for a whole database: db.*)"),
    ({"CDC__SOURCE": "{url: hunter2"},
     "environment CDC__SOURCE: not valid YAML: expected ',' or '}', but got '<stream end>'"),
    ({"CDC__SOURCE__URL_FILE": "hunter2"},
     ("environment CDC__SOURCE__URL_FILE: the file that CDC__SOURCE__URL_FILE names cannot be read: "
     "No such file or directory")),
    ({"CDC__HTTP__PORT": "${NONE}"},
     "environment CDC__HTTP__PORT: the variable NONE is not set, nor is NONE_FILE (or write ${NONE:-default})"),
]  # fmt: skip


@pytest.mark.parametrize("environ, expected", BAD_ENVIRONMENT)
def test_a_problem_of_the_environment_names_the_variable(
    load: Callable[..., Config], environ: dict[str, str], expected: str
) -> None:
    assert problems(load, MINIMAL, environ) == [expected]


def test_with_nothing_at_all_the_variables_to_set_are_named(load: Callable[..., Config]) -> None:
    assert problems(load, None) == [
        f"environment CDC__{name}: is required and not set" for name in ("NAME", "SINKS", "SOURCE", "TABLES")
    ]


# -- URLs and secrets


@pytest.mark.parametrize(
    "text, expected",
    [
        ("mysql://u@h", DatabaseUrl("mysql", "u", Secret(""), "h", 3306)),
        ("mariadb://u:p@h:1/d", DatabaseUrl("mysql", "u", Secret("p"), "h", 1, "d")),
        ("POSTGRES://u:p@h/d", DatabaseUrl("postgresql", "u", Secret("p"), "h", 5432, "d")),
        ("postgresql://u:p@[::1]:6543/d", DatabaseUrl("postgresql", "u", Secret("p"), "::1", 6543, "d")),
        ("mysql://u:@10.0.0.1/", DatabaseUrl("mysql", "u", Secret(""), "10.0.0.1", 3306)),
        ("mysql://u:a@b:c@h", DatabaseUrl("mysql", "u", Secret("a@b:c"), "h", 3306)),
        ("mysql://a%40b:%2F%3A%25+%C3%A9@h/d%2Fe", DatabaseUrl("mysql", "a@b", Secret("/:%+é"), "h", 3306, "d/e")),
    ],
)
def test_urls_are_taken_apart(text: str, expected: DatabaseUrl) -> None:
    assert parse_database_url(text) == expected


@pytest.mark.parametrize(
    "text, word",
    [
        ("", "begin"),
        ("h", "begin"),
        ("http://u@h", "begin"),
        ("mysql:/u@h", "begin"),
        ("mysql://", "user"),
        ("mysql://:p@h", "user"),
        ("mysql://u@", "host"),
        ("mysql://u@:3306", "host"),
        ("mysql://u@a:b:c", "port"),
        ("mysql://u@a:", "port"),
        ("mysql://u@a:99999", "port"),
        ("mysql://u@a:٣", "port"),
        ("mysql://u@[::g]", "IPv6"),
        ("mysql://u@[::1", "malformed"),
        ("mysql://u@::1", "host"),
        ("mysql://u:a/b@h", "percent-encode"),
        ("mysql://u:a#b@h", "percent-encode"),
        ("mysql://u:a?b@h", "percent-encode"),
        ("mysql://u:a%b@h", "%25"),
        ("mysql://u:a%ff@h", "UTF-8"),
        ("mysql://u:a b@h", "space"),
        ("mysql://u@h/a/b", "more than one /"),
        ("mysql://u@h/a#b", "%23"),
        ("mysql://u@h/a?charset=latin1", "ssl_mode"),
    ],
)
def test_a_malformed_url_is_refused_with_its_reason(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=re.escape(word)):
        parse_database_url(text)


def test_the_database_of_the_source_url_is_ignored(load: Callable[..., Config]) -> None:
    assert load(minimal("hunter2@db1", "hunter2@db1/shop")).source.url.database is None


def test_a_url_shows_itself_without_its_password() -> None:
    url = parse_database_url("postgresql://a%40b:hunter2@[::1]/d%2Fe")
    assert str(url) == "postgresql://a%40b:***@[::1]:5432/d%2Fe"
    assert "hunter2" not in repr(url)


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("hunter2")

    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>20}", "%s %r" % (secret, secret), repr([secret])]  # noqa: UP031 - one more way to show it
    assert not [text for text in shown if "hunter2" in text]
    assert secret.reveal() == "hunter2"
    assert secret
    assert not Secret("")
    assert secret == Secret("hunter2") != Secret("other")
    assert hash(secret) == hash(Secret("hunter2"))
    assert copy.deepcopy(secret) is copy.copy(secret) is secret
    for act in (pickle.dumps, json.dumps, vars):
        with pytest.raises(TypeError):
            act(secret)
    with pytest.raises(AttributeError):
        secret.value = "other"


def test_a_configuration_does_not_show_its_passwords(load: Callable[..., Config]) -> None:
    text = minimal("cdc@pg", "cdc:s3cr3t@pg")
    config = load(text)

    shown = [
        repr(config),
        str(config),
        repr(config.model_dump()),
        config.model_dump_json(),
        json.dumps(redacted(config)),
        repr(config.model_copy(deep=True)),
    ]
    assert not [piece for piece in shown if "hunter2" in piece or "s3cr3t" in piece]
    assert redacted(config)["source"]["url"] == "mysql://repl:***@db1:3306"
    assert redacted(config)["sinks"][0]["url"] == "postgresql://cdc:***@pg:5432/analytics"
    with pytest.raises(TypeError):
        pickle.dumps(config)


def test_a_validation_error_that_escapes_does_not_show_its_input() -> None:
    with pytest.raises(ValidationError) as caught:
        SinkSettings.model_validate({"name": "a", "url": "mysql://u:hunter2@h:x", "pool_size": "hunter2"})
    assert "hunter2" not in str(caught.value)


passwords = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
awkward_passwords = st.text("@:/?#%[]{}$\"'\\ \t\n&+=*!abc", min_size=1, max_size=20)


@settings(deadline=None)
@given(user=passwords | awkward_passwords, password=passwords | awkward_passwords)
def test_any_user_and_password_survive_substitution(user: str, password: str) -> None:
    environ = {
        **MINIMAL_ENVIRONMENT,
        "CDC__SOURCE__URL": "mysql://${DB_USER}:${DB_PASS}@[::1]:1234",
        "CDC__SINKS__0__URL": "postgresql://${NONE:-${DB_USER}}:x${DB_PASS}y@pg/analytics",
        "DB_USER": user,
        "DB_PASS": password,
    }
    config = load_config(None, environ=environ)

    assert (config.source.url.user, config.source.url.password.reveal()) == (user, password)
    assert (config.source.url.host, config.source.url.port) == ("::1", 1234)
    assert config.sinks[0].url.user == user
    assert config.sinks[0].url.password.reveal() == f"x{password}y"
    assert str(config.source.url).endswith(":***@[::1]:1234")


def test_a_whole_url_in_a_variable_is_taken_as_it_is(load: Callable[..., Config]) -> None:
    text = minimal("mysql://repl:hunter2@db1", "${URL}")
    assert load(text, {"URL": "mysql://repl:p%40ss@db7"}).source.url.password.reveal() == "p@ss"


def test_only_the_user_part_of_a_url_is_encoded(load: Callable[..., Config]) -> None:
    text = minimal("mysql://repl:hunter2@db1", "${SCHEME}://repl:${PASS}@${HOST}").replace("/analytics", "/${DATABASE}")
    config = load(text, {"SCHEME": "mysql", "PASS": "a@b", "HOST": "db1:33", "DATABASE": "x%2Fy"})
    assert (config.source.url.port, config.source.url.password.reveal()) == (33, "a@b")
    assert config.sinks[0].url.database == "x/y"


# Ways to get a URL, or a piece of one, wrong. P is the password as it is typed.
LEAKS: list[str] = [
    "source: {url: Q}",
    "source:\n  url: mysql://repl:P@db1:port",
    "source:\n  url: mysql://repl:P",
    "source:\n  url: mysql:/repl:P@db1",
    "source:\n  url: repl:P@db1",
    "source:\n  url: P",
    "source:\n  url: mysql://P",
    "source:\n  url: mysql://u@P",
    "source:\n  url: mysql://u@h:P",
    "source:\n  url: mysql://u@h/P/x",
    "source:\n  url: mysql://u@h/x?P=1",
    "source:\n  url: mysql://u@h/x?a=P&P",
    "source:\n  url: [mysql://repl:P@db1]",
    "source:\n  url: {user: repl, password: P}",
    "source:\n  password: P\n  url: mysql://repl@db1:x",
    "source:\n  mysql://repl:P@db1",
    "source:\n  url:mysql://repl:P@db1\n  x: 1",
    "source: mysql://repl:P@db1",
    "source:\n  ? mysql://repl:P@db1\n  : 1",
    "source:\n  'mysql://repl:P@db1': 1",
    'source:\n  url: "mysql://repl:P@db1',
    "source:\n  url: mysql://repl:P@db1\n   bad: indent",
    "source:\n  url: *P",
    "source:\n  url: !P x",
    "source:\n  url: !P!x x",
    "source:\n  server_id: mysql://repl:P@db1",
    "source:\n  ssl_mode: mysql://repl:P@db1",
    "source:\n  ssl_ca: mysql://repl:P@db1",
    "sinks:\n  - mysql://repl:P@db1",
    "sinks: mysql://repl:P@db1",
    "sinks:\n  - {name: 'mysql://repl:P@db1', url: 'mysql://repl:P@db1'}\n  - {name: 'mysql://repl:P@db1'}",
    "tables:\n  include: ['mysql://repl:P@db1', 'P']",
    "tables:\n  overrides: [{table: 'mysql://repl:P@db1'}]",
    "flush: {bytes_max: 'mysql://repl:P@db1'}",
    "name: 'mysql://repl:P@db1'",
    "mysql://repl:P@db1: x",
    "mysql://repl:P@db1",
    "name: ${PASS}",
    "name: ${PASS:-P}\nvar_dir: ${UNSET}",
    "name: ${PASS}\nname: ${PASS}",
    "source:\n  url: ${PASS}",
    "source:\n  url: mysql://repl:${PASS}",
    "source:\n  url: mysql://repl@${PASS}:${PASS}",
    "source:\n  url: mysql://repl:${PASS}@db1:x",
    "source:\n  url: mysql://repl:${PASS@db1",
    "source:\n  url: mysql://repl:${X:?P}@db1",
    "source:\n  server_id: ${PASS}\n  position: ${PASS}\n  ssl_key: ${PASS}\n  heartbeat_seconds: ${PASS}",
    "sinks: ${PASS}\ntables: ${PASS}",
    "sinks:\n  - {name: '${PASS}', pool_size: '${PASS}', schema: '${PASS}'}\n  - {name: '${PASS}'}",
    "tables:\n  include: ['${PASS}']\n  overrides: [{table: '${PASS}', primary_key: ['${PASS}']}]",
    "tables:\n  overrides: [{table: a.b, sync_strategy: '${PASS}', batch_size: '${PASS}', nul_bytes: '${PASS}'}]",
    "http: {enabled: '${PASS}', port: '${PASS}'}\nflush: {bytes_max: '${PASS}'}",
]


@pytest.mark.parametrize("template", LEAKS)
@settings(max_examples=25, deadline=None)
@given(middle=st.text("@:/?#%[]{}$\"'\\ &+=*!<>|,-", max_size=6))
def test_no_error_shows_a_password(tmp_path_factory: pytest.TempPathFactory, template: str, middle: str) -> None:
    """Whatever is wrong, and wherever the password stands by mistake: neither the text nor the traceback has it."""
    password = f"hunter2{middle}s3cr3t"
    text = template.replace("P@", f"{password}@").replace("Q", json.dumps(f"mysql://repl:{password}@db1:x"))
    text = re.sub(r"(?<![A-Z])P(?![A-Z])", lambda _: password, text)
    path = tmp_path_factory.getbasetemp() / "leak.yaml"
    path.write_text(text + "\n")

    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={"PASS": password})

    error = caught.value
    shown = [str(error), repr(error), error.hint, *traceback.format_exception(error)]
    assert not [piece for piece in shown if "hunter2" in piece or "s3cr3t" in piece]
    assert error.__cause__ is None
    assert error.__context__ is None


@pytest.mark.parametrize(
    "name", ["CDC__SOURCE__URL", "CDC__SOURCE", "CDC__SINKS", "CDC__SINKS__0", "CDC__SOURCE__PASSWORD", "CDC__URL"]
)
@pytest.mark.parametrize("value", ["mysql://u:hunter2@h:x", "{url: 'mysql://u:hunter2@h:x'}", "{hunter2", "- *hunter2"])
def test_no_problem_of_the_environment_shows_a_password(load: Callable[..., Config], name: str, value: str) -> None:
    assert "hunter2" not in "\n".join(problems(load, None, {name: value}))


@given(st.text(max_size=40) | st.text("mysql:/@[]?#%0", max_size=20))
def test_any_text_is_a_url_or_a_value_error(text: str) -> None:
    try:
        url = parse_database_url(text)
    except ValueError:
        return
    assert url.host
    assert url.user
    assert parse_database_url(str(url)).host == url.host


# -- table patterns


@pytest.mark.parametrize(
    "pattern, database, table, expected",
    [
        ("shop.*", "shop", "orders", True),
        ("shop.*", "shop2", "orders", False),
        ("shop.*", "Shop", "orders", False),
        ("shop.Orders", "shop", "orders", False),
        ("shop.o?ders", "shop", "orders", True),
        ("shop.o?ders", "shop", "oders", False),
        ("*.*", "any", "thing", True),
        ("sh*p*.*_log", "shxxp1", "a_log", True),
        ("shop.a.b", "shop", "a.b", True),
        ("my\\.db.t", "my.db", "t", True),
        ("shop.tmp\\_x", "shop", "tmp_x", True),
        ("shop.a\\*", "shop", "a*", True),
        ("shop.a\\*", "shop", "ab", False),
        ("shop.a\\\\*", "shop", "a\\b", True),
        ("shop.[ab]", "shop", "[ab]", True),
        ("shop.[ab]", "shop", "a", False),
        ("shop.a*", "shop", "a\nb", True),
        ("*.*", "mysql", "user", False),
        ("*.*", "sys", "x", False),
        ("*.*", "performance_schema", "x", False),
        ("*.*", "information_schema", "x", False),
        ("*.*", "INFORMATION_SCHEMA", "x", False),
        ("*.*", "Sys", "x", True),
    ],
)
def test_patterns_match_as_documented(pattern: str, database: str, table: str, expected: bool) -> None:
    assert Tables(include=(pattern,)).matches(database, table) is expected


def test_exclude_wins_over_include() -> None:
    tables = Tables(include=("shop.*", "crm.a"), exclude=("shop.tmp_*",))
    assert tables.matches("shop", "orders")
    assert tables.matches("crm", "a")
    assert not tables.matches("shop", "tmp_1")
    assert not tables.matches("crm", "b")


@pytest.mark.parametrize("text", ["", "shop", ".", "shop.", ".t", "a\\.b", "a.b\\", "mysql.*", "Information_Schema.x"])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"db\.table|backslash|system schema"):
        parse_table_pattern(text)


names = st.text(min_size=1, max_size=20)


@given(names, names)
def test_an_escaped_name_matches_itself_alone(database: str, table: str) -> None:
    text = ".".join("".join("\\" + character for character in name) for name in (database, table))
    assert parse_table_name(text) == (database, table)
    if database.lower() not in ("mysql", "sys", "information_schema", "performance_schema"):
        assert parse_table_pattern(text).matches(database, table)
        assert not parse_table_pattern(text).matches(database, table + "x")


# -- options of tables


def test_the_first_route_that_matches_counts(load: Callable[..., Config]) -> None:
    tables = load(
        MINIMAL + "  routes:\n"
        "    - {tables: shop.orders, target_table: o}\n"
        "    - {tables: shop.o*, target_schema: s}\n"
        "    - {tables: '*.*', target_schema: rest, target_table: t}\n"
    ).tables

    found = {name: tables.route_for("shop", name) for name in ("orders", "other", "users")}
    assert {name: (r.target_schema, r.target_table) for name, r in found.items() if r} == {
        "orders": (None, "o"),
        "other": ("s", None),
        "users": ("rest", "t"),
    }
    assert load(MINIMAL).tables.route_for("shop", "orders") is None


def test_a_source_column_is_made_of_the_names(load: Callable[..., Config]) -> None:
    tables = load(
        MINIMAL + "  routes:\n"
        "    - {tables: 'tenant_*.o?d*', source_column: {name: tenant, value: '{1}-{2}{3}{{}}'}}\n"
        "    - {tables: 'x.*', target_table: o}\n"
        "    - {tables: '*.*', source_column: {name: tenant}}\n"
    ).tables

    assert tables.source_column_for("tenant_7", "orders") == ("tenant", "7-rers{}", 3 * 64 + 3)
    assert tables.source_column_for("x", "orders") is None
    assert tables.source_column_for("y", "orders") == ("tenant", "y", 64)
    assert load(MINIMAL).tables.source_column_for("shop", "orders") is None


SALT = "0123456789abcdef"


def with_columns(columns: str, salt: str = SALT) -> str:
    return MINIMAL + f"  hash_salt: {salt}\n  overrides:\n    - {{table: shop.t, columns: [{columns}]}}\n"


def test_metadata_columns_are_for_the_tables_that_match(load: Callable[..., Config]) -> None:
    tables = load(MINIMAL + "  metadata_columns: {load_id: _dlt_load_id, row_id: _dlt_id, tables: [shop.o*]}\n").tables

    assert tables.metadata_for("shop", "orders") == {"load_id": "_dlt_load_id", "row_id": "_dlt_id"}
    assert tables.metadata_for("shop", "users") == {}
    assert load(MINIMAL).tables.metadata_for("shop", "orders") == {}


def test_a_mask_without_a_value_hides_all_the_same(load: Callable[..., Config]) -> None:
    """Elsewhere a key without a value counts as not given: here that would let the values through."""
    for written in ("mask:", "mask: null", "mask: ~", "mask: 'null'"):
        (entry,) = load(with_columns(f"{{column: a, {written} }}")).tables.overrides[0].columns
        assert entry.mask == "null", written


def test_a_row_filter_is_shown_in_one_spelling(load: Callable[..., Config]) -> None:
    config = load(MINIMAL + "  overrides:\n    - {table: shop.t, row_filter: 'a=1 and not  b'}\n")

    assert redacted(config)["tables"]["overrides"][0]["row_filter"] == "a = 1 AND NOT b"


def test_the_salt_does_not_show_itself(load: Callable[..., Config], tmp_path: Path) -> None:
    config = load(with_columns("{column: a, hash: true}"))

    assert config.tables.hash_salt == Secret(SALT)
    shown = [
        repr(config),
        str(config),
        repr(config.model_dump()),
        config.model_dump_json(),
        json.dumps(redacted(config)),
    ]
    assert not [text for text in shown if SALT in text]
    assert redacted(config)["tables"]["hash_salt"] == "***"


@pytest.mark.parametrize(
    "salt,said",
    [
        ("p4ssw0rd", "is shorter than 16 bytes: hashes of short texts could be guessed back"),
        ("12345678901234567890", "is not text: put it in quotes"),
        ("[p4ssw0rd]", "is not text: put it in quotes"),
    ],
)
def test_a_refused_salt_is_not_quoted(load: Callable[..., Config], salt: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(with_columns("{column: a, hash: true}", salt))
    assert str(caught.value).splitlines()[0] == f"config.yaml:10 tables.hash_salt: {said}"
    assert not re.search("p4ssw0rd|1234567890", str(caught.value))


def test_the_salt_comes_from_a_variable_or_a_file(load: Callable[..., Config], tmp_path: Path) -> None:
    file = tmp_path / "salt"
    file.write_text(f"{SALT}\n")
    text = with_columns("{column: a, hash: true}", '"${HASH_SALT}"')

    for environ in ({"HASH_SALT": SALT}, {"HASH_SALT_FILE": str(file)}):
        assert load(text, environ).tables.hash_salt == Secret(SALT)
    without = text.replace('  hash_salt: "${HASH_SALT}"\n', "")
    assert load(without, {"CDC__TABLES__HASH_SALT_FILE": str(file)}).tables.hash_salt == Secret(SALT)


# -- the example and the generated page


def test_the_example_loads() -> None:
    config = load_config(EXAMPLE, environ=EXAMPLE_VARIABLES)
    assert config.source.server_id == 4242
    assert [sink.url.password.reveal() for sink in config.sinks] == ["two", "three"]


def uncommented() -> str:
    return re.sub(r"^(\s*)# (\s*[a-z_]+:(?:\s|$))", r"\1\2", EXAMPLE.read_text(), flags=re.MULTILINE)


def test_the_defaults_that_the_example_shows_are_the_real_ones(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(uncommented())
    with_defaults = load_config(path, environ=EXAMPLE_VARIABLES).model_dump()
    without = load_config(EXAMPLE, environ=EXAMPLE_VARIABLES).model_dump()

    # In an override a key that is not given follows the section: the example shows where that leads.
    override = without["tables"]["overrides"][0]
    override.update({key: without["policies"][key] for key in ("zero_dates", "nul_bytes", "hidden_cascades")})
    ddl = ("ddl", "on_drop_column", "on_drop_table", "on_truncate", "on_type_change")
    override.update({key: without["policies"][key] for key in ddl})
    override["mode"] = without["tables"]["mode"]
    override.update({key: without["targets"][key] for key in ("defaults", "comments", "indexes", "identity")})
    column = without["tables"]["overrides"][1]["columns"][0]
    column.update({key: without["policies"][key] for key in ("zero_dates", "nul_bytes")})
    assert with_defaults == without


def test_the_example_has_every_key_with_a_comment() -> None:
    def paths(value: Any, path: str) -> set[str]:
        if isinstance(value, dict):
            return set().union(*(paths(child, f"{path}.{key}".lstrip(".")) for key, child in value.items()))
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return set().union(*(paths(child, f"{path}[]") for child in value))
        return {path}

    assert paths(yaml.safe_load(uncommented()), "") == set(setting_paths())
    keys = [line for line in uncommented().splitlines() if re.match(r"\s*(- )?[a-z_]+: \S", line) and "#" not in line]
    assert keys == ["  - name: replica"]  # explained at the first sink


def test_the_page_is_what_the_generator_prints() -> None:
    """Mended by `python -m cdc.config > docs/configuration.md`."""
    assert (ROOT / "docs" / "configuration.md").read_text() == configuration_markdown()


def test_every_key_has_a_description_a_default_and_a_range() -> None:
    rows = [line for line in configuration_markdown().splitlines() if line.startswith("| `")]
    assert len(rows) == len(setting_paths())
    for row in rows:
        _, key, value, default, reason, _ = re.split(r"(?<!\\)\|", row)
        assert value.strip(), key
        assert default.strip(), key
        assert len(reason) > 15, key
        assert "None" not in value + default + reason, key


def test_the_json_schema_is_json_and_knows_the_names_of_the_file() -> None:
    schema = json.loads(json.dumps(config_schema()))
    assert "schema" in schema["$defs"]["SinkSettings"]["properties"]
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"name", "source", "sinks", "tables"}
