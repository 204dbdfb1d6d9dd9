"""The definitions that a pipeline's tables have had, with the positions from which they held.

Kept beside the tables' states and written in the same transactions: what `InSinkStore.save_table` is given is noted,
and goes with the checkpoint, or the fence, that the transaction ends with. A row a change of definition; a definition
that a table has had before is not written again, what the source can send no more is pruned, and so is what is older
than `entries_max` changes. Where nobody watches a table's statements (it is parked, or still to be loaded), its
definition counts as not known.

The rules are pure functions over `HistoryRow`; `SchemaHistory` reads and writes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson

from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import SourcePosition, TableDefinition, TableName
from cdc.schema.history import decode_definition, encode_definition
from checkpoints.checkpoint import decode_position, encode_position

__all__ = [
    "ENTRIES_MAX",
    "HistoryEntry",
    "HistoryRow",
    "Known",
    "SchemaHistory",
    "TableHistory",
    "as_ascii",
    "described",
    "has_come_to",
    "histories_of",
]

ENTRIES_MAX = 64
"""Rows a table, unless the configuration says otherwise."""

Known = Literal["statement", "created", "source", "unknown", "loading"]
"""How a definition is known: worked out of a statement, or read from the source (what was worked out becomes that once
it has been compared); `created`: there was no such table before. `unknown` is a row without a definition; `loading` is
one at which a load began, and which goes when the load is complete and no statement has come between."""


def as_ascii(text: str) -> str:
    """The same JSON in ASCII: a sink's database may not have other characters."""
    return text if text.isascii() else json.dumps(orjson.loads(text), separators=(",", ":"))


def has_come_to(position: SourcePosition, place: SourcePosition) -> bool | None:
    """Does who stands at `position` have everything up to `place`? None where nobody can tell.

    On one server by the files, else by GTIDs; MariaDB's lists say nothing of another server's order.
    """
    one, other = place.gtid, position.gtid
    is_same_server = place.server == position.server
    if is_same_server and place.file is not None and position.file is not None:
        # A stream by GTID begins in the file of its next transaction: the end of one file and the start of the next.
        is_same = one is not None and one == other and place.file.number != position.file.number
        return is_same or place.file <= position.file
    if isinstance(one, MysqlGtidSet) and isinstance(other, MysqlGtidSet):
        if one.is_subset_of(other):
            return True
        return False if other.is_subset_of(one) else None
    if is_same_server and isinstance(one, MariadbGtidList) and isinstance(other, MariadbGtidList):
        if _is_within(one, other):
            return True
        return False if _is_within(other, one) else None
    return None


def _is_within(one: MariadbGtidList, other: MariadbGtidList) -> bool:
    reached = {domain: sequence for domain, (_, sequence) in other.positions.items()}
    return all(sequence <= reached.get(domain, 0) for domain, (_, sequence) in one.positions.items())


# ---------------------------------------------------------------- rows, and the rules


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """From `since` (an encoded position) on the table has the definition with that digest; None: it is not known.

    `has_text`: this row holds the definition's text for all rows of the table with the same digest. `number` is 0 for a
    row that is not written yet.
    """

    since: str
    known: Known
    digest: str | None
    has_text: bool = False
    number: int = 0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a table's record says: whether its statements are watched, and by which definition it is followed.

    `loaded_from`: of a table that is loaded and has not caught up.
    """

    digest: str | None
    is_worked_out: bool = False
    loaded_from: str | None = None


def is_told(rows: Sequence[HistoryRow], seen: _Seen) -> bool:
    """Do the rows say this already? (What `with_seen` would leave as it is, without a position to hand.)"""
    if not rows:
        return seen.digest is None
    last = rows[-1]
    if seen.digest is None:
        return last.digest is None and last.known == "unknown"
    if last.digest != seen.digest:
        return False
    if seen.loaded_from is not None:
        return True
    is_merged = len(rows) < 2 or rows[-2].known != "loading"
    return is_merged and (seen.is_worked_out or last.known != "statement")


def with_seen(rows: Sequence[HistoryRow], seen: _Seen, at: str) -> list[HistoryRow]:
    """The rows once the stream is at the encoded position `at` and the table as in `seen`."""
    if seen.digest is None:
        return _unwatched(rows, at)
    if seen.loaded_from is not None:
        return _loaded(rows, HistoryRow(seen.loaded_from, "source", seen.digest), at)
    return _followed(rows, HistoryRow(at, "statement" if seen.is_worked_out else "source", seen.digest))


def _unwatched(rows: Sequence[HistoryRow], at: str) -> list[HistoryRow]:
    """Nobody sees its statements from here on. What a load ahead of the stream said is void, too."""
    kept = list(rows)
    while kept and kept[-1].digest is not None and _is_at_or_behind(kept[-1].since, at):
        kept.pop()
    if not kept:
        return []
    if kept[-1].digest is None:
        return [*kept[:-1], replace(kept[-1], known="unknown")]
    return [*kept, HistoryRow(at, "unknown", None)]


def _is_at_or_behind(since: str, at: str) -> bool:
    """Does `since` lie at `at`, or behind it? False where nobody can tell."""
    return since == at or has_come_to(decode_position(at), decode_position(since)) is False


def _loaded(rows: Sequence[HistoryRow], new: HistoryRow, at: str) -> list[HistoryRow]:
    """A load is complete, and the stream, which is at `at`, passes the table's changes over up to there."""
    if not rows or rows[-1].digest is not None:
        return list(rows) if rows and rows[-1].digest == new.digest else [*rows, new]
    last = rows[-1]
    if last.since == new.since:
        return [*rows[:-1], new]
    # From where the table was left to where the load begins the stream has yet to come: it shows what lies between.
    return [*rows[:-1], replace(last, known="loading" if last.since == at else "unknown"), new]


def _followed(rows: Sequence[HistoryRow], new: HistoryRow) -> list[HistoryRow]:
    if not rows:
        return [replace(new, known="created") if new.known == "statement" else new]
    last, before = rows[-1], list(rows[:-1])
    if last.digest == new.digest:
        if before and before[-1].known == "loading":  # nothing came between: it has held from there on
            gap = before.pop()
            if before and before[-1].digest == new.digest:
                return before
            return [*before, replace(last, since=gap.since)]
        return [*before, replace(last, known="source") if (last.known, new.known) == ("statement", "source") else last]
    if last.known in ("statement", "created") and new.known == "source":
        # Compared with the source, and mended where it does not count.
        return [*before, replace(new, since=last.since, known="source" if last.known == "statement" else "created")]
    return [*before, new] if last.since == new.since else [*rows, new]


def without_worked_out(rows: Sequence[HistoryRow]) -> list[HistoryRow]:
    """The rows without the latest definitions that were worked out: one of them was wrong."""
    kept = list(rows)
    first: HistoryRow | None = None
    while kept and (kept[-1].known in ("statement", "created") or kept[-1].digest is None):
        first = kept.pop()
    return [*kept, HistoryRow(first.since, "unknown", None)] if kept and first is not None else kept


def within(rows: Sequence[HistoryRow], entries_max: int) -> list[HistoryRow]:
    """The newest of them, the oldest being one with a definition; at least one."""
    kept = list(rows[-entries_max:]) if len(rows) > entries_max else list(rows)
    while len(kept) > 1 and kept[0].digest is None:
        del kept[0]
    return kept


def pruned(rows: Sequence[HistoryRow], oldest: SourcePosition) -> list[HistoryRow]:
    """Those that held at `oldest` or later; the newest stays, if it says anything."""
    kept = list(rows)
    while len(kept) > 1 and has_come_to(oldest, decode_position(kept[1].since)):
        del kept[0]
    if len(kept) == 1 and kept[0].digest is None and has_come_to(oldest, decode_position(kept[0].since)):
        return []
    return kept


def with_texts(rows: Iterable[HistoryRow]) -> list[HistoryRow]:
    """The first row of each definition holds its text."""
    seen: set[str | None] = {None}
    found = []
    for row in rows:
        found.append(replace(row, has_text=row.digest not in seen))
        seen.add(row.digest)
    return found


# ---------------------------------------------------------------- what is asked of it


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """From `since` on the table has this definition; None: it is not known."""

    since: SourcePosition
    known: Known
    definition: TableDefinition | None


@dataclass(frozen=True, slots=True)
class TableHistory:
    """One table's entries, oldest first. `upto` is where the stream stands: the last entry holds up to there."""

    entries: tuple[HistoryEntry, ...]
    upto: SourcePosition | None

    def at(self, position: SourcePosition) -> TableDefinition | None:
        """The definition as of a position, None where it is not known (`why_unknown`)."""
        entry = self._entry(position)
        return entry.definition if entry is not None else None

    def is_created_behind(self, position: SourcePosition) -> bool:
        """Was the table made by a statement that lies behind that place?"""
        first = self.entries[0] if self.entries else None
        return first is not None and first.known == "created" and has_come_to(position, first.since) is False

    def why_unknown(self, position: SourcePosition) -> str:
        """Why `at` gives nothing there, for a message: "the history begins at ...\""""
        if not self.entries:
            return "there is no history of it"
        if has_come_to(position, self.entries[0].since) is False:
            return f"its history begins at {self.entries[0].since}"
        entry = self._entry(position)
        if entry is not None:
            return f"what statements did to it from {entry.since} on was not followed"
        return f"its history, from {self.entries[0].since} to {self.upto}, cannot be compared with that place"

    def _entry(self, position: SourcePosition) -> HistoryEntry | None:
        found: HistoryEntry | None = None
        for entry in self.entries:
            has_come = has_come_to(position, entry.since)
            if has_come is None:
                return None  # one of another server: what lies between nobody knows
            if not has_come:
                return found
            found = entry
        is_within = self.upto is not None and has_come_to(self.upto, position)
        return found if is_within else None


# ---------------------------------------------------------------- as JSON

_FILE_FORMAT = 1


def described(histories: Mapping[TableName, TableHistory]) -> dict[str, Any]:
    """As what `cdc checkpoint history --json` prints, and `histories_of` reads."""
    return {
        "format": _FILE_FORMAT,
        "tables": [
            {
                "table": [table.database, table.table],
                "upto": _described(history.upto) if history.upto is not None else None,
                "entries": [
                    {
                        "since": _described(entry.since),
                        "known": entry.known,
                        "definition": orjson.loads(encode_definition(entry.definition)) if entry.definition else None,
                    }
                    for entry in history.entries
                ],
            }
            for table, history in histories.items()
        ],
    }


def _described(position: SourcePosition) -> Any:
    return orjson.loads(encode_position(position))


def histories_of(content: Any) -> dict[TableName, TableHistory]:
    """What `described` made. Raises ResyncRequired, ValueError, KeyError or TypeError for anything else."""
    if content["format"] != _FILE_FORMAT:
        raise ValueError("format")

    def position(value: Any) -> SourcePosition:
        return decode_position(orjson.dumps(value).decode())

    return {
        TableName(*one["table"]): TableHistory(
            tuple(
                HistoryEntry(
                    position(entry["since"]),
                    entry["known"],
                    decode_definition(orjson.dumps(entry["definition"]).decode()) if entry["definition"] else None,
                )
                for entry in one["entries"]
            ),
            position(one["upto"]) if one["upto"] else None,
        )
        for one in content["tables"]
    }


# ---------------------------------------------------------------- reading and writing


class SchemaHistory:
    """The `history` table, as far as it is one pipeline's.

    Args:
        sink: what runs the statements; loosely typed as in `checkpoints.store`.
    """

    def __init__(self, sink: Any, pipeline: str) -> None:
        self.entries_max = ENTRIES_MAX
        self._sink = sink
        self._pipeline = pipeline
        self._noted: tuple[Any, list[tuple[TableName, _Seen, TableDefinition | None]]] | None = None
        self._wrong: set[TableName] = set()
        # What the metadata hold, None before it was read. A table is read again after it was written: whether that was
        # committed nobody says here.
        self._rows: dict[TableName, list[HistoryRow]] | None = None
        self._stale: set[TableName] = set()

    @property
    def _table(self) -> str:
        return str(self._sink.metadata_table("history"))

    # -- writing

    def note(
        self,
        tx: Any,
        table: TableName,
        definition: TableDefinition | None,
        *,
        is_worked_out: bool,
        loaded_from: SourcePosition | None,
    ) -> None:
        """The record that is written in `tx` says this of the table; `definition` is None where it is not followed."""
        if self._noted is None or self._noted[0] is not tx:
            self._noted = (tx, [])
            self._wrong.clear()
        digest = _digest(definition) if definition is not None else None
        seen = _Seen(digest, is_worked_out, encode_position(loaded_from) if loaded_from is not None else None)
        self._noted[1].append((table, seen, definition))

    def has(self, tx: Any, table: TableName) -> bool:
        """Is there anything of the table?"""
        return bool(self._of(tx, table))

    def note_wrong(self, table: TableName) -> None:
        """In the same transaction: what was worked out of the latest statements was wrong."""
        self._wrong.add(table)

    def write(self, tx: Any, position: Callable[[], tuple[str, int]]) -> None:
        """Write what was noted in `tx`.

        `position` gives where the checkpoint is with that transaction, encoded ('' before the first), and the time.
        """
        if self._noted is None or self._noted[0] is not tx:
            return
        noted, wrong = self._noted[1], set(self._wrong)
        self._noted = None
        self._wrong.clear()
        at: tuple[str, int] | None = None
        if sum(table in self._stale for table, _, _ in noted) > 1:
            self._all(tx)  # by one question
        for table, seen, definition in noted:
            rows = self._of(tx, table)
            if is_told(rows, seen) and table not in wrong:
                continue
            at = position() if at is None else at
            if not at[0]:
                return  # no stream to be resumed: a table that is polled
            after = with_seen(without_worked_out(rows) if table in wrong else rows, seen, at[0])
            texts = {seen.digest: as_ascii(encode_definition(definition))} if definition is not None else {}
            # Chronological, also among the rows of two pipelines between which the table moves.
            number = max(at[1], *(row.number + 1 for row in rows), 0)
            after = [row if row.number else replace(row, number=number) for row in within(after, self.entries_max)]
            self._replace(tx, table, rows, after, texts)

    def prune(self, tx: Any, oldest: SourcePosition) -> int:
        """Drop what ended before `oldest`, where the source's log begins; how many rows."""
        self._rows = None
        count = 0
        for table, rows in self._all(tx).items():
            kept = pruned(rows, oldest)
            if len(kept) < len(rows):
                self._replace(tx, table, rows, kept, {})
                count += len(rows) - len(kept)
        return count

    def is_prunable(self, tx: Any, oldest: SourcePosition) -> bool:
        """Is there anything to `prune`?"""
        return any(len(pruned(rows, oldest)) < len(rows) for rows in self._all(tx).values())

    def forget(self, tx: Any) -> None:
        """Nothing is known any more of any table."""
        self._rows = None
        tx.execute_count(f"DELETE FROM {self._table} WHERE pipeline = %s", (self._pipeline,))

    def set_back(self, tx: Any, place: SourcePosition) -> None:
        """The stream is going to begin at `place` again: what came later comes again."""
        for table, rows in self._all(tx).items():
            kept = [row for row in rows if has_come_to(place, decode_position(row.since)) is not False]
            if len(kept) < len(rows):
                self._replace(tx, table, rows, kept, {})

    def _replace(
        self,
        tx: Any,
        table: TableName,
        before: Sequence[HistoryRow],
        after: Sequence[HistoryRow],
        texts: Mapping[str | None, str],
    ) -> None:
        after = with_texts(after)
        gone = [row for row in before if row not in after]
        come = [row for row in after if row not in before]
        self._stale.add(table)
        where, key = "WHERE pipeline = %s AND source_table = %s", (self._pipeline, _name(table))
        if gone:
            numbers = f"number IN ({', '.join(['%s'] * len(gone))})"
            found = (*key, *(row.number for row in gone))
            if any(row.has_text for row in gone):
                rows = tx.execute(f"SELECT digest, definition FROM {self._table} {where} AND {numbers}", found)
                texts = {**{digest: text for digest, text in rows if text}, **texts}
            tx.execute_count(f"DELETE FROM {self._table} {where} AND {numbers}", found)
        for row in come:
            text = texts[row.digest] if row.has_text else None
            tx.execute_later(
                f"INSERT INTO {self._table} (pipeline, source_table, number, since, known, digest, has_text, "
                f"definition) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                (*key, row.number, row.since, row.known, row.digest, int(row.has_text), text),
            )

    # -- reading

    def _all(self, tx: Any) -> dict[TableName, list[HistoryRow]]:
        if self._rows is None or self._stale:
            self._rows = self._read(tx, "", ())
            self._stale.clear()
        return self._rows

    def _of(self, tx: Any, table: TableName) -> list[HistoryRow]:
        if self._rows is None:
            return self._all(tx).get(table, [])
        if table in self._stale:
            return self._read(tx, " AND source_table = %s", (_name(table),)).get(table, [])
        return self._rows.get(table, [])

    def _read(self, tx: Any, more: str, parameters: tuple[str, ...]) -> dict[TableName, list[HistoryRow]]:
        rows = tx.execute(
            f"SELECT source_table, number, since, known, digest, has_text FROM {self._table} "
            f"WHERE pipeline = %s{more} ORDER BY number",
            (self._pipeline, *parameters),
        )
        found: dict[TableName, list[HistoryRow]] = {}
        for source, number, since, known, digest, has_text in rows:
            row = HistoryRow(since, known, digest, bool(has_text), int(number))
            found.setdefault(TableName(*orjson.loads(source)), []).append(row)
        return found

    def entries(self, tx: Any) -> dict[TableName, tuple[HistoryEntry, ...]]:
        """Every table's entries, oldest first. Raises ResyncRequired for what another version wrote."""
        rows = tx.execute(
            f"SELECT source_table, since, known, digest, definition FROM {self._table} WHERE pipeline = %s "
            f"ORDER BY number",
            (self._pipeline,),
        )
        texts = {(source, digest): text for source, _, _, digest, text in rows if text}
        found: dict[TableName, list[HistoryEntry]] = {}
        for source, since, known, digest, _ in rows:
            text = texts.get((source, digest))
            definition = decode_definition(text) if text is not None else None
            entry = HistoryEntry(decode_position(since), known, definition)
            found.setdefault(TableName(*orjson.loads(source)), []).append(entry)
        return {table: tuple(entries) for table, entries in sorted(found.items())}


def _digest(definition: TableDefinition) -> str:
    return hashlib.sha256(encode_definition(definition).encode()).hexdigest()[:32]


def _name(table: TableName) -> str:
    return orjson.dumps([table.database, table.table]).decode()  # as `InSinkStore.save_table` has it
