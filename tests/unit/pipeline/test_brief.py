"""Which tables a lane loads in its own stream, though sides could."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pymysql.err
import pytest

from cdc.errors import SourceUnavailable
from cdc.model import FilePos, ServerIdentity, SourcePosition, TableName
from cdc.pipeline.brief import FIRST_BYTES_MAX, StreamLoads
from checkpoints.store import TableRecord
from snapshot.together import TableSize

_AT = SourcePosition(ServerIdentity("mysql", "u"), FilePos(1, 4, "b.000001"), None)


class _Source:
    """Answers by the sizes that it is given; `rows` are those that the tables have in truth."""

    flavor = "mariadb"

    def __init__(
        self, sizes: dict[str, TableSize], rows: dict[str, int] | None = None, held: str = "", error: int = 1205
    ) -> None:
        self.sizes, self.held, self.error = sizes, held, error
        self.rows = rows or {name: size.rows for name, size in sizes.items()}
        self.settings: list[str] = []
        self.looked: list[str] = []
        self.is_gone = False

    def query_text(self, sql: str, parameters: Any = ()) -> list[tuple[str, ...]]:
        if "lock_wait_timeout" in sql:
            return [("30", "0.000000")]
        return [("shop", name, str(size.rows), str(size.byte_count)) for name, size in self.sizes.items()]

    def query(self, sql: str) -> list[tuple[bytes]]:
        if sql.startswith("SET"):
            self.settings.append(sql.removeprefix("SET SESSION "))
            return []
        if self.is_gone:
            raise SourceUnavailable("the session is gone") from pymysql.err.OperationalError(2013, "Lost connection")
        if sql == "SELECT 1":
            return [(b"1",)]
        name, offset = sql.split("`")[3], int(sql.rpartition(" ")[2])
        self.looked.append(name)
        if name == self.held:
            self.is_gone = self.error == 2013
            raise SourceUnavailable("it cannot be read") from pymysql.err.OperationalError(self.error, "")
        return [(b"1",)] if self.rows[name] > offset else []


def _table(name: str) -> TableName:
    return TableName("shop", name)


def _pending(*names: str) -> list[TableRecord]:
    return [TableRecord(source=_table(name), target=name, state="pending") for name in names]


_CURRENT = TableRecord(source=_table("other"), target="other", state="ready")


_OURS = "lock_wait_timeout = 1, max_statement_time = 1"
_THEIRS = "lock_wait_timeout = 30, max_statement_time = 0.000000"


def _chosen(
    source: _Source, *records: TableRecord, has_current: bool = True, has_sides: bool = False, **options: Any
) -> set[str]:
    given: dict[str, Any] = {"rows_max": 1000, "is_limited": False, "has_key": lambda _: True, **options}
    loads = StreamLoads(source, **given)  # type: ignore[arg-type]
    everything = [*records, *([_CURRENT] if has_current else [])]
    return {table.table for table in loads.chosen(everything, records, has_sides)}


def test_small_tables_are_loaded_in_the_stream_and_large_ones_are_not() -> None:
    source = _Source({"a": TableSize(300, 1 << 14), "b": TableSize(1000, 1 << 14), "c": TableSize(3, 9 << 20)})
    assert _chosen(source, *_pending("a", "b", "c")) == {"a"}
    assert source.settings == [_OURS, _THEIRS]


def test_all_together_are_small() -> None:
    source = _Source({name: TableSize(300, 1 << 14) for name in "abcde"})
    assert _chosen(source, *_pending(*"abcde")) == {"a", "b", "c"}
    many = [f"t{n:02}" for n in range(30)]
    assert len(_chosen(_Source({name: TableSize(3, 100) for name in many}), *_pending(*many))) == 16
    wide = _Source({name: TableSize(3, 3 << 20) for name in "abc"})
    assert _chosen(wide, *_pending(*"abc")) == {"a", "b"}


def test_a_table_that_is_larger_than_its_estimate_is_not_small() -> None:
    source = _Source({"a": TableSize(0, 0), "b": TableSize(0, 0)}, {"a": 1001, "b": 1000})
    assert _chosen(source, *_pending("a", "b")) == {"b"}


@pytest.mark.parametrize("error", [1205, 1969, 1814, 145])
def test_a_table_that_cannot_be_looked_at_is_not_waited_for_and_no_other_is_looked_at(error: int) -> None:
    """Held, read for too long, without its tablespace, crashed: none of it is the session's end."""
    source = _Source({name: TableSize(3, 100) for name in "abc"}, held="b", error=error)
    assert _chosen(source, *_pending("a", "b", "c")) == {"a"}
    assert source.looked == ["a", "b"]
    assert source.settings == [_OURS, _THEIRS] * 2


def test_a_session_that_is_gone_is_said() -> None:
    with pytest.raises(SourceUnavailable, match="is gone"):
        _chosen(_Source({"a": TableSize(3, 100)}, held="a", error=2013), *_pending("a"))


def test_large_tables_are_looked_at_no_more_often_than_small_ones() -> None:
    many = [f"t{n:02}" for n in range(30)]
    source = _Source({name: TableSize(3, 100) for name in many}, dict.fromkeys(many, 5000))
    assert _chosen(source, *_pending(*many)) == set()
    assert len(source.looked) == 16


def test_where_sides_are_at_work_it_is_no_first_start() -> None:
    source = _Source({"large": TableSize(10**7, 1 << 20)})
    assert _chosen(source, *_pending("large"), has_current=False) == {"large"}
    assert _chosen(source, *_pending("large"), has_current=False, has_sides=True) == set()


def test_what_is_complete_is_loaded_beside_unless_it_is_small() -> None:
    """There a load that is cut off goes on with the chunks that are missing, whatever else is current."""
    source = _Source({"large": TableSize(10**7, 1 << 20), "small": TableSize(30, 100)})
    complete = [replace(record, is_complete=True) for record in _pending("large", "small")]
    assert _chosen(source, *complete, has_current=False) == {"small"}


@pytest.mark.parametrize("options", [{"is_limited": True}, {"has_key": lambda _: False}, {"rows_max": 0}])
def test_what_the_stream_may_have_to_wait_for_is_loaded_beside(options: dict[str, Any]) -> None:
    assert _chosen(_Source({"a": TableSize(3, 100)}), *_pending("a"), **options) == set()


def test_a_table_without_an_estimate_is_loaded_beside() -> None:
    assert _chosen(_Source({}), *_pending("a")) == set()


def test_where_nothing_is_current_all_is_loaded_in_the_stream() -> None:
    source = _Source({"a": TableSize(10**7, FIRST_BYTES_MAX - 100), "b": TableSize(3, 100)})
    assert _chosen(source, *_pending("a", "b", "unknown"), has_current=False) == {"a", "b", "unknown"}
    assert _chosen(source, *_pending("a", "b"), has_current=False, rows_max=0) == set()


def test_of_a_first_start_that_takes_long_the_small_tables_are_loaded_in_the_stream() -> None:
    source = _Source({"a": TableSize(10**7, FIRST_BYTES_MAX), "b": TableSize(3, 100), "c": TableSize(60_000, 100)})
    assert _chosen(source, *_pending("a", "b", "c", "unknown"), has_current=False) == {"b"}
    assert _chosen(source, *_pending("a"), has_current=False) == {"a"}, "a side would need the log for as long"


def test_a_table_that_is_about_to_catch_up_is_current() -> None:
    (large,) = _pending("large")
    source = _Source({"large": TableSize(10**7, 1 << 20)})
    catching_up = replace(_CURRENT, state="snapshotting", loaded_from=_AT, ready_at=_AT.file)
    assert _chosen(source, large, catching_up, has_current=False) == set()


def test_a_load_that_was_cut_off_goes_on_where_it_was() -> None:
    (large,) = _pending("large")
    source = _Source({"large": TableSize(10**7, 1 << 20)})
    begun = replace(large, state="snapshotting", loaded_from=_AT)
    assert _chosen(source, begun) == _chosen(source, begun, rows_max=0) == {"large"}
    assert _chosen(source, replace(begun, is_complete=True)) == set()
    assert _chosen(source, replace(begun, loaded_from=None)) == set()
