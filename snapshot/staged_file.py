"""One chunk as a Parquet file, and the note beside it that says what it is and how to tell that it is whole.

A chunk is there once its note is: the rows are written under another name, made durable and given theirs, then the
note likewise. The note carries the file's size and SHA-256, and its own. Nothing is decoded of a file that is not, to
the bit, what was written. Knows no source, no sink and no other file; `staging.py` does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
import pyarrow as pa

from snapshot.chunks import Border, Chunk, KeyRange

__all__ = [
    "Compression",
    "DamagedFile",
    "StagedChunk",
    "StagingFailed",
    "check_whole",
    "make_private",
    "read_note",
    "read_rows",
    "sync_directory",
    "write_chunk",
]

Compression = Literal["snappy", "gzip", "brotli", "zstd"]

UNFINISHED = ".unfinished"
_FORMAT = 1
_FILE_MODE, _DIRECTORY_MODE = 0o600, 0o700
_NOTE_BYTES_MAX = 16 << 20  # borders are key values, some kilobytes each
_KEY = "cdc.chunk"


class StagingFailed(Exception):
    """The file cannot be written; the chunk has to go another way."""


class DamagedFile(Exception):
    """A file is not what was written, or is gone; its chunk has to be read again."""


@dataclass(frozen=True, slots=True)
class StagedChunk:
    """A chunk whose rows are in a file. `size` and `digest` are the file's."""

    chunk: Chunk
    path: Path
    rows: int
    size: int
    digest: str

    @property
    def note(self) -> Path:
        """The file beside it that describes it."""
        return self.path.with_suffix(".json")


# ---------------------------------------------------------------- directories


def make_private(directory: Path) -> None:
    """Make it and those above it when missing, for nobody else to read. Raises OSError."""
    directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):  # another user's that we may write to, as a mounted volume's root
        directory.chmod(_DIRECTORY_MODE)


def sync_directory(directory: Path) -> None:
    """What has been renamed there stays so. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- writing


class _HashedFile:
    """What pyarrow writes into: a new file, with its size and hash. `is_dead`: what comes is thrown away."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _FILE_MODE)
        self._hash = hashlib.sha256()
        self.size = 0
        self.closed = False
        self.is_dead = False

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        if not self.is_dead:
            rest = view
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            self._hash.update(view)
        self.size += len(view)
        return len(view)

    def sync(self) -> None:
        os.fsync(self._descriptor)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Every write goes to the system at once."""

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._descriptor)

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def write_chunk(
    directory: Path,
    chunk: Chunk,
    batches: Iterator[pa.RecordBatch],
    *,
    schema: pa.Schema,
    head: Mapping[str, Any],
    compression: Compression,
    on_size: Callable[[int], None],
) -> StagedChunk:
    """Write all batches of the chunk, durably; a row group a batch.

    Args:
        directory: made when missing.
        head: what load the chunk is of, for whoever finds the file.
        on_size: told the size so far after each batch; it may raise.
    Raises:
        StagingFailed: it cannot be written. And what `batches` and `on_size` raise. No file is left then.
    """
    import pyarrow.parquet as pq  # only who stages pays for it

    stem = f"{chunk.number:08}-{secrets.token_hex(8)}"
    path = directory / f"{stem}.parquet"
    unfinished = path.with_suffix(UNFINISHED)
    file: _HashedFile | None = None
    writer: Any = None
    try:
        with _writing():
            make_private(directory)
            file = _HashedFile(unfinished)
            text = orjson.dumps({**head, "chunk": _encode(chunk)})
            # No dictionaries: a dictionary may take two floats for one that differ in their bits. No statistics: who
            # reads, reads all.
            writer = pq.ParquetWriter(
                file,
                schema.with_metadata({_KEY: text}),
                compression=compression,
                use_dictionary=False,
                write_statistics=False,
                store_schema=True,
            )
        rows = 0
        for batch in batches:
            assert batch.schema == schema, f"{batch.schema} is not {schema}"
            with _writing():
                writer.write_batch(batch)
            rows += batch.num_rows
            on_size(file.size)
        with _writing():
            writer.close()
            file.sync()
            file.close()
            on_size(file.size)
            staged = StagedChunk(chunk, path, rows, file.size, file.digest)
            unfinished.rename(path)
            _write_note(staged, head)
            sync_directory(directory)
    except BaseException:
        _discard(file, writer)
        for left in (unfinished, path, path.with_suffix(".json"), _unfinished_note(path)):
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)
        raise
    else:
        return staged


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StagingFailed(str(error)) from error


def _discard(file: _HashedFile | None, writer: Any) -> None:
    if file is None:
        return
    file.is_dead = True  # pyarrow writes a file's end whatever has become of it
    if writer is not None:
        with contextlib.suppress(Exception):
            writer.close()
    file.close()


def _unfinished_note(path: Path) -> Path:
    return path.with_suffix(f".json{UNFINISHED}")


def _write_note(staged: StagedChunk, head: Mapping[str, Any]) -> None:
    content = orjson.dumps(
        {
            "format": _FORMAT,
            **head,
            "chunk": _encode(staged.chunk),
            "rows": staged.rows,
            "size": staged.size,
            "sha256": staged.digest,
        }
    )
    unfinished = _unfinished_note(staged.path)
    file = _HashedFile(unfinished)
    try:
        file.write(content + b"\n")
        file.write(hashlib.sha256(content).hexdigest().encode() + b"\n")
        file.sync()
    finally:
        file.close()
    unfinished.rename(staged.note)


# ---------------------------------------------------------------- reading


def read_note(note: Path, head: Mapping[str, Any]) -> StagedChunk:
    """The chunk that a note describes. Raises DamagedFile: not ours, not whole, of another load than `head` says, or
    without its file. The file itself is not read; `check_whole` does."""
    try:
        with _opened(note) as file:
            content, _, rest = file.read(_NOTE_BYTES_MAX).rpartition(b"}\n")
    except OSError as error:
        raise DamagedFile(f"{note} cannot be read: {error}") from error
    content += b"}"
    if rest != hashlib.sha256(content).hexdigest().encode() + b"\n":
        raise DamagedFile(f"{note} is damaged")
    fields = orjson.loads(content)
    if fields.get("format") != _FORMAT or any(fields.get(name) != value for name, value in head.items()):
        raise DamagedFile(f"{note} is of another load")
    staged = StagedChunk(
        _decode(fields["chunk"]), note.with_suffix(".parquet"), fields["rows"], fields["size"], fields["sha256"]
    )
    try:
        size = staged.path.lstat().st_size
    except OSError as error:
        raise DamagedFile(f"{staged.path} is gone: {error}") from error
    if size != staged.size:
        raise DamagedFile(f"{staged.path} has {size} bytes, {staged.size} were written")
    return staged


def check_whole(staged: StagedChunk) -> None:
    """Raises DamagedFile where the file is not, to the bit, what was written."""
    try:
        with _opened(staged.path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except OSError as error:
        raise DamagedFile(f"{staged.path} cannot be read: {error}") from error
    if digest != staged.digest:
        raise DamagedFile(f"{staged.path} is damaged: {size} bytes, {staged.size} were written")


def read_rows(staged: StagedChunk, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The batches that were written. Raises DamagedFile where they are not; `check_whole` comes first."""
    import pyarrow.parquet as pq

    rows = 0
    try:
        with pq.ParquetFile(staged.path) as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, use_threads=False).replace_schema_metadata(None).combine_chunks()
                if table.schema != schema:
                    raise DamagedFile(f"{staged.path} has other columns: {table.schema}")
                for batch in table.to_batches():
                    rows += batch.num_rows
                    yield batch
    except (OSError, pa.ArrowException) as error:
        raise DamagedFile(f"{staged.path} cannot be read: {error}") from error
    if rows != staged.rows:
        raise DamagedFile(f"{staged.path} has {rows} rows, {staged.rows} were written")


def _opened(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")


# ---------------------------------------------------------------- a chunk as JSON


def _encode(chunk: Chunk) -> dict[str, Any]:
    return {
        "number": chunk.number,
        "after": _hex(chunk.range.after),
        "upto": _hex(chunk.range.upto),
        "trail": [_hex(border) for border in chunk.trail],
    }


def _decode(fields: Mapping[str, Any]) -> Chunk:
    trail = tuple(border for border in map(_border, fields["trail"]) if border is not None)
    return Chunk(fields["number"], KeyRange(_border(fields["after"]), _border(fields["upto"])), trail)


def _hex(border: Border | None) -> list[str | None] | None:
    return None if border is None else [None if value is None else value.hex() for value in border]


def _border(values: list[str | None] | None) -> Border | None:
    return None if values is None else tuple(None if value is None else bytes.fromhex(value) for value in values)
