"""Chunks of loads in files between the source and the sink, so that no read waits for a sink that is slow or away.

    <dir>/<deployment>/<sink>/<load>/00000012-….parquet     a chunk's rows
                                     00000012-….json        which chunk of which load it is, and its checksum

A *load* is one attempt to load one table from one position W, by the random name that the sink's metadata keep for it
(`ChunkStore`). Its files are as good as its rows in the target: whoever goes on with the load goes on with them, and
nobody else can take them for his. They go when their rows are committed, or stay for `retention_seconds` as long as
nobody needs the room.

What is wrong with a file or the disk costs time, no rows: the chunk is read again, past the disk where need be. Each
is said once (`staged_chunk_damaged`, `staging_failed`) and counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from cdc.clock import Clock, SystemClock
from cdc.errors import ConfigError, TransientError
from cdc.model import SourcePosition, TableDefinition
from snapshot.chunks import Border, Chunk, KeyRange
from snapshot.staged_file import (
    UNFINISHED,
    Compression,
    DamagedFile,
    StagedChunk,
    StagingFailed,
    check_whole,
    make_private,
    read_note,
    read_rows,
    write_chunk,
)

__all__ = ["LoadFiles", "StagedLoad", "StagingArea", "StagingListener", "StagingUse", "staging_use"]

# After a disk has refused, so long no other file is tried: each try costs a chunk that is read twice.
_OFF_SECONDS = 30.0
# So many chunks at least are to find room, whatever their size is expected to be.
_CHUNKS_MIN = 4
_DONE = ".done"
_HINT = "free or add space for staging.dir, or lower staging.bytes_max; what finds no room there is read past it"


class StagingListener(Protocol):
    """Is told what becomes of chunks, by the thread that finds it out."""

    def staged(self, byte_count: int) -> None:
        """A chunk is in a file of so many bytes."""

    def damaged(self, table: str, problem: str) -> None:
        """A file is not what was written: its chunk is read again."""

    def failed(self, table: str, problem: str, hint: str) -> None:
        """A file cannot be written: its chunk, and those after it for a while, go past the disk."""


@dataclass(frozen=True, slots=True)
class StagingUse:
    """What a sink's files take now, `byte_count` of `bytes_max`."""

    byte_count: int
    bytes_max: int
    file_count: int

    def to_dict(self) -> dict[str, int]:
        """The `staging` object of a sink in `cdc status --json`."""
        return {"bytes": self.byte_count, "bytes_max": self.bytes_max, "chunks": self.file_count}


@dataclass(frozen=True, slots=True)
class StagedLoad:
    """One attempt to load a table: whose rows they are, of which columns, since when."""

    load_id: str
    pipeline: str
    definition: TableDefinition
    key: tuple[str, ...]
    loaded_from: SourcePosition

    def head(self) -> dict[str, Any]:
        """What every file of the load says of it. A file that says anything else is of another one."""
        name = self.definition.name
        return {
            "load": self.load_id,
            "deployment": self.pipeline.partition("/")[0],  # its lanes and sides hand loads on to each other
            "table": [name.database, name.table],
            "definition": hashlib.sha256(repr(self.definition).encode()).hexdigest(),
            "key": list(self.key),
            "server": self.loaded_from.server.uuid,
            "loaded_from": str(self.loaded_from),
        }


class StagingArea:
    """The files of one sink, whatever pipelines it has. For several threads."""

    def __init__(
        self,
        directory: Path,
        *,
        compression: Compression,
        bytes_max: int,
        retention_seconds: float,
        listener: StagingListener,
        clock: Clock | None = None,
    ) -> None:
        """`directory` is this sink's of this deployment alone."""
        self.directory = directory
        self.compression = compression
        self.listener = listener
        self.bytes_max = bytes_max
        self._retention_seconds = retention_seconds
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._sizes: dict[Path, int] = {}
        self._reserved = 0
        self._spare: deque[StagedChunk] = deque()
        """Applied, and kept as long as nobody needs their room."""
        self._off_until = float("-inf")

    def open(self) -> None:
        """Make the directory, and see what is in it. Raises ConfigError where no file can be written there."""
        probe = self.directory / f"probe{UNFINISHED}"
        try:
            make_private(self.directory)
            probe.unlink(missing_ok=True)
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"staging.dir: no file can be made in {self.directory}: {error}",
                hint="name a directory that this user may write to; without staging.dir nothing is staged",
            ) from error
        for left in self.directory.glob(f"*/*{UNFINISHED}"):
            left.unlink(missing_ok=True)
        with self._lock:
            self._sizes = _sizes(self.directory)

    @property
    def use(self) -> StagingUse:
        """What the files take now."""
        with self._lock:
            return StagingUse(sum(self._sizes.values()), self.bytes_max, len(self._sizes))

    def load(self, load: StagedLoad, hook: Callable[[str], None] = lambda _point: None) -> LoadFiles:
        """The files of a load; none is looked for yet."""
        return LoadFiles(self, self.directory / load.load_id, load, hook)

    # ------------------------------------------------------------ loads that are over

    def loads(self) -> list[str]:
        """The loads that have files here, those that are known to be over aside."""
        with contextlib.suppress(FileNotFoundError):
            return [path.name for path in self.directory.iterdir() if path.is_dir() and path.suffix != _DONE]
        return []

    def end(self, load_ids: Collection[str]) -> None:
        """These loads are over: their files go, or are kept for as long as configured."""
        for load_id in load_ids:
            directory = self.directory / load_id
            if self._retention_seconds:
                with contextlib.suppress(OSError):
                    over = directory.rename(directory.with_suffix(_DONE))
                    os.utime(over)
                    self._moved(directory, over)
                    continue
            self._remove(directory)
        self.expire()

    def expire(self) -> None:
        """Remove what has been kept for long enough. Any thread."""
        now = self._clock.now_us() / 1e6
        for over in self.directory.glob(f"*{_DONE}"):
            with contextlib.suppress(FileNotFoundError):
                if now - over.stat().st_mtime >= self._retention_seconds:
                    self._remove(over)

    def _moved(self, before: Path, after: Path) -> None:
        with self._lock:
            self._spare = deque(one for one in self._spare if one.path.parent != before)
            for path in [path for path in self._sizes if path.parent == before]:
                self._sizes[after / path.name] = self._sizes.pop(path)

    def _remove(self, directory: Path) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        with self._lock:
            self._spare = deque(one for one in self._spare if one.path.parent != directory)
            for path in [path for path in self._sizes if path.parent == directory]:
                del self._sizes[path]

    # ------------------------------------------------------------ room

    @property
    def is_off(self) -> bool:
        """Has the disk refused a file a moment ago?"""
        return self._clock.monotonic() < self._off_until

    def reserve(self, size: int) -> bool:
        """Keep so many bytes free for who asks, if there is room; what is only kept makes way."""
        with self._lock:
            if self._has_room(size):
                self._reserved += size
                return True
            is_spare = bool(self._spare)
        return (self._drop_spare() if is_spare else self._drop_oldest()) and self.reserve(size)

    def _has_room(self, size: int) -> bool:
        return sum(self._sizes.values()) + self._reserved + size <= self.bytes_max

    def _drop_spare(self) -> bool:
        with self._lock:
            if not self._spare:
                return False
            staged = self._spare.popleft()
        self.forget(staged)
        return True

    def _drop_oldest(self) -> bool:
        """Of the loads that are over."""
        found = []
        for over in self.directory.glob(f"*{_DONE}"):
            with contextlib.suppress(FileNotFoundError):
                found.append((over.stat().st_mtime, over))
        if not found:
            return False
        self._remove(min(found)[1])
        return True

    def release(self, size: int, staged: StagedChunk | None = None) -> None:
        """What was reserved is not needed, or has become a file."""
        with self._lock:
            self._reserved -= size
            if staged is not None:
                self._sizes[staged.path] = staged.size

    def refused(self, table: str, problem: str) -> None:
        """The disk does not take a file."""
        with self._lock:
            self._off_until = self._clock.monotonic() + _OFF_SECONDS
        self.listener.failed(table, problem, _HINT)

    def applied(self, staged: StagedChunk) -> None:
        """Its rows are committed."""
        if not self._retention_seconds:
            self.forget(staged)
            return
        with self._lock:
            self._spare.append(staged)

    def forget(self, staged: StagedChunk) -> None:
        """Remove its files: the note first, without which a file is none."""
        with contextlib.suppress(OSError):
            staged.note.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            staged.path.unlink(missing_ok=True)
        with self._lock:
            self._sizes.pop(staged.path, None)


def _sizes(directory: Path) -> dict[Path, int]:
    found = {}
    for path in directory.glob("*/*.parquet"):
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.stat().st_size
    return found


def staging_use(directory: Path, *, bytes_max: int) -> StagingUse:
    """What the files in a sink's directory take, whoever writes them. Raises OSError."""
    sizes = _sizes(directory)
    return StagingUse(sum(sizes.values()), bytes_max, len(sizes))


class _OverLimit(Exception):
    """A chunk is larger than the room that there is."""


class LoadFiles:
    """The files of one load. For several threads."""

    def __init__(self, area: StagingArea, directory: Path, load: StagedLoad, hook: Callable[[str], None]) -> None:
        self._area = area
        self._hook = hook
        self._directory = directory
        self._load = load
        self._head = {**load.head(), "sink": area.directory.name}
        self._schema = load.definition.arrow_schema
        self._table = str(load.definition.name)
        self._lock = threading.Lock()
        self._found: dict[int, StagedChunk] = {}
        self._too_large: set[int] = set()
        self.found_count = 0
        """How many chunks an earlier attempt has left."""

    # ------------------------------------------------------------ what an earlier attempt has left

    def find(self, recorded: Sequence[Chunk], *, done: Collection[int]) -> list[Chunk]:
        """Look for files of this load; the chunks they show that are not among `recorded`, in key order, without a gap.

        `recorded` are those that the sink knows, the first ones of all, of which the rows of `done` are there. A file
        counts whose borders follow from those: they were cut by one hand.
        """
        known: dict[int, Border | None] = {0: None}
        known.update((chunk.number, chunk.range.upto) for chunk in recorded)
        for staged in self._notes():
            chunk = staged.chunk
            if chunk.number in done:
                self._area.applied(staged)
            elif chunk.number not in self._found and _fits(chunk, known):
                first = chunk.number - len(chunk.trail)
                known.update((first + index, border) for index, border in enumerate(chunk.trail))
                known[chunk.number] = chunk.range.upto
                self._found[chunk.number] = staged
            else:
                self._area.forget(staged)
        self.found_count = len(self._found)
        chunks = list(recorded)
        for number in range(len(recorded) + 1, len(known)):
            chunks.append(Chunk.behind(chunks[-1] if chunks else None, known[number]))
        return chunks[len(recorded) :]

    def _notes(self) -> list[StagedChunk]:
        """Every file that is this load's, by its chunk's number; what is none is said and removed."""
        found = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                found.append(read_note(path, self._head))
            except DamagedFile as error:
                self._area.listener.damaged(self._table, str(error))
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
        has_note = {staged.path for staged in found}
        for path in self._directory.glob("*.parquet"):
            if path not in has_note:  # it was about to get one, or lost it
                self._area.forget(StagedChunk(Chunk(0, KeyRange()), path, 0, 0, ""))
        return sorted(found, key=lambda staged: staged.chunk.number)

    def take_found(self, chunk: Chunk) -> StagedChunk | None:
        """The file of that chunk that an earlier attempt has left."""
        with self._lock:
            staged = self._found.pop(chunk.number, None)
        assert staged is None or staged.chunk.range == chunk.range, f"{staged} is not chunk {chunk}"
        return staged

    # ------------------------------------------------------------ writing and reading

    def takes(self, chunk: Chunk) -> bool:
        """May the chunk go into a file, once there is room?"""
        return chunk.number not in self._too_large and not self._area.is_off

    def reserve(self, chunk: Chunk, size: int) -> int:
        """Is there room for the chunk, of about that size? Then `write` follows, with the bytes that this returns."""
        size = min(size, self._area.bytes_max // _CHUNKS_MIN)
        return size if self.takes(chunk) and self._area.reserve(size) else 0

    def write(self, chunk: Chunk, batches: Iterator[pa.RecordBatch], *, reserved: int) -> StagedChunk | None:
        """All batches in a file; None, having said so, where the disk or the limit does not take it.

        `batches` are not at their end then. Raises what they raise.
        """
        room = reserved
        staged = None

        def on_size(size: int) -> None:
            nonlocal room
            if size > room:
                if not self._area.reserve(size - room):
                    raise _OverLimit
                room = size

        try:
            staged = write_chunk(
                self._directory,
                chunk,
                batches,
                schema=self._schema,
                head=self._head,
                compression=self._area.compression,
                on_size=on_size,
            )
        except _OverLimit:
            self._too_large.add(chunk.number)
            self._area.listener.failed(
                self._table, "a chunk is larger than the room that staging.bytes_max leaves", _HINT
            )
        except StagingFailed as error:
            self._too_large.add(chunk.number)
            self._area.refused(self._table, str(error))
        finally:
            self._area.release(room, staged)
        if staged is not None:
            self._area.listener.staged(staged.size)
            self._hook("load_chunk_staged")
        return staged

    def is_whole(self, staged: StagedChunk) -> bool:
        """Is the file as it was written? Else it is said and removed: the chunk has to be read again."""
        try:
            check_whole(staged)
        except DamagedFile as error:
            self._area.listener.damaged(self._table, str(error))
            self._area.forget(staged)
            return False
        return True

    def read(self, staged: StagedChunk) -> Iterator[pa.RecordBatch]:
        """The rows of a file that `is_whole`. Raises TransientError where they cannot be had all the same: the load is
        tried again, without the file."""
        try:
            yield from read_rows(staged, self._schema)
        except DamagedFile as error:
            self._area.listener.damaged(self._table, str(error))
            self._area.forget(staged)
            raise TransientError(
                f"{self._table}: a staged file cannot be read: {error}", hint="its chunk is read again from the source"
            ) from error

    def applied(self, staged: StagedChunk) -> None:
        """Its rows are committed, or not wanted any more."""
        self._area.applied(staged)


def _fits(chunk: Chunk, known: dict[int, Border | None]) -> bool:
    """Was the chunk cut behind the known ones? Then a known one is in its trail, and none says otherwise."""
    borders = {chunk.number: chunk.range.upto}
    borders.update((chunk.number - len(chunk.trail) + index, border) for index, border in enumerate(chunk.trail))
    if chunk.number - len(chunk.trail) == 1:
        borders[0] = None
    if None in [known[number] for number in known if 0 < number < chunk.number]:
        return False  # behind the end
    is_linked = any(number in known for number in borders if number < chunk.number)
    return is_linked and all(known[number] == border for number, border in borders.items() if number in known)
