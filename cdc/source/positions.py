"""Where the source is: *visible* positions, where a load may start, and *written* ones, up to which it catches up.

Written positions (file:pos of SHOW BINARY LOG STATUS) run ahead of what a SELECT sees: by a fsync, by seconds under
semi-synchronous replication. Visible ones do not. Taking one for the other loses updates for good (DESIGN section 4,
EDGE_CASES D6).
"""

from __future__ import annotations

from cdc.errors import ConfigError
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import FilePos, SourcePosition
from cdc.source.connection import SourceConnection

__all__ = [
    "VIEWED_ENGINES",
    "is_in_log",
    "oldest_position",
    "semi_sync_wait_seconds",
    "uses_gtid",
    "visible_position",
    "written_file_pos",
]

VIEWED_ENGINES = frozenset({"innodb", "rocksdb", "tokudb"})
"""Those that have read views: what a transaction reads of their tables, however long it takes, is of one moment."""


def uses_gtid(connection: SourceConnection) -> bool:
    """Does the stream resume by GTID? As `source.position` says; `auto`: where the server has it on.

    Raises ConfigError when GTID is asked for and off.
    """
    wanted = connection.settings.position
    if wanted == "file":
        return False
    if connection.flavor == "mariadb":
        return True
    is_on = (connection.variable("gtid_mode") or "OFF").upper() == "ON"
    if wanted == "gtid" and not is_on:
        raise ConfigError(
            f"source {connection.settings.address} has gtid_mode OFF, and source.position is gtid",
            hint="set source.position: file, or switch gtid_mode to ON (MySQL manual: changing the GTID mode online)",
        )
    return is_on


def written_file_pos(connection: SourceConnection) -> FilePos:
    """The end of the log as written. Raises ConfigError when the binlog is off or we may not ask."""
    if connection.flavor == "mysql" and connection.version >= (8, 2, 0):
        rows = connection.rows_by_name("SHOW BINARY LOG STATUS")
    else:
        rows = connection.rows_by_name("SHOW MASTER STATUS")
    if not rows or not rows[0]["File"]:
        raise ConfigError(
            f"source {connection.settings.address} writes no binlog (log_bin is OFF)",
            hint="start the server with log_bin=binlog, server_id=<n> and binlog_format=ROW",
        )
    return FilePos.of(rows[0]["File"] or "", int(rows[0]["Position"] or 4))


def oldest_position(connection: SourceConnection) -> SourcePosition:
    """Where the log begins that the server still has."""
    file = FilePos.of(connection.rows_by_name("SHOW BINARY LOGS")[0]["Log_name"] or "", 4)
    gtid = None
    if connection.flavor == "mysql" and (connection.variable("gtid_mode") or "OFF").upper() == "ON":
        gtid = MysqlGtidSet.parse(connection.query_text("SELECT @@GLOBAL.gtid_purged")[0][0] or "")
    return SourcePosition(connection.identity(), file, gtid)


def semi_sync_wait_seconds(connection: SourceConnection) -> float:
    """How long a commit may wait for a semi-synchronous replica before SELECTs see it; 0 where that is off."""
    for kind in ("source", "master"):
        if (connection.variable(f"rpl_semi_sync_{kind}_enabled") or "OFF").upper() in ("ON", "1"):
            return int(connection.variable(f"rpl_semi_sync_{kind}_timeout") or 0) / 1000
    return 0.0


def visible_position(connection: SourceConnection) -> SourcePosition:
    """A position such that every transaction up to it is seen by any SELECT that starts from now on.

    MySQL with GTIDs: `@@gtid_executed` (a transaction enters it after its engine commit); no file.
    MySQL without: the start of the current file (rotation waits for prepared transactions).
    MariaDB: `Binlog_snapshot_file/position` inside a consistent snapshot, which is exact, and the GTID list there.
    """
    identity = connection.identity()
    if connection.flavor == "mariadb":
        connection.query("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        try:
            rows = connection.query_text("SHOW STATUS LIKE 'Binlog\\_snapshot\\_%'")
            status = {row[0]: row[1] for row in rows}
        finally:
            connection.query("ROLLBACK")
        name, offset = status.get("Binlog_snapshot_file"), status.get("Binlog_snapshot_position")
        if not name or not offset:
            raise ConfigError(
                f"source {connection.settings.address} writes no binlog (log_bin is OFF)",
                hint="start the server with log_bin=binlog, server_id=<n> and binlog_format=ROW",
            )
        file = FilePos.of(name, int(offset))
        gtid = None
        if uses_gtid(connection):
            rows = connection.query_text("SELECT BINLOG_GTID_POS(%s, %s)", (name, int(offset)))
            text = rows[0][0]
            if text is None:
                raise ConfigError(
                    f"source {connection.settings.address} cannot say the GTID position of {file}",
                    hint="set source.position: file",
                )
            gtid = MariadbGtidList.parse(text)
        return SourcePosition(identity, file, gtid)
    if uses_gtid(connection):
        text = connection.query_text("SELECT @@GLOBAL.gtid_executed")[0][0] or ""
        return SourcePosition(identity, None, MysqlGtidSet.parse(text))
    return SourcePosition(identity, FilePos.of(written_file_pos(connection).file, 4), None)


def is_in_log(connection: SourceConnection, position: SourcePosition) -> bool:
    """Does this server still have its log from `position` on, and has it not lost what was before?

    Another server than the position's: False, as nothing is known of what a SELECT there sees of it.
    """
    if position.server != connection.identity():
        return False
    if isinstance(position.gtid, MysqlGtidSet):
        executed, purged = (
            MysqlGtidSet.parse(connection.query_text(f"SELECT @@GLOBAL.{name}")[0][0] or "")
            for name in ("gtid_executed", "gtid_purged")
        )
        return not position.gtid.subtract(executed) and not purged.subtract(position.gtid)
    if position.file is None:
        return False
    sizes = {row["Log_name"]: int(row["File_size"] or 0) for row in connection.rows_by_name("SHOW BINARY LOGS")}
    return position.file.pos <= sizes.get(position.file.file, -1)
