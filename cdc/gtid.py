"""Global transaction identifiers: MySQL's sets (with tags) and MariaDB's one-sequence-a-domain lists.

Text in, value out, algebra in between; knows nothing of sockets or SQL. Binary forms are the ones of
COM_BINLOG_DUMP_GTID.

Source: MySQL manual "GTID Format and Storage"; MySQL sql/rpl_gtid_set.cc (tag format of 8.3 and later);
MariaDB knowledge base "Global Transaction ID".
"""

from __future__ import annotations

import re
import struct
import uuid
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["MariadbGtidList", "MysqlGtidSet", "parse_mysql_gtid"]

# A source: the server (or group) UUID and the tag, "" where there is none.
Source = tuple[str, str]
Interval = tuple[int, int]  # first and last transaction number, both inside

_TAG = re.compile(r"[a-z_][a-z0-9_]{0,31}\Z")
_NUMBER = re.compile(r"\s*[0-9]+\s*\Z")
# MySQL's GNO_END: the transaction number after the last legal one.
_NUMBER_END = 2**63 - 1


def parse_mysql_gtid(text: str) -> tuple[Source, int]:
    """Parse one GTID, `uuid:number` or `uuid:tag:number`.

    Raises ValueError when it is not one.
    """
    parts = text.strip().split(":")
    if len(parts) not in (2, 3):
        raise ValueError(f"not a GTID: {text!r}")
    number = _parse_number(parts[-1])
    if not 0 < number < _NUMBER_END:
        raise ValueError(f"not a GTID: {text!r}")
    tag = _parse_tag(parts[1]) if len(parts) == 3 else ""
    return (_parse_uuid(parts[0]), tag), number


def _parse_uuid(text: str) -> str:
    return str(uuid.UUID(text.strip()))


def _parse_number(text: str) -> int:
    """Plain digits: int() alone would also take signs, underscores and the digits of other scripts."""
    if not _NUMBER.match(text):
        raise ValueError(f"not a transaction number: {text!r}")
    return int(text)


def _parse_tag(text: str) -> str:
    tag = text.strip().lower()
    if not _TAG.match(tag):
        raise ValueError(f"not a GTID tag: {text!r}")
    return tag


def _normalized(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    merged: list[Interval] = []
    for first, last in sorted(intervals):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


@dataclass(frozen=True, slots=True)
class MysqlGtidSet:
    """An immutable set of MySQL GTIDs: per source the sorted, disjoint, non-adjacent intervals."""

    intervals: Mapping[Source, tuple[Interval, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> MysqlGtidSet:
        """Parse what `@@gtid_executed` prints; the empty string is the empty set.

        Raises ValueError for anything else.
        """
        found: dict[Source, list[Interval]] = {}
        for item in text.replace("\n", "").split(","):
            if not item.strip():
                continue
            head, *rest = item.strip().split(":")
            source: Source = (_parse_uuid(head), "")
            if not rest or not rest[-1].strip()[:1].isdigit():
                raise ValueError(f"GTID set without transaction numbers: {item!r}")
            for part in rest:
                if not part.strip()[:1].isdigit():
                    source = (source[0], _parse_tag(part))
                    continue
                first, dash, last = part.partition("-")
                low = _parse_number(first)
                high = _parse_number(last) if dash else low
                if not 0 < low < _NUMBER_END or high >= _NUMBER_END:
                    raise ValueError(f"not a GTID interval: {part!r}")
                if low <= high:
                    found.setdefault(source, []).append((low, high))
        return cls({source: _normalized(spans) for source, spans in found.items()})

    def __str__(self) -> str:
        by_uuid: dict[str, list[str]] = {}
        for (server, tag), spans in sorted(self.intervals.items()):
            text = ":".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
            by_uuid.setdefault(server, []).append(f"{tag}:{text}" if tag else text)
        return ",".join(f"{server}:{':'.join(parts)}" for server, parts in by_uuid.items())

    def __bool__(self) -> bool:
        return bool(self.intervals)

    def contains(self, source: Source, number: int) -> bool:
        """Is this transaction in the set?"""
        spans = self.intervals.get(source)
        if not spans:
            return False
        index = bisect_right(spans, (number, _NUMBER_END)) - 1
        return index >= 0 and spans[index][0] <= number <= spans[index][1]

    def add(self, source: Source, number: int) -> MysqlGtidSet:
        """This set and one more transaction."""
        spans = self.intervals.get(source, ())
        if spans and spans[-1][1] + 1 == number:  # the usual case: the next one of the same source
            grown = (*spans[:-1], (spans[-1][0], number))
        else:
            grown = _normalized((*spans, (number, number)))
        return MysqlGtidSet({**self.intervals, source: grown})

    def add_intervals(self, intervals: Mapping[Source, Iterable[Interval]]) -> MysqlGtidSet:
        """This set and the transactions of these intervals, whatever their order."""
        return self.union(MysqlGtidSet({source: _normalized(spans) for source, spans in intervals.items()}))

    def union(self, other: MysqlGtidSet) -> MysqlGtidSet:
        """Every transaction of either set."""
        merged = dict(self.intervals)
        for source, spans in other.intervals.items():
            merged[source] = _normalized((*merged.get(source, ()), *spans))
        return MysqlGtidSet(merged)

    def subtract(self, other: MysqlGtidSet) -> MysqlGtidSet:
        """The transactions of this set that `other` does not have."""
        left: dict[Source, tuple[Interval, ...]] = {}
        for source, spans in self.intervals.items():
            rest: list[Interval] = []
            for first, last in spans:
                at = first
                for other_first, other_last in other.intervals.get(source, ()):
                    if other_last < at or other_first > last:
                        continue
                    if other_first > at:
                        rest.append((at, other_first - 1))
                    at = other_last + 1
                if at <= last:
                    rest.append((at, last))
            if rest:
                left[source] = tuple(rest)
        return MysqlGtidSet(left)

    def is_subset_of(self, other: MysqlGtidSet) -> bool:
        """Does `other` have every transaction of this set?"""
        return not self.subtract(other)

    def count(self) -> int:
        """How many transactions."""
        return sum(last - first + 1 for spans in self.intervals.values() for first, last in spans)

    def encode(self) -> bytes:
        """The binary form that COM_BINLOG_DUMP_GTID carries.

        Without tags: `[0:8] source count`, then per source `uuid[16] interval count[8]` and
        `first[8] end[8]` (end is outside), little-endian. With tags the count's top byte is 1, the source
        count is in bytes 1 to 6, and each uuid is followed by the tag's length (varlen) and the tag.
        Source: MySQL sql/rpl_gtid_set.cc Gtid_set::encode, encode_nsids_format (8.3 and later).
        """
        has_tags = any(tag for _, tag in self.intervals)
        count = len(self.intervals)
        out = [struct.pack("<Q", (1 << 56) | (count << 8) | 1 if has_tags else count)]
        for (server, tag), spans in sorted(self.intervals.items()):
            out.append(uuid.UUID(server).bytes)
            if has_tags:
                out.append(_encode_varlen(len(tag)) + tag.encode("ascii"))
            out.append(struct.pack("<Q", len(spans)))
            out.extend(struct.pack("<QQ", first, last + 1) for first, last in spans)
        return b"".join(out)


def _encode_varlen(value: int) -> bytes:
    # mysql::serialization varlen: the count of trailing one-bits says how many bytes follow; tags are <= 32 long.
    if value >= 1 << 7:
        raise ValueError(f"tag length {value} is out of range")
    return bytes([value << 1])


@dataclass(frozen=True, slots=True)
class MariadbGtidList:
    """One position a domain: `{domain: (server_id, sequence)}`. A list, not a set: it cannot hold gaps."""

    positions: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> MariadbGtidList:
        """Parse what `@@gtid_binlog_pos` prints; the empty string is the empty list.

        Where a domain stands more than once (several server ids), the highest sequence counts.
        Raises ValueError for anything else.
        """
        found: dict[int, tuple[int, int]] = {}
        for item in text.split(","):
            if not item.strip():
                continue
            domain, server_id, sequence = (_parse_number(part) for part in item.split("-"))
            if domain not in found or found[domain][1] < sequence:
                found[domain] = (server_id, sequence)
        return cls(found)

    def __str__(self) -> str:
        return ",".join(f"{domain}-{server}-{seq}" for domain, (server, seq) in sorted(self.positions.items()))

    def __bool__(self) -> bool:
        return bool(self.positions)

    def add(self, domain: int, server_id: int, sequence: int) -> MariadbGtidList:
        """This list after one more transaction of `domain`."""
        return MariadbGtidList({**self.positions, domain: (server_id, sequence)})
