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

A partial update (`binlog_row_value_options=PARTIAL_JSON`) is a number of changes of the document before:

    change     operation[1]: 0 REPLACE, 1 INSERT, 2 REMOVE · path length[lenenc] · path · unless it is REMOVE: value
               length[lenenc] · value, a document as above
    path       `$`, then a `.name`, `."a name\\n"` (escaped as in JSON's text), `[3]`, `[last]` or `[last-3]` each step

Source: MySQL sql-common/json_binary.h (format), json_binary.cc, json_dom.cc (wrapper_to_string, double_quote),
strings/dtoa.cc (my_gcvt); json_diff.cc, json_path.cc (Json_path_leg::to_string). Compared with a live server's text
(tests/integration/test_binlog_types.py, test_partial_json.py). The compiled twin is kernel/json_text.pyx.
"""

from __future__ import annotations

import base64
import bisect
import re
import struct
from dataclasses import dataclass

from cdc.binlog.constants import ColumnType
from cdc.binlog.cursor import Cursor
from cdc.binlog.decimals import PRECISION_MAX, SCALE_MAX, decimal_reader, decimal_text
from cdc.errors import MalformedEvent

__all__ = ["NESTING_MAX", "apply_json_diffs", "double_text", "json_text"]

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


def apply_json_diffs(document: bytes, diffs: bytes) -> str:
    """The text of a JSON column's value after the changes of a partial update: `document` is its value before.

    What is not printed in the end is read only so far as the way to the changes needs it.

    Raises:
        MalformedEvent: the bytes are no binary JSON or no changes, or a change does not apply to the document: nothing
            is there, or there is something already where a member is to be inserted.
        ValueError: a string in what the document is now is no UTF-8.
    """
    root: _Value | _Container = _Document(document).root()
    cursor = Cursor(diffs, "changes of a JSON value")
    while cursor.left:
        operation = cursor.uint(1)
        if operation not in (_REPLACE, _INSERT, _REMOVE):
            raise cursor.fail(f"operation {operation}")
        path = cursor.take(cursor.lenenc())
        value = None
        if operation != _REMOVE:
            value = _Document(cursor.take(cursor.lenenc()))
            if not value.raw:
                raise cursor.fail("no value")
        *way, last = _path_legs(path)
        root = target = _opened(root, path)
        for leg in way:
            index = target.find(leg, path)
            inner = _opened(target.members[index], path)
            target.members[index] = inner
            target = inner
        if value is None:
            target.remove(last, path)
        elif operation == _INSERT:
            target.insert(last, value.root(), path)
        else:
            target.members[target.find(last, path)] = value.root()
    out: list[str] = []
    _write_changed(out, root, 1)
    return "".join(out)


class _Document:
    """One value being written. `budget` is how many bytes are left to be read: each is read once."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.budget = len(raw)

    def root(self) -> _Value:
        """The document as a value; no bytes at all are the JSON null."""
        if not self.raw:
            return _Value(self, _LITERAL, 0, 0, b"\0")
        return _Value(self, self.raw[0], 1, len(self.raw))

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
        self.check_depth(depth)
        width, count, key_at, value_at, inner_end = self._head(start, end, is_large=is_large, is_object=is_object)
        inline = _INLINE_LARGE if is_large else _INLINE_SMALL
        out.append("{" if is_object else "[")
        for index in range(count):
            if index:
                out.append(", ")
            if is_object:
                out.append(_quoted(self._key(key_at + index * (width + 2), width, start, inner_end)))
                out.append(": ")
            entry = value_at + index * (1 + width)
            kind = self._uint(entry, 1, inner_end)
            if kind in inline:
                out.append(self.inlined(kind, self._take(entry + 1, width, inner_end)))
            else:
                offset = self._uint(entry + 1, width, inner_end)
                self.write(out, kind, start + offset, inner_end, depth + 1)
        out.append("}" if is_object else "]")

    def check_depth(self, depth: int) -> None:
        if depth > NESTING_MAX:
            raise self._bad(f"nested deeper than {NESTING_MAX}")

    def _head(self, start: int, end: int, *, is_large: bool, is_object: bool) -> tuple[int, int, int, int, int]:
        """Of a container at `start`: width of offsets, count of members, where its entries of keys and those of values
        begin, and its own end: nothing of it lies outside, whatever its offsets say.
        """
        width = 4 if is_large else 2
        count = self._uint(start, width, end)
        size = self._uint(start + width, width, end)
        inner_end = start + size
        key_at = start + 2 * width
        value_at = key_at + (width + 2) * count * is_object
        if inner_end > end or value_at + (1 + width) * count > inner_end:
            raise self._bad(f"{count} members do not fit into {size} bytes at {start}")
        return width, count, key_at, value_at, inner_end

    def _key(self, entry: int, width: int, start: int, inner_end: int) -> bytes:
        offset = self._uint(entry, width, inner_end)
        length = self._uint(entry + width, 2, inner_end)
        return self._take(start + offset, length, inner_end)

    def open(self, kind: int, start: int, end: int) -> _Container:
        """The container of type `kind` that begins at `start`, its members still as bytes."""
        is_object, is_large = kind in (_SMALL_OBJECT, _LARGE_OBJECT), kind in (_LARGE_OBJECT, _LARGE_ARRAY)
        width, count, key_at, value_at, inner_end = self._head(start, end, is_large=is_large, is_object=is_object)
        inline = _INLINE_LARGE if is_large else _INLINE_SMALL
        names: list[tuple[int, bytes]] = []
        members: list[_Value | _Container] = []
        for index in range(count):
            if is_object:
                key = self._key(key_at + index * (width + 2), width, start, inner_end)
                if names and (len(key), key) <= names[-1]:
                    raise self._bad(f"key {key.hex()} is out of order")
                names.append((len(key), key))
            entry = value_at + index * (1 + width)
            member_kind = self._uint(entry, 1, inner_end)
            field = self._take(entry + 1, width, inner_end)
            if member_kind in inline:
                members.append(_Value(self, member_kind, 0, 0, field))
            else:
                members.append(_Value(self, member_kind, start + int.from_bytes(field, "little"), inner_end))
        return _Container(self, names if is_object else None, members)

    def inlined(self, kind: int, field: bytes) -> str:
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


# ---------------------------------------------------------------- partial updates

_REPLACE, _INSERT, _REMOVE = 0, 1, 2

# The server puts names that are no ECMAScript identifiers in quotes. Which of the letters that are not ASCII it takes
# for letters does not matter here: only ASCII ends a name.
_LEG = re.compile(
    rb"\.(?P<name>[A-Za-z_$\x80-\xff][A-Za-z0-9_$\x80-\xff]*)"
    rb'|\."(?P<quoted>(?:[^"\\\x00-\x1f]|\\(?:["\\bfnrt]|u00[01][0-9a-f]))*)"'
    rb"|\[(?P<last>last(?P<minus>-)?)?(?P<index>(?(last)(?(minus)[0-9]{1,10})|[0-9]{1,10}))\]"
)
_ESCAPE = re.compile(rb"\\(?:([^u])|u(....))")
_UNESCAPED = {b"b": b"\b", b"t": b"\t", b"n": b"\n", b"f": b"\f", b"r": b"\r"}
_INDEX_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class _Index:
    """A step into an array. `is_from_end`: 0 is the last member."""

    number: int
    is_from_end: bool

    def of(self, count: int) -> int:
        """The place that it means in an array of so many members: not in it where there is none."""
        return count - 1 - self.number if self.is_from_end else self.number


_Leg = bytes | _Index


def _path_legs(path: bytes) -> list[_Leg]:
    """The steps of a path, one at least: the server logs the whole document rather than change the root."""
    legs: list[_Leg] = []
    at = 1
    while at < len(path) and (found := _LEG.match(path, at)):
        at = found.end()
        if found["name"] is not None:
            legs.append(found["name"])
        elif found["quoted"] is not None:
            legs.append(_ESCAPE.sub(_unescaped, found["quoted"]))
        else:
            number = int(found["index"] or b"0")
            if number > _INDEX_MAX:
                break
            legs.append(_Index(number, is_from_end=found["last"] is not None))
    if not legs or at != len(path) or path[:1] != b"$":
        raise MalformedEvent(f"path {path!r} in a change of a JSON value")
    return legs


def _unescaped(found: re.Match[bytes]) -> bytes:
    if found[2] is not None:
        return bytes((int(found[2], 16),))
    return _UNESCAPED.get(found[1], found[1])


@dataclass(slots=True)
class _Value:
    """A value where a document has it; `field` is that of its entry, where the value stands in there."""

    document: _Document
    kind: int
    start: int
    end: int
    field: bytes | None = None


class _Container:
    """A container with its changes. `names` has (length, key) of an object's members: they are kept in that order."""

    def __init__(
        self, document: _Document, names: list[tuple[int, bytes]] | None, members: list[_Value | _Container]
    ) -> None:
        self.document = document
        self.names = names
        self.members = members

    def _place(self, leg: _Leg, path: bytes) -> tuple[int, bool]:
        """Where the member is, or would be; and whether it is there."""
        if isinstance(leg, _Index):
            if self.names is not None:
                raise _does_not_apply(path, "an index into an object")
            index = leg.of(len(self.members))
            return min(max(index, 0), len(self.members)), 0 <= index < len(self.members)
        if self.names is None:
            raise _does_not_apply(path, "a name in an array")
        index = bisect.bisect_left(self.names, (len(leg), leg))
        return index, index < len(self.names) and self.names[index][1] == leg

    def find(self, leg: _Leg, path: bytes) -> int:
        index, is_there = self._place(leg, path)
        if not is_there:
            raise _does_not_apply(path, "it is not there")
        return index

    def remove(self, leg: _Leg, path: bytes) -> None:
        index = self.find(leg, path)
        del self.members[index]
        if self.names is not None:
            del self.names[index]

    def insert(self, leg: _Leg, value: _Value, path: bytes) -> None:
        """Before the member that an index names; what is beyond an end of the array comes to that end."""
        index, is_there = self._place(leg, path)
        if isinstance(leg, bytes) and self.names is not None:
            if is_there:
                raise _does_not_apply(path, "it is there already")
            self.names.insert(index, (len(leg), leg))
        self.members.insert(index, value)


def _does_not_apply(path: bytes, problem: str) -> MalformedEvent:
    return MalformedEvent(f"change of a JSON value at {path!r}: {problem}")


def _opened(value: _Value | _Container, path: bytes) -> _Container:
    if isinstance(value, _Container):
        return value
    if value.field is not None or value.kind not in (_SMALL_OBJECT, _LARGE_OBJECT, _SMALL_ARRAY, _LARGE_ARRAY):
        raise _does_not_apply(path, "not in an object or array")
    return value.document.open(value.kind, value.start, value.end)


def _write_changed(out: list[str], value: _Value | _Container, depth: int) -> None:
    document = value.document
    if isinstance(value, _Value):
        if value.field is not None:
            out.append(document.inlined(value.kind, value.field))
        else:
            document.write(out, value.kind, value.start, value.end, depth)
        return
    document.check_depth(depth)
    out.append("[" if value.names is None else "{")
    for index, member in enumerate(value.members):
        if index:
            out.append(", ")
        if value.names is not None:
            out.append(f"{_quoted(value.names[index][1])}: ")
        _write_changed(out, member, depth + 1)
    out.append("]" if value.names is None else "}")


# ---------------------------------------------------------------- text


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
