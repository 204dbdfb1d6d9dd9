"""Make MySQL's binary JSON and partial updates of it out of values: what the printing of JSON is held against.

Written from the format's description, sharing no code with cdc/binlog. What Python has no type for is a `Scalar`;
`Large` asks for four-byte offsets where two would do.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

__all__ = [
    "DOCUMENTS",
    "Change",
    "Large",
    "Scalar",
    "changes_bytes",
    "json_bytes",
    "length_bytes",
    "opaque",
    "path_text",
]


@dataclass(frozen=True)
class Scalar:
    """A value by its type and bytes."""

    kind: int
    raw: bytes


@dataclass(frozen=True)
class Large:
    """A list or dict with four-byte offsets."""

    value: Any


def length_bytes(value: int) -> bytes:
    """Seven bits a byte, the low ones first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def opaque(column_type: int, raw: bytes) -> Scalar:
    return Scalar(0x0F, bytes((column_type,)) + length_bytes(len(raw)) + raw)


def json_bytes(value: Any) -> bytes:
    """The document: small containers, and large ones where 64 KiB do not do or where asked for."""
    kind, raw = _value(value)
    return bytes((kind,)) + raw


def _value(value: Any) -> tuple[int, bytes]:
    if isinstance(value, Scalar):
        return value.kind, value.raw
    if value is None or isinstance(value, bool):
        return 0x04, bytes(({None: 0, True: 1, False: 2}[value],))
    if isinstance(value, int):
        for kind, size, signed in ((0x05, 2, True), (0x07, 4, True), (0x09, 8, True), (0x0A, 8, False)):
            if (-(2 ** (size * 8 - 1)) <= value < 2 ** (size * 8 - 1)) if signed else 0 <= value < 2**64:
                return kind, value.to_bytes(size, "little", signed=signed)
    if isinstance(value, float):
        return 0x0B, struct.pack("<d", value)
    if isinstance(value, str):
        raw = value.encode()
        return 0x0C, length_bytes(len(raw)) + raw
    asked = isinstance(value, Large)
    inner = value.value if isinstance(value, Large) else value
    if isinstance(inner, (list, dict)):
        for is_large in (asked, True):
            body = _container(inner, is_large=is_large)
            if is_large or len(body) < 1 << 16:
                return (0x00 if isinstance(inner, dict) else 0x02) + is_large, body
    raise TypeError(value)


def _container(value: list[Any] | dict[str, Any], *, is_large: bool) -> bytes:
    width = 4 if is_large else 2
    mask = (1 << 8 * width) - 1  # what is too large for two bytes is thrown away by the caller
    inline = (0x04, 0x05, 0x06, *((0x07, 0x08) if is_large else ()))
    items: list[tuple[bytes, Any]] = []
    if isinstance(value, dict):
        # as the server stores them: by length, then by bytes
        items = sorted(((key.encode(), one) for key, one in value.items()), key=lambda item: (len(item[0]), item[0]))
    values = [one for _, one in items] if isinstance(value, dict) else value
    offset = 2 * width + len(items) * (width + 2) + len(values) * (1 + width)
    head, tail = bytearray(), bytearray()
    for key, _ in items:
        head += (offset + len(tail) & mask).to_bytes(width, "little") + len(key).to_bytes(2, "little")
        tail += key
    for one in values:
        kind, raw = _value(one)
        head.append(kind)
        if kind in inline:
            head += raw.ljust(width, b"\xff" if kind in (0x05, 0x07) and raw[-1] & 0x80 else b"\0")
        else:
            head += (offset + len(tail) & mask).to_bytes(width, "little")
            tail += raw
    size = 2 * width + len(head) + len(tail)
    return (len(values) & mask).to_bytes(width, "little") + (size & mask).to_bytes(width, "little") + head + tail


# ---------------------------------------------------------------- partial updates


@dataclass(frozen=True)
class Change:
    """One diff: 0 REPLACE, 1 INSERT, 2 REMOVE (which has no value); `path` of names and indexes."""

    operation: int
    path: tuple[str | int, ...]
    value: Any = None


def path_text(path: Sequence[str | int]) -> str:
    """As the server prints it: names that are no identifiers in quotes."""
    legs = ["$"]
    for leg in path:
        if isinstance(leg, int):
            legs.append(f"[{leg}]")
        elif re.fullmatch(r"[A-Za-z_$][A-Za-z0-9_$]*", leg):
            legs.append(f".{leg}")
        else:
            legs.append(f".{json.dumps(leg, ensure_ascii=False)}")
    return "".join(legs)


def _prefixed(raw: bytes) -> bytes:
    if len(raw) < 251:
        return bytes((len(raw),)) + raw
    if len(raw) < 1 << 16:
        return b"\xfc" + len(raw).to_bytes(2, "little") + raw
    return b"\xfd" + len(raw).to_bytes(3, "little") + raw


def changes_bytes(changes: Iterable[Change]) -> bytes:
    """The diffs, without the length of them all."""
    out = bytearray()
    for change in changes:
        out.append(change.operation)
        out += _prefixed(path_text(change.path).encode())
        if change.operation != 2:
            out += _prefixed(json_bytes(change.value))
    return bytes(out)


# ---------------------------------------------------------------- strategies

_DIGIT_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)


@st.composite
def _decimals(draw: st.DrawFn) -> Scalar:
    precision = draw(st.integers(1, 65))
    scale = draw(st.integers(0, min(30, precision)))
    whole = precision - scale
    counts = [whole % 9, *[9] * (whole // 9), *[9] * (scale // 9), scale % 9]
    digits = [draw(st.integers(0, 10**count - 1)) for count in counts]
    raw = bytearray(
        b"".join(number.to_bytes(_DIGIT_BYTES[count], "big") for number, count in zip(digits, counts, strict=True))
    )
    raw[0] ^= 0x80
    if draw(st.booleans()):
        raw = bytearray(byte ^ 0xFF for byte in raw)
    return opaque(246, bytes((precision, scale)) + raw)


_DATES = st.builds(
    lambda year, month, day, clock: ((year * 13 + month) << 5 | day) << 41 | clock,
    st.integers(0, 9999),
    st.integers(0, 12),
    st.integers(0, 31),
    st.builds(
        lambda hour, minute, second, micro: hour << 36 | minute << 30 | second << 24 | micro,
        st.integers(0, 23),
        st.integers(0, 59),
        st.integers(0, 59),
        st.integers(0, 999_999),
    ),
)
_TIMES = st.builds(
    lambda hour, minute, second, micro, sign: sign * (hour << 36 | minute << 30 | second << 24 | micro),
    st.integers(0, 838),
    st.integers(0, 59),
    st.integers(0, 59),
    st.integers(0, 999_999),
    st.sampled_from((1, -1)),
)


def _packed(value: int) -> bytes:
    return value.to_bytes(8, "little", signed=True)


# Doubles near the switch to an exponent and of few digits, besides those that hypothesis thinks of.
_DOUBLES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.builds(lambda digits, exponent: digits * 10.0**exponent, st.integers(-(10**17), 10**17), st.integers(-34, 20)),
    st.integers(-1074, 1023).map(lambda exponent: 2.0**exponent),
)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-40_000, 40_000),
    _DOUBLES,
    st.text(max_size=40),
    st.text('aé"\\\n\x01漢😀', max_size=300),
    st.integers(0, 2**16 - 1).map(lambda value: Scalar(0x06, value.to_bytes(2, "little"))),
    st.integers(0, 2**32 - 1).map(lambda value: Scalar(0x08, value.to_bytes(4, "little"))),
    _decimals(),
    st.builds(lambda kind, value: opaque(kind, _packed(value)), st.sampled_from((7, 10, 12)), _DATES),
    _TIMES.map(lambda value: opaque(11, _packed(value))),
    st.builds(opaque, st.sampled_from((15, 16, 252, 253, 254)), st.binary(max_size=200)),
)
KEYS = st.one_of(st.text(max_size=12), st.sampled_from(("a", "b", "key", "odd key", 'q"uote', "")))
DOCUMENTS: st.SearchStrategy[Any] = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=8),
        st.dictionaries(KEYS, inner, max_size=8),
        st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)).map(Large),
    ),
    max_leaves=30,
)
