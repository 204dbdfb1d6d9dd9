"""The SELECT of a chunk, as text. That its literals are equal to their rows is tests/integration/test_chunks.py's."""

from __future__ import annotations

import pytest

from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition, TableDefinition, TableName, ValueKind
from cdc.source.resultset import literal, select_list, to_record_batch
from snapshot.chunks import chunk_sql, read_chunks

INT = ColumnDefinition("a", ValueKind.INTEGER, "int", length=32)
TEXT = ColumnDefinition("b", ValueKind.TEXT, "varchar(9)", charset="utf8mb4", collation="utf8mb4_bin")
FLOAT = ColumnDefinition("c`", ValueKind.FLOAT, "float")
TABLE = TableDefinition(TableName("sh`op", "t.1"), (INT, TEXT, FLOAT), ("a",))
SELECT = f"SELECT {select_list(TABLE)} FROM `sh``op`.`t.1`"


def test_the_first_chunk_begins_at_the_beginning() -> None:
    assert chunk_sql(TABLE, ("a",), None, rows_max=5) == f"{SELECT} ORDER BY `a` LIMIT 5"


def test_the_next_one_begins_behind_the_last_key() -> None:
    assert chunk_sql(TABLE, ("a",), (b"-7",), rows_max=5) == f"{SELECT} WHERE (`a` > -7) ORDER BY `a` LIMIT 5"


def test_a_key_of_several_columns_is_spelled_out_and_keeps_a_range_on_the_first() -> None:
    b = "_utf8mb4 0x78 COLLATE utf8mb4_bin"
    assert chunk_sql(TABLE, ("a", "b", "c`"), (b"1", b"x", b"0.5"), rows_max=2) == (
        f"{SELECT} WHERE `a` >= 1 AND ((`a` > 1) OR (`a` = 1 AND `b` > {b}) "
        f"OR (`a` = 1 AND `b` = {b} AND `c``` > 0.5e0)) ORDER BY `a`, `b`, `c``` LIMIT 2"
    )


@pytest.mark.parametrize("value", [b"'", b"\\", b"' OR 1=1 -- ", b"\xbf\x27", b"\0"])
def test_no_text_is_ever_between_quotes(value: bytes) -> None:
    """Whatever the session's charset and sql_mode: strings go back as hexadecimal."""
    assert literal(value, TEXT) == f"_utf8mb4 0x{value.hex()} COLLATE utf8mb4_bin"


class Source:
    """Answers chunk by chunk: the integers up to `count`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.statements: list[str] = []

    def query(self, sql: str) -> list[tuple[bytes | None, ...]]:
        self.statements.append(sql)
        after = int(sql.partition(" > ")[2].partition(")")[0] or 0)
        limit = int(sql.rpartition(" ")[2])
        return [(b"%d" % n, None, None) for n in range(after + 1, min(after + limit, self.count) + 1)]


@pytest.mark.parametrize("count, statements", [(0, 1), (2, 1), (3, 2), (4, 2), (6, 3)])
def test_reading_ends_with_the_first_chunk_that_is_not_full(count: int, statements: int) -> None:
    source = Source(count)
    batches = list(read_chunks(source, TABLE, ("a",), rows_max=3))  # type: ignore[arg-type]
    assert [value for batch in batches for value in batch.column("a").to_pylist()] == list(range(1, count + 1))
    assert len(source.statements) == statements
    assert all(batch.num_rows for batch in batches)


def test_a_value_that_cannot_be_read_names_its_column() -> None:
    with pytest.raises(UnsupportedData, match=r"t\.1\.a") as caught:
        to_record_batch(TABLE, [(b"not a number", None, None)])
    assert (caught.value.table, caught.value.column) == ("sh`op.t.1", "a")
