"""Damage, by a random generator that is passed in: the same seed gives the same damage."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence

import pyarrow as pa

from cdc.binlog.constants import CHECKSUM_BYTES, EVENT_HEADER_BYTES, EventType
from cdc.binlog.events import inflated_payload, parse_transaction_payload
from cdc.binlog.framing import Event, EventHeader
from cdc.errors import ProtocolError

__all__ = ["damage", "damage_event", "damage_events"]

# Bytes and numbers that stand at the borders of something: lengths, signs, forms of a length.
_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE, 0xFF)
_NUMBERS = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**63,
    2**64 - 1,
)


def _flip(rng: random.Random, raw: bytearray, _others: Sequence[bytes]) -> None:
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, raw: bytearray, _others: Sequence[bytes]) -> None:
    raw[rng.randrange(len(raw))] = rng.choice(_BYTES) if rng.random() < 0.7 else rng.randrange(256)


def _add(rng: random.Random, raw: bytearray, _others: Sequence[bytes]) -> None:
    at = rng.randrange(len(raw))
    raw[at] = (raw[at] + rng.choice((-2, -1, 1, 2, 16, -16))) & 0xFF


def _number(rng: random.Random, raw: bytearray, _others: Sequence[bytes]) -> None:
    """A number of two, four or eight bytes: one of the borders, or about how many bytes there are."""
    size = rng.choice((2, 4, 8))
    at = rng.randrange(len(raw))
    number = rng.choice(_NUMBERS) if rng.random() < 0.6 else len(raw) - at + rng.randrange(-9, 10)
    end = min(at + size, len(raw))
    order = "little" if rng.random() < 0.8 else "big"
    raw[at:end] = (number & (1 << 8 * size) - 1).to_bytes(size, "little" if order == "little" else "big")[: end - at]


def _cut(rng: random.Random, raw: bytearray, _others: Sequence[bytes]) -> None:
    del raw[rng.randrange(len(raw)) :]


def _remove(rng: random.Random, raw: bytearray, _others: Sequence[bytes]) -> None:
    at = rng.randrange(len(raw))
    del raw[at : at + rng.choice((1, 1, 2, 4, 8, rng.randrange(1, 40)))]


def _insert(rng: random.Random, raw: bytearray, _others: Sequence[bytes]) -> None:
    at = rng.randrange(len(raw) + 1)
    raw[at:at] = rng.randbytes(rng.choice((1, 1, 2, 4, 8)))


def _repeat(rng: random.Random, raw: bytearray, _others: Sequence[bytes]) -> None:
    at = rng.randrange(len(raw))
    piece = raw[at : at + rng.randrange(1, 33)]
    raw[at:at] = piece * rng.choice((1, 1, 2, 8))


def _move(rng: random.Random, raw: bytearray, _others: Sequence[bytes]) -> None:
    """Copy a piece over another place."""
    source, target = rng.randrange(len(raw)), rng.randrange(len(raw))
    piece = raw[source : source + rng.randrange(1, 17)]
    raw[target : target + len(piece)] = piece


def _splice(rng: random.Random, raw: bytearray, others: Sequence[bytes]) -> None:
    """The begin of this and the end of another."""
    other = rng.choice(others)
    raw[rng.randrange(len(raw)) :] = other[rng.randrange(len(other) + 1) :]


_DAMAGES: tuple[tuple[Callable[[random.Random, bytearray, Sequence[bytes]], None], int], ...] = (
    (_flip, 5),
    (_set, 5),
    (_add, 3),
    (_number, 4),
    (_cut, 2),
    (_remove, 2),
    (_insert, 2),
    (_repeat, 1),
    (_move, 2),
    (_splice, 1),
)
_KINDS = [kind for kind, _ in _DAMAGES]
_WEIGHTS = [weight for _, weight in _DAMAGES]


def damage(rng: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    """`raw` after one to a few changes; `others` are what it may be spliced with."""
    out = bytearray(raw)
    for kind in rng.choices(_KINDS, _WEIGHTS, k=rng.choice((1, 1, 1, 2, 3, 6))):
        if out:
            kind(rng, out, others or (b"\0",))
        else:
            out += rng.randbytes(rng.randrange(8))
    return bytes(out)


def damage_event(rng: random.Random, content: bytes, others: Sequence[bytes], *, has_checksum: bool) -> bytes:
    """A whole event with its body damaged; mostly with the size and the checksum that go with it, so that more than
    the framing gets to see it."""
    if rng.random() < 0.08 or len(content) < EVENT_HEADER_BYTES + CHECKSUM_BYTES:
        return damage(rng, content, others)
    end = len(content) - CHECKSUM_BYTES * has_checksum
    header = bytearray(content[:EVENT_HEADER_BYTES])
    body = content[EVENT_HEADER_BYTES:end]
    choice = rng.random()
    inside = _damage_inside(rng, content[4], body, others) if choice < 0.6 else None
    if inside is not None:
        body = inside
    elif choice < 0.8:
        body = damage(rng, body, [other[EVENT_HEADER_BYTES:] for other in others])
    elif choice < 0.9 and others:
        other = rng.choice(others)
        header[4] = other[4] if len(other) > 4 and rng.random() < 0.7 else rng.randrange(256)
    else:
        header = bytearray(damage(rng, bytes(header), ())[:EVENT_HEADER_BYTES].ljust(EVENT_HEADER_BYTES, b"\0"))
    return _sealed(bytes(header), body, has_checksum=has_checksum)


def _sealed(header: bytes, body: bytes, *, has_checksum: bool) -> bytes:
    size = EVENT_HEADER_BYTES + len(body) + CHECKSUM_BYTES * has_checksum
    content = header[:9] + size.to_bytes(4, "little") + header[13:] + body
    return content + zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "little") if has_checksum else content


def _damage_inside(rng: random.Random, event_type: int, body: bytes, others: Sequence[bytes]) -> bytes | None:
    """What is compressed in the body damaged and packed again; None where nothing is."""
    if event_type == EventType.TRANSACTION_PAYLOAD:
        return _damage_payload(rng, body, others)
    if event_type >= EventType.MARIADB_QUERY_COMPRESSED:
        # The record is at the end; where it begins, its head and the stream's own tell.
        for at in range(len(body) - 5):
            head = body[at]
            if head & 0xF8 == 0x80 and 1 <= head & 7 <= 4 and body[at + 1 + (head & 7)] == 0x78:
                break
        else:
            return None
        stream = zlib.decompressobj()
        try:
            record = damage(rng, stream.decompress(body[at + 1 + (head & 7) :], 1 << 20), ())
        except zlib.error:
            return None
        before = damage(rng, body[:at], ()) if rng.random() < 0.2 else body[:at]
        return before + b"\x84" + len(record).to_bytes(4, "big") + zlib.compress(record, 1)
    return None


def _damage_payload(rng: random.Random, body: bytes, others: Sequence[bytes]) -> bytes | None:
    """A compressed transaction whose events are damaged: packed as it was, or not at all."""
    header = EventHeader(0, EventType.TRANSACTION_PAYLOAD, 1, 0, 0, 0)
    try:
        payload = parse_transaction_payload(Event(header, body))
        raw = b"".join(inflated_payload(payload, payload_bytes_max=1 << 20))
    except ProtocolError:
        return None
    inner = []
    while raw:
        size = int.from_bytes(raw[9:13], "little")
        inner.append(raw[: max(size, 1)])
        raw = raw[max(size, 1) :]
    more = [other for other in others if len(other) >= EVENT_HEADER_BYTES]
    raw = b"".join(damage_events(rng, inner, more, has_checksum=False))
    is_packed = rng.random() < 0.5
    packed = pa.compress(raw, codec="zstd", asbytes=True) if is_packed else raw

    def field(kind: int, value: bytes) -> bytes:
        return bytes((kind, len(value))) + value

    def number(value: int) -> bytes:
        return b"\xfe" + value.to_bytes(8, "little")

    fields = field(2, number(0 if is_packed else 255)) + field(3, number(len(raw))) + field(1, number(len(packed)))
    return fields + b"\0" + packed


def damage_events(
    rng: random.Random, events: Sequence[bytes], others: Sequence[bytes], *, has_checksum: bool
) -> list[bytes]:
    """A sequence of events: some damaged, left out, doubled, exchanged, or from elsewhere."""
    out = list(events)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not out:
            break
        at = rng.randrange(len(out))
        choice = rng.random()
        if choice < 0.7:
            out[at] = damage_event(rng, out[at], others, has_checksum=has_checksum)
        elif choice < 0.78:
            del out[at]
        elif choice < 0.86:
            out.insert(at, out[rng.randrange(len(out))])
        elif choice < 0.93:
            to = rng.randrange(len(out))
            out[at], out[to] = out[to], out[at]
        elif others:
            out.insert(at, rng.choice(others))
    return out
