"""Which position lies ahead, on one server and after a failover."""

from __future__ import annotations

import pytest

from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import FilePos, ServerIdentity, SourcePosition, is_before

ONE, OTHER = ServerIdentity("mysql", "one"), ServerIdentity("mysql", "other")
UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"


def at(server: ServerIdentity, file: str, gtids: str = "", flavor: str = "mysql") -> SourcePosition:
    name, _, pos = file.partition(":")
    parse = MysqlGtidSet.parse if flavor == "mysql" else MariadbGtidList.parse
    return SourcePosition(server, FilePos.of(name, int(pos)) if file else None, parse(gtids) if gtids else None)


@pytest.mark.parametrize(
    "position,other,expected",
    [
        (at(ONE, "log.9:4"), at(ONE, "log.10:4"), True),
        (at(ONE, "log.10:4"), at(ONE, "log.10:4"), False),
        (at(ONE, "log.10:5"), at(ONE, "log.10:4"), False),
        (at(ONE, ""), at(ONE, "log.10:4"), False),
        # The other server's files begin at 1: by them it would never get there.
        (at(OTHER, "log.1:4", f"{UUID}:1-9"), at(ONE, "log.10:4", f"{UUID}:1-9"), False),
        (at(OTHER, "log.99:4", f"{UUID}:1-8"), at(ONE, "log.10:4", f"{UUID}:1-9"), True),
        (at(OTHER, "log.1:4", f"{UUID}:1-20"), at(ONE, "log.10:4", f"{UUID}:1-9"), False),
        (at(OTHER, "log.1:4", "0-1-5", "mariadb"), at(ONE, "log.10:4", "0-1-9", "mariadb"), False),
    ],
)
def test_positions_of_two_servers_are_not_compared_by_their_files(
    position: SourcePosition, other: SourcePosition, expected: bool
) -> None:
    assert is_before(position, other) is expected
