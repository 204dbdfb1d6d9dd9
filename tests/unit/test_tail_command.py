"""The command line of `cdc tail`: options, the configuration that it needs, and how it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from cdc.binlog.constants import BINLOG_MAGIC
from cdc.cli import app
from cdc.config import load_config, load_source_config
from cdc.errors import ConfigError
from tests.unit.source.streams import Stream

SOURCE = 'source: {url: "mysql://repl:${SOURCE_DB_PASS:-x}@127.0.0.1:1", server_id: 40, server_id_count: 4}\n'
TABLES = 'tables: {include: ["shop.*"]}\n'


def run(*arguments: str, directory: Path, stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cdc", "tail", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=stdin,
    )


def write_log(directory: Path, count: int = 1) -> Path:
    stream = Stream(file="binlog.000007")
    events = [stream.format()]
    for number in range(count):
        events += [stream.gtid(), stream.begin(), stream.table_map(is_full=True), stream.insert((number, "x"))]
        events.append(stream.xid())
    path = directory / stream.file
    path.write_bytes(BINLOG_MAGIC + b"".join(events))
    return path


@pytest.mark.parametrize(
    "sinks",
    [
        "",
        "sinks: []\n",
        'sinks: [{name: a, url: "postgresql://c:${UNSET_PASSWORD}@h/d"}, {name: b, url: "mysql://h/x", schema: no}]\n',
    ],
)
def test_sinks_may_be_missing_or_wrong_and_are_counted(tmp_path: Path, sinks: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"name: shop\n{SOURCE}{TABLES}{sinks}")
    config = load_source_config(path, environ={})
    assert (config.name, config.sinks, config.stream_count) == ("shop", (), sinks.count("name:"))
    with pytest.raises(ConfigError):
        load_config(path, environ={})


def test_what_is_wrong_elsewhere_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"name: shop\n{SOURCE}tables: {{}}\nsink_count: 3\n")
    with pytest.raises(ConfigError) as caught:
        load_source_config(path, environ={"CDC__SINKS": "nonsense: ["})
    assert "tables.include" in caught.value.message
    assert "sink_count" in caught.value.message
    assert "SINKS" not in caught.value.message


def test_files_need_no_configuration_and_take_every_word_up_to_the_next_option(tmp_path: Path) -> None:
    path = write_log(tmp_path)
    (tmp_path / "binlog.000007.idx").write_bytes(b"")
    result = run(
        "shop.a", "--binlog", str(path), str(tmp_path / "binlog.000007.idx"), "--limit", "1", directory=tmp_path
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1
    with path.open("rb") as file:
        assert run("--binlog", "-", directory=tmp_path, stdin=file.fileno()).stdout.count("\n") == 1


def test_without_files_a_configuration_is_needed(tmp_path: Path) -> None:
    result = run("shop.a", directory=tmp_path)
    assert result.returncode == 2
    assert "there is no configuration" in result.stderr


@pytest.mark.parametrize(
    "options,text",
    [
        (["--binlog", "x", "--from-start"], "--from-start"),
        (["--binlog", "x", "--until-caught-up"], "--until-caught-up"),
        (["--from-start", "--from", "x.1:4"], "exclude each other"),
        (["--until-caught-up", "--until", "x.1:4"], "exclude each other"),
        (["--tombstones", "--binlog", "x"], "--tombstones"),
        (["--name", "n", "--binlog", "x"], "--name"),
        (["--operation", "insert,upsert", "--binlog", "x"], "upsert"),
        (["--where", "id", "--binlog", "x"], "COLUMN=VALUE"),
        (["--format", "avro", "--binlog", "x"], "avro"),
        (["--gtid", "hello", "--binlog", "x"], "--gtid"),
        (["--from", "hello", "--binlog", "x"], "--from"),
        (["mysql.user", "--binlog", "x"], "system schema"),
        (["orders", "--binlog", "x"], "db.table"),
        (["--limit", "0", "--binlog", "x"], "greater than or equal to 1|not in the range"),
        (["--binlog", "no.000001"], "No such file"),
    ],
)
def test_a_wrong_option_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], text: str
) -> None:
    (tmp_path / "config.yaml").write_text(f"name: shop\n{SOURCE}{TABLES}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match=text) as caught:
        typer.main.get_command(app).main(["tail", *options], standalone_mode=False)
    assert getattr(caught.value, "exit_code", None) == 2


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    path = write_log(tmp_path, count=20_000)
    with subprocess.Popen(
        [sys.executable, "-m", "cdc", "tail", "--binlog", str(path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == b""
