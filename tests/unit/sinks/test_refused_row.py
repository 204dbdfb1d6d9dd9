"""What was refused stays with the table's error, for whoever looks into it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from cdc.errors import SinkRefused, SinkUnavailable, UnsupportedData
from cdc.model import ValueKind
from cdc.sinks.encode_postgres import copy_text
from cdc.sinks.values import PolicyCounter, keep_refused_row
from tests.unit.sinks.builders import ID, column, rows_of, table, target_of

TEXT = column("v", ValueKind.TEXT, "longtext", length=1 << 30)
AT = column("at", ValueKind.DATETIME, "datetime", fraction_digits=0)
SOURCE = table(ID, TEXT, AT)
FEBRUARY_30 = ((2023 * 13 + 2) << 22 | 30 << 17) << 24


def test_the_row_and_the_value_are_kept() -> None:
    rows = rows_of(SOURCE, [(1, "a", None), (7, "tab\there", FEBRUARY_30)])
    error = SinkRefused("no", table="shop.t", column="v", key="id=7")
    assert keep_refused_row(error, rows, target_of(SOURCE), 1) is error
    shown = error.to_dict()
    assert (shown["table"], shown["key"], shown["column"]) == ("shop.t", "id=7", "v")
    assert shown["value"] == r"'tab\there'"
    assert shown["row"] == {"id": "7", "v": r"'tab\there'", "at": "2023-02-30 00:00:00.000000"}


def test_the_row_itself_is_kept_by_the_targets_columns() -> None:
    rows = rows_of(SOURCE, [(1, "a", None), (7, "x" * 5000, FEBRUARY_30)])
    error = SinkRefused("no", table="shop.t")
    keep_refused_row(error, rows.append_column("left out", pa.array(["b", "c"])), target_of(SOURCE), 1)
    assert error.image is not None
    image = pa.ipc.open_stream(error.image).read_all()
    assert image.equals(pa.Table.from_batches([rows.slice(1, 1)]))
    assert "image" not in error.to_dict()  # which is shown everywhere
    keep_refused_row(error, rows_of(SOURCE, [(1, "x" * 70_000, None)]), target_of(SOURCE), 0)
    assert error.image is None


def test_where_the_column_is_not_known_the_row_is() -> None:
    error = SinkRefused("no", table="shop.t", key="id=1")
    keep_refused_row(error, rows_of(SOURCE, [(1, None, None)]), target_of(SOURCE), 0)
    assert (error.value, error.row) == (None, {"id": "1", "v": "NULL", "at": "NULL"})


def test_long_values_are_cut_and_many_of_them_more() -> None:
    error = SinkRefused("no", table="shop.t", column="v")
    keep_refused_row(error, rows_of(SOURCE, [(1, "x" * 5000, None)]), target_of(SOURCE), 0)
    assert error.value == "'" + "x" * 999 + "…"
    wide = table(ID, *(column(f"c{n}", ValueKind.TEXT, "longtext", length=1 << 30) for n in range(200)))
    keep_refused_row(error, rows_of(wide, [(1, *["x" * 5000] * 200)]), target_of(wide), 0)
    assert error.row is not None
    assert sum(map(len, error.row.values())) < 200 * 100


def test_a_policys_refusal_keeps_its_row() -> None:
    target = target_of(SOURCE, zero_dates="error")
    with pytest.raises(UnsupportedData) as caught:
        copy_text(rows_of(SOURCE, [(7, "a", FEBRUARY_30)]), target, target.columns, PolicyCounter())
    assert caught.value.value == "2023-02-30 00:00:00.000000"
    assert caught.value.row == {"id": "7", "v": "'a'", "at": "2023-02-30 00:00:00.000000"}


def test_what_will_pass_has_no_row() -> None:
    error = SinkUnavailable("away")
    keep_refused_row(error, rows_of(SOURCE, [(1, "a", None)]), target_of(SOURCE), 0)
    assert error.to_dict()["row"] is None
