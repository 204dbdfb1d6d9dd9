"""Values and lines of `cdc tail`: what docs/tail.md promises of each type, of order, of selections."""

from __future__ import annotations

import decimal
import json
import struct
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from cdc.gtid import MysqlGtidSet
from cdc.model import (
    ColumnDefinition,
    FilePos,
    Flavor,
    OpenTransaction,
    RowBatch,
    SchemaChange,
    ServerIdentity,
    SourcePosition,
    TableDefinition,
    TableName,
    TransactionEnds,
    TransactionRun,
    ValueKind,
)
from cdc.tail.debezium import DebeziumFormat, DebeziumSource
from cdc.tail.lines import Format, LineWriter
from cdc.tail.plain import PlainFormat
from cdc.tail.select import FileUntil, GtidFilter, GtidUntil, Selection
from cdc.tail.values import column_writer

UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
SERVER = ServerIdentity("mysql", UUID)
INSERT, BEFORE, AFTER, DELETE = 1, 2, 3, 4
NOW = 1_800_000_000_123_456
WHEN = 1_700_000_000_000_001


def column(kind: ValueKind, **more: Any) -> ColumnDefinition:
    return ColumnDefinition("c", kind, str(kind), **more)


def datetime_packed(*parts: int) -> int:
    year, month, day, hour, minute, second, micro = parts
    return ((year * 13 + month) << 5 | day) << 41 | hour << 36 | minute << 30 | second << 24 | micro


INTEGER = column(ValueKind.INTEGER, length=64)
UNSIGNED = column(ValueKind.INTEGER, length=64, is_unsigned=True)
MONEY = column(ValueKind.DECIMAL, precision=12, scale=2)
TINY_DECIMAL = column(ValueKind.DECIMAL, precision=65, scale=30)
SCALE_SIX = column(ValueKind.DECIMAL, precision=20, scale=6)
LABELS = column(ValueKind.ENUM, members=("a", 'b"c', "ü"))
FLAGS = column(ValueKind.SET, members=("x", "y", "z"))
ZERO_DAY, NO_DAY = 0, 2023 << 9 | 2 << 5 | 30
LEAP_DAY = 2024 << 9 | 2 << 5 | 29

# column, value in Arrow, text in the format `cdc`, text in the format `debezium`
VALUES: list[tuple[ColumnDefinition, Any, str, str]] = [
    (INTEGER, -(2**63), "-9223372036854775808", "-9223372036854775808"),
    (UNSIGNED, 2**64 - 1, "18446744073709551615", "-1"),
    (UNSIGNED, 2**63 - 1, "9223372036854775807", "9223372036854775807"),
    (MONEY, decimal.Decimal("12.50"), '"12.50"', '"BOI="'),
    (MONEY, decimal.Decimal("-0.01"), '"-0.01"', '"/w=="'),
    (MONEY, decimal.Decimal("1.28"), '"1.28"', '"AIA="'),
    (MONEY, decimal.Decimal("-1.28"), '"-1.28"', '"gA=="'),
    (MONEY, decimal.Decimal("0.00"), '"0.00"', '"AA=="'),
    (SCALE_SIX, decimal.Decimal("-0.000001"), '"-0.000001"', '"/w=="'),
    (TINY_DECIMAL, decimal.Decimal("1E-30"), f'"0.{"0" * 29}1"', '"AQ=="'),
    (TINY_DECIMAL, decimal.Decimal("0E-30"), f'"0.{"0" * 30}"', '"AA=="'),
    (column(ValueKind.FLOAT), 0.1, "0.1", "0.1"),
    (column(ValueKind.FLOAT), -0.0, "-0.0", "-0.0"),
    (column(ValueKind.FLOAT), 16777216.0, "16777216", "16777216"),
    (column(ValueKind.DOUBLE), 0.1, "0.1", "0.1"),
    (column(ValueKind.DOUBLE), 5e-324, "5e-324", "5e-324"),
    (column(ValueKind.BIT, length=64), 2**64 - 1, "18446744073709551615", '"//////////8="'),
    (column(ValueKind.BIT, length=12), 0xABC, "2748", '"vAo="'),
    (column(ValueKind.BIT, length=1), 1, "1", "true"),
    (column(ValueKind.YEAR), 0, "0", "0"),
    (column(ValueKind.DATE), LEAP_DAY, '"2024-02-29"', "19782"),
    (column(ValueKind.DATE), 1900 << 9 | 1 << 5 | 1, '"1900-01-01"', "-25567"),
    (column(ValueKind.DATE), ZERO_DAY, '"0000-00-00"', "null"),
    (column(ValueKind.DATE, is_nullable=False), ZERO_DAY, '"0000-00-00"', "0"),
    (column(ValueKind.DATE), NO_DAY, '"2023-02-30"', "null"),
    (column(ValueKind.DATETIME), datetime_packed(2018, 6, 20, 6, 37, 3, 0), '"2018-06-20 06:37:03"', "1529476623000"),
    (
        column(ValueKind.DATETIME, fraction_digits=3),
        datetime_packed(2018, 6, 20, 6, 37, 3, 120_000),
        '"2018-06-20 06:37:03.120"',
        "1529476623120",
    ),
    (
        column(ValueKind.DATETIME, fraction_digits=6),
        datetime_packed(9999, 12, 31, 23, 59, 59, 999_999),
        '"9999-12-31 23:59:59.999999"',
        "253402300799999999",
    ),
    (column(ValueKind.DATETIME, is_nullable=False), 0, '"0000-00-00 00:00:00"', "0"),
    (column(ValueKind.TIMESTAMP), 1_000_000, '"1970-01-01T00:00:01Z"', '"1970-01-01T00:00:01Z"'),
    (
        column(ValueKind.TIMESTAMP, fraction_digits=2),
        (2**31 - 1) * 1_000_000 + 120_000,
        '"2038-01-19T03:14:07.12Z"',
        '"2038-01-19T03:14:07.12Z"',
    ),
    (column(ValueKind.TIMESTAMP, fraction_digits=1), 0, '"0000-00-00 00:00:00.0"', "null"),
    (column(ValueKind.TIMESTAMP, is_nullable=False), 0, '"0000-00-00 00:00:00"', '"1970-01-01T00:00:00Z"'),
    (column(ValueKind.TIME), -3_020_399_000_000, '"-838:59:59"', "-3020399000000"),
    (column(ValueKind.TIME, fraction_digits=6), -1, '"-00:00:00.000001"', "-1"),
    (column(ValueKind.TEXT), 'he"l\nlo \\ ü \0', '"he\\"l\\nlo \\\\ ü \\u0000"', '"he\\"l\\nlo \\\\ ü \\u0000"'),
    (column(ValueKind.BINARY, length=4), b"\1\2\0\0", '"01020000"', '"AQIAAA=="'),
    (column(ValueKind.BLOB), b"", '""', '""'),
    (LABELS, 2, '"b\\"c"', '"b\\"c"'),
    (LABELS, 0, '""', '""'),
    (FLAGS, 5, '"x,z"', '"x,z"'),
    (FLAGS, 0, '""', '""'),
    (
        column(ValueKind.JSON),
        '{"a": 12345678901234567890.10}',
        '{"a": 12345678901234567890.10}',
        '"{\\"a\\": 1234567890123456789',
    ),
    (column(ValueKind.GEOMETRY), b"\xe6\x10\0\0\1\1", '"e61000000101"', '{"wkb":"AQE=","srid":4326}'),
    (column(ValueKind.GEOMETRY), b"\0\0\0\0\1\1", '"000000000101"', '{"wkb":"AQE=","srid":null}'),
    (column(ValueKind.VECTOR, length=2), struct.pack("<2f", 0.1, -2), "[0.1,-2]", "[0.1,-2]"),
    (
        column(ValueKind.UUID),
        bytes(range(16)),
        '"00010203-0405-0607-0809-0a0b0c0d0e0f"',
        '"00010203-0405-0607-0809-0a0b0c0d0e0f"',
    ),
    (column(ValueKind.INET6), bytes(15) + b"\1", '"::1"', '"::1"'),
    (column(ValueKind.INET4), b"\x0a\0\0\1", '"10.0.0.1"', '"10.0.0.1"'),
]


def array_of(definition: ColumnDefinition, values: Sequence[Any]) -> pa.Array:
    return pa.array(values, definition.arrow_type)


def debezium(*, tombstones: bool = False) -> DebeziumFormat:
    return DebeziumFormat(DebeziumSource("shop", "mysql", 7), tombstones=tombstones, now_us=lambda: NOW)


@pytest.mark.parametrize("definition,value,text,other", VALUES)
def test_a_value_is_printed_in_its_form(definition: ColumnDefinition, value: Any, text: str, other: str) -> None:
    array = array_of(definition, [value])
    assert list(map(str, column_writer(definition, "mysql")(array))) == [text]
    assert str(debezium().column_writer(definition, "mysql")(array)[0]).startswith(other)


@pytest.mark.parametrize("form", [PlainFormat(), debezium()])
@pytest.mark.parametrize("definition,value", [(definition, value) for definition, value, _, _ in VALUES])
def test_null_stands_beside_any_value_and_every_fragment_is_json(
    definition: ColumnDefinition, value: Any, form: Format
) -> None:
    fragments = form.column_writer(definition, "mysql")(array_of(definition, [None, value, None]))
    assert len(fragments) == 3
    assert fragments[0] == fragments[2] == "null"
    assert "\n" not in str(fragments[1])
    json.loads(str(fragments[1]))


@pytest.mark.parametrize("bits", [0x00000001, 0x3DCCCCCD, 0x7F7FFFFF, 0x80000000, 0xC0490FDB, 0x4B7FFFFF])
def test_a_float_reads_back_with_the_same_bits(bits: int) -> None:
    definition = column(ValueKind.FLOAT)
    raw = bits.to_bytes(4, "little")
    array = pa.Array.from_buffers(pa.float32(), 1, [None, pa.py_buffer(raw)])
    text = str(column_writer(definition, "mysql")(array)[0])
    assert struct.pack("<f", json.loads(text)) == raw


@pytest.mark.parametrize(
    "text,printed",
    [
        ('{"a":1,"a":2}', '{"a":1,"a":2}'),
        ('{"a":\r\n 1.0}', '{"a":   1.0}'),
        ("[1e400]", '"[1e400]"'),
        ('"\t"', '"\\"\\t\\""'),
        ("not json", '"not json"'),
    ],
)
def test_json_of_mariadb_is_one_line_and_json_to_anybody(text: str, printed: str) -> None:
    definition = column(ValueKind.JSON)
    assert column_writer(definition, "mariadb")(array_of(definition, [text])) == [printed]


# ---------------------------------------------------------------- lines

ID = ColumnDefinition("id", ValueKind.INTEGER, "int", length=32, is_nullable=False)
NOTE = ColumnDefinition("note", ValueKind.TEXT, "varchar(20)", length=20, charset="utf8mb4")


def table(name: str = "a", flavor: Flavor = "mysql") -> TableDefinition:
    return TableDefinition(TableName("shop", name), (ID, NOTE), primary_key=("id",), flavor=flavor)


def batch(
    images: Sequence[tuple[int, int, Any, Any]],
    *,
    definition: TableDefinition | None = None,
    shapes: Sequence[frozenset[str]] = (),
    shape_index: Sequence[int] = (),
) -> RowBatch:
    """Images as (operation, transaction, id, note)."""
    definition = definition or table()
    operations, transactions, ids, notes = zip(*images, strict=True)
    return RowBatch(
        definition,
        pa.array(operations, pa.uint8()),
        pa.array(transactions, pa.uint32()),
        pa.RecordBatch.from_arrays(
            [pa.array(ids, pa.int32()), pa.array(notes, pa.large_string())], schema=definition.arrow_schema
        ),
        pa.array(shape_index, pa.uint16()) if shapes else None,
        tuple(shapes),
    )


def run_of(
    *batches: RowBatch,
    transactions: int = 1,
    part: OpenTransaction | None = None,
    gtid: MysqlGtidSet | None = None,
    flavor: Flavor = "mysql",
) -> TransactionRun:
    """Transaction n ends at 100 * (n + 1) and has the number n + 1."""
    source = UUID if flavor == "mysql" else "0-7"
    ends = TransactionEnds(
        pa.array([100 * (n + 1) for n in range(transactions)], pa.uint64()),
        pa.array([0] * transactions, pa.int32()),
        pa.array(range(1, transactions + 1), pa.uint64()),
        (source,),
        flavor,
    )
    end = SourcePosition(SERVER, FilePos.of("binlog.000007", 100 * transactions), gtid)
    if part is not None:
        return TransactionRun(batches, end, pa.array([], pa.int64()), 1, is_last_part=False, open_transaction=part)
    return TransactionRun(batches, end, pa.array([WHEN] * transactions, pa.int64()), 1, ends=ends)


def written(
    run: TransactionRun, form: Format | None = None, *, count: int | None = None, **selection: Any
) -> list[Any]:
    writer = LineWriter(form or PlainFormat(), Selection(**selection))
    lines = writer.run(run, run.transaction_count if count is None else count)
    assert all(line.endswith("\n") for line in lines)
    return [json.loads(part) for line in lines for part in line.splitlines()]


CHANGES = [
    (INSERT, 0, 1, "one"),
    (BEFORE, 0, 1, "one"),
    (AFTER, 0, 1, "uno"),
    (DELETE, 1, 2, None),
    (BEFORE, 2, 3, "x"),
    (AFTER, 2, 4, "x"),
]


def test_a_change_has_its_transactions_position_and_time() -> None:
    line = written(run_of(batch([(INSERT, 1, 1, "one")]), transactions=2))[0]
    assert line == {
        "operation": "insert",
        "table": "shop.a",
        "position": {"gtid": f"{UUID}:2", "file": "binlog.000007", "pos": 200},
        "time": "2023-11-14T22:13:20.000001Z",
        "before": None,
        "after": {"id": 1, "note": "one"},
    }


def test_operations_have_the_images_that_they_have() -> None:
    lines = written(run_of(batch(CHANGES), transactions=3))
    assert [(one["operation"], one["before"], one["after"]) for one in lines] == [
        ("insert", None, {"id": 1, "note": "one"}),
        ("update", {"id": 1, "note": "one"}, {"id": 1, "note": "uno"}),
        ("delete", {"id": 2, "note": None}, None),
        ("update", {"id": 3, "note": "x"}, {"id": 4, "note": "x"}),
    ]


def test_batches_of_several_tables_come_out_in_the_order_of_transactions() -> None:
    first = batch([(INSERT, 0, 1, ""), (INSERT, 2, 2, ""), (INSERT, 2, 3, "")])
    second = batch([(INSERT, 0, 10, ""), (INSERT, 1, 11, ""), (INSERT, 2, 12, "")], definition=table("b"))
    lines = written(run_of(first, second, transactions=3))
    assert [one["after"]["id"] for one in lines] == [1, 10, 11, 2, 3, 12]


def test_columns_that_an_image_lacks_are_not_there_and_null_is() -> None:
    shapes = [frozenset[str](), frozenset(["note"]), frozenset(["id"])]
    images = [(INSERT, 0, 1, None), (BEFORE, 0, 1, None), (AFTER, 0, None, "new")]
    run = run_of(batch(images, shapes=shapes, shape_index=[0, 1, 2]))
    lines = written(run)
    assert lines[0]["after"] == {"id": 1, "note": None}
    assert (lines[1]["before"], lines[1]["after"]) == ({"id": 1}, {"note": "new"})
    assert [one["op"] for one in written(run, debezium())] == ["c", "u"]


def test_chosen_columns_stand_in_the_tables_order() -> None:
    run = run_of(batch([(INSERT, 0, 1, "one")]))
    assert written(run, columns=frozenset(["note"]))[0]["after"] == {"note": "one"}
    assert written(run, columns=frozenset(["nothing"]))[0]["after"] == {}


@pytest.mark.parametrize(
    "operations,shown",
    [({"insert"}, ["insert"]), ({"update", "delete"}, ["update", "delete", "update"]), ({"ddl"}, [])],
)
def test_operations_are_selected(operations: set[str], shown: list[str]) -> None:
    run = run_of(batch(CHANGES), transactions=3)
    assert [one["operation"] for one in written(run, operations=frozenset(operations))] == shown


@pytest.mark.parametrize(
    "where,shown",
    [
        ((("id", "1"),), ["insert", "update"]),
        ((("id", "4"),), ["update"]),
        ((("note", "uno"),), ["update"]),
        ((("note", '"uno"'),), ["update"]),
        ((("note", "null"),), ["delete"]),
        ((("id", "1"), ("note", "uno")), ["update"]),
        ((("id", "2"), ("note", "uno")), []),
        ((("nothing", "1"),), []),
    ],
)
def test_where_selects_changes_with_the_values_before_or_after(
    where: tuple[tuple[str, str], ...], shown: list[str]
) -> None:
    run = run_of(batch(CHANGES), transactions=3)
    assert [one["operation"] for one in written(run, where=where)] == shown


def test_where_does_not_take_an_absent_column_for_null() -> None:
    absent = batch([(DELETE, 0, 1, None)], shapes=[frozenset(["note"])], shape_index=[0])
    assert written(run_of(absent), where=(("note", "null"),)) == []


@pytest.mark.parametrize(
    "text,shown", [(f"{UUID}:2-3", [2, 4]), (f"{UUID}:1", [1, 1]), (f"{UUID}:9", []), (f"{UUID}:tag:1", [])]
)
def test_transactions_are_selected_by_gtid(text: str, shown: list[int]) -> None:
    lines = written(run_of(batch(CHANGES), transactions=3), only=GtidFilter.parse(text))
    assert [(one["after"] or one["before"])["id"] for one in lines] == shown


def test_transactions_of_mariadb_are_selected_one_by_one() -> None:
    run = run_of(batch(CHANGES, definition=table(flavor="mariadb")), transactions=3, flavor="mariadb")
    assert [one["position"]["gtid"] for one in written(run, only=GtidFilter.parse("0-7-2,0-7-3"))] == ["0-7-2", "0-7-3"]


def test_transactions_behind_the_count_are_not_shown() -> None:
    assert len(written(run_of(batch(CHANGES), transactions=3), count=1)) == 2
    assert written(run_of(batch(CHANGES), transactions=3), count=0) == []


def test_a_part_has_the_position_where_its_transaction_begins() -> None:
    opened = OpenTransaction(f"{UUID}:9", FilePos.of("binlog.000007", 4), WHEN)
    run = run_of(batch([(INSERT, 0, 1, "one")]), transactions=0, part=opened)
    assert written(run, count=1)[0]["position"] == {"gtid": f"{UUID}:9", "file": "binlog.000007", "pos": 4}
    taken_back = LineWriter(PlainFormat(), Selection()).abandoned(opened)
    assert json.loads(taken_back[0])["operation"] == "abandoned"


def test_ddl_is_a_line_for_each_table() -> None:
    end = SourcePosition(SERVER, FilePos.of("binlog.000007", 500), None)
    change = SchemaChange((TableName("shop", "a"), TableName("shop", "b")), end, 'DROP TABLE a, "b"', WHEN)
    lines = [json.loads(line) for line in LineWriter(PlainFormat(), Selection()).change(change, None)]
    assert [one["table"] for one in lines] == ["shop.a", "shop.b"]
    assert lines[0]["statement"] == 'DROP TABLE a, "b"'
    assert lines[0]["position"] == {"gtid": None, "file": "binlog.000007", "pos": 500}


@pytest.mark.parametrize("pos,count", [(99, 0), (100, 1), (250, 2), (300, 3), (301, 3)])
def test_an_end_in_a_file_counts_the_transactions_that_end_before_it(pos: int, count: int) -> None:
    until = FileUntil(FilePos.of("binlog.000007", pos))
    run = run_of(batch(CHANGES), transactions=3)
    assert until.count(run, run.end) == count
    assert until.is_reached(run.end) is (pos <= 300)


@pytest.mark.parametrize("last,count", [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_an_end_by_gtid_counts_the_transactions_up_to_the_last_of_the_set(last: int, count: int) -> None:
    until = GtidUntil(MysqlGtidSet.parse(f"{UUID}:1-{last}"))
    run = run_of(batch(CHANGES), transactions=3, gtid=MysqlGtidSet.parse(f"{UUID}:1-3"))
    before = SourcePosition(SERVER, None, MysqlGtidSet())
    assert until.count(run, before) == count
    assert until.is_reached(run.end) is (last <= 3)


# ---------------------------------------------------------------- Debezium's envelope


def test_the_envelope_has_debeziums_members() -> None:
    line = written(run_of(batch([(INSERT, 0, 1, "one"), (INSERT, 0, 2, "two")])), debezium())[1]
    assert list(line) == ["before", "after", "source", "transaction", "op", "ts_ms", "ts_us", "ts_ns"]
    assert line["source"] == {
        "version": line["source"]["version"],
        "connector": "mysql",
        "name": "shop",
        "ts_ms": WHEN // 1000,
        "snapshot": "false",
        "db": "shop",
        "sequence": None,
        "ts_us": WHEN,
        "ts_ns": WHEN * 1000,
        "table": "a",
        "server_id": 7,
        "gtid": f"{UUID}:1",
        "file": "binlog.000007",
        "pos": 100,
        "row": 1,
        "thread": None,
        "query": None,
    }
    assert (line["op"], line["transaction"], line["ts_ms"]) == ("c", None, NOW // 1000)


def test_an_update_of_the_key_is_a_delete_and_a_create() -> None:
    lines = written(run_of(batch(CHANGES), transactions=3), debezium())
    assert [one["op"] for one in lines] == ["c", "u", "d", "d", "c"]
    assert (lines[3]["before"]["id"], lines[3]["after"]) == (3, None)
    assert (lines[4]["before"], lines[4]["after"]["id"]) == (None, 4)
    assert [one["source"]["row"] for one in lines] == [0, 1, 0, 0, 0]


def test_an_update_of_the_key_is_seen_when_the_key_is_not_printed() -> None:
    run = run_of(batch(CHANGES[4:]), transactions=3)
    assert [one["op"] for one in written(run, debezium(), columns=frozenset(["note"]))] == ["d", "c"]


def test_row_numbers_count_what_is_not_shown() -> None:
    run = run_of(batch([(INSERT, 0, 1, ""), (INSERT, 0, 2, ""), (INSERT, 0, 3, "")]))
    assert written(run, debezium(), where=(("id", "3"),))[0]["source"]["row"] == 2


def test_row_numbers_go_on_from_part_to_part() -> None:
    writer = LineWriter(debezium(), Selection())
    opened = OpenTransaction(None, FilePos.of("binlog.000007", 4), WHEN)
    rows = batch([(INSERT, 0, 1, ""), (INSERT, 0, 2, "")])
    lines = writer.run(run_of(rows, transactions=0, part=opened), 1)
    lines += writer.run(run_of(rows), 1)
    lines += writer.run(run_of(rows), 1)
    assert [json.loads(line)["source"]["row"] for line in lines] == [0, 1, 2, 3, 0, 1]


def test_a_tombstone_follows_each_delete() -> None:
    lines = written(run_of(batch(CHANGES), transactions=3), debezium(tombstones=True))
    assert [one and one["op"] for one in lines] == ["c", "u", "d", None, "d", None, "c"]


def test_ddl_is_debeziums_schema_change() -> None:
    end = SourcePosition(SERVER, FilePos.of("binlog.000007", 500), None)
    change = SchemaChange((TableName("shop", "a"),), end, "ALTER TABLE a ADD b INT", WHEN)
    line = json.loads(LineWriter(debezium(), Selection()).change(change, f"{UUID}:4")[0])
    assert (line["databaseName"], line["ddl"], line["tableChanges"]) == ("shop", "ALTER TABLE a ADD b INT", [])
    assert line["source"]["gtid"] == f"{UUID}:4"
