"""The checkpoint, the tables' states and the lease, kept in the sink and written in the sink's own transactions.

One row a pipeline (`<deployment>/<sink>`) in `checkpoint` and `lease`, one a captured table in `tables`, and a queue
of `commands` for whoever asks something of a running service. Every sink transaction ends with the `UPDATE` of
`save`, which hits its row only while this instance holds the lease: an instance that lost it can write no more.

Times are microseconds since the epoch by the sink's clock. The SQL here is the part that PostgreSQL, MySQL and
MariaDB share; what differs is in `_Dialect`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from cdc.errors import CdcError, LeaseLost, ResyncRequired, SinkRefused
from cdc.model import FilePos, ServerIdentity, SourcePosition, TableDefinition, TableName
from cdc.schema.history import decode_definition, encode_definition
from checkpoints import loads
from checkpoints.checkpoint import CHECKPOINT_FORMAT, Checkpoint, decode_position, encode_position
from checkpoints.history import SchemaHistory, TableHistory
from checkpoints.history import as_ascii as _ascii

__all__ = [
    "APPROVED",
    "COMMAND_HOLDER",
    "MAKING",
    "WORKED_OUT",
    "Command",
    "InSinkStore",
    "LeaseHeld",
    "LeaseRow",
    "MetadataSink",
    "TableRecord",
]


# A sink and its transaction, as far as they are used here (`cdc.sinks.base`); typed loosely so that this package, which
# lies below the sinks, imports none of them.
MetadataSink = Any


# Metadata that an older version made is complete once it has these tables, too.
_NEWER_TABLES = ("prepared", "chunks", "marks", "loads", "rejects", "skips", "polls", "history")
WORKED_OUT = "worked out"
"""`TableRecord.step`: the definition is that of a statement's words, and not compared with the source's yet."""
MAKING = "making"
"""`TableRecord.step`: its target is about to be made; what stands there may be somebody else's."""
APPROVED = "approved"
"""`TableRecord.step`: the operator has said yes to its next load. A digest behind it is of the differences that he was
shown (`pipeline.held`), and he is asked again about others."""
SKIPPED = "skipped"
"""`TableRecord.step`: the operator has said that a polled table's target stays as it is at the next run."""
_CREATE_ATTEMPTS = 8  # one for each step at which another instance may be faster: the schema, the tables


_RECORD_COLUMNS = (
    "source_table, target, state, definition, key_columns, is_complete, loaded_from, ready_at, rows_loaded, "
    "last_change_us, policy_changes, error"
)


# How often one that seems dead may be found renewed before it is left alone.
_LOOKS_MAX = 5

COMMAND_HOLDER = "cdc "
"""How the name of a holder begins that is a command: it does what it was started for, and lets go."""


class LeaseHeld(CdcError):
    """Another live instance holds the pipeline: `holder`, "" where another one was just faster."""

    def __init__(self, message: str, *, hint: str = "", holder: str = "") -> None:
        super().__init__(message, hint=hint)
        self.holder = holder

    @property
    def is_by_command(self) -> bool:
        """Will the holder let go by itself?"""
        return self.holder.startswith(COMMAND_HOLDER)


@dataclass(frozen=True, slots=True)
class TableRecord:
    """What the metadata knows of one captured table.

    `state` is `pending snapshotting ready parked dropped`. What the positions mean depends on it:

        snapshotting, ready_at unset   the load has begun
        snapshotting, ready_at set     loaded: `loaded_from` is the visible position before its first read (the
                                       stream's changes up to there are in the load), `ready_at` the written position
                                       after its last: once the stream has passed it, the table is consistent
        pending, ready_at set          to be loaded once the stream has passed `ready_at`
        dropped, loaded_from set       the source did not have the table any more, up to that position

    `step` is what a DDL that is followed has left to be done (`pipeline.schema_step`); '' is nothing.

    `left_out`: columns of the source that the target lacks, by a statement that was not done there.

    `key` are the key's columns, and `options` the table's options (`schema.options`), when it was loaded; a table
    whose configuration says otherwise now is loaded again. `is_complete` says that the target holds a whole version
    of the table, which readers must not lose sight of while it is loaded again.
    """

    source: TableName
    target: str
    state: str
    definition: TableDefinition | None = None
    loaded_from: SourcePosition | None = None
    ready_at: FilePos | None = None
    ready_server: ServerIdentity | None = None
    key: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    is_complete: bool = False
    rows_loaded: int = 0
    last_change_us: int | None = None
    policy_changes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    step: str = ""
    left_out: tuple[str, ...] = ()

    def with_policy_changes(self, more: Mapping[tuple[str, str], int]) -> TableRecord:
        """Counts added up by column and policy."""
        if not more:
            return self
        merged = {column: dict(counts) for column, counts in self.policy_changes.items()}
        for (column, policy), count in more.items():
            counts = merged.setdefault(column, {})
            counts[policy] = counts.get(policy, 0) + count
        return replace(self, policy_changes=merged)


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """Who runs the pipeline, until when, and what it last said of itself (`status`, for `cdc status`)."""

    holder: str
    epoch: int
    expires_us: int
    now_us: int
    session: str
    status: Mapping[str, Any]

    @property
    def is_live(self) -> bool:
        """Has the holder renewed in time?"""
        return bool(self.holder) and self.expires_us > self.now_us

    @property
    def sessions(self) -> list[str]:
        """The holder's sessions on the sink: the lease keeper's, then those that write."""
        try:
            return [str(item) for item in orjson.loads(self.session)]
        except orjson.JSONDecodeError:
            return []  # of an instance that wrote none: its lease counts until it runs out


def _is_renewed(lease: LeaseRow, before: LeaseRow) -> bool:
    return (lease.expires_us, lease.session) != (before.expires_us, before.session)


@dataclass(frozen=True, slots=True)
class Command:
    """Something asked of the running service about tables (argument: JSON list of `[database, table]`).

    `snapshot`: load them anew, also over rows that this deployment did not write. `retry`: load those of them that are
    parked. Once it is `running`, the tables' records say what of it is left to be done.
    """

    id: int
    name: str
    argument: str
    state: str
    message: str


def _encode_loaded(record: TableRecord) -> str | None:
    """The column `key_columns`: the key's columns, or (where there is more to be said) an object with all."""
    said = {name: value for name, value in (("step", record.step), ("left_out", record.left_out)) if value}
    if not record.options and not said:
        return _ascii(orjson.dumps(record.key).decode()) if record.key else None
    return _ascii(orjson.dumps({"key": record.key, "options": record.options, **said}).decode())


def _decode_loaded(text: str | None) -> dict[str, Any]:
    """As fields of a record."""
    content = orjson.loads(text) if text else []
    if not isinstance(content, dict):
        return {"key": tuple(content)}
    return {
        "key": tuple(content["key"]),
        "options": content["options"],
        "step": content.get("step", ""),
        "left_out": tuple(content.get("left_out", ())),
    }


@dataclass(frozen=True, slots=True)
class _Dialect:
    text: str
    key: str
    blob: str
    serial: str
    now_us: str
    suffix: str
    returning_id: str
    """What makes an INSERT say the id that it gave; '' where the session is asked for it."""


_POSTGRESQL = _Dialect(
    text="text",
    key="text",
    blob="bytea",
    serial="bigint GENERATED ALWAYS AS IDENTITY",
    now_us="(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
    suffix="",
    returning_id=" RETURNING id",
)
_MYSQL = _Dialect(
    text="longtext",
    key="varchar(255)",
    blob="longblob",
    serial="bigint AUTO_INCREMENT",
    now_us="CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)",
    suffix=" ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin",
    returning_id="",
)


class InSinkStore:
    """The metadata of one pipeline in one sink. Stateless but for the lease's epoch, and what a transaction has noted.

    A transaction with `save_table` ends with `save` or `fence`, which write what it changes in the tables' history.
    """

    def __init__(self, sink: MetadataSink, pipeline: str) -> None:
        self.sink = sink
        self.pipeline = pipeline
        self.epoch = 0
        # Whose the epoch is. Where the COMMIT of one never came, the lease has the one before, or the next holder has
        # the same number.
        self._holder = ""
        self.history = SchemaHistory(sink, pipeline)

    @property
    def _dialect(self) -> _Dialect:
        return _POSTGRESQL if self.sink.kind == "postgresql" else _MYSQL

    @property
    def now_us(self) -> str:
        """The sink's time, as an expression."""
        return self._dialect.now_us

    def _table(self, name: str) -> str:
        return str(self.sink.metadata_table(name))

    # -- the tables themselves

    def exists(self, name: str = "checkpoint") -> bool:
        """Has this sink been used before? (Reading only: makes nothing.)

        `name`: another metadata table, which older versions may not have made.
        """
        with self.sink.transaction() as tx:
            return self._exists(tx, name)

    def _exists(self, tx: Any, name: str) -> bool:
        if self.sink.kind == "postgresql":
            sql = "SELECT to_regclass(%s)"
            parameters: tuple[str, ...] = (self._table(name),)
        else:
            # The name is made for `execute`: in backticks, and with each `%` doubled.
            database, _, table = self._table(name)[1:-1].rpartition("`.`")
            database = database.replace("``", "`").replace("%%", "%")
            sql = "SELECT max(TABLE_NAME) FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s"
            parameters = (database, table)
        rows = tx.execute(sql, parameters)
        return bool(rows and rows[0][0] is not None)

    def create(self) -> None:
        """Make the metadata tables where missing. Raises ConfigError when we may not."""
        for _ in range(_CREATE_ATTEMPTS - 1):
            try:
                self._create()
            except CdcError as error:
                # IF NOT EXISTS does not see what another instance makes at the same moment.
                if not self.sink.has_lost_race(error):
                    raise
            else:
                return
        self._create()

    def _create(self) -> None:
        self.sink.create_metadata_namespace()
        with self.sink.transaction() as tx:
            if all(self._exists(tx, name) for name in ("checkpoint", *_NEWER_TABLES)):
                return
        with self.sink.transaction() as tx:
            for statement in self._definitions():
                tx.execute(statement)
            tx.commit()

    def _definitions(self) -> list[str]:
        """CREATE TABLE of each metadata table; `checkpoint` is the last one, because `exists` looks for it."""
        text, key, blob = self._dialect.text, self._dialect.key, self._dialect.blob
        tables = {
            "lease": f"pipeline {key} NOT NULL PRIMARY KEY, holder {text} NOT NULL, epoch bigint NOT NULL, "
            f"expires_us bigint NOT NULL, session {text} NOT NULL, status {text} NOT NULL",
            "tables": f"pipeline {key} NOT NULL, source_table {key} NOT NULL, target {text} NOT NULL, "
            f"state varchar(20) NOT NULL, definition {text}, key_columns {text}, is_complete smallint NOT NULL, "
            f"loaded_from {text}, ready_at {text}, "
            f"rows_loaded bigint NOT NULL, last_change_us bigint, policy_changes {text} NOT NULL, error {text}, "
            f"updated_us bigint NOT NULL, PRIMARY KEY (pipeline, source_table)",
            "commands": f"id {self._dialect.serial} PRIMARY KEY, pipeline {key} NOT NULL, name varchar(40) NOT NULL, "
            f"argument {text} NOT NULL, state varchar(20) NOT NULL, message {text} NOT NULL, "
            f"requested_us bigint NOT NULL",
            # Of prepared XA transactions: part 0 says what there is, the others hold rows (checkpoints/prepared.py).
            "prepared": f"pipeline {key} NOT NULL, xid varchar(300) NOT NULL, part integer NOT NULL, "
            f"piece integer NOT NULL, image_count bigint NOT NULL, prepared_us bigint NOT NULL, "
            f"content {blob} NOT NULL, PRIMARY KEY (pipeline, xid, part, piece)",
            # Of tables that are being loaded: number 0 says of what load they are (checkpoints/chunks.py).
            "chunks": f"pipeline {key} NOT NULL, source_table {key} NOT NULL, number integer NOT NULL, "
            f"content {text} NOT NULL, PRIMARY KEY (pipeline, source_table, number)",
            # How far rows of append-only and history tables are numbered (checkpoints/marks.py).
            "marks": f"pipeline {key} NOT NULL, source_table {key} NOT NULL, last_sequence bigint NOT NULL, "
            f"last_time_us bigint NOT NULL, PRIMARY KEY (pipeline, source_table)",
            # What was stepped over by hand (checkpoints/skips.py).
            "skips": f"id {self._dialect.serial} PRIMARY KEY, pipeline {key} NOT NULL, who {text} NOT NULL, "
            f"place {text} NOT NULL, what {text} NOT NULL, skipped_us bigint NOT NULL",
            # What was refused, each time a table is parked (checkpoints/rejects.py).
            "rejects": f"id {self._dialect.serial} PRIMARY KEY, pipeline {key} NOT NULL, source_table {key} NOT NULL, "
            f"position {text}, error {text} NOT NULL, parked_us bigint NOT NULL",
            # When the last load of a table began and ended (checkpoints/loads.py).
            "loads": f"pipeline {key} NOT NULL, source_table {key} NOT NULL, {loads.COLUMNS}, "
            f"PRIMARY KEY (pipeline, source_table)",
            # Of tables that are not followed by the binlog: how far they are (checkpoints/polls.py).
            "polls": f"pipeline {key} NOT NULL, source_table {key} NOT NULL, content {text} NOT NULL, "
            f"PRIMARY KEY (pipeline, source_table)",
            # Which definition a table had from which position on (checkpoints/history.py).
            "history": f"pipeline {key} NOT NULL, source_table {key} NOT NULL, number bigint NOT NULL, "
            f"since {text} NOT NULL, known varchar(20) NOT NULL, digest varchar(64), has_text smallint NOT NULL, "
            f"definition {text}, "
            f"PRIMARY KEY (pipeline, source_table, number)",
            "checkpoint": f"pipeline {key} NOT NULL PRIMARY KEY, format integer NOT NULL, sequence bigint NOT NULL, "
            f"position {text} NOT NULL, epoch bigint NOT NULL, committed_us bigint NOT NULL",
        }
        return [
            f"CREATE TABLE IF NOT EXISTS {self._table(name)} ({columns}){self._dialect.suffix}"
            for name, columns in tables.items()
        ]

    # -- the lease

    def read_lease(self) -> LeaseRow | None:
        """The lease as it is now."""
        with self.sink.transaction() as tx:
            return self._read_lease(tx)

    def _read_lease(self, tx: Any, suffix: str = "") -> LeaseRow | None:
        rows = tx.execute(
            f"SELECT holder, epoch, expires_us, {self._dialect.now_us}, session, status "
            f"FROM {self._table('lease')} WHERE pipeline = %s{suffix}",
            (self.pipeline,),
        )
        if not rows:
            return None
        holder, epoch, expires_us, now_us, session, status = rows[0]
        return LeaseRow(holder, epoch, expires_us, now_us, session, orjson.loads(status or "{}"))

    def is_holder_alive(self, lease: LeaseRow) -> bool:
        """Is the lease in force, and does the session that renews it still exist on the sink?"""
        if not lease.is_live:
            return False
        return not lease.sessions or self.sink.is_session_alive(lease.sessions[0]) is not False

    def _end_sessions(self, lease: LeaseRow) -> None:
        """End what an old holder has left: it may be stopped in the middle of a transaction, with its locks."""
        for session in lease.sessions:
            if self.sink.is_session_alive(session):
                self.sink.kill_session(session)

    def take_lease(self, *, holder: str, sessions: Sequence[str], seconds: float, was_renewed: bool) -> None:
        """Become the holder: raise the epoch, in one transaction for lease and checkpoint.

        The sessions of an old holder are ended first. A transaction of it that is just being committed is waited for
        on the checkpoint's row: what it commits is seen by the `load_checkpoint` that follows, and what comes later
        hits no row. `sessions` are the new holder's: the one that renews the lease, then the one that writes.

        Raises LeaseHeld while another holder is live: `was_renewed` says that its expiry was seen to move; without
        that, a holder whose recorded session is gone counts as dead.
        """
        named = orjson.dumps(list(sessions)).decode()
        for _ in range(_LOOKS_MAX):
            before = self.read_lease()
            if before is not None and before.holder != holder:
                if before.is_live and (was_renewed or self.is_holder_alive(before)):
                    raise self.held(before)
                self._end_sessions(before)
            try:
                if self._write_lease(before, holder, named, seconds):
                    return
            except CdcError as error:
                if not self.sink.has_lost_race(error):
                    raise
                raise self._taken("another instance") from error  # the first row: it was not there to be locked
        raise self._taken("who was thought to be gone")

    def _write_lease(self, before: LeaseRow | None, holder: str, session: str, seconds: float) -> bool:
        """False where it was renewed since the look: by one that has come back, or by the last COMMIT of a dead one."""
        with self.sink.transaction() as tx:
            lease = self._read_lease(tx, " FOR UPDATE")
            if lease is not None and lease.epoch != (before.epoch if before else 0):
                raise self._taken(lease.holder)
            if lease is not None and before is not None and lease.holder != holder and _is_renewed(lease, before):
                return False
            epoch = (lease.epoch if lease else 0) + 1
            expires = f"{self._dialect.now_us} + {int(seconds * 1_000_000)}"
            if lease is None:
                tx.execute(
                    f"INSERT INTO {self._table('lease')} (pipeline, holder, epoch, expires_us, session, status) "
                    f"VALUES (%s, %s, %s, {expires}, %s, '{{}}')",
                    (self.pipeline, holder, epoch, session),
                )
            else:
                # What the one before said of itself is not true of us; how far it had seen the source's log is.
                said = lease.status
                status = said if lease.holder == holder else {"seen": said["seen"]} if "seen" in said else {}
                tx.execute_count(
                    f"UPDATE {self._table('lease')} SET holder = %s, epoch = %s, expires_us = {expires}, "
                    f"session = %s, status = %s WHERE pipeline = %s",
                    (holder, epoch, session, _ascii(orjson.dumps(status).decode()), self.pipeline),
                )
            fenced = tx.execute_count(
                f"UPDATE {self._table('checkpoint')} SET epoch = %s WHERE pipeline = %s", (epoch, self.pipeline)
            )
            if not fenced:
                tx.execute(
                    f"INSERT INTO {self._table('checkpoint')} "
                    f"(pipeline, format, sequence, position, epoch, committed_us) "
                    f"VALUES (%s, %s, 0, '', %s, {self._dialect.now_us})",
                    (self.pipeline, CHECKPOINT_FORMAT, epoch),
                )
            self.epoch, self._holder = epoch, holder
            tx.commit()
        return True

    def _taken(self, holder: str) -> LeaseHeld:
        return LeaseHeld(
            f"{self.pipeline} was taken by {holder} on sink {self.sink.name} at the same moment",
            hint="one of two instances that started together goes on; stop the other",
        )

    def add_session(self, tx: Any, session: str, *, instead_of: str = "") -> None:
        """Name one more session of ours in the lease, so that who takes it over ends it; `instead_of` is closed.

        Raises LeaseLost.
        """
        lease = self._read_lease(tx, " FOR UPDATE")
        if lease is None or lease.epoch != self.epoch:
            raise self.lost()
        self._name_sessions(tx, lease, [*(one for one in lease.sessions if one != instead_of), session])

    def _name_sessions(self, tx: Any, lease: LeaseRow, sessions: Sequence[str]) -> None:
        tx.execute_count(
            f"UPDATE {self._table('lease')} SET session = %s WHERE pipeline = %s AND epoch = %s",
            (orjson.dumps(list(sessions)).decode(), self.pipeline, lease.epoch),
        )

    def renew_lease(self, epoch: int, *, seconds: float, status: Mapping[str, Any], session: str = "") -> None:
        """Stay the holder; `status` is what `cdc status` shows. Raises LeaseLost.

        `session`: the one that renews the lease from now on, where its connection is a new one. The lease has to name
        it, else who comes next takes the holder for dead.
        """
        expires = f"{self._dialect.now_us} + {int(seconds * 1_000_000)}"
        with self.sink.transaction() as tx:
            if session:
                self._rename_session(tx, session)
            count = tx.execute_count(
                f"UPDATE {self._table('lease')} SET expires_us = {expires}, status = %s "
                f"WHERE pipeline = %s AND epoch <= %s AND holder = %s",
                (_ascii(orjson.dumps(status).decode()), self.pipeline, epoch, self._holder),
            )
            if count != 1:
                raise self.lost()
            tx.commit()

    def _rename_session(self, tx: Any, session: str) -> None:
        lease = self._read_lease(tx, " FOR UPDATE")
        if lease is None or lease.holder != self._holder:
            raise self.lost()
        # The first: whichever it names now, a COMMIT without an answer may have named one that is gone again.
        self._name_sessions(tx, lease, [session, *lease.sessions[1:]])

    def release_lease(self, epoch: int, *, status: Mapping[str, Any]) -> None:
        """Let the next instance start at once."""
        with self.sink.transaction() as tx:
            tx.execute_count(
                f"UPDATE {self._table('lease')} SET expires_us = 0, status = %s "
                f"WHERE pipeline = %s AND epoch <= %s AND holder = %s",
                (_ascii(orjson.dumps(status).decode()), self.pipeline, epoch, self._holder),
            )
            tx.commit()

    def held(self, lease: LeaseRow) -> LeaseHeld:
        """The error of an instance that comes second."""
        return LeaseHeld(
            f"{self.pipeline} is run by {lease.holder} on sink {self.sink.name}",
            hint="stop that instance, or give this deployment another `name`",
            holder=lease.holder,
        )

    def lost(self) -> LeaseLost:
        """The error of an instance that may write no more."""
        return LeaseLost(
            f"another instance, or a command, has taken {self.pipeline} over on sink {self.sink.name}",
            hint="`cdc status` names it as long as it runs; two of one deployment never both apply",
            pipeline=self.pipeline,
        )

    # -- the checkpoint

    def load_checkpoint(self) -> tuple[Checkpoint | None, int | None]:
        """The checkpoint and when it was committed; None before the first. Raises ResyncRequired when damaged."""
        with self.sink.transaction() as tx:
            rows = tx.execute(
                f"SELECT format, sequence, position, committed_us FROM {self._table('checkpoint')} WHERE pipeline = %s",
                (self.pipeline,),
            )
        if not rows or not rows[0][2]:
            return None, None
        version, sequence, position, committed_us = rows[0]
        if version != CHECKPOINT_FORMAT:
            raise ResyncRequired(
                f"the checkpoint has format {version}, this version of cdc knows {CHECKPOINT_FORMAT}",
                hint="run the version that wrote it",
            )
        return Checkpoint(decode_position(position), sequence), committed_us

    def histories(self) -> dict[TableName, TableHistory]:
        """The definitions that each table has had, as far as they are known here."""
        upto = self.load_checkpoint()[0]
        with self.sink.transaction() as tx:
            entries = self.history.entries(tx)
        position = upto.position if upto is not None else None
        return {table: TableHistory(found, position) for table, found in entries.items()}

    def prune_history(self, oldest: SourcePosition) -> int:
        """Forget definitions that ended before the oldest place in the source's log; how many. Raises LeaseLost."""
        with self.sink.transaction() as tx:
            if not self.history.is_prunable(tx, oldest):
                return 0
            count = self.history.prune(tx, oldest)
            self.fence(tx)
            tx.commit()
        return count

    def begin_histories(self, records: Iterable[TableRecord]) -> None:
        """Note the definitions of tables that are followed and have none: an older version made their metadata.

        Before the stream goes on: what it brings next is no beginning. Raises LeaseLost.
        """
        with self.sink.transaction() as tx:
            followed = [record for record in records if record.state == "ready" and record.definition is not None]
            lacking = [record for record in followed if not self.history.has(tx, record.source)]
            for record in lacking:
                self.history.note(tx, record.source, record.definition, is_worked_out=False, loaded_from=None)
            if lacking:
                self.fence(tx)
                tx.commit()

    def last_sequence(self) -> int:
        """The sequence to go on from (0 before the first checkpoint and after a reset)."""
        with self.sink.transaction() as tx:
            rows = tx.execute(f"SELECT sequence FROM {self._table('checkpoint')} WHERE pipeline = %s", (self.pipeline,))
        return int(rows[0][0]) if rows else 0

    def save(self, tx: Any, checkpoint: Checkpoint) -> None:
        """Write the checkpoint as the last statement of a sink transaction.

        Hits its row only while this instance holds the lease and nobody has moved the checkpoint. Raises LeaseLost.
        """
        self.history.write(tx, lambda: (encode_position(checkpoint.position), self._position(tx)[1]))
        count = tx.execute_count(
            f"UPDATE {self._table('checkpoint')} SET format = %s, sequence = %s, position = %s, "
            f"committed_us = {self._dialect.now_us} WHERE pipeline = %s AND epoch = %s AND sequence = %s",
            (
                CHECKPOINT_FORMAT,
                checkpoint.sequence,
                encode_position(checkpoint.position),
                self.pipeline,
                self.epoch,
                checkpoint.sequence - 1,
            ),
        )
        if count != 1:
            raise self.lost()

    def fence(self, tx: Any) -> None:
        """For transactions that move no checkpoint (loads): still none may commit without the lease."""
        self.history.write(tx, lambda: self._position(tx))
        count = tx.execute_count(
            f"UPDATE {self._table('checkpoint')} SET epoch = %s WHERE pipeline = %s AND epoch = %s",
            (self.epoch, self.pipeline, self.epoch),
        )
        if count != 1:
            raise self.lost()

    def _position(self, tx: Any) -> tuple[str, int]:
        """Where the checkpoint is, as it is encoded, and the time."""
        rows = tx.execute(
            f"SELECT position, {self._dialect.now_us} FROM {self._table('checkpoint')} WHERE pipeline = %s",
            (self.pipeline,),
        )
        return (str(rows[0][0]), int(rows[0][1])) if rows else ("", 0)

    def reset(self, tx: Any) -> None:
        """Forget the checkpoint, the tables' states and the rows that wait (the target tables stay as they are)."""
        tx.execute_count(
            f"UPDATE {self._table('checkpoint')} SET position = '', committed_us = {self._dialect.now_us} "
            f"WHERE pipeline = %s",
            (self.pipeline,),
        )
        tx.execute_count(
            f"UPDATE {self._table('tables')} SET state = 'pending', loaded_from = NULL, ready_at = NULL, error = NULL "
            f"WHERE pipeline = %s",
            (self.pipeline,),
        )
        if self._exists(tx, "prepared"):
            # What ends between here and the next checkpoint would wait for ever, or meet another one of its name.
            tx.execute_count(f"DELETE FROM {self._table('prepared')} WHERE pipeline = %s", (self.pipeline,))
        if self._exists(tx, "history"):
            self.history.forget(tx)

    # -- the tables' states

    def load_tables(self) -> dict[TableName, TableRecord]:
        """Every table that this pipeline knows."""
        with self.sink.transaction() as tx:
            rows = tx.execute(
                f"SELECT {_RECORD_COLUMNS} FROM {self._table('tables')} WHERE pipeline = %s", (self.pipeline,)
            )
        records = (self._record(row) for row in rows)
        return {record.source: record for record in sorted(records, key=lambda record: record.source)}

    def load_sharing(self, target: str) -> list[tuple[str, TableRecord]]:
        """Every table that has been loaded into that target, by any pipeline with its metadata here; with the pipeline.

        Those that are dropped at the source are among them: their rows are there.
        """
        with self.sink.transaction() as tx:
            rows = tx.execute(
                f"SELECT pipeline, {_RECORD_COLUMNS} FROM {self._table('tables')} "
                f"WHERE target = %s AND definition IS NOT NULL",
                (target,),
            )
        found = [(row[0], self._record(row[1:])) for row in rows]
        return sorted(found, key=lambda pair: (pair[0], pair[1].source))

    @staticmethod
    def _record(row: tuple[Any, ...]) -> TableRecord:
        source, target, state, definition, key, is_complete, loaded_from, ready_at, *rest = row
        rows_loaded, last_change_us, changes, error = rest
        name = orjson.loads(source)
        ready = decode_position(ready_at) if ready_at else None
        return TableRecord(
            source=TableName(name[0], name[1]),
            target=target,
            state=state,
            definition=decode_definition(definition) if definition else None,
            is_complete=bool(is_complete),
            loaded_from=decode_position(loaded_from) if loaded_from else None,
            ready_at=ready.file if ready else None,
            ready_server=ready.server if ready else None,
            rows_loaded=rows_loaded,
            last_change_us=last_change_us,
            policy_changes=orjson.loads(changes),
            error=orjson.loads(error) if error else None,
            **_decode_loaded(key),
        )

    def save_table(self, tx: Any, record: TableRecord, *, is_known: bool | None = None) -> None:
        """Write one table's state as part of a sink transaction.

        `is_known`: does this pipeline have one of it? Where the caller knows, no answer is waited for.
        """
        is_loaded = record.state == "snapshotting" and record.ready_at is not None
        self.history.note(
            tx,
            record.source,
            record.definition if is_loaded or record.state == "ready" else None,
            is_worked_out=record.step != "",  # nor is it compared while a statement has been begun on its target
            loaded_from=record.loaded_from if is_loaded else None,
        )
        # Names as a JSON list: a database or table name may contain dots.
        source = orjson.dumps([record.source.database, record.source.table]).decode()
        ready_at = None
        if record.ready_at is not None and record.ready_server is not None:
            ready_at = encode_position(SourcePosition(record.ready_server, record.ready_at, None))
        values = (
            record.target,
            record.state,
            _ascii(encode_definition(record.definition)) if record.definition else None,
            _encode_loaded(record),
            int(record.is_complete),
            encode_position(record.loaded_from) if record.loaded_from else None,
            ready_at,
            record.rows_loaded,
            record.last_change_us,
            _ascii(orjson.dumps(record.policy_changes).decode()),
            _ascii(orjson.dumps(record.error).decode()) if record.error else None,
        )
        update = (
            f"UPDATE {self._table('tables')} SET target = %s, state = %s, definition = %s, key_columns = %s, "
            f"is_complete = %s, loaded_from = %s, "
            f"ready_at = %s, rows_loaded = %s, last_change_us = %s, policy_changes = %s, error = %s, "
            f"updated_us = {self._dialect.now_us} WHERE pipeline = %s AND source_table = %s"
        )
        if is_known:
            tx.execute_later(update, (*values, self.pipeline, source))
        elif is_known is False or not tx.execute_count(update, (*values, self.pipeline, source)):
            tx.execute_later(
                f"INSERT INTO {self._table('tables')} (target, state, definition, key_columns, is_complete, "
                f"loaded_from, ready_at, rows_loaded, last_change_us, policy_changes, error, pipeline, source_table, "
                f"updated_us) VALUES ({', '.join(['%s'] * 13)}, {self._dialect.now_us})",
                (*values, self.pipeline, source),
            )
        loads.note_load(
            tx,
            self._table("loads"),
            pipeline=self.pipeline,
            source=source,
            state=record.state,
            has_ended=record.ready_at is not None,
            now_us=self._dialect.now_us,
        )

    def lose_rows(self, tx: Any, source: TableName) -> None:
        """Write that the table's rows are gone from its target, and that it has to be loaded again.

        For other pipelines than the one whose table it is: what runs that one has its states in memory, so it is told
        by a command as well, which it takes up even where it has written its own state over this one.
        """
        name = orjson.dumps([source.database, source.table]).decode()
        count = tx.execute_count(
            f"UPDATE {self._table('tables')} SET state = 'pending', is_complete = 0, loaded_from = NULL, "
            f"ready_at = NULL, error = NULL, updated_us = {self._dialect.now_us} "
            f"WHERE pipeline = %s AND source_table = %s AND state <> 'dropped'",
            (self.pipeline, name),
        )
        if count:
            self.put_command(tx, "snapshot", f"[{name}]")

    def touch_table(
        self, tx: Any, source: TableName, *, last_change_us: int, policy_changes: Mapping[str, Mapping[str, int]] | None
    ) -> None:
        """The cheap update that goes with every batch: when the table last changed, and new policy counts if any."""
        name = orjson.dumps([source.database, source.table]).decode()
        # Nobody waits for how many rows it hits: where the sink can, it goes with the checkpoint in one round trip.
        if policy_changes is None:
            tx.execute_later(
                f"UPDATE {self._table('tables')} SET last_change_us = %s WHERE pipeline = %s AND source_table = %s",
                (last_change_us, self.pipeline, name),
            )
        else:
            tx.execute_later(
                f"UPDATE {self._table('tables')} SET last_change_us = %s, policy_changes = %s "
                f"WHERE pipeline = %s AND source_table = %s",
                (last_change_us, _ascii(orjson.dumps(policy_changes).decode()), self.pipeline, name),
            )

    # -- commands

    def add_command(self, name: str, argument: str) -> int:
        """Ask something of the running service; the command's id."""
        with self.sink.transaction() as tx:
            command_id = self.put_command(tx, name, argument)
            tx.commit()
        return command_id

    def put_command(self, tx: Any, name: str, argument: str, state: str = "queued", message: str = "") -> int:
        """Likewise, with what else the transaction does."""
        rows = tx.execute(
            f"INSERT INTO {self._table('commands')} (pipeline, name, argument, state, message, requested_us) "
            f"VALUES (%s, %s, %s, %s, %s, {self._dialect.now_us}){self._dialect.returning_id}",
            (self.pipeline, name, argument, state, message),
        )
        if not self._dialect.returning_id:
            rows = tx.execute("SELECT LAST_INSERT_ID()")
        if not rows or not rows[0][0]:
            raise SinkRefused("the command was not stored", table=self._table("commands"))
        return int(rows[0][0])

    def queued_commands(self) -> list[Command]:
        """What waits for the service, oldest first (one that was `running` when its instance died counts)."""
        with self.sink.transaction() as tx:
            rows = tx.execute(
                f"SELECT id, name, argument, state, message FROM {self._table('commands')} "
                f"WHERE pipeline = %s AND state IN ('queued', 'running') ORDER BY id",
                (self.pipeline,),
            )
        return [Command(*row) for row in rows]

    def commands_named(self, names: Collection[str]) -> list[tuple[str, Command, int]]:
        """Every command of those names, oldest first, with the pipeline that it is for (any of any deployment, also one
        that is not run any more), and when it was given."""
        with self.sink.transaction() as tx:
            rows = tx.execute(
                f"SELECT pipeline, id, name, argument, state, message, requested_us FROM {self._table('commands')} "
                f"WHERE name IN ({', '.join(['%s'] * len(names))}) ORDER BY id",
                tuple(names),
            )
        return [(str(row[0]), Command(*row[1:6]), row[6]) for row in rows]

    def read_command(self, command_id: int) -> Command | None:
        """One command as it is now."""
        with self.sink.transaction() as tx:
            rows = tx.execute(
                f"SELECT id, name, argument, state, message FROM {self._table('commands')} WHERE id = %s", (command_id,)
            )
        return Command(*rows[0]) if rows else None

    def set_command(self, command_id: int, state: str, message: str = "") -> None:
        """Say how a command stands: `running`, `done`, `failed`."""
        with self.sink.transaction() as tx:
            tx.execute_count(
                f"UPDATE {self._table('commands')} SET state = %s, message = %s WHERE id = %s",
                (state, message, command_id),
            )
            tx.commit()
