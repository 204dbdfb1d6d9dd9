"""MySQL's binary JSON as text, exactly as the server's own SELECT (`CAST(j AS CHAR)`) prints it.

    value      type[1] and then, by type:
    object     0x00 small, 0x01 large: count[2|4] · size[2|4], both counted from here · a key entry each: offset[2|4]
               length[2] · a value entry each: type[1] offset[2|4], or the value itself where it fits · keys · values
    array      0x02 small, 0x03 large: the same without keys
    literal    0x04: 0 null, 1 true, 2 false
    numbers    0x05 int16, 0x06 uint16, 0x07 int32, 0x08 uint32, 0x09 int64, 0x0a uint64, 0x0b double
    string     0x0c: length[varint, 7 bits a byte] · UTF-8
    opaque     0x0f: column type[1] · length[varint] · bytes                        all numbers little-endian

What is in place of a value lies anywhere later in its container, never twice: the bytes of all values together are
no more than the document. That bounds the work, whatever the offsets say.

Source: MySQL sql-common/json_binary.h (format), json_binary.cc, json_dom.cc (wrapper_to_string, double_quote),
strings/dtoa.cc (my_gcvt); compared with a live server's text (tests/integration/test_binlog_types.py).
"""

from __future__ import annotations

import base64
import struct

from cdc.binlog.constants import ColumnType
from cdc.binlog.decimals import PRECISION_MAX, SCALE_MAX, decimal_reader, decimal_text
from cdc.errors import MalformedEvent

__all__ = ["NESTING_MAX", "double_text", "json_text"]

# The servers refuse documents nested deeper than 100 (JSON_DOCUMENT_MAX_DEPTH).
NESTING_MAX = 200

_SMALL_OBJECT, _LARGE_OBJECT, _SMALL_ARRAY, _LARGE_ARRAY = 0x00, 0x01, 0x02, 0x03
_LITERAL, _STRING, _OPAQUE = 0x04, 0x0C, 0x0F
_LITERALS = {0: "null", 1: "true", 2: "false"}
_DOUBLE = 0x0B
# type: bytes, signed
_INTEGERS = {
    0x05: (2, True),
    0x06: (2, False),
    0x07: (4, True),
    0x08: (4, False),
    0x09: (8, True),
    0x0A: (8, False),
}
# Values that stand in their entry instead of an offset, in small and in large containers.
_INLINE_SMALL = frozenset((_LITERAL, 0x05, 0x06))
_INLINE_LARGE = frozenset((*_INLINE_SMALL, 0x07, 0x08))

_ESCAPES = str.maketrans(
    {
        **{chr(code): f"\\u{code:04x}" for code in range(0x20)},
        "\b": "\\b",
        "\t": "\\t",
        "\n": "\\n",
        "\f": "\\f",
        "\r": "\\r",
        '"': '\\"',
        "\\": "\\\\",
    }
)


def json_text(raw: bytes) -> str:
    """The text of a JSON column's value. No bytes at all are the JSON null, as the server reads them.

    Raises:
        MalformedEvent: the bytes are no binary JSON.
        ValueError: a string in it is no UTF-8.
    """
    if not raw:
        return "null"
    document = _Document(raw)
    out: list[str] = []
    document.write(out, raw[0], 1, len(raw), 1)
    return "".join(out)


class _Document:
    """One value being written. `budget` is how many bytes are left to be read: each is read once."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.budget = len(raw)

    def _bad(self, problem: str) -> MalformedEvent:
        return MalformedEvent(f"JSON value of {len(self.raw)} bytes: {problem}")

    def _take(self, start: int, count: int, end: int) -> bytes:
        """`count` bytes from `start`, which lie before `end`."""
        if start + count > end:
            raise self._bad(f"needs {count} bytes at {start}, its container ends at {end}")
        self.budget -= count
        if self.budget < 0:
            raise self._bad("its parts overlap")
        return self.raw[start : start + count]

    def _uint(self, start: int, count: int, end: int) -> int:
        return int.from_bytes(self._take(start, count, end), "little")

    def write(self, out: list[str], kind: int, start: int, end: int, depth: int) -> None:
        """Write the value of type `kind` that begins at `start` and lies before `end`."""
        if kind in (_SMALL_OBJECT, _LARGE_OBJECT):
            self._write_container(out, start, end, depth, is_large=kind == _LARGE_OBJECT, is_object=True)
        elif kind in (_SMALL_ARRAY, _LARGE_ARRAY):
            self._write_container(out, start, end, depth, is_large=kind == _LARGE_ARRAY, is_object=False)
        elif kind == _STRING:
            length, start = self._length(start, end)
            out.append(_quoted(self._take(start, length, end)))
        elif kind == _LITERAL:
            out.append(self._literal(self._uint(start, 1, end)))
        elif kind in _INTEGERS:
            size, signed = _INTEGERS[kind]
            out.append(str(int.from_bytes(self._take(start, size, end), "little", signed=signed)))
        elif kind == _DOUBLE:
            out.append(self._double(self._take(start, 8, end)))
        elif kind == _OPAQUE:
            column_type = self._uint(start, 1, end)
            length, start = self._length(start + 1, end)
            out.append(self._opaque(column_type, self._take(start, length, end)))
        else:
            raise self._bad(f"type {kind:#x} at {start}")

    def _write_container(
        self, out: list[str], start: int, end: int, depth: int, *, is_large: bool, is_object: bool
    ) -> None:
        if depth > NESTING_MAX:
            raise self._bad(f"nested deeper than {NESTING_MAX}")
        width = 4 if is_large else 2
        count = self._uint(start, width, end)
        size = self._uint(start + width, width, end)
        # The container's own end: nothing of it lies outside, whatever its offsets say.
        inner_end = start + size
        key_at = start + 2 * width
        value_at = key_at + (width + 2) * count * is_object
        if inner_end > end or value_at + (1 + width) * count > inner_end:
            raise self._bad(f"{count} members do not fit into {size} bytes at {start}")
        inline = _INLINE_LARGE if is_large else _INLINE_SMALL
        out.append("{" if is_object else "[")
        for index in range(count):
            if index:
                out.append(", ")
            if is_object:
                entry = key_at + index * (width + 2)
                offset = self._uint(entry, width, inner_end)
                length = self._uint(entry + width, 2, inner_end)
                out.append(_quoted(self._take(start + offset, length, inner_end)))
                out.append(": ")
            entry = value_at + index * (1 + width)
            kind = self._uint(entry, 1, inner_end)
            if kind in inline:
                out.append(self._inlined(kind, self._take(entry + 1, width, inner_end)))
            else:
                offset = self._uint(entry + 1, width, inner_end)
                self.write(out, kind, start + offset, inner_end, depth + 1)
        out.append("}" if is_object else "]")

    def _inlined(self, kind: int, field: bytes) -> str:
        if kind == _LITERAL:
            return self._literal(int.from_bytes(field, "little"))
        size, signed = _INTEGERS[kind]
        return str(int.from_bytes(field[:size], "little", signed=signed))

    def _literal(self, value: int) -> str:
        if value not in _LITERALS:
            raise self._bad(f"literal {value:#x}")
        return _LITERALS[value]

    def _double(self, field: bytes) -> str:
        value: float = struct.unpack("<d", field)[0]
        if value - value != 0:
            raise self._bad(f"{field.hex()} is no finite number")
        return double_text(value)

    def _length(self, start: int, end: int) -> tuple[int, int]:
        """A length of up to five bytes, seven bits each, the low ones first; and where it ends."""
        length = 0
        for index in range(5):
            byte = self._uint(start + index, 1, end)
            length |= (byte & 0x7F) << 7 * index
            if not byte & 0x80:
                return length, start + index + 1
        raise self._bad(f"no length at {start}")

    def _opaque(self, column_type: int, field: bytes) -> str:
        if column_type == ColumnType.NEWDECIMAL:
            return self._decimal(field)
        if column_type in (ColumnType.DATE, ColumnType.DATETIME, ColumnType.TIMESTAMP, ColumnType.TIME):
            if len(field) != 8:
                raise self._bad(f"a temporal value of {len(field)} bytes")
            packed = int.from_bytes(field, "little", signed=True)
            if column_type == ColumnType.TIME:
                return f'"{_time_text(packed)}"'
            return f'"{_datetime_text(packed, has_time=column_type != ColumnType.DATE)}"'
        # The server's base64 breaks lines after 76 characters, and the line break is escaped like any other.
        encoded = base64.encodebytes(field).decode("ascii").rstrip("\n").replace("\n", "\\n")
        return f'"base64:type{column_type}:{encoded}"'

    def _decimal(self, field: bytes) -> str:
        """`[0] precision · [1] scale · [2:] the binary form`"""
        if len(field) < 2 or not 0 < field[0] <= PRECISION_MAX or field[1] > min(SCALE_MAX, field[0]):
            raise self._bad(f"decimal {field[:40].hex()}")
        size, read = decimal_reader(field[0], field[1])
        if len(field) != 2 + size:
            raise self._bad(f"decimal({field[0]},{field[1]}) of {len(field) - 2} bytes")
        try:
            return decimal_text(read(field[2:]), field[1])
        except ValueError as error:
            raise self._bad(str(error)) from None


def _quoted(raw: bytes) -> str:
    return f'"{raw.decode("utf-8").translate(_ESCAPES)}"'


def _time_text(packed: int) -> str:
    """`hour << 36 | minute << 30 | second << 24 | microsecond`, negated as a whole."""
    absolute = abs(packed)
    hms, micros = absolute >> 24, absolute & 0xFFFFFF
    sign = "-" if packed < 0 else ""
    return f"{sign}{hms >> 12 & 1023:02}:{hms >> 6 & 63:02}:{hms & 63:02}.{micros:06}"


def _datetime_text(packed: int, *, has_time: bool) -> str:
    """The packed form of cdc/model.py's DATETIME."""
    absolute = abs(packed)
    date, hms, micros = absolute >> 41, absolute >> 24 & 0x1FFFF, absolute & 0xFFFFFF
    year, month = divmod(date >> 5, 13)
    text = f"{year:04}-{month:02}-{date & 31:02}"
    if has_time:
        text += f" {hms >> 12:02}:{hms >> 6 & 63:02}:{hms & 63:02}.{micros:06}"
    return text


def double_text(value: float) -> str:
    """A finite double as the server prints it in JSON: the fewest digits that read back the same; without exponent
    from 1e-15 to 1e15 and wherever there is a fraction; `.0` where nothing else tells it from an integer.

    Source: MySQL strings/dtoa.cc my_gcvt; json_dom.cc, Json_double.
    """
    mantissa, _, exponent = repr(value).partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    # the point stands after this many digits
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if not digits:
        return f"{sign}0.0"
    if -14 <= point <= 15 or 15 < point < len(digits):
        if point <= 0:
            return f"{sign}0.{'0' * -point}{digits}"
        if point >= len(digits):
            return f"{sign}{digits}{'0' * (point - len(digits))}.0"
        return f"{sign}{digits[:point]}.{digits[point:]}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1}"
