"""Make a target that several tables share hold one more of them, or the new form of one: nobody's rows are lost by it.

    fits as it is                    nothing is done
    columns more, fewer, wider       the target is altered: it has the columns of all tables, rows without one NULL
    else                             the table is parked until every table of the target has such a form at the
                                     source; then the target is made anew and all of them are loaded

A fleet of databases that are migrated one after the other so ends right by itself, whatever the migration is; in the
second case without a pause. What makes a target anew looks at the source, and not at what is recorded: which of the
tables the stream has shown to be altered depends on how far it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cdc.errors import CdcError, SinkRefused, SinkUnavailable, TargetConflict, UnsupportedData
from cdc.model import ColumnDefinition, TableDefinition, TableName
from cdc.schema.sharing import Reshaping, columns_on_sink
from cdc.schema.target import SourceColumn, TargetTable
from cdc.sinks.base import ExistingTable, Sink
from checkpoints.store import InSinkStore, TableRecord

__all__ = ["SharedTargets"]

_TABLES_NAMED_MAX = 5


@dataclass(slots=True)
class _Others:
    """The other tables with rows in a target: those of this pipeline, and those of others, by pipeline."""

    own: list[TableRecord]
    by_pipeline: list[tuple[str, TableRecord]]

    @property
    def foreign(self) -> list[TableRecord]:
        return [record for _, record in self.by_pipeline]

    def columns(self) -> dict[str, ColumnDefinition]:
        """Every column that they have there."""
        found: dict[str, ColumnDefinition] = {}
        for record in (*self.own, *self.foreign):
            if record.definition is not None:
                found |= columns_on_sink(record.definition, record.options)
        return found


class SharedTargets:
    """Prepares shared targets for loads, on the loader's thread."""

    def __init__(
        self,
        *,
        sink: Sink,
        store: InSinkStore,
        read_definition: Callable[[TableName], TableDefinition | None],
        make_target: Callable[[TableDefinition], TargetTable],
        options: Callable[[TableName], Mapping[str, Any]],
        record: Callable[[TableRecord], TableRecord],
        hook: Callable[[str], None],
    ) -> None:
        self._sink = sink
        self._store = store
        self._read_definition = read_definition
        self._make_target = make_target
        self._options = options
        self._record = record
        self._hook = hook
        self._reset_records: list[TableRecord] = []

    def take_reset(self) -> list[TableRecord]:
        """The tables that have lost their rows, because their target was made anew: pending, and written so."""
        records, self._reset_records = self._reset_records, []
        return records

    def prepare(
        self, record: TableRecord, intent: TableRecord, target: TargetTable, shared: SourceColumn, *, may_replace: bool
    ) -> bool:
        """Make the target fit. True when it holds rows of this table that readers must not lose sight of.

        `intent` is the record to be written before a target is made. Raises SinkRefused, TargetConflict.
        """
        existing = self._sink.inspect(target)
        if existing is None:
            self._make(intent, target, self._others(record, target))
            return False
        is_ours = record.definition is not None and record.target == str(target)
        if not self._fits(record, target, existing):
            others = self._others(record, target)
            if is_ours or others.own or others.foreign:
                fitted = self._reshape(record, target, existing, others)
                if fitted is None:
                    self._make_anew(record, intent, target, existing, others)
                    return False
                existing = fitted
            self._require_fit(record, target, existing)
        if existing.has_rows and not is_ours and not may_replace:
            raise SinkRefused(
                f"{record.source}: the target {target} on sink {self._sink.name} holds rows with {shared.name} = "
                f"{shared.value!r} that this deployment did not write",
                table=str(record.source),
                hint=f"`cdc snapshot {record.source}` replaces them by the source's; or delete them",
            )
        if is_ours:
            self._clear_former(record, target, shared)
        if existing.has_rows and is_ours and not record.is_complete:
            self._clear(target)  # the remains of a load that did not finish
            return False
        return existing.has_rows

    def _others(self, record: TableRecord, target: TargetTable) -> _Others:
        own, foreign = [], []
        for pipeline, other in self._store.load_sharing(str(target)):
            if pipeline != self._store.pipeline:
                foreign.append((pipeline, other))
            elif other.source != record.source:
                own.append(other)
        return _Others(own, foreign)

    # ------------------------------------------------------------ altering

    def _fits(self, record: TableRecord, target: TargetTable, existing: ExistingTable) -> bool:
        """Is there nothing to be done, whatever the others are? Mostly so, and of those there may be a thousand."""
        plan = self._sink.reshaping(target, existing, others={}, former=_former_columns(record, target))
        return plan == Reshaping() and not self._sink.differences(target, existing)

    def _reshape(
        self, record: TableRecord, target: TargetTable, existing: ExistingTable, others: _Others
    ) -> ExistingTable | None:
        """Alter the target as far as needed; None where that cannot be."""
        former = _former_columns(record, target)
        plan = self._sink.reshaping(target, existing, others=others.columns(), former=former)
        if plan.misfits:
            return None
        if not plan.alterations:
            return existing
        try:
            self._sink.alter_table(target, plan.alterations)
        except SinkRefused as error:
            if self._sink.inspect(target) == existing:
                raise
            raise self._lost_race(target) from error
        self._hook("target_made")
        return self._sink.inspect(target) or existing

    def _lost_race(self, target: TargetTable) -> SinkUnavailable:
        return SinkUnavailable(
            f"another pipeline has made or altered {target} on sink {self._sink.name} at the same moment",
            hint="the load is tried again",
        )

    def _require_fit(self, record: TableRecord, target: TargetTable, existing: ExistingTable) -> None:
        differences = self._sink.differences(target, existing)
        if differences:
            raise SinkRefused(
                f"{record.source}: the target {target} on sink {self._sink.name} does not fit: "
                f"{'; '.join(differences)}",
                table=str(record.source),
                hint="alter or drop the target, or map the table elsewhere",
            )

    # ------------------------------------------------------------ making it (anew)

    def _make(self, intent: TableRecord, target: TargetTable, others: _Others) -> None:
        self._reset(others)  # somebody has dropped it, with their rows
        # The intent comes first: a table that is made and not recorded would pass for somebody else's.
        self._record(intent)
        try:
            self._sink.create_table(target)
        except CdcError as error:
            if not self._sink.has_lost_race(error):
                raise
            raise self._lost_race(target) from error
        self._hook("target_made")

    def _make_anew(
        self, record: TableRecord, intent: TableRecord, target: TargetTable, existing: ExistingTable, others: _Others
    ) -> None:
        """Drop the target and make it again for all its tables, if every one of them has such a form by now."""
        reasons = self._misfits(target, others)
        if not reasons:
            reasons = self._others_rows(target, existing, others)
        if reasons:
            plan = self._sink.reshaping(target, existing, others=others.columns(), former=())
            raise TargetConflict(
                f"{record.source} does not fit into {target} on sink {self._sink.name}, which it shares: "
                f"{'; '.join(plan.misfits)}",
                table=str(record.source),
                hint=f"it is loaded once the target can be made anew without loss, which is tried at every start and "
                f"after every DDL; in the way: {'; '.join(reasons[:_TABLES_NAMED_MAX])}"
                + (" …" if len(reasons) > _TABLES_NAMED_MAX else ""),
            )
        self._reset(others)
        self._record(intent)
        try:
            self._sink.drop_table(target)
        except SinkRefused as error:
            error.message = f"{record.source} has other columns now, and its target must be made anew: {error.message}"
            error.hint = (
                f"drop what depends on {target} on sink {self._sink.name} (views, foreign keys), then "
                f"`cdc snapshot {record.source}`, then make them again"
            )
            raise
        self._sink.create_table(target)
        self._hook("target_made")

    def _misfits(self, target: TargetTable, others: _Others) -> list[str]:
        """Which of the other tables could not go into a target that is made for this one."""
        found = [f"{other.source} has rows there, written by another pipeline" for other in others.foreign]
        for other in others.own:
            if other.state == "dropped":
                continue  # it is not loaded again; its rows are another reason
            definition = self._read_definition(other.source)
            if definition is None:
                continue
            try:
                fits = self._sink.misfits(target, self._make_target(definition))
            except UnsupportedData as error:
                fits = [error.message]
            if fits:
                found.append(f"{other.source}: {', '.join(fits)}")
        return found

    def _others_rows(self, target: TargetTable, existing: ExistingTable, others: _Others) -> list[str]:
        """Rows that no load would bring back: of tables that are gone at the source, or of nobody known."""
        shared = target.source_column
        if shared is None or shared.name not in existing.columns:
            return []  # it was one table's own
        values = [shared.value]
        for other in others.own:
            if other.state == "dropped" or self._read_definition(other.source) is None:
                continue
            value = self._options(other.source).get("source_column", {}).get("value")
            recorded = other.options.get("source_column", {}).get("value")
            values += [one for one in (value, recorded) if one is not None]
        found = self._sink.stray_value(target, values)
        return [] if found is None else [f"rows with {shared.name} = {found!r}, which are of no table that is captured"]

    def _reset(self, others: _Others) -> None:
        """The rows of these tables are gone with the target, or about to be: they are loaded again."""
        for other in others.own:
            if other.state == "dropped":
                continue
            pending = replace(
                other,
                state="pending",
                is_complete=False,
                loaded_from=None,
                ready_at=None,
                ready_server=None,
                error=None,
            )
            with self._sink.transaction() as tx:
                self._store.save_table(tx, pending)
                self._store.fence(tx)
                tx.commit()
            self._reset_records.append(pending)
        for pipeline, other in others.by_pipeline:
            with self._sink.transaction() as tx:
                InSinkStore(self._sink, pipeline).lose_rows(tx, other.source)
                self._store.fence(tx)
                tx.commit()

    def require_alone(self, record: TableRecord, target: TargetTable) -> None:
        """Before a target that is this table's alone from now on is dropped: it must hold no rows of others.

        Raises TargetConflict.
        """
        former = record.options.get("source_column")
        if former is None:
            return
        shared = SourceColumn(former["name"], former["value"], length=1)
        found = self._sink.stray_value(replace(target, source_column=shared), [shared.value])
        if found is not None:
            raise TargetConflict(
                f"{record.source} has no source column any more, and {target} on sink {self._sink.name} holds rows of "
                f"others: with {shared.name} = {found!r}",
                table=str(record.source),
                hint=f"drop {target}, and `cdc snapshot {record.source}`; or route the table elsewhere",
            )

    # ------------------------------------------------------------ rows

    def _clear_former(self, record: TableRecord, target: TargetTable, shared: SourceColumn) -> None:
        """Delete what the table has there under another value, unless that is another table's now."""
        former = record.options.get("source_column", {}).get("value")
        if former is None or former == shared.value:
            return
        others = self._others(record, target)
        taken = {self._options(other.source).get("source_column", {}).get("value") for other in others.own}
        taken |= {other.options.get("source_column", {}).get("value") for other in others.foreign}
        if former not in taken:
            self._clear(replace(target, source_column=replace(shared, value=former)))

    def _clear(self, target: TargetTable) -> None:
        with self._sink.transaction() as tx:
            tx.clear(target)
            self._store.fence(tx)
            tx.commit()


def _former_columns(record: TableRecord, target: TargetTable) -> set[str]:
    """What the table's columns were called there when it was loaded last."""
    if record.definition is None or record.target != str(target):
        return set()
    return set(columns_on_sink(record.definition, record.options))
