"""The captured tables of one pipeline session: which rows count, and what each table's target is.

A session begins with the states in the sink's metadata; every change of a state is written there first, in the
transaction that it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from cdc.model import SourcePosition, TableDefinition, TableName
from cdc.pipeline.cascades import Provable
from cdc.schema.ddl_policies import DdlPolicies
from cdc.schema.keys import choose_key
from cdc.schema.mapping import map_table
from cdc.schema.options import TableOptions
from cdc.schema.routing import route
from cdc.schema.target import Policies, SinkKind, TargetTable
from cdc.source.assembler import Capture, CapturedTable
from cdc.source.definitions import SYSTEM_DATABASES
from checkpoints.store import TableRecord

__all__ = ["Routing", "TableRegistry"]


@dataclass(frozen=True, slots=True)
class Routing:
    """What the configuration says of tables, as functions of database and table."""

    matches: Callable[[str, str], bool]
    policies: Callable[[str, str], Policies]
    key: Callable[[str, str], tuple[str, ...] | None]
    chunk_rows: Callable[[str, str], int]
    accepts_hidden_cascades: Callable[[str, str], bool]
    options: Callable[[str, str], TableOptions]
    schema: str | None = None
    database: str | None = None
    ddl: Callable[[str, str], DdlPolicies] = lambda _database, _table: DdlPolicies()
    priority: Callable[[str, str], int] = lambda _database, _table: 0
    applies_hidden_cascades: Callable[[str, str], bool] = lambda _database, _table: False


class TableRegistry(Capture):
    """Records and targets by source table. Used by the reader thread (looking up) and the applier (changing)."""

    def __init__(
        self,
        routing: Routing,
        kind: SinkKind,
        records: Iterable[TableRecord],
        ignored: Collection[TableName] = (),
        *,
        folds_names: bool = False,
    ) -> None:
        """`folds_names`: to the sink, names of tables are one where they differ in nothing but case."""
        self._ignored = frozenset(ignored)
        self._folds_names = folds_names
        self._routing = routing
        self._kind = kind
        self._records: dict[TableName, TableRecord] = {}
        self._captured: dict[TableName, CapturedTable] = {}
        self._targets: dict[TableName, TargetTable] = {}
        self._made: dict[TableName, tuple[TableDefinition, TableOptions, TargetTable]] = {}
        self.revision = 0
        self.cascades = Provable()
        """What foreign keys do in silence: which of it is applied here, as found for this session."""
        for record in records:
            self.put(record)

    # -- Capture

    def find(self, table: TableName) -> CapturedTable | None:
        return self._captured.get(table)

    def is_unknown(self, table: TableName) -> bool:
        """Wanted by the configuration and not known here, or gone before: it has come (back)."""
        record = self._records.get(table)
        return (record is None or record.state == "dropped") and self.wants(table)

    def wants(self, table: TableName) -> bool:
        """Would a table of that name be captured?"""
        is_system = table.database.lower() in SYSTEM_DATABASES
        return table not in self._ignored and not is_system and self._routing.matches(table.database, table.table)

    def absent_at(self, table: TableName) -> SourcePosition | None:
        record = self._records.get(table)
        return record.loaded_from if record is not None and record.state == "dropped" else None

    def named(self, names: frozenset[TableName]) -> list[TableName]:
        return [table for table in self._captured if table.lower() in names]

    def in_database(self, database: str) -> list[TableName]:
        return [table for table in self._captured if table.database == database]

    # -- states

    def records(self) -> list[TableRecord]:
        """Every table, sorted by name."""
        return [self._records[table] for table in sorted(self._records)]

    def captured(self) -> list[TableName]:
        """The tables that `find` gives."""
        return list(self._captured)

    def record(self, table: TableName) -> TableRecord | None:
        """One table's record."""
        return self._records.get(table)

    def put(self, record: TableRecord) -> None:
        """Take over a record that is written to the metadata (or about to be, in the open transaction).

        The reader thread may look the table up at any instant: an entry is replaced in one step, never absent between.
        """
        before = self._records.get(record.source)
        self._records[record.source] = record
        if before is None or (before.definition, before.left_out) != (record.definition, record.left_out):
            self._targets.pop(record.source, None)
        is_loaded = record.state == "snapshotting" and record.ready_at is not None
        if record.definition is None or not (record.state == "ready" or is_loaded):
            self._captured.pop(record.source, None)
            self.revision += 1
            return
        self._captured[record.source] = CapturedTable(
            record.definition,
            loaded_from=record.loaded_from if record.state != "ready" else None,
            is_ready=record.state == "ready",
        )
        self.revision += 1

    def remove(self, table: TableName) -> None:
        """It is somebody else's now. Not while a stream is read."""
        self._captured.pop(table, None)
        self._targets.pop(table, None)
        self._made.pop(table, None)
        self._records.pop(table, None)
        self.revision += 1

    def is_catching_up(self, table: TableName) -> bool:
        """Is it loaded, and the stream still behind the load's last read?"""
        captured = self._captured.get(table)
        return captured is not None and not captured.is_ready

    def target(self, table: TableName) -> TargetTable:
        """The target of a loaded table. Raises UnsupportedData when it cannot be mapped."""
        target = self._targets.get(table)
        if target is None:
            target = self._targets[table] = self.make_target(self._captured[table].definition)
        return target

    def make_target(self, definition: TableDefinition, *, left_out: tuple[str, ...] | None = None) -> TargetTable:
        """Map a definition onto this sink, by the configuration. Raises UnsupportedData.

        `left_out`: columns that the target lacks; None: those that the metadata say.
        """
        table = definition.name
        options = self.options(table, left_out)
        made = self._made.get(table)
        if made is not None and made[:2] == (definition, options):
            return made[2]
        namespace, name = self.place(table)
        target = map_table(
            definition,
            kind=self._kind,
            namespace=namespace,
            name=name,
            key=choose_key(definition, self._routing.key(table.database, table.table)),
            policies=self._routing.policies(table.database, table.table),
            options=options,
        )
        self._made[table] = (definition, options, target)
        return target

    def options(self, table: TableName, left_out: tuple[str, ...] | None = None) -> TableOptions:
        """What the configuration says of its columns and rows, without the columns that its target lacks."""
        said = self._routing.options(table.database, table.table)
        if left_out is None:
            record = self._records.get(table)
            left_out = () if record is None else record.left_out
        return replace(said, exclude=(*said.exclude, *left_out)) if left_out else said

    def ddl_policies(self, table: TableName) -> DdlPolicies:
        """What DDL may do to its target."""
        return self._routing.ddl(table.database, table.table)

    def has_own_key(self, table: TableName) -> bool:
        """Does the configuration say what tells its rows apart?"""
        return self._routing.key(table.database, table.table) is not None

    def is_alone(self, table: TableName) -> bool:
        """Has its target no rows of another table, and no table that is to come there?"""
        return not self.others_at(self._records[table].target, table)

    def others_at(self, target: str, table: TableName) -> list[TableRecord]:
        """The records of other tables with that target, dropped ones, too."""
        place = self.folded(target)
        return [r for r in self._records.values() if r.source != table and self.folded(r.target) == place]

    def folded(self, target: str) -> str:
        """A target's name, such that two are one to the sink where they are equal."""
        return target.casefold() if self._folds_names else target

    def description(self, table: TableName, key: tuple[str, ...]) -> dict[str, Any]:
        """What the rows of a table with that key depend on in the configuration: it is loaded again when that changes.

        Policies, too, where rows are told apart by all their values: those that were written by other policies would
        not be found. Elsewhere they count from the next change of a row on.
        """
        options = self._routing.options(table.database, table.table)
        said = options.description
        if not key and options.mode == "mirror" and self._kind == "postgresql":  # no other sink needs policies
            policies = self._routing.policies(table.database, table.table)
            changed = {name: value for name, value in asdict(policies).items() if value != getattr(Policies(), name)}
            if changed:
                said["policies"] = changed
        return said

    def place(self, table: TableName) -> tuple[str, str]:
        """Namespace and name on this sink."""
        routing = self._routing
        return route(self._kind, table, self.options(table), schema=routing.schema, database=routing.database)

    def catching_up(self, position: SourcePosition) -> list[TableRecord]:
        """The loaded tables for which the stream has passed the position after their last read, as ready ones."""
        if position.file is None:
            return []
        return [
            replace(
                record,
                state="ready",
                is_complete=True,
                ready_at=None,
                ready_server=None,
                loaded_from=None,
                error=None,
            )
            for record in self._records.values()
            if record.state == "snapshotting"
            and record.ready_at is not None
            and record.ready_server == position.server
            and position.file >= record.ready_at
        ]

    def due(self, position: SourcePosition) -> list[TableRecord]:
        """Tables whose load was put off until the stream has passed a position, and has."""
        if position.file is None:
            return []
        return [
            replace(record, ready_at=None, ready_server=None)
            for record in self._records.values()
            if record.state == "pending" and record.ready_at is not None and position.file >= record.ready_at
        ]

    @property
    def is_settled(self) -> bool:
        """Is no table on its way?"""
        return not any(record.state in ("pending", "snapshotting") for record in self._records.values())
