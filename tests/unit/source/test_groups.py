"""What is kept of a transaction that was stepped over: no value of a row.

tests/integration/test_skip.py has the servers.
"""

from __future__ import annotations

import pytest

from cdc.model import FilePos, ServerIdentity, SourcePosition
from cdc.source.groups import BinlogEvent, EventGroup, kept, shown

PLACE = FilePos.of("binlog.000001", 4)


def group_of(kind: str, info: str) -> EventGroup:
    after = SourcePosition(ServerIdentity("mysql", "some"), PLACE)
    return EventGroup(PLACE, after, (BinlogEvent(PLACE, kind, info),), 1, frozenset(), (), is_opaque=False)


@pytest.mark.parametrize(
    "kind,info,expected",
    [
        ("Annotate_rows", "INSERT INTO t VALUES (1, 'secret')", "INSERT INTO …"),
        ("Rows_query", "# UPDATE shop.t SET a = 'secret'", "# UPDATE …"),
        ("Rows_query", "# INSERT INTO t(a) VALUES ('secret')", "# INSERT INTO …"),
        ("Annotate_rows", "/* secret */ DELETE FROM t", "…"),
        ("Query", "use `shop`; INSERT INTO t VALUES ('secret')", "use `shop`; INSERT INTO …"),
        ("Query_compressed", "use `shop`; REPLACE t VALUES ('secret')", "use `shop`; REPLACE t …"),
        ("Query", "use `shop`; SELECT f('secret')", "use `shop`; SELECT f …"),
        ("Query", "SELECT x'736563726574'", "SELECT …"),
        ("Query", "SET STATEMENT max_statement_time=1 FOR INSERT INTO t VALUES ('secret')", "SET STATEMENT …"),
        ("Query", "CREATE USER u IDENTIFIED BY 'secret'", "CREATE USER …"),
        ("Query", "CREATE TABLE t AS SELECT 'secret' AS a", "CREATE TABLE t AS …"),
        ("Query", "CREATE TABLE t AS VALUES ROW('secret')", "CREATE TABLE t AS …"),
        ("Query", "use `shop`; ALTER TABLE t ADD a INT DEFAULT 1", "use `shop`; ALTER TABLE t ADD a INT DEFAULT 1"),
        ("Query", "DROP DATABASE shop", "DROP DATABASE shop"),
        ("Query", "XA COMMIT X'61',X'',1", "XA COMMIT X'61',X'',1"),
        ("Query", "COMMIT", "COMMIT"),
        ("User var", "@`a`=_utf8mb4'secret'", "…"),
        ("Execute_load_query", "LOAD DATA INFILE 'x' INTO TABLE t SET a = 'secret'", "…"),
        ("Write_rows_compressed_v1", "table_id: 1 flags: STMT_END_F", "table_id: 1 flags: STMT_END_F"),
        ("Table_map", "table_id: 1 (shop.t)", "table_id: 1 (shop.t)"),
        ("Gtid", "BEGIN GTID 0-1-2", "BEGIN GTID 0-1-2"),
        ("Whatever_comes_next", "", ""),
    ],
)
def test_what_is_kept_has_no_value_of_a_row(kind: str, info: str, expected: str) -> None:
    group = group_of(kind, info)
    assert [line.split(None, 1)[1] for line in kept(group)] == [f"{kind:<16} {expected}".rstrip()]
    assert [line.split(None, 1)[1] for line in shown(group)] == [f"{kind:<16} {info}".rstrip()]


def test_lines_are_cut_in_number_and_length() -> None:
    events = tuple(BinlogEvent(PLACE, "Query", "DROP TABLE " + "t" * 300) for _ in range(2))
    group = EventGroup(PLACE, SourcePosition(ServerIdentity("mysql", "some"), PLACE), events, 7, frozenset(), (), False)
    first, second, last = kept(group)
    assert first == second
    assert len(first) < 250
    assert last == "… and 5 more"
