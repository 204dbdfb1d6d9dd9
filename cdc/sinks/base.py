"""The contract between the pipeline and a sink.

The pipeline opens one `SinkTransaction` at a time, puts rows into it, lets the checkpoint store write the checkpoint
through the same transaction (`execute`), and commits: rows and checkpoint are durable together or not at all.

Errors at this border, translated from the driver's error *number*:
    SinkUnavailable   connection lost, dead-lock, lock timeout, server going down, disk full: retry from the checkpoint
    SinkRefused       a value, key or definition was refused: park that table (table, column, key, value in the message)
    ConfigError       wrong password, unknown database, a missing right: with the GRANT or CREATE that mends it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from cdc.errors import CdcError
from cdc.model import ChangeBatch, ColumnDefinition
from cdc.schema.alteration import TargetAlteration
from cdc.schema.sharing import Alteration, Reshaping
from cdc.schema.target import SinkKind, TargetTable

__all__ = ["ApplyResult", "ExistingTable", "Sink", "SinkTransaction", "StatementHook", "mixed_unique_problem"]


class StatementHook(Protocol):
    """Called before and after each statement that changes rows; crash tests kill the process there."""

    def __call__(self, point: str) -> None:
        """`point` is one of the names in `pipeline/hooks.py`."""


@dataclass(slots=True)
class ApplyResult:
    """What one call did: rows written and removed, and how many values a policy changed by (column, policy)."""

    upserted: int = 0
    deleted: int = 0
    policy_changes: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class ExistingTable:
    """A table found on the sink. `columns`: name → (canonical type text, is_nullable, is_generated)."""

    columns: dict[str, tuple[str, bool, bool]]
    primary_key: tuple[str, ...]
    has_rows: bool
    problems: tuple[str, ...] = ()  # triggers, PostgreSQL's foreign keys, an engine without transactions


def mixed_unique_problem(index: str, column: str) -> str:
    """Why a target of several tables may not have that unique index."""
    return f"its unique index {index} lacks {column}: rows of two tables could be one to it"


class SinkTransaction(Protocol):
    """One open transaction on the sink. Leaving the context without `commit` rolls it back."""

    def apply(self, change: ChangeBatch, target: TargetTable) -> ApplyResult:
        """Delete `change.deletes`, apply `change.updates`, upsert `change.upserts`, by the target's key.

        Raises SinkRefused; UnsupportedData for an update whose row is not there, unless `change.may_lack_rows`.
        """

    def load(self, rows: pa.RecordBatch, target: TargetTable) -> ApplyResult:
        """Insert `rows` (all columns of the definition) into a target that holds none of their keys."""

    def end_versions(self, rows: pa.RecordBatch, target: TargetTable) -> None:
        """In a history target, end the current version, if there is one, of each key of `rows` at the time beside it.

        `rows` has the source's key columns, and `(valid_to)`, which never goes back from row to row.
        """

    def clear(self, target: TargetTable) -> int:
        """Delete every row; how many there were. Readers see it only after the commit."""

    def merge(self, target: TargetTable, new: TargetTable) -> ApplyResult:
        """Make `target`'s rows those of `new`, a table with the same columns; readers see it only after the commit.

        Rows that differ are deleted and inserted. It may take as long as it takes: no statement timeout holds.
        """

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one metadata statement (`%s` parameters); its rows, or [] when it returns none."""

    def execute_count(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one metadata statement; how many rows it *matched* (also where it changed nothing)."""

    def execute_on(self, target: TargetTable, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement that changes rows of a target, which it may refuse; how many it matched."""

    def rewrite(self, target: TargetTable, sql: str) -> int:
        """Run one statement that may change every row of a target, for as long as that takes; how many it matched."""

    def execute_later(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Run one metadata statement before the commit, whenever it costs least; nobody asks what it did."""

    def commit(self) -> None:
        """Make it durable. Raises SinkUnavailable (outcome not known), SinkRefused (a deferred constraint)."""


class Sink(Protocol):
    """One target database. Not thread-safe: the applier thread owns it."""

    @property
    def name(self) -> str:
        """As configured."""

    @property
    def kind(self) -> SinkKind:
        """Known once open: a mysql:// URL may lead to MariaDB."""

    def metadata_table(self, name: str) -> str:
        """A metadata table's quoted, qualified name: `"_cdc"."checkpoint"`, `` `shop_copy`.`_cdc_checkpoint` ``."""

    def create_metadata_namespace(self) -> None:
        """Make the place for the metadata tables when missing. Raises ConfigError with the GRANT that is missing."""

    def has_lost_race(self, error: CdcError) -> bool:
        """Was another session faster: is the row or object there already, or was it a dead-lock?"""

    def has_waited_for_lock(self, error: CdcError) -> bool:
        """Did another session hold a lock for longer than a statement here waits for one?"""

    def open(self) -> None:
        """Connect, or raise SinkUnavailable / ConfigError. Sets UTC, strict mode, timeouts, no autocommit."""

    def close(self) -> None:
        """Drop the connection without raising; an open transaction is rolled back by the server."""

    def is_open(self) -> bool:
        """Is there a connection, as far as this side knows?"""

    def cancel(self) -> None:
        """From another thread: abort the running statement, so that the owner can roll back and leave."""

    def is_session_alive(self, session: str) -> bool | None:
        """Does the session that `session()` named still live on this server? None when it cannot be told."""

    def kill_session(self, session: str) -> None:
        """End that session if it still lives; what it had not committed is rolled back.

        Returns before it is gone: ask `is_session_alive`. Raises ConfigError with the GRANT that is missing.
        """

    def ping(self) -> None:
        """Raise SinkUnavailable when the connection is dead."""

    def end_when_silent(self, seconds: float) -> None:
        """Have the server end this session, with what it holds, once it is in a transaction and silent for so long."""

    def hang_up(self) -> None:
        """End the conversation from this side; from any thread. Who waits for an answer gets SinkUnavailable."""

    def session(self) -> str:
        """Which session of the server this is (`pid` and its start), to tell from outside whether it still lives."""

    def transaction(self) -> AbstractContextManager[SinkTransaction]:
        """Begin; on leaving, roll back unless committed."""

    def create_namespace(self, namespace: str) -> None:
        """Make the schema or database when missing. Raises ConfigError with the GRANT that is missing."""

    def inspect(self, target: TargetTable) -> ExistingTable | None:
        """The table that is there, or None."""

    def absent(self, targets: Sequence[TargetTable]) -> list[TargetTable]:
        """Those of which nothing there has the name, by one look at all of them."""

    def differences(self, target: TargetTable, existing: ExistingTable) -> list[str]:
        """Why `existing` cannot hold `target`'s rows, one sentence a column; [] when it can."""

    def create_table(self, target: TargetTable) -> None:
        """Make the table, empty, with its primary key. Commits by itself on the MySQL family."""

    def drop_table(self, target: TargetTable) -> None:
        """Drop it if it exists. Raises SinkRefused when something depends on it."""

    def reshaping(
        self,
        target: TargetTable,
        existing: ExistingTable,
        *,
        others: Mapping[str, ColumnDefinition],
        former: Collection[str],
    ) -> Reshaping:
        """How a target of several tables is made to hold `target`'s rows as well (`schema.sharing.reshaping`)."""

    def misfits(self, target: TargetTable, other: TargetTable) -> list[str]:
        """Why two tables cannot share a target, one sentence a column; [] where they can."""

    def stray_value(self, target: TargetTable, values: Sequence[str]) -> str | None:
        """A value of the target's source column that rows there have, and that is none of `values`; None without."""

    def alter_table(self, target: TargetTable, alterations: Sequence[Alteration]) -> None:
        """Alter columns. Commits by itself on the MySQL family. Raises SinkRefused."""

    def follow_ddl(self, alteration: TargetAlteration, existing: ExistingTable) -> None:
        """Make `alteration.after` of the target, of which `existing` was found; what has been done is left.

        In the open transaction on PostgreSQL. On the MySQL family outside of any: one statement, which commits by
        itself, does all of it or nothing. It may take as long as it takes: no statement timeout holds. Raises
        SinkRefused; SinkUnavailable, also for a lock that it waited for in vain (`has_waited_for_lock`); Unproven for
        what this sink has no statement for.
        """

    def rename_tables(self, moves: Sequence[tuple[TargetTable, TargetTable]]) -> None:
        """Give tables, with their rows, another name or place; one may take the name that another one leaves.

        In the open transaction on PostgreSQL. On the MySQL family outside of any, by one statement, and nobody may
        take a name that is left for one (no rings). Raises SinkRefused; SinkUnavailable as `follow_ddl`; Unproven
        where what depends on a table would be lost to readers of the name that it leaves to another.
        """

    def define(self, target: TargetTable, statements: Sequence[str]) -> None:
        """Run DDL about the target, as long as it takes; on PostgreSQL in the open transaction, where there is one.

        On the MySQL family outside of any: each statement commits by itself. Raises SinkRefused, SinkUnavailable.
        """

    def estimated_rows(self, targets: Sequence[TargetTable]) -> dict[str, int | None]:
        """The server's own estimate by `str(target)`."""

    def read_rows(self, target: TargetTable, *, batch_rows: int) -> Iterator[list[tuple[Any, ...]]]:
        """Every row as the sink's own canonical text per column (None for NULL), for comparison."""
