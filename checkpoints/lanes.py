"""What the lanes of a sink need of each other's metadata: who there is, and moving a table from one to another.

Each lane is a pipeline with rows of its own (checkpoints/store.py). What is written here touches the rows of two lanes
in one transaction, which has to end with the fence of both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import orjson

from cdc.model import TableName
from checkpoints.store import Command, InSinkStore, MetadataSink

__all__ = [
    "command_argument",
    "command_tables",
    "commands_from",
    "divide_command",
    "finish_command",
    "finish_commands",
    "forget_prepared",
    "forget_table",
    "hand_over",
    "hand_over_commands",
    "pipelines_in_use",
    "retire",
    "set_command_message",
    "set_command_tables",
    "tables_of_tables",
]

# What is kept by pipeline and source table. Older metadata may lack some of them.
_BY_TABLE = ("tables", "chunks", "marks", "loads", "history")


def pipelines_in_use(sink: MetadataSink, *, or_leased: bool = False) -> list[str]:
    """The pipelines of every deployment that have a checkpoint (damaged or not) or tables on this sink.

    `or_leased`: those too whose lease nobody has let go, live or not: an instance that sleeps still has its epoch.
    The metadata tables have to be there.
    """
    leased = f" UNION SELECT pipeline FROM {sink.metadata_table('lease')} WHERE expires_us <> 0"
    with sink.transaction() as tx:
        rows = tx.execute(
            f"SELECT pipeline FROM {sink.metadata_table('checkpoint')} WHERE position <> '' "
            f"UNION SELECT pipeline FROM {sink.metadata_table('tables')}{leased if or_leased else ''}"
        )
    return sorted(str(row[0]) for row in rows)


def tables_of_tables(store: InSinkStore) -> list[str]:
    """The metadata tables that have rows by source table."""
    return [name for name in _BY_TABLE if store.exists(name)]


def hand_over(store: InSinkStore, to: InSinkStore, tx: Any, table: TableName, *, kept_in: Iterable[str]) -> None:
    """All that `store`'s pipeline knows of the table is known to that of `to` instead.

    `kept_in`: what `tables_of_tables` says.
    """
    source = orjson.dumps([table.database, table.table]).decode()
    for name in kept_in:
        if name == "loads":  # of an earlier load there
            tx.execute_count(
                f"DELETE FROM {store.sink.metadata_table(name)} WHERE pipeline = %s AND source_table = %s",
                (to.pipeline, source),
            )
        tx.execute_count(
            f"UPDATE {store.sink.metadata_table(name)} SET pipeline = %s WHERE pipeline = %s AND source_table = %s",
            (to.pipeline, store.pipeline, source),
        )


def forget_table(
    store: InSinkStore, tx: Any, table: TableName, *, kept_in: Iterable[str], heir: InSinkStore | None = None
) -> None:
    """The pipeline knows nothing of the table any more.

    `kept_in`: what `tables_of_tables` says. `heir`: the pipeline that has a record of its own of the table, and takes
    over what is known of its definitions.
    """
    source = orjson.dumps([table.database, table.table]).decode()
    for name in kept_in:
        if name == "history" and heir is not None:
            hand_over(store, heir, tx, table, kept_in=[name])
            continue
        tx.execute_count(
            f"DELETE FROM {store.sink.metadata_table(name)} WHERE pipeline = %s AND source_table = %s",
            (store.pipeline, source),
        )


def retire(store: InSinkStore, tx: Any) -> None:
    """The pipeline has no tables and is not run any more: should it be again, it begins where the source is then.

    Its epoch stays: an instance that slept must not find its own number again.
    """
    tx.execute_count(
        f"UPDATE {store.sink.metadata_table('checkpoint')} SET position = '' WHERE pipeline = %s AND epoch = %s",
        (store.pipeline, store.epoch),
    )


def forget_prepared(store: InSinkStore, tx: Any) -> None:
    """Nothing is kept of the prepared XA transactions that the pipeline has seen."""
    tx.execute_count(f"DELETE FROM {store.sink.metadata_table('prepared')} WHERE pipeline = %s", (store.pipeline,))


def set_command_message(store: InSinkStore, tx: Any, command: Command, message: str) -> None:
    """Say of a command how it goes on."""
    table = store.sink.metadata_table("commands")
    tx.execute_count(f"UPDATE {table} SET message = %s WHERE id = %s", (message, command.id))


def finish_command(store: InSinkStore, tx: Any, command: Command, message: str) -> None:
    """It is done, with what it asked for in the same transaction."""
    table = store.sink.metadata_table("commands")
    tx.execute_count(f"UPDATE {table} SET state = 'done', message = %s WHERE id = %s", (message, command.id))


def hand_over_commands(store: InSinkStore, to: InSinkStore, tx: Any, names: Sequence[str]) -> None:
    """What the pipeline was asked for by these commands, and has not done, the other one is asked for.

    One that was taken up stays so: some of its tables may have been seen to.
    """
    tx.execute_count(
        f"UPDATE {store.sink.metadata_table('commands')} SET pipeline = %s "
        f"WHERE pipeline = %s AND state IN ('queued', 'running') AND name IN ({', '.join(['%s'] * len(names))})",
        (to.pipeline, store.pipeline, *names),
    )


def finish_commands(store: InSinkStore, tx: Any, message: str) -> None:
    """Nothing waits for the pipeline any more: what it was asked for is another's, or not wanted now."""
    table = store.sink.metadata_table("commands")
    tx.execute_count(
        f"UPDATE {table} SET state = 'done', message = %s WHERE pipeline = %s AND state IN ('queued', 'running')",
        (message, store.pipeline),
    )


def commands_from(store: InSinkStore, first_id: int, names: Sequence[str]) -> list[Command]:
    """The commands of those names from that id on, oldest first, whichever pipelines they are for by now."""
    with store.sink.transaction() as tx:
        rows = tx.execute(
            f"SELECT id, name, argument, state, message FROM {store.sink.metadata_table('commands')} "
            f"WHERE id >= %s AND name IN ({', '.join(['%s'] * len(names))}) ORDER BY id",
            (first_id, *names),
        )
    return [Command(*row) for row in rows]


def command_tables(command: Command) -> list[TableName]:
    """The tables that a command is about."""
    said = orjson.loads(command.argument)
    return [TableName(*pair) for pair in (said["tables"] if isinstance(said, dict) else said)]


def command_argument(command: Command, tables: Iterable[TableName]) -> str:
    """What the command would say of these tables alone."""
    said, kept = orjson.loads(command.argument), list(tables)
    pairs = [[table.database, table.table] for table in kept]
    if not isinstance(said, dict):
        return orjson.dumps(pairs).decode()
    before, statements = command_tables(command), said.get("statements")
    # One cut by an older version has the statements of all the tables that there were.
    if statements is not None and len(statements) == len(before):
        by_table = dict(zip(before, statements, strict=True))
        said["statements"] = [by_table[table] for table in kept]
    return orjson.dumps({**said, "tables": pairs}).decode()


def set_command_tables(store: InSinkStore, tx: Any, command: Command, tables: Collection[TableName]) -> None:
    """The command is about these tables only; with none left it is done."""
    tx.execute_count(
        f"UPDATE {store.sink.metadata_table('commands')} SET argument = %s, state = %s WHERE id = %s",
        (command_argument(command, tables), command.state if tables else "done", command.id),
    )


def divide_command(tx: Any, command: Command, heirs: Sequence[tuple[InSinkStore, Collection[TableName]]]) -> None:
    """Each pipeline is asked for its tables: the first by the command itself, at which who gave it looks.

    One that was taken up stays so: some of its tables may have been seen to.
    """
    (first, tables), *others = heirs
    tx.execute_count(
        f"UPDATE {first.sink.metadata_table('commands')} SET pipeline = %s, argument = %s WHERE id = %s",
        (first.pipeline, command_argument(command, tables), command.id),
    )
    for store, tables in others:
        store.put_command(tx, command.name, command_argument(command, tables), command.state, command.message)
