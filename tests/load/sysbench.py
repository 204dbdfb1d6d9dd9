"""sysbench's oltp_read_write: the program itself, which Debian packages as `sysbench`."""

from __future__ import annotations

import re
import shutil
import subprocess

from cdc.demo.servers import Server

__all__ = ["TABLES", "SysbenchWriter", "create_tables", "is_there"]

_TABLE_COUNT = 4
TABLES = tuple(f"sbtest{number}" for number in range(1, _TABLE_COUNT + 1))


def is_there() -> bool:
    """Is the program installed?"""
    return shutil.which("sysbench") is not None


def _command(source: Server, database: str, *words: str) -> list[str]:
    return [
        "sysbench",
        "oltp_read_write",
        "--db-driver=mysql",
        f"--mysql-host={source.host}",
        f"--mysql-port={source.port}",
        f"--mysql-user={source.user}",
        f"--mysql-password={source.password}",
        f"--mysql-db={database}",
        f"--tables={_TABLE_COUNT}",
        *words,
    ]


def create_tables(source: Server, database: str, rows: int) -> None:
    """Make its tables and their first rows."""
    _check(subprocess.run(
        _command(source, database, f"--table-size={rows}", "prepare"), capture_output=True, text=True, check=False
    ))  # fmt: skip


def _check(result: subprocess.CompletedProcess[str]) -> None:
    if result.returncode:
        raise RuntimeError(f"sysbench: {result.stdout[-2000:]}{result.stderr[-2000:]}")


class SysbenchWriter:
    """One run of it, as a process. `counts` is what it says that it did."""

    def __init__(self, source: Server, database: str, *, rows: int, seconds: int, threads: int) -> None:
        self.counts: dict[str, int] = {}
        words = (f"--table-size={rows}", f"--threads={threads}", f"--time={seconds}", "run")
        self._command = _command(source, database, *words)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def stop(self) -> None:
        """Wait for its end."""
        assert self._process is not None
        said, _ = self._process.communicate()
        _check(subprocess.CompletedProcess(self._command, self._process.returncode, said, ""))
        for name in ("read", "write", "other", "transactions"):
            found = re.search(rf"^\s*{name}:\s+(\d+)", said, re.MULTILINE)
            if found is None:
                raise RuntimeError(f"sysbench says nothing of {name}: {said[-2000:]}")
            self.counts[name] = int(found[1])
