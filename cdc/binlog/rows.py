"""Turn the images of rows events into Arrow columns, by the plan of a `RowLayout`.

Knows bytes and layouts; knows nothing of sockets, SQL or time. This is the reference for the compiled decoder: both
must give the same batch, or the same error, for every input. One closure a column, chosen once a buffer; values go
row by row, column by column, so that the first error in an event is the same for everybody.

    image  null bitmap[(columns+7)/8], bit 0 the first column; unused bits may be set (MariaDB) · the values of the
           columns that are not NULL, in column order

Source: MySQL sql/log_event.cc (log_event_print_value), sql-common/my_time.cc, strings/decimal.cc (bin2decimal);
MariaDB sql/field.cc, sql/field_comp.cc, sql/compat56.cc.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from cdc.binlog.charsets import text_decoder
from cdc.binlog.cursor import Cursor
from cdc.binlog.decimals import decimal_reader
from cdc.binlog.events import RowsEvent, RowsKind, inflate
from cdc.binlog.json_text import apply_json_diffs, json_text
from cdc.binlog.layout import Codec, ColumnLayout, RowLayout
from cdc.errors import MalformedEvent, UnsupportedData
from cdc.model import Operation, RowBatch, ValueKind

__all__ = ["ImageBuffer", "column_decoder"]

# Takes the images' bytes and an offset in them; gives the value and the offset after it.
Decoder = Callable[[bytes, int], tuple[Any, int]]


class _BadValue(Exception):
    """The bytes are no value of that type; `append` says whose."""


class _EndsEarly(_BadValue):
    """The event ends inside the value."""

    def __init__(self) -> None:
        super().__init__("the event ends inside the value")


class _NotText(Exception):
    """The value is whole, and is no text in its charset."""

    def __init__(self, raw: bytes, charset: str) -> None:
        super().__init__(f"{_shortened(raw)} is no text in {charset}")


def _shortened(raw: bytes) -> str:
    """A value for a message: the first 32 bytes in hex."""
    return f"0x{raw[:32].hex()}{f'… ({len(raw)} bytes)' if len(raw) > 32 else ''}"


# binlog_row_value_options=PARTIAL_JSON, as it stands in an after image
_PARTIAL_JSON_UPDATES = 1
# Distinct shapes of a batch: their numbers have 16 bits, and one number is none
SHAPES_MAX = 65535


class ImageBuffer:
    """Collects the images of one table and layout until they are taken as one batch.

    `needs_all_columns`: refuse images that lack columns; else they are taken in, and `RowBatch.shapes` says what they
    lack. `whole_count` is the caller's: how many images, from the first on, belong to transactions that have ended.
    """

    def __init__(self, layout: RowLayout, *, needs_all_columns: bool = True) -> None:
        self.layout = layout
        self.needs_all_columns = needs_all_columns
        self._decoders = tuple(column_decoder(column) for column in layout.columns)
        # of JSON columns, what gives the bytes of a document, or of the diffs in its place
        self._documents = tuple(
            _bytes(column.size, column.width) if column.codec is Codec.JSON else None for column in layout.columns
        )
        self._all_present = (1 << layout.column_count) - 1
        widths = [_item_bytes(column.definition.arrow_type) for column in layout.columns]
        # operation, transaction, a value or an offset a column, and their validity
        self._row_bytes = 5 + sum(widths) + (layout.column_count + 7) // 8
        self._reset()

    def _reset(self) -> None:
        self._columns: tuple[list[Any], ...] = tuple([] for _ in self._decoders)
        self._operations: list[int] = []
        self._transactions: list[int] = []
        # of each image, the bitmap of the columns that it has
        self._present: list[int] = []
        self.whole_count = 0

    @property
    def image_count(self) -> int:
        """How many images are held."""
        return len(self._operations)

    @property
    def byte_count(self) -> int:
        """About the memory that they take in Arrow."""
        values = (
            len(value.encode()) if isinstance(value, str) else len(value)
            for column in self._columns
            for value in column
            if isinstance(value, (str, bytes))
        )
        return self.image_count * self._row_bytes + sum(values)

    def append(self, event: RowsEvent, transaction_index: int) -> int:
        """Decode every image of `event`; returns how many there were.

        Raises (and nothing of the event is held then):
            MalformedEvent: it ends inside a value, has bytes left over, or has other columns than the layout.
            UnsupportedData: images without all columns where they are needed, partial JSON updates without the
                document before, text that is none in its charset.
        """
        self._check(event)
        data = event.rows
        pos, end = 0, len(data)
        before = {RowsKind.INSERT: Operation.INSERT, RowsKind.DELETE: Operation.DELETE}.get(
            event.kind, Operation.UPDATE_BEFORE
        )
        images = [(before, event.present_after if event.kind is RowsKind.INSERT else event.present_before)]
        if event.kind is RowsKind.UPDATE:
            images.append((Operation.UPDATE_AFTER, event.present_after))
        held = self.image_count
        try:
            while pos < end:
                documents: dict[int, bytes] = {}
                for operation, present in images:
                    has_options = event.is_partial and operation is Operation.UPDATE_AFTER
                    image = self.image_count - held
                    pos, found = self._append_image(data, pos, present, documents, image, event, has_options)
                    self._operations.append(operation)
                    self._present.append(found)
            self._check_shapes()
        except BaseException:
            self.truncate(held)
            raise
        count = self.image_count - held
        self._transactions.extend([transaction_index] * count)
        return count

    def truncate(self, row_count: int) -> None:
        """Forget all images but the first `row_count`."""
        for column in (*self._columns, self._operations, self._transactions, self._present):
            del column[row_count:]
        self.whole_count = min(self.whole_count, row_count)

    def _append_image(
        self,
        data: bytes,
        pos: int,
        present: int,
        documents: dict[int, bytes],
        image: int,
        event: RowsEvent,
        has_options: bool,
    ) -> tuple[int, int]:
        """One image, number `image` of its event, of the columns of `present`; gives the offset after it, and the
        columns that it turns out to have.

        `options[lenenc] · bitmap, one bit a JSON column of the table, of those that hold diffs: if bit 0 of the
        options is set`, both in the after images of partial updates only (`has_options`); then `null bitmap, one bit
        a present column · values`. `documents` are the JSON documents of the before image, by column. No diffs at all
        are a document that is as it was: where that is not in the event (MINIMAL), the image is taken not to have it.

        Source: MySQL sql/rpl_record.cc, unpack_row.
        """
        partial = 0
        if has_options:
            partial, pos = self._read_options(data, pos, image)
        start, pos = pos, pos + (present.bit_count() + 7) // 8
        if pos > len(data):
            raise self._malformed(None, "the event ends inside a null bitmap", image)
        nulls = int.from_bytes(data[start:pos], "little")
        index = 0
        try:
            for index, decode in enumerate(self._decoders):
                read_document = self._documents[index]
                is_partial = False
                if read_document is not None:
                    is_partial = bool(partial & 1)
                    partial >>= 1
                value = None
                if present >> index & 1:
                    is_null = nulls & 1
                    nulls >>= 1
                    if not is_null and is_partial:
                        assert read_document is not None
                        diffs, pos = read_document(data, pos)
                        if diffs or event.present_before >> index & 1:
                            value = self._changed_document(documents, index, diffs)
                        else:
                            present &= ~(1 << index)
                    elif not is_null:
                        if read_document is not None:
                            documents[index] = read_document(data, pos)[0]
                        value, pos = decode(data, pos)
                self._columns[index].append(value)
        except _BadValue as problem:
            raise self._malformed(index, str(problem), image) from None
        except _NotText as problem:
            raise self._unsupported(str(problem), index) from None
        return pos, present

    def _read_options(self, data: bytes, pos: int, image: int) -> tuple[int, int]:
        """The bitmap of the JSON columns that hold diffs, bit 0 the first one; and the offset after it."""
        cursor = Cursor(data, "row image")
        cursor.pos = pos
        try:
            options = cursor.lenenc()
            if options & ~_PARTIAL_JSON_UPDATES:
                raise self._malformed(None, f"value options {options:#x}", image)
            json_count = sum(document is not None for document in self._documents)
            partial = cursor.uint((json_count + 7) // 8) if options else 0
        except MalformedEvent as error:
            raise (
                error
                if error.message.startswith(str(self.layout.definition.name))
                else self._malformed(None, "the event ends inside the value options", image)
            ) from None
        return partial, cursor.pos

    def _changed_document(self, documents: dict[int, bytes], index: int, diffs: bytes) -> str:
        if index not in documents:
            raise self._unsupported(
                "a partial JSON update, and the document before is not in the event",
                index,
                hint="on the source: SET GLOBAL binlog_row_value_options='', reconnect the writers, then run "
                f"`cdc snapshot {self.layout.definition.name}`",
            )
        document = documents[index]
        return _as_value(diffs, lambda: apply_json_diffs(document, diffs))

    def _check(self, event: RowsEvent) -> None:
        if event.column_count != self.layout.column_count:
            raise self._malformed(
                None, f"the rows event has {event.column_count} columns, its table map {self.layout.column_count}"
            )
        needs = {RowsKind.INSERT: (event.present_after,), RowsKind.DELETE: (event.present_before,)}.get(
            event.kind, (event.present_before, event.present_after)
        )
        if any(present & ~self._all_present for present in needs):
            raise self._malformed(None, "images of more columns than the table has")
        if self.needs_all_columns and any(present != self._all_present for present in needs):
            raise self._unsupported(
                "row images without all columns (binlog_row_image is MINIMAL or NOBLOB in the writer's session)",
                hint="on the source: SET GLOBAL binlog_row_image=FULL, reconnect the writers, then run "
                f"`cdc snapshot {self.layout.definition.name}`",
            )
        if self._all_present and not any(needs):
            # such an image has no bytes: how many there were nobody can tell
            raise self._unsupported(
                "row images without any column (binlog_row_image=MINIMAL, and only defaults were written)",
                hint="on the source: SET GLOBAL binlog_row_image=FULL, reconnect the writers, then run "
                f"`cdc snapshot {self.layout.definition.name}`",
            )
        if not self._all_present and event.rows:
            raise self._malformed(None, "rows without columns")

    def _check_shapes(self) -> None:
        if len(set(self._present)) > SHAPES_MAX:
            raise too_many_shapes(self.layout)

    def _malformed(self, index: int | None, problem: str, image: int | None = None) -> MalformedEvent:
        where = str(self.layout.definition.name)
        if index is not None:
            where += f".{self.layout.columns[index].definition.name}"
        return MalformedEvent(f"{where}: {problem}" + ("" if image is None else f" (image {image} of the event)"))

    def _unsupported(self, problem: str, index: int | None = None, hint: str = "") -> UnsupportedData:
        table = str(self.layout.definition.name)
        column = None if index is None else self.layout.columns[index].definition.name
        where = table if column is None else f"{table}.{column}"
        return UnsupportedData(f"{where}: {problem}", table=table, column=column, hint=hint)

    def take(self) -> RowBatch:
        """The images so far as one batch; the buffer is empty afterwards. Only where `image_count` is not 0."""
        definition = self.layout.definition
        arrays = [
            _arrow_array(column, values) for column, values in zip(self.layout.columns, self._columns, strict=True)
        ]
        shape_index = None
        shapes: tuple[frozenset[str], ...] = ()
        if any(present != self._all_present for present in self._present):
            numbers = {present: number for number, present in enumerate(dict.fromkeys(self._present))}
            shape_index = pa.array([numbers[present] for present in self._present], pa.uint16())
            shapes = tuple(map(self._absent, numbers))
        batch = RowBatch(
            definition=definition,
            operation=pa.array(self._operations, pa.uint8()),
            transaction_index=pa.array(self._transactions, pa.uint32()),
            images=pa.RecordBatch.from_arrays(arrays, schema=definition.arrow_schema),
            shape_index=shape_index,
            shapes=shapes,
        )
        self._reset()
        return batch

    def _absent(self, present: int) -> frozenset[str]:
        """The names of the columns that a bitmap of present ones lacks."""
        return frozenset(
            column.definition.name for index, column in enumerate(self.layout.columns) if not present >> index & 1
        )


def too_many_shapes(layout: RowLayout) -> UnsupportedData:
    """The error for a batch whose shapes cannot be numbered."""
    table = str(layout.definition.name)
    return UnsupportedData(
        f"{table}: images of more than {SHAPES_MAX} different sets of columns in a batch", table=table
    )


# ---------------------------------------------------------------- Arrow


def _item_bytes(arrow_type: pa.DataType) -> int:
    """Bytes a row of the array's fixed-width buffer: the value, or the offset of one that varies in length."""
    if pa.types.is_large_string(arrow_type) or pa.types.is_large_binary(arrow_type):
        return 8
    return int(arrow_type.byte_width)


def _arrow_array(column: ColumnLayout, values: list[Any]) -> pa.Array:
    arrow_type = column.definition.arrow_type
    if column.definition.kind is ValueKind.DECIMAL:
        return _decimal_array(values, arrow_type)
    return pa.array(values, type=arrow_type)


def _decimal_array(values: list[int | None], arrow_type: pa.DataType) -> pa.Array:
    """Decimals are held as scaled integers, which is what Arrow stores: 16 or 32 bytes, little-endian."""
    width = arrow_type.byte_width
    packed = b"".join((value or 0).to_bytes(width, "little", signed=True) for value in values)
    null_count = values.count(None)
    validity = pa.array([value is not None for value in values], pa.bool_()).buffers()[1] if null_count else None
    return pa.Array.from_buffers(arrow_type, len(values), [validity, pa.py_buffer(packed)], null_count)


# ---------------------------------------------------------------- decoders


def column_decoder(column: ColumnLayout) -> Decoder:
    """The decoder for a column's values. What each reads is said at its head."""
    digits = column.size
    match column.codec:
        case Codec.SIGNED:
            return _integer(column.size, signed=True)
        case Codec.UNSIGNED:
            return _integer(column.size, signed=False)
        case Codec.FLOAT:
            return _floating(struct.Struct("<f"))
        case Codec.DOUBLE:
            return _floating(struct.Struct("<d"))
        case Codec.DECIMAL:
            return _decimal(column.definition.precision, column.definition.scale)
        case Codec.BIT:
            return _bit(column.size, column.width)
        case Codec.YEAR:
            return _year
        case Codec.DATE:
            return _date
        case Codec.DATETIME:
            return _datetime(digits)
        case Codec.DATETIME_NUMBER:
            return _datetime_number
        case Codec.DATETIME_HIRES:
            return _datetime_hires(digits)
        case Codec.TIMESTAMP:
            return _timestamp(digits, column.width)
        case Codec.TIMESTAMP_NUMBER:
            return _timestamp_number(column.width)
        case Codec.TIMESTAMP_HIRES:
            return _timestamp_hires(digits, column.width)
        case Codec.TIME:
            return _time(digits)
        case Codec.TIME_NUMBER:
            return _time_number
        case Codec.TIME_HIRES:
            return _time_hires(digits)
        case Codec.TEXT:
            return _text(_bytes(column.size, column.width), column.charset or "")
        case Codec.BYTES:
            return _bytes(column.size, column.width)
        case Codec.PADDED_BYTES:
            return _padded(_bytes(column.size, column.width), column.width)
        case Codec.COMPRESSED_TEXT:
            return _text(_uncompressed(_bytes(column.size, column.width), column.width), column.charset or "")
        case Codec.COMPRESSED_BYTES:
            return _uncompressed(_bytes(column.size, column.width), column.width)
        case Codec.JSON:
            return _json(_bytes(column.size, column.width))
        case Codec.ENUM:
            return _member(column.size, column.width)
        case Codec.SET:
            return _member(column.size, (1 << column.width) - 1)


def _integer(size: int, *, signed: bool) -> Decoder:
    """`[0:size] little-endian, two's complement`"""

    def decode(data: bytes, pos: int) -> tuple[int, int]:
        end = pos + size
        if end > len(data):
            raise _EndsEarly
        return int.from_bytes(data[pos:end], "little", signed=signed), end

    return decode


def _floating(layout: struct.Struct) -> Decoder:
    """`[0:4] or [0:8] IEEE 754, little-endian`. No server stores NaN or infinity."""
    size, unpack = layout.size, layout.unpack_from

    def decode(data: bytes, pos: int) -> tuple[float, int]:
        end = pos + size
        if end > len(data):
            raise _EndsEarly
        value = unpack(data, pos)[0]
        if value - value != 0:  # NaN and the infinities; no other value
            raise _BadValue(f"{data[pos:end].hex()} is no finite number")
        return value, end

    return decode


def _decimal(precision: int, scale: int) -> Decoder:
    """See `decimals.decimal_reader`. Gives the number times 10**scale."""
    size, read = decimal_reader(precision, scale)

    def decode(data: bytes, pos: int) -> tuple[int, int]:
        end = pos + size
        if end > len(data):
            raise _EndsEarly
        try:
            return read(data[pos:end]), end
        except ValueError as error:
            raise _BadValue(str(error)) from None

    return decode


def _bit(size: int, bits: int) -> Decoder:
    """`[0:size] big-endian`"""

    def decode(data: bytes, pos: int) -> tuple[int, int]:
        end = pos + size
        if end > len(data):
            raise _EndsEarly
        value = int.from_bytes(data[pos:end], "big")
        if value >> bits:
            raise _BadValue(f"{value:#x} has more than {bits} bits")
        return value, end

    return decode


def _year(data: bytes, pos: int) -> tuple[int, int]:
    """`[0] years since 1900, 0 is the year 0000`"""
    if pos >= len(data):
        raise _EndsEarly
    return data[pos] and data[pos] + 1900, pos + 1


# ---- dates and times: range checks, then the packed forms of cdc/model.py


def _pack_datetime(year_month: int, day: int, hms: int, micros: int) -> int:
    """`year_month` is year * 13 + month; `hms` is hour << 12 | minute << 6 | second. Zero parts are values."""
    if year_month >= 10000 * 13 or hms >> 12 > 23 or (hms >> 6 & 63) > 59 or (hms & 63) > 59 or micros > 999999:
        raise _BadValue("no date and time")
    return (year_month << 5 | day) << 41 | hms << 24 | micros


def _date(data: bytes, pos: int) -> tuple[int, int]:
    """`[0:3] little-endian: year << 9 | month << 5 | day`, which is what we hand on."""
    end = pos + 3
    if end > len(data):
        raise _EndsEarly
    value = int.from_bytes(data[pos:end], "little")
    if value >> 9 > 9999 or (value >> 5 & 15) > 12:
        raise _BadValue(f"{value:#x} is no date")
    return value, end


# Fraction digits: bytes that they take, and what a unit of the stored number is in microseconds.
FRACTION_BYTES = (0, 1, 1, 2, 2, 3, 3)
FRACTION_UNIT = (0, 10000, 10000, 100, 100, 1, 1)


def _datetime(digits: int) -> Decoder:
    """`[0:5] big-endian, offset 2**39: (year * 13 + month) << 22 | day << 17 | hour << 12 | minute << 6 | second ·
    fraction, 0 to 3 bytes, big-endian, in 1/100, 1/10000 or 1/1000000 seconds`
    """
    fraction_bytes, unit = FRACTION_BYTES[digits], FRACTION_UNIT[digits]

    def decode(data: bytes, pos: int) -> tuple[int, int]:
        middle = pos + 5
        end = middle + fraction_bytes
        if end > len(data):
            raise _EndsEarly
        packed = int.from_bytes(data[pos:middle], "big") - (1 << 39)
        if packed < 0:
            raise _BadValue("a negative date and time")
        micros = int.from_bytes(data[middle:end], "big") * unit
        return _pack_datetime(packed >> 22, packed >> 17 & 31, packed & 0x1FFFF, micros), end

    return decode


def _datetime_number(data: bytes, pos: int) -> tuple[int, int]:
    """`[0:8] little-endian: the decimal digits YYYYMMDDhhmmss`"""
    end = pos + 8
    if end > len(data):
        raise _EndsEarly
    date, time = divmod(int.from_bytes(data[pos:end], "little"), 1000000)
    year, month, day = date // 10000, date // 100 % 100, date % 100
    if year > 9999 or month > 12 or day > 31:
        raise _BadValue("no date and time")
    hms = (time // 10000) << 12 | (time // 100 % 100) << 6 | time % 100
    if time % 100 > 59 or time // 100 % 100 > 59:
        raise _BadValue("no date and time")
    return _pack_datetime(year * 13 + month, day, hms, 0), end


# MariaDB's own fraction formats (sql/field.cc: time_hires_bytes, datetime_hires_bytes, sec_part_bytes).
TIME_HIRES_BYTES = (3, 4, 4, 5, 5, 5, 6)
DATETIME_HIRES_BYTES = (5, 6, 6, 7, 7, 7, 8)
SECOND_PART_BYTES = (0, 1, 1, 2, 2, 3, 3)
# What the zero time is stored as: 838:59:60.
TIME_HIRES_ZERO_SECONDS = 838 * 3600 + 59 * 60 + 60


def _datetime_hires(digits: int) -> Decoder:
    """`[0:6..8] big-endian: ((((year * 13 + month) * 32 + day) * 24 + hour) * 60 + minute) * 60 + second, and the
    fraction digits appended`
    """
    size, unit = DATETIME_HIRES_BYTES[digits], 10 ** (6 - digits)

    def decode(data: bytes, pos: int) -> tuple[int, int]:
        end = pos + size
        if end > len(data):
            raise _EndsEarly
        seconds, micros = divmod(int.from_bytes(data[pos:end], "big") * unit, 1000000)
        minutes, second = divmod(seconds, 60)
        hours, minute = divmod(minutes, 60)
        days, hour = divmod(hours, 24)
        return _pack_datetime(days >> 5, days & 31, hour << 12 | minute << 6 | second, micros), end

    return decode


def _timestamp_value(seconds: int, micros: int, seconds_max: int) -> int:
    if seconds > seconds_max or micros > 999999:
        raise _BadValue(f"{seconds} seconds and {micros} microseconds is no timestamp of this server")
    return seconds * 1000000 + micros


def _timestamp(digits: int, seconds_max: int) -> Decoder:
    """`[0:4] seconds, big-endian · fraction as DATETIME's`. Zero is the zero timestamp."""
    fraction_bytes, unit = FRACTION_BYTES[digits], FRACTION_UNIT[digits]

    def decode(data: bytes, pos: int) -> tuple[int, int]:
        middle = pos + 4
        end = middle + fraction_bytes
        if end > len(data):
            raise _EndsEarly
        micros = int.from_bytes(data[middle:end], "big") * unit
        return _timestamp_value(int.from_bytes(data[pos:middle], "big"), micros, seconds_max), end

    return decode


def _timestamp_number(seconds_max: int) -> Decoder:
    """`[0:4] seconds, little-endian`"""

    def decode(data: bytes, pos: int) -> tuple[int, int]:
        end = pos + 4
        if end > len(data):
            raise _EndsEarly
        return _timestamp_value(int.from_bytes(data[pos:end], "little"), 0, seconds_max), end

    return decode


def _timestamp_hires(digits: int, seconds_max: int) -> Decoder:
    """`[0:4] seconds, big-endian · the fraction digits as a number, 1 to 3 bytes, big-endian`"""
    fraction_bytes, unit = SECOND_PART_BYTES[digits], 10 ** (6 - digits)

    def decode(data: bytes, pos: int) -> tuple[int, int]:
        middle = pos + 4
        end = middle + fraction_bytes
        if end > len(data):
            raise _EndsEarly
        micros = int.from_bytes(data[middle:end], "big") * unit
        return _timestamp_value(int.from_bytes(data[pos:middle], "big"), micros, seconds_max), end

    return decode


def _time_value(hours: int, minutes: int, seconds: int, micros: int, *, is_negative: bool) -> int:
    if hours > 838 or minutes > 59 or seconds > 59 or micros > 999999:
        raise _BadValue("no time")
    value = ((hours * 60 + minutes) * 60 + seconds) * 1000000 + micros
    return -value if is_negative else value


def _time(digits: int) -> Decoder:
    """`[0:3] big-endian, offset 2**23: hour << 12 | minute << 6 | second · fraction as DATETIME's`, and all of it one
    number: of a negative time the whole is negated, so that its fraction counts down.

    Source: MySQL sql-common/my_time.cc, my_time_packed_from_binary.
    """
    fraction_bytes, unit = FRACTION_BYTES[digits], FRACTION_UNIT[digits]
    size = 3 + fraction_bytes
    fraction_bits = 8 * fraction_bytes
    fraction_mask = (1 << fraction_bits) - 1
    offset = 1 << (23 + fraction_bits)

    def decode(data: bytes, pos: int) -> tuple[int, int]:
        end = pos + size
        if end > len(data):
            raise _EndsEarly
        packed = int.from_bytes(data[pos:end], "big") - offset
        absolute = abs(packed)
        hms, micros = absolute >> fraction_bits, (absolute & fraction_mask) * unit
        return _time_value(hms >> 12, hms >> 6 & 63, hms & 63, micros, is_negative=packed < 0), end

    return decode


def _time_number(data: bytes, pos: int) -> tuple[int, int]:
    """`[0:3] little-endian, signed: the decimal digits hhmmss`"""
    end = pos + 3
    if end > len(data):
        raise _EndsEarly
    number = int.from_bytes(data[pos:end], "little", signed=True)
    absolute = abs(number)
    return _time_value(absolute // 10000, absolute // 100 % 100, absolute % 100, 0, is_negative=number < 0), end


def _time_hires(digits: int) -> Decoder:
    """`[0:4..6] big-endian: the time in units of its last digit, plus those of 838:59:60`

    Source: MariaDB sql/field.cc, Field_time_hires::store_TIME.
    """
    size, unit = TIME_HIRES_BYTES[digits], 10 ** (6 - digits)
    zero = TIME_HIRES_ZERO_SECONDS * 10**digits

    def decode(data: bytes, pos: int) -> tuple[int, int]:
        end = pos + size
        if end > len(data):
            raise _EndsEarly
        number = int.from_bytes(data[pos:end], "big") - zero
        if abs(number) >= zero:
            raise _BadValue("no time")
        return number * unit, end

    return decode


# ---- strings


def _bytes(length_bytes: int, width: int) -> Decoder:
    """`[0:length_bytes] length, little-endian · so many bytes`"""

    def decode(data: bytes, pos: int) -> tuple[bytes, int]:
        start = pos + length_bytes
        if start > len(data):
            raise _EndsEarly
        length = int.from_bytes(data[pos:start], "little")
        end = start + length
        if length > width:
            raise _BadValue(f"{length} bytes in a column of at most {width}")
        if end > len(data):
            raise _EndsEarly
        return data[start:end], end

    return decode


def _padded(inner: Decoder, width: int) -> Decoder:
    """BINARY(n) and its kin: the servers cut zero bytes off the end; they are part of the value."""

    def decode(data: bytes, pos: int) -> tuple[bytes, int]:
        raw, end = inner(data, pos)
        return raw.ljust(width, b"\0"), end

    return decode


def _text(inner: Decoder, charset: str) -> Decoder:
    to_text = text_decoder(charset)

    def decode(data: bytes, pos: int) -> tuple[str, int]:
        raw, end = inner(data, pos)
        try:
            return to_text(raw), end
        except ValueError:
            raise _NotText(raw, charset) from None

    return decode


def _uncompressed(inner: Decoder, width: int) -> Decoder:
    """MariaDB's COLUMN FORMAT COMPRESSED."""

    def decode(data: bytes, pos: int) -> tuple[bytes, int]:
        raw, end = inner(data, pos)
        return uncompress(raw, width), end

    return decode


def uncompress(raw: bytes, width: int) -> bytes:
    """A value of a compressed column, of at most `width` bytes: nothing for the empty value, or `[0] 0 · plain bytes`,
    or `[0] bits 4 to 7 the method (8, zlib), bit 3 set for a stream without zlib's wrapping, bits 0 to 2 the length's
    length · original length, big-endian · stream`

    Source: MariaDB sql/field_comp.cc.
    """
    if not raw:
        return b""
    head = raw[0]
    if head == 0:
        return raw[1:]
    length_bytes = head & 7
    start = 1 + length_bytes
    if head >> 4 != 8 or not 1 <= length_bytes <= 4 or start > len(raw):
        raise _BadValue(f"head {head:#x} of a compressed value")
    size = int.from_bytes(raw[1:start], "big")
    if size > width:
        raise _BadValue(f"compressed {size} bytes in a column of at most {width}")
    window_bits = -zlib.MAX_WBITS if head & 8 else zlib.MAX_WBITS
    try:
        return inflate(raw[start:], size, "compressed value", window_bits=window_bits)
    except MalformedEvent as error:
        raise _BadValue(error.message) from None


def _json(inner: Decoder) -> Decoder:
    def decode(data: bytes, pos: int) -> tuple[str, int]:
        raw, end = inner(data, pos)
        return _as_value(raw, lambda: json_text(raw)), end

    return decode


def _as_value(raw: bytes, make_text: Callable[[], str]) -> str:
    """The text of a JSON value, its errors as a value's."""
    try:
        return make_text()
    except MalformedEvent as error:
        raise _BadValue(error.message) from None
    except ValueError:
        raise _NotText(raw, "JSON's utf8mb4") from None


def _member(size: int, highest: int) -> Decoder:
    """ENUM's index and SET's bitmap: `[0:size] little-endian`"""

    def decode(data: bytes, pos: int) -> tuple[int, int]:
        end = pos + size
        if end > len(data):
            raise _EndsEarly
        value = int.from_bytes(data[pos:end], "little")
        if value > highest:
            raise _BadValue(f"{value:#x} is above {highest:#x}, the highest member")
        return value, end

    return decode
