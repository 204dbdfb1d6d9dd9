"""May this source's binlog be followed at all? For tables that can be read otherwise where it may not."""

from __future__ import annotations

from cdc.errors import ConfigError
from cdc.schema.grants import parse_grants
from cdc.source.connection import SourceConnection
from cdc.source.requirements import require_usable_source

__all__ = ["why_no_log"]


def why_no_log(source: SourceConnection) -> str:
    """Why not; '' where it may, as far as can be told without following it. Raises SourceUnavailable."""
    try:
        require_usable_source(source)
    except ConfigError as error:
        return error.message
    if source.flavor == "mysql":
        try:  # this asks for the very right that following the log does, whichever role gives it
            source.query("SHOW REPLICAS" if source.version >= (8, 0, 22) else "SHOW SLAVE HOSTS")
        except ConfigError as error:
            return f"its user may not read the binlog: {error.message}"
        return ""
    lines = [line for (line,) in source.query_text("SHOW GRANTS") if line]
    grants = parse_grants(lines)
    if grants.scope("REPLICATION SLAVE", "") == "global" or grants.roles:
        return ""  # what a role gives is not all to be seen: following the log tells
    return "its user has no REPLICATION SLAVE right"
