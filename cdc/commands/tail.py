"""`cdc tail`: options into the parts of `cdc/tail`, and what a command line tool has to do besides."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Literal, TypeVar

from pydantic import ValidationError

from cdc.app import source_settings
from cdc.clock import SystemClock
from cdc.config import SourceConfig, Tables, parse_table_pattern
from cdc.errors import ConfigError, TransientError
from cdc.log import scrub
from cdc.model import FilePos, SourcePosition, TableDefinition, TableName
from cdc.source.binlog_files import BinlogFiles
from cdc.source.connection import SourceConnection, connect
from cdc.source.definitions import list_tables, read_definition
from cdc.source.schema_file import SchemaFile, read_schema_file
from cdc.tail.debezium import DebeziumFormat, DebeziumSource
from cdc.tail.follow import EventSource, Follower, Printer
from cdc.tail.lines import Format, LineWriter
from cdc.tail.live import LiveSource
from cdc.tail.plain import PlainFormat
from cdc.tail.select import OPERATIONS, FileUntil, GtidFilter, GtidSet, GtidUntil, Selection, Until, parse_gtids
from cdc.tail.tables import FollowedTables, TableMatcher

__all__ = ["TailOptions", "tail"]

_T = TypeVar("_T")
_FILE_AND_POS = re.compile(r"(?P<file>[^,]*\.[0-9]+|-):(?P<pos>[0-9]+)")
_FIRST_POSITION = 4
_DEFAULT_NAME = "cdc"


@dataclass(frozen=True, slots=True)
class TailOptions:
    """The command line, option by option."""

    tables: Sequence[str] = ()
    files: Sequence[str] = ()
    form: Literal["cdc", "debezium"] = "cdc"
    name: str | None = None
    tombstones: bool = False
    from_start: bool = False
    from_position: str | None = None
    until_caught_up: bool = False
    until: str | None = None
    limit: int | None = None
    operations: str | None = None
    where: Sequence[str] = ()
    columns: str | None = None
    gtid: str | None = None
    schema: Path | None = None
    skip_bad: bool = False


def tail(options: TailOptions, config: SourceConfig | None) -> int:
    """Print what the options ask for, until it ends; the exit code.

    Args:
        config: None where files are read and no server is asked.
    Raises ConfigError for options that contradict each other, and whatever stops the reading.
    """
    _check(options)
    matcher = _Matcher(options.tables, config)
    selection = Selection(
        operations=_operations(options),
        where=tuple(map(_where, options.where)),
        columns=frozenset(options.columns.split(",")) if options.columns is not None else None,
        only=_parsed(GtidFilter.parse, options.gtid, "--gtid") if options.gtid is not None else None,
        after=_gtids(options.from_position, "--from") if options.files and options.from_position is not None else None,
    )
    with _Terminal() as terminal:
        parts = _from_files(options, config, matcher) if options.files else _from_server(options, config, matcher)
        printer = Printer(
            LineWriter(_format(options, config, parts), selection),
            parts.tables,
            terminal.write,
            start=parts.start,
            until=parts.until,
            limit=options.limit,
        )
        follower = Follower(
            parts.source,
            parts.tables,
            printer,
            is_stopping=terminal.is_stopping,
            warn=_warn,
            skips_bad=options.skip_bad,
            silence_seconds_max=None if options.files or config is None else config.source.read_timeout_seconds,
            monotonic=time.monotonic,
        )
        if not options.files:
            _say_where(parts, matcher, is_ending=bool(parts.until))
        try:
            follower.run()
        except TransientError as error:
            position = printer.done.file or printer.done.gtid
            error.hint = f"{error.hint}; go on with --from {position}" if error.hint else f"--from {position} goes on"
            raise
        except (BrokenPipeError, _Interrupted):
            pass  # nobody reads on
        finally:
            if follower.skipped:
                count = len(follower.skipped)
                _warn(f"{count} table{'s' if count > 1 else ''} passed over: {', '.join(sorted(follower.skipped))}")
    return 0


def _say_where(parts: _Parts, matcher: _Matcher, *, is_ending: bool) -> None:
    """That no table matches, always; to a terminal, what is followed and from where."""
    assert matcher.present is not None, "there is a server"
    count = len(matcher.present())
    if not count:
        _warn("no table of the source matches; one that is made later will, if its name does")
    elif sys.stderr.isatty():
        end = "" if is_ending else "; Ctrl-C ends it"
        place = parts.start.file or parts.start.gtid
        sys.stderr.write(f"cdc: {count} table{'s' if count > 1 else ''}, from {place} on{end}\n")


def _warn(text: str) -> None:
    sys.stderr.write(f"cdc: warning: {scrub(text)}\n")
    sys.stderr.flush()


# ---------------------------------------------------------------- options


def _check(options: TailOptions) -> None:
    live_only = {"--until-caught-up": options.until_caught_up, "--from-start": options.from_start}
    for option, is_given in live_only.items():
        if options.files and is_given:
            raise ConfigError(f"{option} is about a server: files are read from the first to the last")
    if options.from_start and options.from_position is not None:
        raise ConfigError("--from-start and --from exclude each other")
    if options.until_caught_up and options.until is not None:
        raise ConfigError("--until-caught-up and --until exclude each other")
    if options.tombstones and options.form != "debezium":
        raise ConfigError("--tombstones belongs to --format debezium")
    if options.name is not None and options.form != "debezium":
        raise ConfigError("--name belongs to --format debezium")


def _operations(options: TailOptions) -> frozenset[str]:
    if options.operations is None:
        # Debezium sends DDL to a topic of its own.
        return frozenset(OPERATIONS if options.form == "cdc" else OPERATIONS[:3])
    chosen = frozenset(options.operations.split(","))
    if unknown := sorted(chosen - set(OPERATIONS)):
        raise ConfigError(f"--operation: there is no {unknown[0]!r}", hint=f"one or more of {','.join(OPERATIONS)}")
    return chosen


def _where(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not equals or not column:
        raise ConfigError(f"--where {text!r} is not COLUMN=VALUE", hint="for example --where status=new")
    return column, value


def _parsed(parse: Callable[[str], _T], text: str, option: str) -> _T:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(
            f"{option}: {error}", hint="a GTID set, or a file and a position: binlog.000007:1234"
        ) from None


def _gtids(text: str, option: str) -> GtidSet | None:
    """A position's GTID set; None for a place in a file."""
    return None if _FILE_AND_POS.fullmatch(text) else _parsed(parse_gtids, text, option)


def _place(text: str) -> FilePos:
    found = _FILE_AND_POS.fullmatch(text)
    assert found is not None, "_gtids was None"
    return FilePos.of(found["file"], max(int(found["pos"]), _FIRST_POSITION))


def _until(text: str) -> Until:
    gtids = _gtids(text, "--until")
    return FileUntil(_place(text)) if gtids is None else GtidUntil(gtids)


class _Matcher(TableMatcher):
    """The tables of the command line, else those of the configuration, else all.

    `present` lists the server's tables now, where there is a server.
    """

    def __init__(self, patterns: Sequence[str], config: SourceConfig | None) -> None:
        try:
            if patterns or config is None:
                self._tables = Tables(include=tuple(patterns) or ("*.*",))
            else:
                self._tables = config.tables
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            text = patterns[int(problem["loc"][1])] if len(problem["loc"]) > 1 else ""
            message = problem["msg"].removeprefix("Value error, ")
            raise ConfigError(
                f"{text!r}: {message}", hint="give tables as database.table, or patterns: 'shop.*'"
            ) from None
        self.present: Callable[[], Sequence[TableName]] | None = None

    def matches(self, database: str, table: str) -> bool:
        return self._tables.matches(database, table)

    def named(self, names: frozenset[TableName]) -> list[TableName]:
        if self.present is not None:
            return [table for table in self.present() if table.lower() in names]
        patterns = [(text, parse_table_pattern(text.lower())) for text in self._tables.include]
        return [
            TableName(*text.split(".", 1))
            for text, pattern in patterns
            if any(pattern.matches(name.database, name.table) for name in names)
        ]

    def in_database(self, database: str) -> list[TableName]:
        texts = [text for text in self._tables.include if parse_table_pattern(text).database.fullmatch(database)]
        return [TableName(database, text.split(".", 1)[1]) for text in texts]


# ---------------------------------------------------------------- where changes come from


@dataclass(frozen=True, slots=True)
class _Parts:
    source: EventSource
    tables: FollowedTables
    start: SourcePosition
    until: Until | None
    server_id: int


def _from_files(options: TailOptions, config: SourceConfig | None, matcher: _Matcher) -> _Parts:
    stdin: BinaryIO = sys.stdin.buffer
    files = BinlogFiles(options.files, warn=_warn, stdin=stdin)
    by_file = options.from_position is not None and _gtids(options.from_position, "--from") is None
    start = files.start(_place(options.from_position) if by_file and options.from_position is not None else None)
    with contextlib.closing(files.open(start)) as session:
        server_id = session.server_id
    read = None
    if config is not None:
        settings = source_settings(config)

        def read(table: TableName) -> TableDefinition | None:
            with connect(settings) as connection:
                return read_definition(connection, table)

        matcher.present = _present(config, matcher)
    tables = FollowedTables(matcher, read=read, warn=_warn, is_history=True, schema=_schema(options))
    until = _until(options.until) if options.until is not None else None
    _check_gtids_known(until, start)
    return _Parts(files, tables, start, until, server_id)


def _from_server(options: TailOptions, config: SourceConfig | None, matcher: _Matcher) -> _Parts:
    assert config is not None, "the caller loads it"
    with connect(source_settings(config)) as connection:
        source = LiveSource(connection, taken_ids=config.service_ids)
        end = source.end(connection)
        start = _live_start(options, source, connection, end)
    until: Until | None = None
    if options.until is not None:
        until = _until(options.until)
    elif options.until_caught_up:
        assert end.file is not None, "the end of the log"
        until = FileUntil(end.file)
    _check_gtids_known(until, start)
    is_history = options.from_start or options.from_position is not None
    schema = _schema(options)
    tables = FollowedTables(matcher, read=source.definition, warn=_warn, is_history=is_history, schema=schema)
    matcher.present = _present(config, matcher)
    return _Parts(source, tables, start, until, source.server_id)


def _schema(options: TailOptions) -> SchemaFile | None:
    return read_schema_file(options.schema) if options.schema is not None else None


def _live_start(
    options: TailOptions, source: LiveSource, connection: SourceConnection, end: SourcePosition
) -> SourcePosition:
    if options.from_start:
        return source.beginning(connection)
    if options.from_position is None:
        return end
    gtids = _gtids(options.from_position, "--from")
    if gtids is not None:
        return source.after_gtids(gtids)
    place = _place(options.from_position)
    _require_place(connection, place)
    return source.at(connection, place)


def _require_place(connection: SourceConnection, place: FilePos) -> None:
    """Raises ConfigError for a file that the server does not have, or a position behind its end."""
    sizes = {row["Log_name"]: int(row["File_size"] or 0) for row in connection.rows_by_name("SHOW BINARY LOGS")}
    if place.file not in sizes:
        names = list(sizes)
        raise ConfigError(
            f"--from {place}: the source has no such file; it has {names[0]} to {names[-1]}",
            hint="SHOW BINARY LOGS on the source lists its files",
        )
    if place.pos > sizes[place.file]:
        raise ConfigError(
            f"--from {place}: that file ends at {sizes[place.file]}",
            hint="give the position of an event, as `position` in the lines of `cdc tail` has it",
        )


def _check_gtids_known(until: Until | None, start: SourcePosition) -> None:
    """Raises ConfigError where nobody could tell when the end is reached."""
    if isinstance(until, GtidUntil) and type(start.gtid) is not type(until.end):
        raise ConfigError(
            f"--until {until.end}: the GTIDs before the start, {start}, are not known"
            if start.gtid is None
            else f"--until {until.end} is no GTID position of a {start.server.flavor} server",
            hint="give the end as FILE:POS",
        )


def _present(config: SourceConfig, matcher: _Matcher) -> Callable[[], Sequence[TableName]]:
    def listed() -> Sequence[TableName]:
        with connect(source_settings(config)) as connection:
            return list_tables(connection, matcher.matches)[0]

    return listed


def _format(options: TailOptions, config: SourceConfig | None, parts: _Parts) -> Format:
    if options.form == "cdc":
        return PlainFormat()
    name = options.name or (config.name if config is not None else _DEFAULT_NAME)
    source = DebeziumSource(name, parts.start.server.flavor, parts.server_id)
    return DebeziumFormat(source, tombstones=options.tombstones, now_us=SystemClock().now_us)


# ---------------------------------------------------------------- the process


class _Interrupted(Exception):
    """A signal came while the reader of our output kept us waiting."""


class _Terminal:
    """Standard output, and the signals that end the command."""

    def __init__(self) -> None:
        self._fd = sys.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._fd, 0)  # errors alone: that the reader is gone
        self._is_signalled = False
        self._is_writing = False

    def __enter__(self) -> _Terminal:
        sys.stdout.flush()
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_signalled:
            raise KeyboardInterrupt  # the second one does not wait for the server's answer
        self._is_signalled = True
        if self._is_writing:
            raise _Interrupted

    def is_stopping(self) -> bool:
        """Has a signal come, or has the reader of our output left?"""
        return self._is_signalled or bool(self._poll.poll(0))

    def write(self, text: str) -> None:
        """Write it all, at once. Raises BrokenPipeError when the reader has left."""
        # What is no character becomes the escape that JSON has for it.
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        self._is_writing = True
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        finally:
            self._is_writing = False
