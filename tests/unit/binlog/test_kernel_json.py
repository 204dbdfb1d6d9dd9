"""The compiled JSON against its twin: the same text or a refusal of both, for whole and for damaged input."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.binlog import json_text as twin
from cdc.binlog.kernel import json_text as kernel
from cdc.binlog.kernel.memory import drop_kept, kept_bytes, live_bytes
from cdc.errors import MalformedEvent
from tests.support.json_build import DOCUMENTS, KEYS, Change, Large, Scalar, changes_bytes, json_bytes, opaque


def twin_says(function: Callable[..., str], *raw: bytes) -> str | None:
    """The text, or None for a refusal: a kernel has no messages."""
    try:
        return function(*raw)
    except (MalformedEvent, ValueError):
        return None


def kernel_says(function: Callable[..., str], *raw: bytes) -> str | None:
    before = live_bytes()
    try:
        return function(*raw)
    except ValueError:
        return None
    finally:
        assert live_bytes() == before


def assert_same_text(raw: bytes) -> None:
    assert kernel_says(kernel.json_text, raw) == twin_says(twin.json_text, raw)


def assert_same_change(document: bytes, changes: bytes) -> str | None:
    said = twin_says(twin.apply_json_diffs, document, changes)
    assert kernel_says(kernel.apply_json_diffs, document, changes) == said
    return said


def damaged(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """`raw` with one to four bits flipped, bytes changed, cut out, or taken from `other`."""
    out = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        at = rng.randrange(len(out))
        match rng.randrange(6):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.randrange(256)
            case 2:
                out[at] = rng.choice(b'"\\[].$last-0123u\0\1\2')
            case 3:
                del out[at : at + rng.randint(1, 8)]
            case 4:
                start = rng.randint(0, len(other))
                out[at:at] = other[start : start + rng.randint(1, 20)]
            case _:
                del out[at:]
    return bytes(out)


# Many damages of one document, for documents take longer to draw than to read.
SEEDS = st.integers(0, 2**32)
DAMAGES = 40


# ---------------------------------------------------------------- documents


@settings(max_examples=300)
@given(DOCUMENTS)
def test_documents_print_the_same(document: Any) -> None:
    raw = json_bytes(document)
    assert kernel.json_text(raw) == twin.json_text(raw)


@given(DOCUMENTS, DOCUMENTS, SEEDS)
def test_damaged_documents_print_the_same_or_are_refused_by_both(document: Any, other: Any, seed: int) -> None:
    rng, raw, other_raw = random.Random(seed), json_bytes(document), json_bytes(other)
    for _ in range(DAMAGES):
        assert_same_text(damaged(rng, raw, other_raw))


@given(st.binary(max_size=200))
def test_any_bytes_print_the_same_or_are_refused_by_both(noise: bytes) -> None:
    assert_same_text(noise)


@given(st.sampled_from((7, 10, 11, 12)), st.one_of(st.binary(min_size=8, max_size=8), st.binary(max_size=9)))
def test_any_temporal_value_prints_the_same(column_type: int, field: bytes) -> None:
    assert_same_text(json_bytes(opaque(column_type, field)))


@given(st.integers(0, 70), st.integers(0, 40), st.binary(max_size=32))
def test_any_decimal_prints_the_same(precision: int, scale: int, field: bytes) -> None:
    raw = json_bytes(opaque(246, bytes((precision, scale)) + field))
    for size in range(len(field) + 1):  # one of them has the right size, if any has
        assert_same_text(json_bytes(opaque(246, bytes((precision, scale)) + field[:size])))
    assert_same_text(raw)


@pytest.mark.parametrize("size", [0, 1, 2, 56, 57, 58, 113, 114, 115, 10_000])
def test_blobs_print_the_same(size: int) -> None:
    assert_same_text(json_bytes(opaque(252, random.Random(size).randbytes(size))))


def array_of_doubles(values: list[float]) -> bytes:
    head = struct.pack("<II", len(values), 8 + 13 * len(values))
    entries = b"".join(struct.pack("<BI", 0x0B, 8 + 5 * len(values) + 8 * at) for at in range(len(values)))
    return b"\3" + head + entries + struct.pack(f"<{len(values)}d", *values)


def test_doubles_print_as_repr_has_their_digits() -> None:
    """Every power of two, whose neighbours are not equally far, and every power of ten, with the next to both sides."""
    middle = [math.ldexp(1.0, exponent) for exponent in range(-1074, 1024)]
    middle += [float(f"{digits}e{exponent}") for exponent in range(-323, 309) for digits in ("1", "1.5", "9.5", "4.35")]
    values = [
        near
        for value in middle
        for near in (value, -value, math.nextafter(value, math.inf), math.nextafter(value, 0.0))
        if math.isfinite(near)
    ]
    assert kernel.json_text(array_of_doubles(values)) == f"[{', '.join(map(twin.double_text, values))}]"


@pytest.mark.parametrize("seed", range(4))
def test_random_doubles_print_as_repr_has_their_digits(seed: int) -> None:
    """Any bits, few bits (subnormals), and few digits around the switches to an exponent."""
    rng = random.Random(seed)
    values: list[float] = []
    while len(values) < 20_000:
        values.append(struct.unpack("<d", rng.randbytes(8))[0])
        values.append(struct.unpack("<d", rng.getrandbits(rng.randrange(1, 53)).to_bytes(8, "little"))[0])
        values.append(rng.randrange(1, 10 ** rng.randrange(1, 18)) * 10.0 ** rng.randrange(-34, 20))
        values.append(rng.random())
    values = [value for value in values if math.isfinite(value)]
    assert kernel.json_text(array_of_doubles(values)) == f"[{', '.join(map(twin.double_text, values))}]"


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_double_prints_the_same_and_what_is_no_number_is_refused(value: float) -> None:
    assert_same_text(b"\x0b" + struct.pack("<d", value))


@pytest.mark.parametrize("odd", ['"', "\\", "\x00", "\x1f", "\n", "\x7f", "\x80", "é", "漢", "😀", "\ud7ff", "\ue000"])
def test_odd_characters_are_found_wherever_they_are(odd: str) -> None:
    """At each place of strings of each length, at the document's end and before it: eight bytes are read at once."""
    for size in range(1, 26):
        for at in range(size):
            text = "a" * at + odd + "b" * (size - at - 1)
            for document in (text, [text, "c" * 20], {text: 1}, {text: 1, text + "x" * 20: 2}):
                raw = json_bytes(document)
                assert kernel.json_text(raw) == twin.json_text(raw)


def test_text_that_is_no_utf8_is_refused_by_both() -> None:
    """Every two bytes, and three and four of the interesting ones, in a string of their own and in a longer one."""
    edges = (0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xED, 0xEF, 0xF0, 0xF4)
    pieces = [bytes((first, second)) for first in range(256) for second in range(256)]
    pieces += [bytes((a, b, c)) for a in range(0xE0, 0xF0) for b in edges for c in edges]
    pieces += [
        bytes((a, b, c, d)) for a in range(0xF0, 0xF8) for b in edges for c in (0x80, 0xC0) for d in (0x7F, 0xBF)
    ]
    for piece in pieces:
        for text in (piece, b"abcdefg" + piece + b"hijklmnop"):
            assert_same_text(bytes((0x0C, len(text))) + text)


@pytest.mark.parametrize("text", ["a", "\x01", "é", '"', "a\x01"])
def test_text_grows_over_blocks_of_memory(text: str) -> None:
    """Sizes around those of the pool's blocks, and many pieces that cross them."""
    for size in (*range(4060, 4110), 8185, 8192, 70_000):
        assert_same_text(json_bytes("x" * (size - 20) + text * 20))
        assert_same_text(json_bytes(["x" * (size % 4096), text * 10, 1.5e-300, True, 2**64 - 1]))
    for size in range(650, 720):
        assert_same_text(json_bytes([text] * size))
    assert_same_text(json_bytes(text * 70_000))


def test_every_beginning_of_a_document_is_treated_the_same() -> None:
    inner = {"a": [1, 2.5, None, "x" * 200], "b": opaque(246, b"\x05\x02\x80\x01\x0a"), "c": -(2**40), "d": {}}
    for document in (inner, Large([inner, Large(inner)]), [[[[inner]]]], "x" * 200):
        raw = json_bytes(document)
        for size in range(len(raw) + 1):
            assert_same_text(raw[:size])


def nested(depth: int) -> Any:
    document: Any = []
    for _ in range(depth - 1):
        document = [document]
    return document


def test_nesting_ends_at_the_same_depth() -> None:
    deepest = json_bytes(nested(twin.NESTING_MAX))
    assert kernel.json_text(deepest) == twin.json_text(deepest)
    deeper = json_bytes(nested(twin.NESTING_MAX + 1))
    assert kernel_says(kernel.json_text, deeper) is None
    assert twin_says(twin.json_text, deeper) is None


def test_parts_that_are_shared_a_million_times_are_refused_at_once() -> None:
    """Sixty nested arrays of two offsets each to the next: 2**60 values, if each were read every time."""
    levels = 60
    raw = bytearray(b"\2")
    for level in range(levels):
        raw += struct.pack("<HHBHBH", 2, 10 * (levels - level) + 4, 2, 10, 2, 10)
    raw += bytes((0, 0, 4, 0))
    assert kernel_says(kernel.json_text, bytes(raw)) is None


# ---------------------------------------------------------------- partial updates


def inside(value: Any) -> Any:
    return value.value if isinstance(value, Large) else value


@st.composite
def paths(draw: st.DrawFn, document: Any) -> tuple[str | int, ...]:
    """To something in the document mostly; else to what is not there, or not in a container."""
    path: list[str | int] = []
    value = inside(document)
    while True:
        if isinstance(value, list):
            index = draw(st.integers(0, len(value) + 1))
            path.append(index)
            value = inside(value[index]) if index < len(value) else None
        elif isinstance(value, dict):
            path.append(draw(st.one_of(st.sampled_from(sorted(value)), KEYS) if value else KEYS))
            value = inside(value.get(path[-1]))
        else:
            path.append(draw(st.one_of(st.integers(0, 2), KEYS)))
            return tuple(path)
        if not isinstance(value, (list, dict)) or draw(st.integers(0, 3)) == 0:
            return tuple(path)


CONTAINERS = DOCUMENTS.filter(lambda document: isinstance(inside(document), (list, dict)))


VALUES = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.text(max_size=9),
    st.sampled_from(([], {}, [1, "x", [2.5]], {"a": {"b": [1]}, "é": 1})),
)


@st.composite
def changed_documents(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A document and changes of which the greater part applies."""
    document = draw(CONTAINERS)
    raw, kept = json_bytes(document), list[Change]()
    for _ in range(draw(st.integers(1, 6))):
        change = Change(draw(st.integers(0, 2)), draw(paths(document)), draw(VALUES))
        if (
            draw(st.integers(0, 20)) == 0
            or twin_says(twin.apply_json_diffs, raw, changes_bytes([*kept, change])) is not None
        ):
            kept.append(change)
    return raw, changes_bytes(kept)


@given(changed_documents(), changed_documents(), SEEDS)
def test_changes_give_the_same_document_or_are_refused_by_both_where_damaged(
    pair: tuple[bytes, bytes], other: tuple[bytes, bytes], seed: int
) -> None:
    rng, (document, changes) = random.Random(seed), pair
    assert_same_change(document, changes)
    for _ in range(DAMAGES):
        if rng.random() < 0.6:
            assert_same_change(document, damaged(rng, changes, other[1]))
        else:
            assert_same_change(damaged(rng, document, other[0]), changes)


@given(document=CONTAINERS, path=st.text('$.["]last-0129\\nu/ aé', max_size=12), operation=st.integers(0, 3))
def test_any_path_is_understood_or_refused_by_both(document: Any, path: str, operation: int) -> None:
    raw = f"${path}".encode()
    value = b"" if operation == 2 else b"\3\5\7\0"
    assert_same_change(json_bytes(document), bytes((operation, len(raw))) + raw + value)


def test_memory_follows_the_changes_and_not_the_document() -> None:
    document = json_bytes([{"key": number} for number in range(100_000)])
    drop_kept()
    kernel.json_text(document)
    printed = kept_bytes()
    drop_kept()
    kernel.apply_json_diffs(document, changes_bytes([Change(0, (77_777, "key"), 1), Change(2, (3,))]))
    assert kept_bytes() <= printed + 4096


def test_a_chain_of_changes_of_one_place_keeps_only_the_last() -> None:
    document = json_bytes({"a": 0})
    changes = [Change(0, ("a",), {"b": number}) for number in range(500)] + [Change(0, ("a", "b"), "last")]
    assert assert_same_change(document, changes_bytes(changes)) == '{"a": {"b": "last"}}'


def test_nesting_is_limited_in_what_changes_make() -> None:
    document = json_bytes(nested(twin.NESTING_MAX - 10))
    path = (0,) * (twin.NESTING_MAX - 11)
    assert assert_same_change(document, changes_bytes([Change(1, (*path, 0), nested(10))])) is not None
    assert assert_same_change(document, changes_bytes([Change(1, (*path, 0), nested(11))])) is None


def test_a_scalar_of_a_type_that_is_none_is_refused_by_both() -> None:
    for kind in range(256):
        assert_same_text(json_bytes(Scalar(kind, bytes(8))))
        assert_same_text(json_bytes([Scalar(kind, bytes(8))]))
        assert_same_text(json_bytes(Large([Scalar(kind, bytes(8))])))
