"""Chunks in files: whole or not at all, of one load alone, within the room that there is."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cdc.errors import ConfigError, SourceUnavailable, TransientError
from cdc.model import ColumnDefinition, FilePos, ServerIdentity, SourcePosition, TableDefinition, TableName, ValueKind
from snapshot.chunks import Border, Chunk, KeyRange
from snapshot.staged_file import Compression, StagedChunk
from snapshot.staging import LoadFiles, StagedLoad, StagingArea

KEY = ColumnDefinition("k", ValueKind.BLOB, "blob", length=65535)
TABLE = TableDefinition(TableName("shop", "t"), (KEY,), ("k",))
FROM = SourcePosition(ServerIdentity("mysql", "uuid"), FilePos.of("binlog.000007", 157))
ROOM = 1 << 30


@dataclass
class Heard:
    """What a listener has been told."""

    sizes: list[int] = field(default_factory=list)
    damages: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def staged(self, byte_count: int) -> None:
        self.sizes.append(byte_count)

    def damaged(self, table: str, problem: str) -> None:
        assert table == "shop.t"
        self.damages.append(problem)

    def failed(self, table: str, problem: str, hint: str) -> None:
        assert table == "shop.t"
        assert hint
        self.failures.append(problem)


class Time:
    """A clock that stands until it is moved; files carry the system's times."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now_us(self) -> int:
        import time

        return int((time.time() + self.ahead) * 1e6)

    def monotonic(self) -> float:
        return 1000.0 + self.ahead

    def wait(self, event: Any, seconds: float) -> bool:
        raise AssertionError


@dataclass
class Place:
    """A directory that is opened again and again, as by processes one after the other."""

    path: Path
    heard: Heard = field(default_factory=Heard)
    clock: Time = field(default_factory=Time)

    def area(self, *, bytes_max: int = ROOM, retention: float = 0, compression: Compression = "zstd") -> StagingArea:
        area = StagingArea(
            self.path,
            compression=compression,
            bytes_max=bytes_max,
            retention_seconds=retention,
            listener=self.heard,
            clock=self.clock,
        )
        area.open()
        return area

    def files(self, **options: Any) -> LoadFiles:
        return self.area(**options).load(load_of())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "deployment" / "sink")


def load_of(load_id: str = "a" * 32, **changes: Any) -> StagedLoad:
    fields: dict[str, Any] = {
        "load_id": load_id,
        "pipeline": "d/sink",
        "definition": TABLE,
        "key": ("k",),
        "loaded_from": FROM,
    }
    return StagedLoad(**{**fields, **changes})


def cut(count: int) -> list[Chunk]:
    """So many chunks of one plan; the last one has no end."""
    chunks: list[Chunk] = []
    for number in range(1, count + 1):
        border = (b"%d" % number,) if number < count else None
        chunks.append(Chunk.behind(chunks[-1] if chunks else None, border))
    return chunks


def rows(*values: bytes) -> Iterator[pa.RecordBatch]:
    for value in values:
        yield pa.record_batch([pa.array([value], pa.large_binary())], schema=TABLE.arrow_schema)


def stage(files: LoadFiles, chunk: Chunk, *values: bytes, size: int = 1000) -> StagedChunk | None:
    reserved = files.reserve(chunk, size)
    assert reserved
    return files.write(chunk, rows(*values), reserved=reserved)


def staged(files: LoadFiles, chunk: Chunk, *values: bytes) -> StagedChunk:
    found = stage(files, chunk, *values)
    assert found is not None
    return found


def numbers(chunks: Sequence[Chunk]) -> list[int]:
    return [chunk.number for chunk in chunks]


@pytest.mark.parametrize("compression", ["snappy", "gzip", "brotli", "zstd"])
def test_what_is_written_is_read_batch_by_batch(place: Place, compression: Compression) -> None:
    files = place.files(compression=compression)
    one = staged(files, cut(2)[0], b"first", b"second")
    assert files.is_whole(one)
    assert [batch.column(0).to_pylist() for batch in files.read(one)] == [[b"first"], [b"second"]]
    assert next(files.read(one)).schema == TABLE.arrow_schema
    empty = staged(files, cut(2)[1])
    assert files.is_whole(empty)
    assert list(files.read(empty)) == []


def test_nobody_else_reads_the_files(place: Place) -> None:
    one = staged(place.files(), cut(1)[0], b"x")
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(one.path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in one.path.parent.iterdir()} == {0o600}


def test_a_file_is_there_when_it_is_whole(place: Place) -> None:
    """What ends in the middle of it leaves nothing, and nothing is reserved for it any more."""
    area = place.area(bytes_max=1000)
    files = area.load(load_of())

    def cut_off() -> Iterator[pa.RecordBatch]:
        yield from rows(b"x")
        raise SourceUnavailable("cut")

    for _ in range(3):
        assert files.reserve(cut(1)[0], 1000)
        with pytest.raises(SourceUnavailable):
            files.write(cut(1)[0], cut_off(), reserved=1000)
    assert [path.name for path in place.path.rglob("*") if path.is_file()] == []


def test_a_load_that_goes_on_finds_its_files(place: Place) -> None:
    chunks = cut(6)
    files = place.files()
    for chunk in chunks[:5]:
        staged(files, chunk, b"%d" % chunk.number)
    again = place.files()
    assert again.find(chunks[:2], done=[1]) == chunks[2:5]
    assert again.found_count == 4
    assert again.take_found(chunks[0]) is None, "its rows are in the target"
    found = again.take_found(chunks[4])
    assert found is not None
    assert [batch.column(0).to_pylist() for batch in again.read(found)] == [[b"5"]]
    assert again.take_found(chunks[4]) is None, "once"


def test_a_gap_is_known_by_the_borders_around_it(place: Place) -> None:
    """Chunks that were being read at the kill, before others that were done."""
    chunks = cut(9)
    files = place.files()
    for chunk in (chunks[4], chunks[7]):
        staged(files, chunk, b"")
    again = place.files()
    found = again.find(chunks[:3], done=[1, 2, 3])
    assert found == chunks[3:8]
    assert [again.take_found(chunk) is not None for chunk in found] == [False, True, False, False, True]


@pytest.mark.parametrize("recorded", [3, 8])
def test_files_cut_by_another_hand_are_not_taken(place: Place, recorded: int) -> None:
    """Another instance went on with the load, and cut it elsewhere: nothing of ours lies behind what it recorded."""
    files = place.files()
    for chunk in cut(7)[2:]:
        staged(files, chunk, b"")
    others: list[Chunk] = []
    for number in range(recorded):
        others.append(Chunk.behind(others[-1] if others else None, (b"other %d" % number,)))
    again = place.files()
    assert again.find(others, done=[]) == []
    assert not list(place.path.rglob("*.parquet"))


def test_files_that_no_border_ties_to_the_recorded_chunks_are_not_taken(place: Place) -> None:
    chunks = cut(40)
    files = place.files()
    staged(files, chunks[30], b"")
    again = place.files()
    assert again.find(chunks[:10], done=[]) == []
    assert again.find(chunks[:20], done=[]) == []


@pytest.mark.parametrize(
    "other",
    [
        {"pipeline": "other/sink"},
        {"key": ("x",)},
        {"loaded_from": SourcePosition(FROM.server, FilePos.of("binlog.000007", 158))},
        {"loaded_from": SourcePosition(ServerIdentity("mysql", "other"), FROM.file)},
        {"definition": TableDefinition(TABLE.name, (KEY,), ("k",), comment="altered")},
    ],
)
def test_files_of_another_load_are_foreign(place: Place, other: dict[str, Any]) -> None:
    staged(place.files(), cut(2)[0], b"x")
    again = place.area().load(load_of(**other))
    assert again.find([], done=[]) == []
    (problem,) = place.heard.damages
    assert "of another load" in problem
    assert not list(place.path.rglob("*.parquet"))


def test_a_load_that_another_lane_goes_on_with_keeps_its_files(place: Place) -> None:
    staged(place.files(), cut(2)[0], b"x")
    assert place.area().load(load_of(pipeline="d/sink#2")).find([], done=[]) == cut(2)[:1]
    assert place.heard.damages == []


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x40
    path.write_bytes(content)


def _flip_rows(one: StagedChunk) -> None:
    _flip(one.path, 10)


def _flip_end(one: StagedChunk) -> None:
    _flip(one.path, one.size - 20)


def _other_rows(one: StagedChunk) -> None:
    one.path.write_bytes(os.urandom(one.size))


def _truncate(one: StagedChunk) -> None:
    os.truncate(one.path, one.size - 1)


def _link(one: StagedChunk) -> None:
    other = one.path.with_name("elsewhere")
    one.path.rename(other)
    one.path.symlink_to(other)


@pytest.mark.parametrize("harm", [_flip_rows, _flip_end, _other_rows, _truncate, _link, lambda one: one.path.unlink()])
def test_a_damaged_file_is_said_removed_and_never_read(place: Place, harm: Any) -> None:
    files = place.files()
    one = staged(files, cut(2)[0], b"x" * 100)
    harm(one)
    assert not files.is_whole(one)
    assert len(place.heard.damages) == 1
    assert not one.note.exists()


@pytest.mark.parametrize("place_of_harm", [10, 100, -3])
def test_a_damaged_note_makes_its_chunk_unread(place: Place, place_of_harm: int) -> None:
    """A border that is another one would be rows that are lost."""
    chunks = cut(3)
    files = place.files()
    staged(files, chunks[0], b"")
    harmed = staged(files, chunks[1], b"")
    _flip(harmed.note, place_of_harm)
    again = place.files()
    assert again.find([], done=[]) == chunks[:1]
    assert len(place.heard.damages) == 1
    assert not harmed.path.exists()


def test_a_note_without_its_file_and_a_file_without_its_note_count_for_nothing(place: Place) -> None:
    chunks = cut(4)
    files = place.files()
    kept, fileless, noteless = (staged(files, chunk, b"x") for chunk in chunks[:3])
    fileless.path.unlink()
    noteless.note.unlink()
    (kept.path.parent / "00000004-x.unfinished").write_bytes(b"half")
    again = place.files()
    assert again.find([], done=[]) == chunks[:1]
    assert {path.stem for path in kept.path.parent.iterdir()} == {kept.path.stem}


def test_a_file_whose_checksum_is_right_and_cannot_be_read_ends_the_attempt(place: Place) -> None:
    files = place.files()
    one = staged(files, cut(2)[0], b"x")
    one.path.write_bytes(b"PAR1")
    with pytest.raises(TransientError):
        list(files.read(one))
    assert not one.note.exists()


def test_the_files_take_no_more_than_their_limit(place: Place) -> None:
    area = place.area(bytes_max=1_000_000)
    files = area.load(load_of())
    chunks = cut(9)
    one = staged(files, chunks[0], os.urandom(400_000))
    reserved = files.reserve(chunks[1], 400_000)
    assert reserved == 250_000, "a quarter of all room, whatever is expected"
    assert files.reserve(chunks[2], 250_000)
    assert not files.reserve(chunks[3], 250_000), "what is reserved counts"
    area.release(250_000)
    assert files.write(chunks[1], rows(os.urandom(500_000)), reserved=reserved), "there is more room than that"
    assert not files.reserve(chunks[2], 100_000)
    assert place.area(bytes_max=1_000_000).use.byte_count == area.use.byte_count > 900_000
    files.applied(one)
    assert files.reserve(chunks[2], 250_000)


def test_a_chunk_that_is_larger_than_all_room_goes_past_the_disk(place: Place) -> None:
    area = place.area(bytes_max=1_000_000)
    files = area.load(load_of())
    chunk = cut(1)[0]
    assert stage(files, chunk, os.urandom(600_000), os.urandom(600_000)) is None
    assert len(place.heard.failures) == 1
    assert area.use.byte_count == 0
    assert not files.reserve(chunk, 1000), "it is not tried again"
    assert not [path for path in place.path.rglob("*") if path.is_file()]


def test_a_disk_that_refuses_is_left_alone_for_a_while(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    files = place.files()
    chunks = cut(3)
    original = os.write

    def full(descriptor: int, content: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("snapshot.staged_file.os.write", full)
    assert stage(files, chunks[0], b"x") is None
    monkeypatch.setattr("snapshot.staged_file.os.write", original)
    assert ["No space left" in problem for problem in place.heard.failures] == [True]
    assert not files.reserve(chunks[1], 1000)
    place.clock.ahead = 31
    assert stage(files, chunks[1], b"x") is not None


def test_files_of_loads_that_are_over_go_at_once(place: Place) -> None:
    area = place.area()
    staged(area.load(load_of("a" * 32)), cut(1)[0], b"x")
    staged(area.load(load_of("b" * 32)), cut(1)[0], b"x")
    assert sorted(area.loads()) == ["a" * 32, "b" * 32]
    area.end(["a" * 32])
    assert area.loads() == ["b" * 32]
    assert area.use.file_count == 1


def test_files_are_kept_for_as_long_as_configured(place: Place) -> None:
    area = place.area(retention=3600)
    files = area.load(load_of())
    files.applied(staged(files, cut(1)[0], b"x"))
    area.end(area.loads())
    assert area.loads() == []
    assert area.use.file_count == 1
    place.clock.ahead = 3500
    area.end([])
    assert area.use.file_count == 1
    place.clock.ahead = 3700
    place.area(retention=3600).end([])
    assert not list(place.path.rglob("*.parquet"))


def test_files_that_are_only_kept_make_way(place: Place) -> None:
    area = place.area(retention=3600, bytes_max=1_000_000)
    over = area.load(load_of("a" * 32))
    over.applied(staged(over, cut(2)[0], os.urandom(300_000)))
    area.end(["a" * 32])
    files = area.load(load_of("b" * 32))
    applied = staged(files, cut(2)[0], os.urandom(300_000))
    files.applied(applied)
    assert area.reserve(500_000)
    assert not applied.path.exists()
    assert area.use.file_count == 1
    area.release(500_000)
    assert area.reserve(900_000)
    assert area.use.file_count == 0


def test_a_directory_that_cannot_be_used_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "deployment").write_text("a file")
    with pytest.raises(ConfigError) as caught:
        Place(tmp_path / "deployment" / "sink").area()
    assert "staging.dir" in caught.value.message
    assert caught.value.hint


def test_the_last_border_is_the_key_as_it_was(place: Place) -> None:
    """Any bytes, and NULL in a column of it."""
    border: Border = (bytes(range(256)), None, b"")
    files = place.files()
    chunk = Chunk(1, KeyRange(None, border))
    staged(files, chunk, b"")
    assert place.files().find([], done=[]) == [chunk]
