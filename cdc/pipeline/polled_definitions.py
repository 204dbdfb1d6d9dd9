"""What the policies on DDL let a run of a polled table do to its target (docs/strategies.md).

A polled table has no statements: a run finds another definition than the target was made for. It is held to the same
policies as a load of a table that is followed (docs/decisions/0036); what the operator says counts for the next run.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from cdc.errors import UnsupportedData
from cdc.model import TableDefinition
from cdc.pipeline.held import held_load, require_allowed
from cdc.pipeline.schema_step import beside_target, with_dropped_kept
from cdc.pipeline.tables import TableRegistry
from cdc.schema.alteration import TargetAlteration
from cdc.schema.column_text import Unproven
from cdc.schema.ddl_policies import differences_of
from cdc.sinks.base import Sink
from checkpoints.store import SKIPPED, InSinkStore, TableRecord

__all__ = ["admitted"]


def admitted(
    sink: Sink, store: InSinkStore, tables: TableRegistry, record: TableRecord, definition: TableDefinition
) -> TableRecord:
    """The table's record for a run that reads by `definition`; `tables` has it, too. Nothing is written of it.

    Raises StatementHeld where the operator is to be asked before, UnsupportedData, SinkRefused, SinkUnavailable,
    LeaseLost.
    """
    if record.is_complete and record.definition is not None:
        policies = tables.ddl_policies(record.source)
        if record.step == SKIPPED:
            record = _skipped(sink, tables, record, definition)
        elif policies.ddl == "log" or (record.left_out and record.definition == definition):
            # What the target cannot do without, the load refuses. What was skipped may have come to the target since.
            with contextlib.suppress(Unproven, UnsupportedData):
                record = _beside(sink, tables, record, definition)
        else:
            require_allowed(record, definition, policies, tables.options(record.source).keeps, None)
            if policies.on_drop_column == "keep":
                record = _with_dropped(sink, store, tables, record, definition)
    tables.put(record)
    return record


def _beside(sink: Sink, tables: TableRegistry, record: TableRecord, definition: TableDefinition) -> TableRecord:
    """The target stays as it is; the table is loaded where its columns are others now, on either side.

    An ALTER gives rows other values, and a column added on the sink has none: no modifier moves by that. A column that
    somebody has dropped on the sink is none that the operator leaves out: the load makes it again, or refuses.
    """
    after = beside_target(sink, tables, record, definition)
    if after.definition == record.definition and not set(after.left_out) < set(record.left_out):
        return record
    return replace(after, state="pending")


def _skipped(sink: Sink, tables: TableRegistry, record: TableRecord, definition: TableDefinition) -> TableRecord:
    """The target stays as it is, with the columns that both sides have; where it cannot, the table waits on."""
    try:
        return replace(beside_target(sink, tables, record, definition), step="")
    except (Unproven, UnsupportedData) as error:
        before = record.definition
        assert before is not None, "its target was made for it"
        found = differences_of(before, definition, keeps=tables.options(record.source).keeps)
        raise held_load(record, None, f"the target cannot stay as it is: {error}", found, found) from error


def _with_dropped(
    sink: Sink, store: InSinkStore, tables: TableRegistry, record: TableRecord, definition: TableDefinition
) -> TableRecord:
    """Columns that the source has no more stay on the sink, and may be NULL there; done twice, it is the same.

    Not in a target that is made anew for something else, nor in one that is shared or keeps rows, which loads see to.
    """
    assert record.definition is not None, "its target was made for it"
    names = {column.name for column in definition.columns}
    options = tables.options(record.source)
    if options.source_column is not None or options.mode != "mirror":
        return record
    left = tuple(column for column in record.definition.columns if column.name in names)
    before = tables.make_target(record.definition)
    gone = [c for c in before.columns if c.metadata is None and c.source.name not in names and not c.is_key]
    existing = sink.inspect(before) if gone else None
    if existing is None:
        return record
    there = tuple(column for column in gone if column.name in existing.columns)
    made = with_dropped_kept(TargetAlteration(before, before, dropped=there))
    is_postgres = sink.kind == "postgresql"
    with sink.transaction() as tx:  # on the MySQL family the ALTER is in no transaction that could be fenced
        if is_postgres and not made.is_empty:
            sink.follow_ddl(made, existing)
        store.fence(tx)
        tx.commit()
    if not is_postgres and not made.is_empty:
        sink.follow_ddl(made, existing)
    return replace(record, definition=replace(record.definition, columns=left))
