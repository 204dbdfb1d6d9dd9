"""What the source must be like before the service starts at all.

`source/preflight.py` knows many more checks and is for `cdc check`; these are the few without which a run could only
end in an error or lose changes.
"""

from __future__ import annotations

from cdc.errors import ConfigError
from cdc.source.connection import SourceConnection
from cdc.source.positions import written_file_pos

__all__ = ["require_usable_source"]


def require_usable_source(connection: SourceConnection) -> None:
    """Raises ConfigError when the binlog is off, or holds statements instead of rows."""
    where = f"source {connection.settings.address}"
    written_file_pos(connection)
    binlog_format = (connection.variable("binlog_format") or "ROW").upper()
    if binlog_format != "ROW":
        raise ConfigError(
            f"{where} has binlog_format {binlog_format}: changes made by statement are in no row event",
            hint="SET GLOBAL binlog_format = ROW, put binlog_format=ROW into the server's configuration, "
            "and reconnect the writers",
        )
