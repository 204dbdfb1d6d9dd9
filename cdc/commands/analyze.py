"""`cdc analyze`: look at the source's tables, advise on each, and keep `tables.yml` up to date.

Three files lie side by side: `tables.yml`, which the service reads (`tables.file`) and people edit; its
`.analysis.json`, what this run saw and advised, by which the next one tells what has changed and what was edited; and
`.changelog.md`, one section for each run that found something new.
"""

from __future__ import annotations

import datetime
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cdc.app import source_settings
from cdc.clock import Clock
from cdc.commands.tables_yaml import TablesText, Wanted, merged, table_pattern
from cdc.config import SourceConfig, TableOverride
from cdc.errors import ConfigError
from cdc.model import ColumnDefinition
from cdc.schema.advice import Advice, Candidate, TableFacts, advise, schema_hash
from cdc.source.analysis import Analysis, read_analysis
from cdc.source.connection import connect

__all__ = ["AnalyzeOptions", "analyze", "changes"]

_FORMAT = 1
_HEAD = (
    "Settings of tables, by name: made by `cdc analyze`, read by the service as `tables.file`.",
    "Lines that begin with `#:` are written anew by each run. What you change, add or take out stays as you left",
    "it (docs/analyze.md); `cdc analyze --force` puts the advised settings back.",
)
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


@dataclass(frozen=True, slots=True)
class AnalyzeOptions:
    """The command line."""

    output: Path | None = None
    force: bool = False
    as_json: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class _Files:
    tables: Path
    state: Path
    changelog: Path

    @classmethod
    def of(cls, output: Path) -> _Files:
        return cls(output, output.with_suffix(".analysis.json"), output.with_suffix(".changelog.md"))


def analyze(config: SourceConfig, options: AnalyzeOptions, *, clock: Clock) -> int:
    """Read, advise, write, and say what has changed; the exit code.

    Raises ConfigError for a file that cannot be read as one of ours (which is left as it is) or written, and what the
    source's connection raises.
    """
    files = _Files.of(_output(config, options))
    before = _read_state(files.state)
    text = TablesText.parse(_read(files.tables) or "", str(files.tables))
    with connect(source_settings(config)) as connection:
        analysis = read_analysis(connection, config.tables.matches)
    now = {
        table_pattern(facts.definition.name.database, facts.definition.name.table): _record(
            facts, advise(facts, no_stream=analysis.no_stream)
        )
        for facts in analysis.tables
    }
    wanted = {name: Wanted(tuple(_notes(record)), record["settings"]) for name, record in now.items()}
    advised = {name: record["settings"] for name, record in (before or {}).items()}
    kept = merged(text, wanted, advised, force=options.force)
    _require_valid(text, str(files.tables))
    found = changes(before, now) if before is not None else []
    if not options.dry_run:
        _write(files.tables, text.render(_HEAD))
        _write(files.state, _state_text(analysis, now))
        if found:
            _write(files.changelog, _changelog(_read(files.changelog), found, clock.now_us()))
    if options.as_json:
        document = _document(analysis, now, kept, found, files, is_first=before is None, is_dry=options.dry_run)
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        _print(analysis, now, kept, found, files, options=options, config=config, is_first=before is None)
    return 0


def _output(config: SourceConfig, options: AnalyzeOptions) -> Path:
    if options.output is not None:
        return options.output
    configured = config.tables.file
    if configured is not None and configured.suffix in (".yml", ".yaml"):
        return configured
    return Path("tables.yml")


# ---------------------------------------------------------------- what is known of a table


def _record(facts: TableFacts, advice: Advice) -> dict[str, Any]:
    """One table, as the state file and `--json` have it."""
    definition = facts.definition
    return {
        "rows": facts.rows,
        "data_bytes": facts.data_bytes,
        "index_bytes": facts.index_bytes,
        "size": advice.size,
        "engine": definition.engine,
        "schema": schema_hash(definition),
        "columns": {column.name: _column_text(column) for column in definition.columns},
        "primary_key": list(definition.primary_key),
        "unique_keys": {key.name: list(key.columns) for key in sorted(definition.unique_keys, key=lambda k: k.name)},
        "candidates": [candidate.to_dict() for candidate in sorted(facts.candidates, key=_best_first)],
        "strategy": advice.strategy,
        "reason": advice.reason,
        "warnings": list(advice.warnings),
        "settings": advice.settings,
    }


def _best_first(candidate: Candidate) -> tuple[int, str]:
    return ("good", "usable", "poor").index(candidate.quality), candidate.column


def _column_text(column: ColumnDefinition) -> str:
    words = [column.column_type]
    if column.collation is not None:
        words.append(f"collate {column.collation}")
    words += [] if column.is_nullable else ["not null"]
    has_default = column.default is not None and column.default.upper() != "NULL"  # MariaDB's word for none
    words += [f"default {column.default}"] if has_default else []
    words += ["auto_increment"] if column.is_auto_increment else []
    words += ["generated"] if column.is_generated else []
    words += ["invisible"] if column.is_invisible else []
    return " ".join(words)


def _notes(record: Mapping[str, Any]) -> Iterator[str]:
    """What the file says of a table, above its settings."""
    key = ", ".join(record["primary_key"]) or "none"
    size = f"{_bytes(record['data_bytes'])}, indexes {_bytes(record['index_bytes'])}"
    rows = _about(record["rows"])
    yield f"{record['size']}: about {rows} rows, {size}; primary key: {key}; schema {record['schema']}"
    yield f"{record['strategy']}: {record['reason']}"
    for candidate in record["candidates"]:
        if candidate["set_by_update"] != "never":
            problems = "; ".join(candidate["problems"]) or f"indexed by {candidate['index']}, not null"
            yield f"{candidate['quality']} as modifier: {candidate['column']} ({candidate['type']}), {problems}"
    for warning in record["warnings"]:
        yield f"note: {' '.join(warning.split())}"


def _about(count: int) -> str:
    """Two digits of an estimate: the rest is noise, and would make each run's file another one."""
    digits = len(str(count))
    return f"{round(count, 2 - digits) if digits > 2 else count:,}"


def _bytes(count: int) -> str:
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.2g} {_UNITS[unit]}" if value < 100 else f"{value:.0f} {_UNITS[unit]}"


# ---------------------------------------------------------------- what has changed since


def changes(before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for everything that is otherwise than the run before saw it; estimates count by size class."""
    found = []
    gone, come = sorted(set(before) - set(now)), sorted(set(now) - set(before))
    for name in come:
        record = now[name]
        twin = next((old for old in gone if before[old]["schema"] == record["schema"]), None)
        like = f" (the definition that `{twin}` had: renamed?)" if twin else ""
        found.append(f"`{name}` is new: {record['size']}, about {_about(record['rows'])} rows{like}")
    found += [f"`{name}` is not there any more; it was {before[name]['size']}" for name in gone]
    for name in sorted(set(now) & set(before)):
        found += [f"`{name}`: {text}" for text in _differences(before[name], now[name])]
    return found


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"column `{c}` is new: {new['columns'][c]}" for c in new["columns"] if c not in old["columns"])
    yield from (f"column `{c}` is gone: {old['columns'][c]}" for c in old["columns"] if c not in new["columns"])
    for column, text in new["columns"].items():
        if column in old["columns"] and old["columns"][column] != text:
            yield f"column `{column}` is {text}, was {old['columns'][column]}"
    shared = [c for c in new["columns"] if c in old["columns"]]
    if shared != [c for c in old["columns"] if c in new["columns"]]:
        yield f"its columns are in another order: {', '.join(new['columns'])}"
    if old["primary_key"] != new["primary_key"]:
        yield f"primary key is {_key(new['primary_key'])}, was {_key(old['primary_key'])}"
    for name in sorted({*old["unique_keys"], *new["unique_keys"]}):
        then, today = old["unique_keys"].get(name), new["unique_keys"].get(name)
        if then != today:
            yield f"unique key `{name}` is {_key(today)}, was {_key(then)}"
    for what, label in (("engine", "engine"), ("size", "size class"), ("strategy", "advised strategy")):
        if old[what] != new[what]:
            yield f"{label} is {new[what]}, was {old[what]}"
    was, today = ({c["column"]: c["quality"] for c in record["candidates"]} for record in (old, new))
    for column in sorted({*was, *today}):
        before, after = was.get(column, "poor"), today.get(column, "poor")
        if before != after and column in new["columns"]:
            yield f"as modifier, `{column}` is {after}, was {before}"


def _key(columns: Sequence[str] | None) -> str:
    return f"({', '.join(columns)})" if columns else "none"


def _changelog(before: str | None, found: Sequence[str], now_us: int) -> str:
    """The newest section first."""
    title = "# What `cdc analyze` found to have changed\n"
    when = datetime.datetime.fromtimestamp(now_us // 1_000_000, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    section = f"\n## {when}\n\n" + "".join(f"- {sentence}\n" for sentence in found)
    return title + section + (before or "").removeprefix(title)


# ---------------------------------------------------------------- files


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8", hint="save it as UTF-8, or name another with --output") from error


def _write(path: Path, text: str) -> None:
    """Whole or not at all; a file that says the same already is left alone."""
    if _read(path) == text:
        return
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        unfinished = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            unfinished.chmod(mode)
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink()
            raise
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}", hint="name another file with --output"
        ) from error


def _read_state(path: Path) -> dict[str, dict[str, Any]] | None:
    """The tables of the run before; None where there was none."""
    text = _read(path)
    if text is None:
        return None
    hint = "move it away: the next run then takes every setting of the table file for yours, and tells no changes"
    try:
        content = orjson.loads(text)
        version, tables = content["format"], content["tables"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise ConfigError(f"{path} is damaged", hint=hint) from None
    if version != _FORMAT or not isinstance(tables, dict):
        raise ConfigError(f"{path} has format {version}, this version of cdc knows {_FORMAT}", hint=hint)
    return tables


def _state_text(analysis: Analysis, tables: Mapping[str, Mapping[str, Any]]) -> str:
    """A table a line, so that what has changed shows in a diff."""
    lines = [f"{_json(name)}: {_json(record)}" for name, record in sorted(tables.items())]
    return f'{{"format": {_FORMAT}, "server": {_json(analysis.server)}, "tables": {{\n' + ",\n".join(lines) + "\n}}\n"


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _require_valid(text: TablesText, path: str) -> None:
    """Nothing is written that the service would not read."""
    problems = []
    for name, entry in sorted(text.entries.items()):
        try:
            TableOverride.model_validate({**entry.values(), "table": name})
        except ValidationError as error:
            for problem in error.errors(include_url=False, include_input=False):
                where = ".".join(map(str, problem["loc"]))
                problems.append(f"{path}: {name} {where}: {problem['msg'].removeprefix('Value error, ')}")
    if problems:
        raise ConfigError("\n".join(problems), hint="mend these first: nothing was written")


# ---------------------------------------------------------------- what is said


def _document(
    analysis: Analysis,
    now: Mapping[str, Mapping[str, Any]],
    kept: Sequence[str],
    found: Sequence[str],
    files: _Files,
    *,
    is_first: bool,
    is_dry: bool,
) -> dict[str, Any]:
    return {
        "server": analysis.server,
        "no_stream": analysis.no_stream or None,
        "warnings": list(analysis.warnings),
        "tables": {name: dict(record) for name, record in sorted(now.items())},
        "not_captured": {str(name): kind for name, kind in analysis.others},
        "is_first": is_first,
        "changes": list(found),
        "kept": list(kept),
        "written": None if is_dry else {"tables": str(files.tables), "state": str(files.state)},
    }


def _print(
    analysis: Analysis,
    now: Mapping[str, Mapping[str, Any]],
    kept: Sequence[str],
    found: Sequence[str],
    files: _Files,
    *,
    options: AnalyzeOptions,
    config: SourceConfig,
    is_first: bool,
) -> None:
    console = Console(highlight=False, soft_wrap=True)
    grid = Table(box=None, pad_edge=False)
    for title in ("table", "size", "rows", "data", "strategy", "batch", "priority"):
        grid.add_column(title, justify="right" if title in ("rows", "data", "batch", "priority") else "left")
    for name, record in sorted(now.items()):
        settings = record["settings"]
        grid.add_row(
            escape(name),
            record["size"],
            _about(record["rows"]),
            _bytes(record["data_bytes"]),
            record["strategy"],
            f"{settings['batch_size']:,}",
            str(settings["priority"]),
        )
    console.print(grid)
    for title, lines in (
        ("", [f"warning: {text}" for text in analysis.warnings]),
        ("", [f"{name} is not captured: it is a {kind}" for name, kind in analysis.others]),
        ("kept as edited (--force overwrites):", kept),
        ("changed since the last analysis:", found),
    ):
        if lines:
            console.print()
            console.print(*([title] if title else []), *(escape(line) for line in lines), sep="\n")
    console.print()
    if options.dry_run:
        console.print(f"nothing was written; without --dry-run it would be {escape(str(files.tables))}")
        return
    if not is_first and not found:
        console.print("nothing has changed since the last analysis")
    console.print(f"written: {escape(str(files.tables))}")
    if config.tables.file is None or config.tables.file.resolve() != files.tables.resolve():
        console.print(f"the service reads it once the configuration says tables.file: {escape(str(files.tables))}")
