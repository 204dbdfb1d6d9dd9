"""`cdc tail` over binlog files: their order and ends, positions in them, bad tables and bad events."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cdc.binlog.constants import BINLOG_MAGIC, EventType
from cdc.errors import CdcError, ChecksumMismatch, ConfigError, MalformedEvent, UnsupportedData, UnsupportedEvent
from cdc.gtid import MysqlGtidSet
from cdc.model import FilePos, TableDefinition, TableName
from cdc.source.binlog_files import BinlogFiles
from cdc.tail.follow import Follower, Printer
from cdc.tail.lines import LineWriter
from cdc.tail.plain import PlainFormat
from cdc.tail.select import FileUntil, GtidUntil, Selection, Until, parse_gtids
from cdc.tail.tables import FollowedTables
from tests.unit.source.streams import COLUMNS, UUID, A, B, Stream, definition

FIRST = "binlog.000007"
SECOND = "binlog.000008"


class Anything:
    """Every table of `shop`."""

    def matches(self, database: str, table: str) -> bool:
        return database == "shop"

    def named(self, names: frozenset[TableName]) -> list[TableName]:
        return [name for name in (A, B) if name.lower() in names]

    def in_database(self, database: str) -> list[TableName]:
        return [TableName(database, "*")]


@dataclass
class Tail:
    """One run over files: its lines, its warnings, how it ended."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def ids(self) -> list[Any]:
        return [(line["after"] or line["before"])["i32"] for line in self.lines if "after" in line]

    def run(
        self,
        files: Sequence[str],
        *,
        at: FilePos | None = None,
        until: Until | None = None,
        limit: int | None = None,
        skips_bad: bool = False,
        stdin: bytes = b"",
        read: dict[TableName, TableDefinition] | None = None,
        after: str | None = None,
    ) -> Tail:
        source = BinlogFiles(files, warn=self.warnings.append, stdin=io.BytesIO(stdin))
        reader = None if read is None else read.get
        tables = FollowedTables(Anything(), read=reader, warn=self.warnings.append, is_history=True)
        selection = Selection(after=None if after is None else parse_gtids(after))
        printer = Printer(
            LineWriter(PlainFormat(), selection),
            tables,
            lambda text: self.lines.extend(map(json.loads, text.splitlines())),
            start=source.start(at),
            until=until,
            limit=limit,
        )
        follower = Follower(
            source,
            tables,
            printer,
            is_stopping=lambda: False,
            warn=self.warnings.append,
            skips_bad=skips_bad,
            monotonic=time.monotonic,
        )
        self.skipped = follower.skipped
        follower.run()
        return self


class Log:
    """Files as a server writes them."""

    def __init__(self, directory: Path, *, first: str = FIRST) -> None:
        self.directory = directory
        self.stream = Stream(file=first)
        self.names: list[str] = []
        self._begin()

    def _begin(self) -> None:
        self.path = self.directory / self.stream.file
        self.names.append(str(self.path))
        self.path.write_bytes(BINLOG_MAGIC)
        self.add(self.stream.format())

    def add(self, *events: bytes | list[bytes]) -> FilePos:
        """Write them; where they end."""
        with self.path.open("ab") as file:
            for event in events:
                file.writelines([event] if isinstance(event, bytes) else event)
        return self.stream.here

    def insert(self, *ids: int, table: TableName = A, number: int = 0, is_full: bool = True) -> FilePos:
        s = self.stream
        rows = [(one, "x") for one in ids]
        return self.add(s.gtid(number), s.begin(), s.table_map(table, is_full=is_full), s.insert(*rows), s.xid())

    def previous_gtids(self, text: str) -> None:
        self.add(self.stream.event(EventType.PREVIOUS_GTIDS, MysqlGtidSet.parse(text).encode()))

    def rotate(self, file: str = SECOND) -> None:
        self.add(self.stream.rotate(file))
        self._begin()

    def next_without_rotate(self, file: str = SECOND) -> None:
        self.stream.file, self.stream.pos = file, 4
        self._begin()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_a_file_gives_its_changes_with_the_names_that_its_table_maps_carry(log: Log) -> None:
    end = log.insert(1, 2, number=5)
    tail = Tail().run(log.names)
    assert tail.ids == [1, 2]
    assert set(tail.lines[0]["after"]) == {column.definition.name for column in COLUMNS}
    assert tail.lines[0]["position"] == {"gtid": f"{UUID}:5", "file": FIRST, "pos": end.pos}
    assert tail.warnings == []


def test_files_are_read_in_the_order_of_their_numbers(log: Log) -> None:
    log.insert(1)
    log.rotate("binlog.1000000")
    log.insert(2)
    log.path.rename(log.directory / "binlog.000008")
    names = [str(log.directory / "binlog.000008"), log.names[0]]
    with pytest.raises(
        MalformedEvent, match=r"binlog\.000007 is followed by binlog\.1000000, .* not by binlog\.000008"
    ):
        Tail().run(names)
    log = Log(log.directory, first="binlog.999999")
    log.insert(1)
    log.rotate("binlog.1000000")
    log.insert(2)
    assert Tail().run([*reversed(log.names), str(log.directory / "binlog.index")]).ids == [1, 2]


def test_a_file_that_is_missing_is_an_error(log: Log) -> None:
    log.rotate()
    log.rotate("binlog.000009")
    with pytest.raises(MalformedEvent, match=r"binlog\.000009 does not follow binlog\.000007"):
        Tail().run([log.names[0], log.names[2]])


def test_a_file_given_twice_or_without_a_number_is_an_error(log: Log) -> None:
    copy = log.directory / "copy"
    copy.mkdir()
    other = Log(copy)
    with pytest.raises(ConfigError, match="same number"):
        Tail().run([log.names[0], other.names[0]])
    other.path.rename(copy / "binlog")
    with pytest.raises(ConfigError, match="no number"):
        Tail().run([log.names[0], str(copy / "binlog")])
    assert Tail().run([str(copy / "binlog")]).lines == []


def test_a_file_that_ends_without_a_rotate_is_warned_of_and_its_open_transaction_is_dropped(log: Log) -> None:
    s = log.stream
    log.insert(1)
    log.add(s.gtid(), s.begin(), s.table_map(A, is_full=True), s.insert((9, "lost")))
    log.next_without_rotate()
    log.insert(2)
    tail = Tail().run(log.names)
    assert tail.ids == [1, 2]
    assert [FIRST in warning for warning in tail.warnings] == [True]


def test_a_file_that_ends_with_a_stop_event_is_not_warned_of(log: Log) -> None:
    log.insert(1)
    log.add(log.stream.event(EventType.STOP, b""))
    log.next_without_rotate()
    log.insert(2)
    tail = Tail().run(log.names)
    assert (tail.ids, tail.warnings) == ([1, 2], [])


def test_gtids_that_are_missing_between_two_files_are_an_error(log: Log) -> None:
    log.previous_gtids(f"{UUID}:1-4")
    log.insert(1, number=5)
    log.next_without_rotate()
    log.previous_gtids(f"{UUID}:1-7")
    log.insert(2, number=8)
    tail = Tail()
    with pytest.raises(MalformedEvent, match=f"missing between {FIRST} and {SECOND}: {UUID}:6-7"):
        tail.run(log.names)
    assert tail.ids == [1]


@pytest.mark.parametrize(
    "content,error,text",
    [
        (b"", MalformedEvent, "not a binlog file: at offset 0 it has nothing"),
        (b"root:x:0:0\n", MalformedEvent, "not a binlog file: at offset 0 it has 726f6f74"),
        (BINLOG_MAGIC, MalformedEvent, "no event"),
        (b"\xfdbin" + bytes(600), UnsupportedEvent, "encrypted"),
        (BINLOG_MAGIC + Stream().xid(), MalformedEvent, "begins with a XID event"),
    ],
)
def test_what_is_no_binlog_is_an_error_that_names_it(
    tmp_path: Path, content: bytes, error: type[CdcError], text: str
) -> None:
    path = tmp_path / FIRST
    path.write_bytes(content)
    with pytest.raises(error, match=f"{FIRST}: .*{text}") as caught:
        Tail().run([str(path)])
    assert caught.value.exit_code == 1


def test_a_file_that_mariadb_encrypted_is_refused_with_the_offset(log: Log) -> None:
    offset = log.stream.pos
    log.add(log.stream.event(EventType.MARIADB_START_ENCRYPTION, bytes(17)))
    with pytest.raises(UnsupportedEvent, match=rf"encrypted \(from offset {offset}\)"):
        Tail().run(log.names)


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Tail().run([str(tmp_path / FIRST)])


def test_all_before_the_end_inside_an_event_is_printed(log: Log) -> None:
    log.insert(1)
    end = log.insert(2)
    begin = log.stream.pos
    log.insert(3)
    content = log.path.read_bytes()
    log.path.write_bytes(content[: end.pos + 30])
    tail = Tail()
    with pytest.raises(MalformedEvent, match=rf"{FIRST}: the file ends inside the event at offset {begin}: 30 of"):
        tail.run(log.names)
    assert tail.ids == [1, 2]


def test_all_before_a_damaged_event_is_printed(log: Log) -> None:
    log.insert(1)
    end = log.insert(2)
    log.insert(3)
    content = bytearray(log.path.read_bytes())
    content[end.pos + 40] ^= 1
    log.path.write_bytes(content)
    tail = Tail()
    with pytest.raises(ChecksumMismatch, match=f"{FIRST}:{end.pos}"):
        tail.run(log.names)
    assert tail.ids == [1, 2]


def test_an_event_of_an_impossible_size_is_an_error_and_nothing_is_read_for_it(log: Log) -> None:
    begin = log.insert(1).pos
    log.add(b"\0\0\0\0\x02\1\0\0\0\xff\xff\xff\xff" + bytes(6))
    with pytest.raises(MalformedEvent, match=rf"offset {begin} says 4294967295 bytes"):
        Tail().run(log.names)


def test_standard_input_is_read_as_a_file(log: Log) -> None:
    log.insert(1)
    log.add(log.stream.gtid(), log.stream.end_query("ALTER TABLE a ADD x INT"))
    log.insert(2)
    tail = Tail().run(["-"], stdin=log.path.read_bytes())
    assert [line["operation"] for line in tail.lines] == ["insert", "ddl", "insert"]


# ---------------------------------------------------------------- positions


def test_reading_begins_at_a_position_in_one_of_the_files(log: Log) -> None:
    log.insert(1)
    middle = log.insert(2)
    log.insert(3)
    log.rotate()
    begin = log.insert(4)
    log.insert(5)
    assert Tail().run(log.names, at=middle).ids == [3, 4, 5]
    assert Tail().run(log.names, at=begin).ids == [5]
    with pytest.raises(MalformedEvent, match="no event begins at"):
        Tail().run(log.names, at=FilePos.of(FIRST, middle.pos + 1))
    with pytest.raises(ConfigError, match="in none of the files"):
        Tail().run(log.names, at=FilePos.of("binlog.000099", 4))


def test_transactions_of_a_gtid_set_are_passed_over(log: Log) -> None:
    for number in range(1, 6):
        log.insert(number, number=number)
    assert Tail().run(log.names, after=f"{UUID}:1-2:4").ids == [3, 5]


def test_reading_ends_at_a_position(log: Log) -> None:
    log.insert(1)
    middle = log.insert(2)
    log.insert(3)
    log.rotate()
    log.insert(4)
    assert Tail().run(log.names, until=FileUntil(middle)).ids == [1, 2]
    assert Tail().run(log.names, until=FileUntil(FilePos.of(FIRST, middle.pos + 1))).ids == [1, 2]
    assert Tail().run(log.names, until=FileUntil(FilePos.of(SECOND, 4))).ids == [1, 2, 3]
    assert Tail().run(log.names, until=FileUntil(middle), at=middle).ids == []


def test_reading_ends_behind_a_gtid_set(log: Log) -> None:
    log.previous_gtids(f"{UUID}:1-9")
    for number in range(10, 15):
        log.insert(number, number=number)
    assert Tail().run(log.names, until=GtidUntil(parse_gtids(f"{UUID}:1-12"))).ids == [10, 11, 12]
    assert Tail().run(log.names, until=GtidUntil(parse_gtids(f"{UUID}:1-9"))).ids == []


def test_the_limit_counts_lines(log: Log) -> None:
    log.insert(1, 2, 3)
    log.add(log.stream.gtid(), log.stream.end_query("ALTER TABLE a ADD x INT"))
    log.insert(4)
    assert [line["operation"] for line in Tail().run(log.names, limit=4).lines] == ["insert"] * 3 + ["ddl"]
    assert Tail().run(log.names, limit=2).ids == [1, 2]


# ---------------------------------------------------------------- DDL, definitions, bad tables


def test_ddl_is_printed_in_its_place_with_its_gtid(log: Log) -> None:
    log.previous_gtids("")
    s = log.stream
    log.insert(1, number=1)
    end = log.add(s.gtid(2), s.end_query("ALTER TABLE a ADD x INT"))
    log.insert(2, number=3)
    tail = Tail().run(log.names)
    assert [line["operation"] for line in tail.lines] == ["insert", "ddl", "insert"]
    assert tail.lines[1]["position"] == {"gtid": f"{UUID}:2", "file": FIRST, "pos": end.pos}
    assert tail.lines[1]["statement"] == "ALTER TABLE a ADD x INT"


def test_ddl_in_the_middle_of_a_group_is_printed_once_and_the_rows_follow(log: Log) -> None:
    s = log.stream
    before = log.insert(1)
    log.add(s.gtid(), s.begin(), s.query("CREATE TABLE b (i32 INT) START TRANSACTION"))
    log.add(s.table_map(B, is_full=True), s.insert((2, "x"), (3, "y")), s.xid())
    log.add(s.gtid(), s.end_query("DROP TABLE b"))
    tail = Tail().run(log.names)
    assert [(line["operation"], line["table"]) for line in tail.lines] == [
        ("insert", "shop.a"),
        ("ddl", "shop.b"),
        ("insert", "shop.b"),
        ("insert", "shop.b"),
        ("ddl", "shop.b"),
    ]
    assert tail.lines[1]["position"]["pos"] == before.pos


def test_a_table_whose_columns_the_log_does_not_name_is_an_error_behind_all_before_it(log: Log) -> None:
    log.insert(1)
    log.insert(2, table=B, is_full=False)
    tail = Tail()
    with pytest.raises(UnsupportedData, match=r"shop\.b: the log does not name its columns") as caught:
        tail.run(log.names)
    assert "-c CONFIG" in caught.value.hint
    assert tail.ids == [1]


def test_a_bad_table_is_passed_over_and_nothing_else_is_lost_or_doubled(log: Log) -> None:
    s = log.stream
    log.insert(1)
    log.add(s.gtid(), s.begin(), s.table_map(A, is_full=True), s.table_map(B, 78))
    log.add(s.insert((2, "x"), flags=0), s.insert((7, "x"), table_id=78), s.xid())
    log.insert(8, table=B, is_full=False)
    log.insert(3)
    tail = Tail().run(log.names, skips_bad=True)
    assert tail.ids == [1, 2, 3]
    assert list(tail.skipped) == ["shop.b"]
    assert ["shop.b is passed over" in warning for warning in tail.warnings] == [True]


def test_a_table_that_changed_without_a_statement_is_defined_anew(log: Log) -> None:
    s = log.stream
    log.insert(1)
    fewer = COLUMNS[:1]
    log.add(s.gtid(), s.begin(), s.table_map(A, 79, fewer, is_full=True))
    log.add(s.insert((2,), table_id=79, columns=fewer), s.xid())
    log.insert(3)
    tail = Tail().run(log.names)
    assert tail.ids == [1, 2, 3]
    assert [len(line["after"]) for line in tail.lines] == [2, 1, 2]


def test_todays_definition_is_used_where_it_fits_with_a_warning_when_the_log_names_nothing(log: Log) -> None:
    log.insert(1, is_full=False)
    log.insert(2, is_full=False)
    tail = Tail().run(log.names, read={A: definition(A)})
    assert tail.ids == [1, 2]
    assert tail.warnings == ["shop.a: the log does not name its columns; their names are those of today"]


def test_a_definition_that_does_not_fit_gives_way_to_the_log_or_is_an_error(log: Log) -> None:
    log.insert(1)
    others = {table: definition(table, COLUMNS[:1]) for table in (A, B)}
    assert Tail().run(log.names, read=others).ids == [1]
    log.insert(2, table=B, is_full=False)
    with pytest.raises(UnsupportedData, match="was changed since"):
        Tail().run(log.names, read=others)


def test_a_change_by_statement_of_a_followed_table_is_an_error(log: Log) -> None:
    s = log.stream
    log.insert(1)
    log.add(s.gtid(), s.begin(), s.query("UPDATE a SET i32 = 2"), s.xid())
    tail = Tail()
    with pytest.raises(UnsupportedEvent, match=r"change of shop\.a as a statement"):
        tail.run(log.names)
    assert tail.ids == [1]
