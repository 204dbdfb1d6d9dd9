"""Which changes are shown: by operation, by values, by transaction; and where the showing ends.

Selections are made before anything is written out: what is not shown costs no text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cdc.gtid import MariadbGtidList, MysqlGtidSet, parse_mysql_gtid
from cdc.model import FilePos, Operation, RowBatch, SourcePosition, TransactionEnds, TransactionRun
from cdc.tail.values import quoted

__all__ = ["FileUntil", "GtidFilter", "GtidUntil", "Selection", "Until", "kept_images", "parse_gtids"]

GtidSet = MysqlGtidSet | MariadbGtidList

INSERT, UPDATE, DELETE, DDL = "insert", "update", "delete", "ddl"
OPERATIONS = (INSERT, UPDATE, DELETE, DDL)


@dataclass(frozen=True, slots=True)
class GtidFilter:
    """Transactions by GTID: those of a MySQL set, or exactly these of MariaDB."""

    mysql: MysqlGtidSet | None = None
    mariadb: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> GtidFilter:
        """Raises ValueError."""
        found = parse_gtids(text)
        if isinstance(found, MysqlGtidSet):
            return cls(mysql=found)
        return cls(mariadb=frozenset(str(MariadbGtidList.parse(item)) for item in text.split(",") if item.strip()))

    def has(self, gtid: str | None) -> bool:
        """Is this transaction one of them? One without a GTID is none."""
        if gtid is None:
            return False
        return self.mysql.contains(*parse_mysql_gtid(gtid)) if self.mysql is not None else gtid in self.mariadb


def parse_gtids(text: str) -> GtidSet:
    """A MySQL GTID set or a MariaDB GTID list. Raises ValueError for what is neither, and for nothing."""
    found: GtidSet
    found = MysqlGtidSet.parse(text) if ":" in text else MariadbGtidList.parse(text)
    if not found:
        raise ValueError(f"not a GTID set: {text!r}")
    return found


def is_in(gtids: GtidSet, gtid: str) -> bool:
    """Is that transaction in the set, or at or before its domain's position in the list?"""
    if isinstance(gtids, MysqlGtidSet):
        return gtids.contains(*parse_mysql_gtid(gtid))
    domain, _, sequence = map(int, gtid.split("-"))
    known = gtids.positions.get(domain)
    return known is not None and sequence <= known[1]


@dataclass(frozen=True, slots=True)
class Selection:
    """What is shown. `where` has (column, text of the value); a change is shown when one of its images has them all.

    `after`: transactions in it are passed over.
    """

    operations: frozenset[str] = frozenset(OPERATIONS)
    where: tuple[tuple[str, str], ...] = ()
    columns: frozenset[str] | None = None
    only: GtidFilter | None = None
    after: GtidSet | None = None

    def has_transaction(self, gtid: str | None) -> bool:
        """Are changes of this transaction shown?"""
        if self.only is not None and not self.only.has(gtid):
            return False
        return self.after is None or gtid is None or not is_in(self.after, gtid)


_SHOWN_AS = {
    Operation.INSERT: INSERT,
    Operation.UPDATE_BEFORE: UPDATE,
    Operation.UPDATE_AFTER: UPDATE,
    Operation.DELETE: DELETE,
}


def kept_images(
    batch: RowBatch,
    operations: Sequence[int],
    transactions: Sequence[int],
    *,
    selection: Selection,
    is_shown: Sequence[bool],
    fragments: Callable[[str], Sequence[object] | None],
) -> list[int] | None:
    """The indexes of the images to show, an update's two together; None for all of them.

    Args:
        is_shown: of each transaction of the run, by index.
        fragments: the fragments of a column by its name, None where the table has no such column.
    """
    wanted = {int(operation) for operation, name in _SHOWN_AS.items() if name in selection.operations}
    if not selection.where and len(wanted) == len(_SHOWN_AS) and all(is_shown):
        return None
    matching = _matching(batch, selection.where, fragments)
    kept: list[int] = []
    for index, (operation, transaction) in enumerate(zip(operations, transactions, strict=True)):
        if operation not in wanted or not is_shown[transaction]:
            continue
        if operation == Operation.UPDATE_BEFORE:
            if matching is None or matching[index] or matching[index + 1]:
                kept += (index, index + 1)
        elif operation != Operation.UPDATE_AFTER and (matching is None or matching[index]):
            kept.append(index)
    return kept


def _matching(
    batch: RowBatch,
    where: Sequence[tuple[str, str]],
    fragments: Callable[[str], Sequence[object] | None],
) -> list[bool] | None:
    """Of each image, whether it has all the values; None where none is asked for."""
    if not where:
        return None
    matching = [True] * batch.row_count
    shapes = batch.shape_index.to_pylist() if batch.shape_index is not None else None
    for name, text in where:
        values = fragments(name)
        if values is None:
            return [False] * batch.row_count
        # As it is printed, or without the quotes that it is printed in.
        accepted = (text, quoted(text))
        for index, value in enumerate(values):
            if str(value) not in accepted or (shapes is not None and name in batch.shapes[shapes[index]]):
                matching[index] = False
    return matching


# ---------------------------------------------------------------- where it ends


class Until(Protocol):
    """A position that is the last one to be shown."""

    def count(self, run: TransactionRun, before: SourcePosition) -> int:
        """How many of the run's finished transactions end at or before it; `before` is the position before the run."""

    def is_reached(self, position: SourcePosition) -> bool:
        """Is nothing left to be shown after `position`?"""

    def excludes(self, end: SourcePosition) -> bool:
        """Is it known that a group which ends there is not to be shown?"""


@dataclass(frozen=True, slots=True)
class FileUntil:
    """Up to a place in the log."""

    end: FilePos

    def count(self, run: TransactionRun, before: SourcePosition) -> int:  # noqa: ARG002 - the protocol's
        file = run.end.file
        if file is None or file <= self.end or run.ends is None:
            return run.transaction_count
        if file.number > self.end.number:
            return 0  # no run crosses files
        return sum(offset <= self.end.pos for offset in run.ends.offset.to_pylist())

    def is_reached(self, position: SourcePosition) -> bool:
        return position.file is not None and position.file >= self.end

    def excludes(self, end: SourcePosition) -> bool:
        return end.file is not None and end.file > self.end


@dataclass(frozen=True, slots=True)
class GtidUntil:
    """Until every transaction of a set is passed, or every domain of a list is where the list says."""

    end: GtidSet

    def count(self, run: TransactionRun, before: SourcePosition) -> int:
        if not self.is_reached(run.end) or run.ends is None:
            return run.transaction_count
        reached = before.gtid
        for index in range(run.transaction_count):
            reached = _with(reached, run.ends, index)
            if self.is_reached(SourcePosition(run.end.server, None, reached)):
                return index + 1
        return run.transaction_count

    def is_reached(self, position: SourcePosition) -> bool:
        match self.end, position.gtid:
            case MysqlGtidSet() as wanted, MysqlGtidSet() as reached:
                return wanted.is_subset_of(reached)
            case MariadbGtidList() as wanted, MariadbGtidList() as reached:
                there = reached.positions
                return all(d in there and there[d][1] >= number for d, (_, number) in wanted.positions.items())
        return False

    def excludes(self, end: SourcePosition) -> bool:  # noqa: ARG002 - the protocol's
        return False


def _with(gtids: GtidSet | None, ends: TransactionEnds, index: int) -> GtidSet | None:
    text = ends.gtid(index)
    if text is None or gtids is None:
        return gtids
    if isinstance(gtids, MysqlGtidSet):
        return gtids.add(*parse_mysql_gtid(text))
    domain, server_id, sequence = map(int, text.split("-"))
    return gtids.add(domain, server_id, sequence)
