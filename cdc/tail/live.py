"""A server's dump session as a source of events: beside a running service, with a server id of its own."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cdc.errors import ConfigError
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import FilePos, Flavor, SourcePosition, TableDefinition, TableName
from cdc.source.connection import SourceConnection, connect
from cdc.source.definitions import read_definition
from cdc.source.positions import written_file_pos
from cdc.source.stream import BinlogStream
from cdc.tail.select import GtidSet

__all__ = ["LiveSource", "free_server_id"]

_FIRST_POSITION = 4
_U32 = 1 << 32


def free_server_id(connection: SourceConnection, *, taken: int) -> int:
    """An id of the block that nobody streams with: the highest, as services take theirs from the lowest on.

    Where we may not see who else streams (MariaDB wants a right for that which nothing else needs), any of them.

    Args:
        taken: how many ids of the block belong to the service, running or not.
    Raises ConfigError when there is none.
    """
    settings = connection.settings
    block = range(settings.server_id, settings.server_id + settings.server_id_count)
    is_renamed = connection.flavor == "mysql" and connection.version >= (8, 0, 22)
    used: set[int] = set()
    try:
        rows = connection.rows_by_name("SHOW REPLICAS" if is_renamed else "SHOW SLAVE HOSTS")
    except ConfigError:
        if block[taken:]:
            return secrets.choice(block[taken:])
    else:
        used = {int(value or 0) for row in rows for name, value in row.items() if name.lower() == "server_id"}
    for server_id in reversed(block[taken:]):
        if server_id not in used:
            return server_id
    raise ConfigError(
        f"no server_id is left in the block {block[0]}..{block[-1]}: {taken} belong to the sinks, "
        f"{len(used.intersection(block))} are in use",
        hint="raise source.server_id_count, or end another `cdc tail`",
    )


class LiveSession:
    """One dump session, with what the assembler has to know of its server."""

    is_at_end = False

    def __init__(
        self, stream: BinlogStream, start: FilePos | None, version: tuple[int, ...], *, lower_case_names: bool
    ) -> None:
        self.name = f"source {stream.settings.address}"
        self.start = start
        self.flavor: Flavor = stream.flavor
        self.version = version
        self.checksum_negotiated = stream.checksum_negotiated
        self.lower_case_names = lower_case_names
        self.fill = stream.fill
        self.deliver: Callable[[Any], bool] = stream.deliver
        self.close = stream.close


class LiveSource:
    """The source's server.

    Args:
        connection: an open session; used while the command starts, not kept.
        taken_ids: how many ids of the block belong to the service's sinks.
    """

    def __init__(self, connection: SourceConnection, *, taken_ids: int) -> None:
        self.settings = connection.settings
        self.flavor = connection.flavor
        self.version = connection.version
        self.server_id = int(connection.variable("server_id") or 0)
        self._identity = connection.identity()
        self._lower_case_names = (connection.variable("lower_case_table_names") or "0") != "0"
        self._has_gtids = self.flavor == "mariadb" or (connection.variable("gtid_mode") or "OFF").upper() == "ON"
        self._replica_id = free_server_id(connection, taken=taken_ids)

    # -- positions

    def end(self, connection: SourceConnection) -> SourcePosition:
        """Where the log ends now, with the GTIDs up to there."""
        file = written_file_pos(connection)
        if self.flavor == "mysql":
            if not self._has_gtids:
                return SourcePosition(self._identity, file, None)
            # One statement gives both: what is committed between two would be counted twice.
            command = "SHOW BINARY LOG STATUS" if self.version >= (8, 2, 0) else "SHOW MASTER STATUS"
            row = connection.rows_by_name(command)[0]
            file = FilePos.of(row["File"] or "", int(row["Position"] or _FIRST_POSITION))
            return SourcePosition(self._identity, file, MysqlGtidSet.parse(row["Executed_Gtid_Set"] or ""))
        return self.at(connection, file)

    def beginning(self, connection: SourceConnection) -> SourcePosition:
        """The beginning of the oldest file that the server still has."""
        rows = connection.rows_by_name("SHOW BINARY LOGS")
        file = FilePos.of(rows[0]["Log_name"] or "", _FIRST_POSITION)
        if self.flavor == "mysql" and self._has_gtids:
            purged = connection.query_text("SELECT @@GLOBAL.gtid_purged")[0][0] or ""
            return SourcePosition(self._identity, file, MysqlGtidSet.parse(purged))
        return self.at(connection, file)

    def at(self, connection: SourceConnection, file: FilePos) -> SourcePosition:
        """A place in a file; with the GTIDs up to there where the server can tell (MariaDB)."""
        gtid: GtidSet | None = None
        if self.flavor == "mariadb":
            text = connection.query_text("SELECT BINLOG_GTID_POS(%s, %s)", (file.file, file.pos))[0][0]
            gtid = None if text is None else MariadbGtidList.parse(text)
        return SourcePosition(self._identity, file, gtid)

    def after_gtids(self, gtids: GtidSet) -> SourcePosition:
        """Behind those transactions. Raises ConfigError for GTIDs of the other family, or where there are none."""
        if isinstance(gtids, MysqlGtidSet) is not (self.flavor == "mysql"):
            raise ConfigError(
                f"{gtids} is no GTID set of a {self.flavor} server", hint="see `position` in the lines of this source"
            )
        if not self._has_gtids:
            raise ConfigError(f"source {self.settings.address} has gtid_mode OFF", hint="give the position as FILE:POS")
        return SourcePosition(self._identity, None, gtids)

    # -- EventSource

    def open(self, position: SourcePosition) -> LiveSession:
        """Ask for the log from there on; by file where that is known."""
        by = position if position.file is None else replace(position, gtid=None)
        stream = BinlogStream(
            self.settings, flavor=self.flavor, position=by, server_id=self._replica_id, server=self._identity
        )
        stream.open()
        return LiveSession(stream, position.file, self.version, lower_case_names=self._lower_case_names)

    def after(self, *_: object) -> SourcePosition | None:
        """A stream does not end."""
        return None

    def definition(self, table: TableName) -> TableDefinition | None:
        """The table's definition now, in a session of its own: tables are met rarely."""
        with connect(self.settings) as connection:
            return read_definition(connection, table)
