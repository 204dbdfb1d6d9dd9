"""Imports point down: what a module may import is decided by its layer, read from the source without running it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From low to high. A module belongs to the longest prefix of its name that stands here; it may import its own entry
# and everything lower, and nothing else of ours. Entries in one tuple do not know each other, except the nouns.
NOUNS = (
    "cdc.errors",
    "cdc.gtid",
    "cdc.model",
    "cdc.rowfilter",
    "cdc.clock",
    "cdc.log",
    "cdc.metrics",
    "cdc.tls",
    "cdc.limits",
    "cdc.mysql_client",
    "cdc.credentials",
    "cdc.table_file",
)
LAYERS: tuple[tuple[str, ...], ...] = (
    ("cdc",),  # the version, no more
    NOUNS,
    ("cdc.binlog",),
    ("cdc.binlog.kernel",),  # asks its twins for errors; they know nothing of it
    ("cdc.pipeline.kernel",),  # selects rows, in blocks of the binlog's kernel; the compactor does what it leaves
    ("cdc.schema",),
    ("checkpoints",),
    ("cdc.sinks.kernel",),  # fills in blocks of the binlog's kernel; what it leaves is encoded by the sinks
    ("cdc.source", "cdc.sinks"),
    ("snapshot",),
    ("cdc.pipeline",),
    ("cdc.dashboard", "cdc.tail"),
    ("cdc.config",),
    ("cdc.app",),
    ("cdc.check", "cdc.verify", "cdc.demo", "cdc.commands"),
    ("cdc.cli",),
    ("cdc.__main__",),
)
LEVELS = {entry: level for level, layer in enumerate(LAYERS) for entry in layer}
TOP_LEVEL = frozenset(("cdc", "snapshot", "checkpoints"))
# Settings are handed down as small values of each layer's own, so the configuration itself is known only at the top.
CYTHON_FROM = re.compile(r"\s*from\s+([\w.]+)\s+c?import\s+\(?\s*(\w+)?")
CYTHON_IMPORT = re.compile(r"\s*c?import\s+([\w.]+)")
CONFIG_IMPORTS = frozenset((*NOUNS, "cdc"))
KERNEL_IMPORTS = {
    "cdc.binlog.kernel": frozenset(("cdc.binlog", "cdc.errors", "cdc.model")),
    "cdc.pipeline.kernel": frozenset(("cdc.binlog.kernel", "cdc.errors", "cdc.model")),
    "cdc.sinks.kernel": frozenset(("cdc.binlog.kernel", "cdc.schema", "cdc.errors", "cdc.model")),
}
CONFIG_IMPORTERS = frozenset(("cdc.app", "cdc.check", "cdc.verify", "cdc.demo", "cdc.commands", "cdc.cli"))


def entry_of(module: str) -> str | None:
    """The layer entry that a module belongs to; None when it has no place yet. `cdc` stands for the package alone."""
    parts = module.split(".")
    for count in range(len(parts), 0, -1):
        prefix = ".".join(parts[:count])
        if prefix in LEVELS and (prefix != "cdc" or module == "cdc"):
            return prefix
    return None


def modules(root: Path) -> list[tuple[str, Path]]:
    """Name and file of every module of ours below `root`; a compiled one has several files."""
    found = []
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if parts[0] in TOP_LEVEL and path.suffix in (".py", ".pyi", ".pyx", ".pxd"):
            names = [*parts[:-1], path.stem]
            found.append((".".join(names[:-1] if names[-1] == "__init__" else names), path))
    return found


def imports(module: str, path: Path, known: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Line and name of each module of ours that is imported anywhere in the file, also late or for types only."""
    text = path.read_text()
    if path.suffix in (".pyx", ".pxd"):  # Cython's grammar is not Python's, but its imports look alike
        text = "\n".join(
            f"from {match[1]} import {match[2] or '_'}"
            if (match := CYTHON_FROM.match(line))
            else f"import {match[1]}"
            if (match := CYTHON_IMPORT.match(line))
            else ""
            for line in text.splitlines()
        )
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(text, str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from cdc import gtid` is about cdc.gtid; `from cdc.gtid import GtidSet` about cdc.gtid
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] in TOP_LEVEL:
                yield node.lineno, name


def is_allowed(importer: str, imported: str) -> bool:
    """May code of one layer entry import another's?"""
    if importer == imported:
        return True
    if imported == "cdc.config":
        return importer in CONFIG_IMPORTERS
    if importer == "cdc.config":
        return imported in CONFIG_IMPORTS
    if importer in KERNEL_IMPORTS:
        return imported in KERNEL_IMPORTS[importer]
    if importer in NOUNS and imported in NOUNS:
        return True
    return LEVELS[imported] < LEVELS[importer]


def violations(root: Path) -> list[str]:
    """What breaks the layering below `root`, one line each."""
    found = []
    all_modules = modules(root)
    known = frozenset(module for module, _ in all_modules)
    for module, path in all_modules:
        importer = entry_of(module)
        if importer is None:
            found.append(f"{path.relative_to(root)}: {module} has no layer; give it one in tests/test_layout.py")
            continue
        for line, name in imports(module, path, known):
            imported = entry_of(name)
            if imported is None or not is_allowed(importer, imported):
                found.append(f"{path.relative_to(root)}:{line}: {importer} must not import {name}")
    return found


def test_imports_point_down() -> None:
    assert violations(ROOT) == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree that keeps to the layers."""
    files = {
        "cdc/__init__.py": '__version__ = "1"\n',
        "cdc/errors.py": "",
        "cdc/model.py": "from cdc.errors import CdcError\n",
        "cdc/binlog/__init__.py": "from .frames import Frame\n",
        "cdc/binlog/frames.py": "import struct\nfrom .. import errors\nfrom cdc import model\n",
        "cdc/binlog/kernel/rows.pyx": "from cdc.errors import CdcError\nfrom cdc.binlog.kernel.memory cimport grow\n",
        "cdc/binlog/kernel/memory.pxd": "from libc.stdint cimport uint8_t\n",
        "cdc/source/stream.py": "from cdc.binlog.frames import Frame\n",
        "cdc/sinks/postgresql.py": "import checkpoints\nfrom cdc.schema import types\n",
        "cdc/config.py": "from cdc.errors import ConfigError\n",
        "cdc/app.py": "from cdc import __version__, config, sinks\nimport snapshot.load\n",
        "checkpoints/__init__.py": "from cdc.gtid import MysqlGtidSet\n",
        "snapshot/load.py": "from cdc.source import stream\nfrom cdc.sinks import postgresql\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_tree_that_keeps_to_the_layers_has_no_violations(tree: Path) -> None:
    assert violations(tree) == []


@pytest.mark.parametrize(
    "path,line",
    [
        ("cdc/model.py", "import cdc.binlog.frames"),
        ("cdc/binlog/frames.py", "from cdc.source.stream import Stream"),
        ("cdc/binlog/frames.py", "from ..source import stream"),
        ("cdc/binlog/frames.py", "def f():\n    from cdc import app"),
        ("cdc/binlog/kernel/rows.pyx", "cdef int x\nfrom cdc.pipeline import runner"),
        ("cdc/binlog/kernel/rows.pyx", "cdef int x\nfrom cdc.source.stream cimport (\n    Stream,\n)"),
        ("cdc/binlog/kernel/rows.pxd", "cimport cdc.app"),
        ("cdc/binlog/kernel/rows.pyx", "from cdc.metrics import Metrics"),
        ("cdc/binlog/frames.py", "from cdc.binlog.kernel import rows"),
        ("cdc/pipeline/kernel/compact.pyx", "from cdc.pipeline.compactor import compact"),
        ("cdc/sinks/kernel/text.pyx", "from cdc.sinks.values cimport date"),
        ("cdc/sinks/kernel/text.pyx", "from cdc.binlog.events import Event"),
        ("cdc/source/stream.py", "from cdc.sinks import postgresql"),
        ("cdc/sinks/postgresql.py", "import cdc.source.stream"),
        ("checkpoints/__init__.py", "import snapshot"),
        ("snapshot/load.py", "from cdc.pipeline import runner"),
        ("snapshot/load.py", "import typing\nif typing.TYPE_CHECKING:\n    import cdc.config"),
        ("cdc/config.py", "from cdc.sinks import postgresql"),
        ("cdc/dashboard/page.py", "from cdc import config"),
        ("cdc/app.py", "from cdc import cli"),
        ("cdc/newcomer.py", ""),
    ],
)
def test_an_upward_import_is_a_violation(tree: Path, path: str, line: str) -> None:
    file = tree / path
    file.parent.mkdir(parents=True, exist_ok=True)
    before = file.read_text() if file.exists() else ""
    file.write_text(f"{before}{line}\n")
    (tree / "cdc/cli.py").write_text("")

    found = violations(tree)

    assert len(found) == 1
    assert found[0].startswith(path)
