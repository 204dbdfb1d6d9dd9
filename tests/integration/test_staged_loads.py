"""Loads whose chunks go through files: nothing is read twice, whatever becomes of the sink or the files."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from cdc.errors import SinkUnavailable
from checkpoints.store import TableRecord
from snapshot.staging import StagingArea
from tests.integration.test_resumed_loads import CHUNK_ROWS, ROWS, Load, load
from tests.integration.test_store import Place
from tests.support import wait_until
from tests.support.deployment import Deployment, deployment

__all__ = ["load"]  # the fixture

pytestmark = pytest.mark.any_server

CHUNKS = ROWS // CHUNK_ROWS + 1  # the last one is open, and empty
MIB = 1 << 20


@dataclass
class Heard:
    """What became of chunks."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def staged(self, byte_count: int) -> None:
        assert byte_count
        self.counts["staged"] += 1

    def damaged(self, table: str, problem: str) -> None:
        self.counts["damaged"] += 1
        self.problems.append(f"{table}: {problem}")

    def failed(self, table: str, problem: str, hint: str) -> None:
        self.counts["failed"] += 1
        self.problems.append(f"{table}: {problem} ({hint})")


@dataclass
class Staged:
    """A load with a directory for its chunks."""

    load: Load
    directory: Path
    heard: Heard = field(default_factory=Heard)

    def open(self, *, bytes_max: int = 64 * MIB, retention: float = 0) -> StagingArea:
        """As a process does that begins."""
        area = StagingArea(
            self.directory,
            compression="zstd",
            bytes_max=bytes_max,
            retention_seconds=retention,
            listener=self.heard,
        )
        area.open()
        self.load.staging = area
        return area

    @property
    def area(self) -> StagingArea:
        assert self.load.staging is not None
        return self.load.staging

    def files(self) -> list[Path]:
        return sorted(self.directory.rglob("*.parquet"))

    def cut_sink(self) -> None:
        """End the session that loads, as a network does."""
        one = self.load
        sink = Place(one.sink, one.stack_database, one.stack).sink()
        session = one.store.sink.session()
        sink.kill_session(session)
        wait_until(lambda: not sink.is_session_alive(session), 60, "the session to be gone")

    def cut_while_loading(self, *, at: int, until: int) -> TableRecord:
        """Cut the sink when `at` chunks are applied, and keep it away until `until` are read; the load's record."""
        applied = 0
        is_cut = False

        def reached(point: str) -> None:
            nonlocal applied, is_cut
            applied += point == "load_chunk_committed"
            if point == "load_chunk" and applied == at and not is_cut:
                is_cut = True
                self.cut_sink()

        self.load.is_sink_away = lambda _error: self.heard.counts["staged"] < until
        with pytest.raises(SinkUnavailable):
            self.load.run(self.load.pending(), hook=reached)
        self.load.store.sink.open()
        return self.load.record()

    def assert_all_there(self) -> None:
        assert self.load.target_rows() == [(n, n) for n in range(1, ROWS + 1)]
        assert self.files() == [], "nothing is left of a load that is done"
        assert self.area.loads() == []


@pytest.fixture
def staged(load: Load, tmp_path: Path) -> Staged:
    one = Staged(load, tmp_path / "staging")
    one.open()
    return one


@pytest.mark.parametrize("at", [0, 4])
def test_reads_go_on_while_the_sink_is_away_and_nothing_is_read_twice(staged: Staged, at: int) -> None:
    """Not even by another process, and not where the sink has not got any chunk."""
    record = staged.cut_while_loading(at=at, until=CHUNKS)
    assert len(staged.files()) == CHUNKS - at
    staged.load.source.execute("UPDATE t SET v = -v", database=staged.load.database)
    staged.open()
    loaded = staged.load.run(record)
    assert staged.load.chunk_reads() == []
    (plan,) = staged.load.resumed
    assert (len(plan.loaded), plan.staged_count) == (at, CHUNKS - at)
    assert loaded.loaded_from == record.loaded_from, "the changes since the first read are to come"
    assert loaded.rows_loaded == ROWS
    staged.assert_all_there()


def test_chunks_that_were_not_staged_are_read_and_no_others(staged: Staged) -> None:
    record = staged.cut_while_loading(at=2, until=6)
    there = len(staged.files())
    staged.open()
    staged.load.run(record)
    assert len(staged.load.chunk_reads()) == CHUNKS - 2 - there
    staged.assert_all_there()


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _other_bits(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _foreign(path: Path) -> None:
    path.write_bytes(max(path.parent.glob("*.parquet")).read_bytes())


def _note_damaged(path: Path) -> None:
    _other_bits(path.with_suffix(".json"))


HARMS: dict[str, Callable[[Path], None]] = {
    "truncated": _truncated,
    "other_bits": _other_bits,
    "foreign": _foreign,
    "note": _note_damaged,
    "gone": Path.unlink,
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("when", ["found", "applied"])
def test_a_damaged_file_is_said_and_its_chunk_read_again(staged: Staged, harm: str, when: str) -> None:
    record = staged.cut_while_loading(at=1, until=CHUNKS)
    staged.open()
    is_harmed = False

    def reached(point: str) -> None:
        nonlocal is_harmed
        if point == "load_begun" and not is_harmed:  # it has been found, and seen to be there
            is_harmed = True
            HARMS[harm](staged.files()[3])

    if when == "found":
        reached("load_begun")
    staged.load.run(record, hook=reached)
    is_unseen = when == "applied" and harm == "note"  # what the note says is known by then
    assert staged.heard.counts["damaged"] == (0 if is_unseen else 1), staged.heard.problems
    assert len(staged.load.chunk_reads()) == (0 if is_unseen else 1)
    staged.assert_all_there()


def test_every_file_damaged_is_every_chunk_read_again(staged: Staged) -> None:
    record = staged.cut_while_loading(at=0, until=CHUNKS)
    staged.open()

    def reached(point: str) -> None:
        if point == "load_begun":
            for path in staged.files():
                _other_bits(path)

    staged.load.run(record, hook=reached)
    assert staged.heard.counts["damaged"] == CHUNKS
    assert len(staged.load.chunk_reads()) == CHUNKS
    staged.assert_all_there()


@pytest.mark.parametrize("change", ["definition", "options", "target"])
def test_files_of_a_load_that_cannot_go_on_are_not_used(staged: Staged, change: str) -> None:
    one = staged.load
    record = staged.cut_while_loading(at=0, until=CHUNKS)
    if change == "definition":
        one.source.execute("ALTER TABLE t ADD COLUMN w INT NOT NULL DEFAULT 7", database=one.database)
    elif change == "options":
        one.options = {"row_filter": "x"}
    else:
        one.sink.execute(f"INSERT INTO {one.namespace}.t VALUES (1000000, 1)", None, database=one.stack_database)
    staged.open()
    one.run(record)
    assert one.resumed == []
    assert len(one.chunk_reads()) >= CHUNKS
    staged.assert_all_there()


def test_reading_waits_for_the_sink_when_the_files_take_what_they_may(staged: Staged) -> None:
    """The sink takes nothing until the readers wait; the files take no more than they may meanwhile."""
    area = staged.open(bytes_max=12_000)
    held: list[int] = []

    def reached(point: str) -> None:
        assert area.use.byte_count <= 12_000
        if point == "load_chunk" and not held:
            wait_until(lambda: area.use.byte_count > 6_000, 60, "files")
            held.append(0)
            while held[-1] != staged.heard.counts["staged"] or len(held) < 3:  # until nothing more comes
                held.append(staged.heard.counts["staged"])
                threading.Event().wait(0.5)

    staged.load.run(staged.load.pending(), hook=reached)
    assert held[-1] < CHUNKS
    assert staged.heard.counts == {"staged": CHUNKS}
    staged.assert_all_there()


@contextlib.contextmanager
def _small_disk(path: Path, size: int) -> Iterator[None]:
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_is_said_and_the_load_goes_on_past_it(staged: Staged) -> None:
    with _small_disk(staged.directory.with_name("small"), 16_384):
        staged.directory = staged.directory.with_name("small") / "d" / "sink"
        staged.open()
        staged.load.run(staged.load.pending())
        assert staged.heard.counts["failed"] >= 1
        assert "No space left" in staged.heard.problems[0]
        staged.assert_all_there()


def test_files_are_kept_as_long_as_configured(staged: Staged) -> None:
    area = staged.open(retention=3600)
    staged.load.run(staged.load.pending())
    assert staged.load.target_rows() == [(n, n) for n in range(1, ROWS + 1)]
    assert area.use.file_count == CHUNKS
    assert area.loads() == []


# ---------------------------------------------------------------- the service


@pytest.fixture
def made(tmp_path: Path, request: pytest.FixtureRequest, mysql97: Server) -> Iterator[Deployment]:
    with deployment(
        tmp_path, mysql97, pg=request.getfixturevalue("pg15"), maria=request.getfixturevalue("mariadb1011")
    ) as one:
        one.config["staging"] = {"dir": str(tmp_path / "staging")}
        one.config["snapshot"] = {"chunk_rows": 7}
        yield one


def _staging(made: Deployment) -> list[Any]:
    return [sink["staging"] for sink in made.status()["sinks"]]


def test_what_was_kept_goes_in_time_while_nothing_is_loaded(tmp_path: Path, mysql97: Server, pg15: Server) -> None:
    with deployment(tmp_path, mysql97, sink=pg15) as made:
        made.config["staging"] = {"dir": str(tmp_path / "staging"), "retention_hours": 1}
        made.source.execute("CREATE TABLE a (id INT PRIMARY KEY)", database=made.source_database)
        made.source.execute("INSERT INTO a VALUES (1), (2)", database=made.source_database)
        made.start()
        wait_until(lambda: [one["state"] for one in made.status()["tables"]] == ["ready"], 120, "the load")
        kept = {path.parent for path in (tmp_path / "staging").rglob("*.parquet")}
        assert kept
        for directory in kept:
            os.utime(directory, (0, 0))
        wait_until(lambda: not any(directory.exists() for directory in kept), 60, "the files to go")


def test_loads_and_reloads_go_through_files(made: Deployment, tmp_path: Path) -> None:
    """Of tables with a key and without, into an empty target and into one that is complete."""
    made.source.execute("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(50))", database=made.source_database)
    made.source.execute("CREATE TABLE nokey (a INT, b TEXT)", database=made.source_database)
    for table in ("t", "nokey"):
        rows = ", ".join(f"({n}, 'row {n}')" for n in range(100))
        made.source.execute(f"INSERT INTO {table} VALUES {rows}", database=made.source_database)
    made.catch_up()
    made.assert_equal("t", "nokey")
    made.source.execute("DELETE FROM t WHERE id % 2 = 0", database=made.source_database)
    orphan = tmp_path / "staging" / made.config["name"] / "pg" / ("f" * 32) / "00000001-a.parquet"
    orphan.parent.mkdir()
    orphan.write_bytes(b"of a load that nobody knows any more")
    assert made.run("snapshot", f"{made.source_database}.t", f"{made.source_database}.nokey").returncode == 0
    made.catch_up()
    made.assert_equal("t", "nokey")
    assert _staging(made) == [{"bytes": 0, "bytes_max": 10 << 30, "chunks": 0}] * 2
    assert [path for path in (tmp_path / "staging").rglob("*") if path.is_file()] == []


def test_a_directory_that_cannot_be_used_is_said_at_the_start(made: Deployment, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made.config["staging"]["dir"] = str(tmp_path / "file")
    result = made.run("run", "--until-caught-up")
    assert result.returncode == 2
    assert "staging.dir" in result.stderr
    assert "hint: " in result.stderr
