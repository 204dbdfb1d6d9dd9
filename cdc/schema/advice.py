"""What to do with a table, from what the source says of it: size class, strategy, batch size, priority.

Pure: facts in, advice out, the same for the same facts. Reads no server (`source/analysis.py` does) and writes no file.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import orjson

from cdc.model import TableDefinition
from cdc.schema.keys import choose_key
from cdc.schema.strategy import Choice, Offer, TablePolling, choose

__all__ = [
    "SIZE_CLASSES",
    "Advice",
    "Candidate",
    "Quality",
    "SizeClass",
    "TableFacts",
    "advise",
    "schema_hash",
    "size_class",
]

SizeClass = Literal["tiny", "small", "medium", "large"]
Quality = Literal["good", "usable", "poor"]

# The rows at which a class ends.
SIZE_CLASSES: Final[tuple[tuple[SizeClass, int | None], ...]] = (
    ("tiny", 10_000),
    ("small", 100_000),
    ("medium", 1_000_000),
    ("large", None),
)
# Small tables first: most of them are there soon, and the large ones, which take the time, read with all workers.
_PRIORITIES: Final = {"tiny": 10, "small": 20, "medium": 30, "large": 40}

_CHUNK_BYTES: Final = 16 * 1024 * 1024  # as `flush.bytes_max`: what a sink transaction takes well
_BATCH_ROWS_MIN, _BATCH_ROWS_MAX = 500, 200_000
# How columns that the application sets itself at each change are mostly called.
_CHANGE_WORDS: Final = ("updat", "modif", "chang", "edit", "mtime", "touch", "tstamp", "version", "revision")
_CREATE_WORDS: Final = ("creat", "insert", "birth", "start", "entry", "entered", "added", "registered", "ctime")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A column that changed rows could be found by.

    Attributes:
        index: the index that it leads; None where there is none, so that each look would read the whole table.
        sets_itself: ON UPDATE CURRENT_TIMESTAMP.
        greatest: its greatest value, as text; None where it was not read, or there is none.
        is_future: is that later than now? None where that was not, or cannot be, told.
        no_answer: why the greatest value could not be read.
    """

    column: str
    column_type: str
    is_time: bool
    is_nullable: bool
    index: str | None = None
    sets_itself: bool = False
    greatest: str | None = None
    is_future: bool | None = None
    no_answer: str = ""

    def with_greatest(self, value: str | None, *, is_future: bool | None) -> Candidate:
        """As it was read."""
        return replace(self, greatest=value, is_future=is_future)

    def with_no_answer(self, reason: str) -> Candidate:
        """The value was not to be had."""
        return replace(self, no_answer=reason)

    @property
    def changes(self) -> Literal["always", "perhaps", "never"]:
        """Does an UPDATE of the row change it? By its definition, else by its name."""
        if self.sets_itself:
            return "always"
        name = self.column.lower()
        if any(word in name for word in _CHANGE_WORDS):
            return "perhaps"
        return "never"

    @property
    def problems(self) -> tuple[str, ...]:
        """Why rows should not be found by it; () is a good one."""
        name = self.column.lower()
        found = []
        if self.changes == "never":
            is_created = any(word in name for word in _CREATE_WORDS)
            found.append("an UPDATE leaves it as it is" if is_created else "nothing says that an UPDATE changes it")
        elif self.changes == "perhaps":
            found.append("by its name alone: the application has to set it at each change")
        if self.index is None:
            found.append("leads no index: each run would read the whole table")
        if self.is_nullable:
            found.append("may be NULL: each run reads all rows in which it is")
        if self.is_future:
            found.append(f"is in the future ({self.greatest}): each run reads all rows in which it is")
        if self.is_time and self.column_type.lower() == "date":
            found.append("is a whole day: each run reads the last day again")
        return tuple(found)

    @property
    def quality(self) -> Quality:
        """`good`: by its definition; `usable`: if the application keeps it; `poor`: misses rows, or reads many."""
        if self.changes == "never" or self.is_nullable or self.is_future:
            return "poor"
        return "good" if self.changes == "always" and self.index is not None else "usable"

    def to_dict(self) -> dict[str, Any]:
        """As `cdc analyze --json` has it."""
        return {
            "column": self.column,
            "type": self.column_type,
            "quality": self.quality,
            "index": self.index,
            "nullable": self.is_nullable,
            "set_by_update": self.changes,
            "greatest": self.greatest,
            "in_future": self.is_future,
            "problems": [*self.problems, *([f"not looked at: {self.no_answer}"] if self.no_answer else [])],
        }


@dataclass(frozen=True, slots=True)
class TableFacts:
    """What was read of one table. `rows` and bytes are the server's estimates; `problems` keep it from being loaded."""

    definition: TableDefinition
    rows: int
    data_bytes: int
    index_bytes: int
    candidates: tuple[Candidate, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Advice:
    """What is recommended for one table, and why. `settings` are keys of `tables.overrides`."""

    size: SizeClass
    strategy: Literal["cdc", "incremental", "full_refresh"]
    reason: str
    settings: dict[str, Any]
    warnings: tuple[str, ...] = ()


def size_class(rows: int) -> SizeClass:
    """By the number of rows."""
    return next(name for name, end in SIZE_CLASSES if end is None or rows < end)


def advise(facts: TableFacts, *, no_stream: str = "") -> Advice:
    """`no_stream`: why the source's binlog cannot be followed, '' where it can."""
    size = size_class(facts.rows)
    key = choose_key(facts.definition)
    choice = _choice(facts, key, no_stream)
    settings: dict[str, Any] = {"sync_strategy": choice.strategy}
    if choice.modifier is not None:
        settings["modifier"] = choice.modifier
    settings["batch_size"] = _batch_rows(facts)
    settings["priority"] = _PRIORITIES[size]
    warnings = (*facts.problems, *_warnings(facts, key, choice, size))
    return Advice(size, choice.strategy, choice.reason, settings, warnings)


def _choice(facts: TableFacts, key: tuple[str, ...], no_stream: str) -> Choice:
    """What `sync_strategy: auto` would choose; a column whose values are in the future is none to go by."""
    known = [c for c in facts.candidates if not c.is_future]
    offer = Offer(
        definition=facts.definition,
        key=key,
        indexed={c.column for c in known if c.index is not None},
        on_update={c.column for c in known if c.sets_itself},
        rows=facts.rows,
        why_no_log=no_stream,
    )
    return choose(TablePolling(strategy="auto"), offer)


def _warnings(facts: TableFacts, key: tuple[str, ...], choice: Choice, size: SizeClass) -> Iterator[str]:
    if choice.strategy == "cdc":
        if not key:
            yield "it has no key: rows are told apart by all their columns"
        return
    if choice.strategy == "incremental":
        yield "no run looks for deleted rows, unless detect_deletes_every says so"
        return
    if size in ("medium", "large"):
        yield f"it is {size}, and every run reads all of it"
    if key:
        for candidate in facts.candidates:
            if candidate.quality == "usable":
                yield f"{candidate.column} may do as modifier: it {', '.join(candidate.problems) or 'has no problem'}"


def _batch_rows(facts: TableFacts) -> int:
    """Rows that make about 16 MiB, as 1, 2 or 5 times a power of ten: what hardly changes from run to run."""
    if not facts.rows or facts.data_bytes <= _CHUNK_BYTES:
        return _BATCH_ROWS_MAX  # one chunk, and pages that are half empty would be taken for wide rows
    wanted = _CHUNK_BYTES / (facts.data_bytes / facts.rows)
    rows, step = 1, 0
    while rows * (2, 2.5, 2)[step % 3] <= wanted and rows < _BATCH_ROWS_MAX:
        rows = int(rows * (2, 2.5, 2)[step % 3])
        step += 1
    return max(_BATCH_ROWS_MIN, min(rows, _BATCH_ROWS_MAX))


def schema_hash(definition: TableDefinition) -> str:
    """16 digits that are others once a column, a key or the engine is another; comments and estimates do not count."""
    said = dataclasses.asdict(definition)
    said.pop("name")
    said.pop("comment")
    for column in said["columns"]:
        column.pop("comment")
    said["unique_keys"] = sorted(said["unique_keys"], key=lambda key: str(key["name"]))
    return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
