"""One read view and its exact position, on real servers."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from cdc.errors import Stopping, TransientError, UnsupportedData, UnsupportedEvent
from cdc.gtid import MysqlGtidSet
from cdc.model import FilePos, SourcePosition, TableDefinition, TableName
from cdc.source.connection import SourceConnection, TableGone, connect
from cdc.source.definitions import read_definition
from cdc.source.positions import written_file_pos
from snapshot import exact
from snapshot.exact import exact_rows, is_untouched
from tests.integration.test_binlog_types import source_settings
from tests.support.databases import fresh_database

Place = tuple[Server, str, SourceConnection]


@pytest.fixture(params=["mysql97", "mariadb1011"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    server: Server = request.getfixturevalue(request.param)
    with fresh_database(server) as database, connect(source_settings(server)) as source:
        server.execute("CREATE TABLE t (a INT, b VARCHAR(9))", database=database)
        server.execute("CREATE TABLE other (a INT)", database=database)
        yield server, database, source


def never() -> None:
    """Nothing ends the load."""


def definition_of(source: SourceConnection, database: str, table: str = "t") -> TableDefinition:
    found = read_definition(source, TableName(database, table))
    assert found is not None
    return found


def here(source: SourceConnection, *, by_gtid: bool) -> SourcePosition:
    if not by_gtid:
        return SourcePosition(source.identity(), written_file_pos(source), None)
    text = source.query_text("SELECT @@GLOBAL.gtid_executed")[0][0] or ""
    return SourcePosition(source.identity(), None, MysqlGtidSet.parse(text))


@pytest.mark.parametrize("by_gtid", [True, False])
@pytest.mark.parametrize(
    "statements,is_quiet",
    [
        ((), True),
        (("INSERT INTO other VALUES (1)", "CREATE TABLE third (a INT)"), True),
        (("INSERT INTO t VALUES (1, 'x')",), False),
        (("INSERT INTO other VALUES (1)", "UPDATE other, t SET t.a = 5"), True),
        (("BEGIN", "INSERT INTO other VALUES (1)", "INSERT INTO t VALUES (1, 'x')", "COMMIT"), False),
        (("ALTER TABLE t COMMENT = 'another'",), False),
        (("TRUNCATE t",), False),
        (("XA START 'q'", "INSERT INTO t VALUES (1, 'x')", "XA END 'q'", "XA PREPARE 'q'", "XA COMMIT 'q'"), False),
    ],
)
def test_what_touches_the_table_in_the_log_is_seen(
    mysql97: Server, by_gtid: bool, statements: tuple[str, ...], is_quiet: bool
) -> None:
    server = mysql97
    with fresh_database(server) as database, connect(source_settings(server)) as source:
        server.execute("CREATE TABLE t (a INT, b VARCHAR(9))", database=database)
        server.execute("CREATE TABLE other (a INT)", database=database)
        since = here(source, by_gtid=by_gtid)
        run(server, database, *statements)
        found = is_untouched(
            source,
            TableName(database, "t"),
            since=since,
            upto=written_file_pos(source),
            server_id=77_001,
            on_wait=never,
        )
        assert found == is_quiet


def run(server: Server, database: str, *statements: str) -> None:
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        connection.autocommit(True)
        for statement in statements:
            cursor.execute(statement)


def test_an_xa_commit_of_a_transaction_from_before_counts_as_a_touch(mysql97: Server) -> None:
    with fresh_database(mysql97) as database, connect(source_settings(mysql97)) as source:
        mysql97.execute("CREATE TABLE t (a INT)", database=database)
        with contextlib.closing(mysql97.connect(database)) as connection, connection.cursor() as cursor:
            for statement in ("XA START 'r'", "INSERT INTO t VALUES (1)", "XA END 'r'", "XA PREPARE 'r'"):
                cursor.execute(statement)
            since = here(source, by_gtid=True)
            cursor.execute("XA COMMIT 'r'")
        upto = written_file_pos(source)
        name = TableName(database, "t")
        assert not is_untouched(source, name, since=since, upto=upto, server_id=77_002, on_wait=never)


def test_an_event_that_is_not_understood_is_an_error_and_no_touch(mysql97: Server) -> None:
    with fresh_database(mysql97) as database, connect(source_settings(mysql97)) as source:
        mysql97.execute("CREATE TABLE t (a INT)", database=database)
        since = here(source, by_gtid=True)
        run(mysql97, database, "SET binlog_format = STATEMENT", "INSERT INTO t VALUES (1)")
        upto = written_file_pos(source)
        name = TableName(database, "t")
        with pytest.raises(UnsupportedEvent, match="as a statement"):
            is_untouched(source, name, since=since, upto=upto, server_id=77_007, on_wait=never)


@pytest.mark.parametrize("by_gtid", [True, False])
def test_a_long_semi_synchronous_wait_ends_the_search_or_is_none_of_its_business(
    mysql97: Server, monkeypatch: pytest.MonkeyPatch, by_gtid: bool
) -> None:
    """By GTID a view tells what is in flight. Without, only time does, and nobody waits for days."""
    settings = source_settings(mysql97)
    if not by_gtid:
        settings = replace(settings, position="file")
    monkeypatch.setattr(exact, "semi_sync_wait_seconds", lambda _source: 1e6)
    with fresh_database(mysql97) as database, connect(settings) as source:
        mysql97.execute("CREATE TABLE t (a INT)", database=database)
        mysql97.execute("INSERT INTO t VALUES (1)", database=database)
        if by_gtid:
            assert read(source, definition_of(source, database)) == ([1], [(1,)])
            return
        with pytest.raises(UnsupportedData, match="semi-synchronous") as caught:
            read(source, definition_of(source, database))
        assert "rpl_semi_sync" in caught.value.hint


@pytest.mark.parametrize("position", ["gtid", "file"])
def test_a_search_for_a_view_says_what_it_waits_for_and_ends(
    mysql97: Server, monkeypatch: pytest.MonkeyPatch, position: Any
) -> None:
    """However long commits may wait: of that so much is waited for as a wait may count for, and no more."""
    monkeypatch.setattr(exact, "_SEARCH_SECONDS", 0.5)
    monkeypatch.setattr(exact, "_VISIBLE_SECONDS", 0.01)
    monkeypatch.setattr(exact, "_LAG_SECONDS_MAX", 0.5)
    lag_seconds = 1e6 if position == "gtid" else 0.4
    monkeypatch.setattr(exact, "semi_sync_wait_seconds", lambda _source: lag_seconds)
    monkeypatch.setattr(exact, "is_untouched", lambda *_, **__: False)
    said: list[float] = []
    settings = replace(source_settings(mysql97), position=position)
    with fresh_database(mysql97) as database, connect(settings) as source:
        mysql97.execute("CREATE TABLE t (a INT)", database=database)
        with pytest.raises(UnsupportedData, match="so closely") as caught:
            read(source, definition_of(source, database), on_search=lambda _what, seconds: said.append(seconds))
        assert "semi-synchronous" in caught.value.hint
    assert said == [pytest.approx(1.0 if position == "gtid" else 0.9)]


def read(source: SourceConnection, definition: TableDefinition, **more: Any) -> tuple[list[int], list[tuple[Any, ...]]]:
    """The sizes of the batches, and all rows."""
    sizes, rows = [], []
    options: dict[str, Any] = {"server_id": 77_003, "rows_max": 100, "on_wait": never} | more
    with exact_rows(source, definition, **options) as found:
        assert found.position.file == found.ready_at
        for batch in found.batches:
            sizes.append(batch.num_rows)
            rows += list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    return sizes, rows


def test_all_rows_come_in_batches_and_duplicates_too(place: Place, tmp_path: Path) -> None:
    server, database, source = place
    assert read(source, definition_of(source, database)) == ([], [])
    run(server, database, "INSERT INTO t VALUES " + ", ".join(["(1, 'x')"] * 249 + ["(NULL, NULL)"]))
    sizes, rows = read(source, definition_of(source, database), spool_dir=tmp_path / "new")
    assert sizes == [100, 100, 50]
    assert sorted(map(repr, rows)) == sorted(map(repr, [(1, "x")] * 249 + [(None, None)]))


def test_the_view_is_closed_before_the_rows_are_taken(place: Place) -> None:
    """However slow the sink is, an ALTER of the table goes through."""
    server, database, source = place
    run(server, database, "INSERT INTO t VALUES (1, 'x')")
    with exact_rows(source, definition_of(source, database), server_id=77_004, rows_max=10, on_wait=never) as found:
        run(server, database, "SET lock_wait_timeout = 2", "ALTER TABLE t ADD COLUMN c INT", "DELETE FROM t")
        assert [batch.num_rows for batch in found.batches] == [1]


def test_a_table_that_was_altered_since_is_told(place: Place) -> None:
    server, database, source = place
    definition = definition_of(source, database)
    run(server, database, "ALTER TABLE t ADD COLUMN c INT")
    with pytest.raises(TableGone):
        read(source, definition)


def test_an_engine_without_views_is_refused(place: Place) -> None:
    server, database, source = place
    run(server, database, "CREATE TABLE m (a INT) ENGINE=MyISAM")
    with pytest.raises(UnsupportedData, match="MyISAM") as caught:
        read(source, definition_of(source, database, "m"))
    assert "ENGINE=InnoDB" in caught.value.hint


def test_who_ends_the_load_ends_the_search(mysql97: Server) -> None:
    def end() -> None:
        raise Stopping("asked to stop")

    with fresh_database(mysql97) as database, connect(source_settings(mysql97)) as source:
        mysql97.execute("CREATE TABLE t (a INT)", database=database)
        with pytest.raises(Stopping):
            read(source, definition_of(source, database), on_wait=end)


def test_a_file_that_cannot_be_written_is_tried_again_later(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`/dev/full` stands for the disk."""
    server, database, source = place
    run(server, database, "INSERT INTO t VALUES (1, 'x')")
    with Path("/dev/full").open("r+b", buffering=0) as full:
        monkeypatch.setattr(tempfile, "SpooledTemporaryFile", lambda **_: contextlib.nullcontext(full))
        with pytest.raises(TransientError, match="cannot be written"):
            read(source, definition_of(source, database), spool_dir=tmp_path)


def test_a_view_that_may_show_more_than_its_position_is_given_up(
    mysql97: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction comes between the look at what is executed and the view: it would be loaded, and applied again."""
    with fresh_database(mysql97) as database, connect(source_settings(mysql97)) as source:
        mysql97.execute("CREATE TABLE t (a INT)", database=database)
        real = exact._open_view
        executed_first: list[MysqlGtidSet] = []

        def late(view: SourceConnection) -> tuple[MysqlGtidSet, FilePos]:
            executed, written = real(view)
            if not executed_first:
                executed_first.append(executed)
                view.query("ROLLBACK")
                run(mysql97, database, "INSERT INTO t VALUES (1)")
                _, written = real(view)
            return executed, written

        monkeypatch.setattr(exact, "_open_view", late)
        with exact_rows(source, definition_of(source, database), server_id=77_006, rows_max=10, on_wait=never) as found:
            assert sum(batch.num_rows for batch in found.batches) == 1
            assert found.position.gtid != executed_first[0]
            assert isinstance(found.position.gtid, MysqlGtidSet)
            assert executed_first[0].is_subset_of(found.position.gtid)


@pytest.mark.parametrize("name", ["mysql97", "mariadb1011"])
def test_a_view_of_a_busy_table_shows_it_at_its_position(name: str, request: pytest.FixtureRequest) -> None:
    """Each transaction adds one row with its number: the rows are those of the transactions up to the position.

    What the log has up to there is counted by the server itself, by GTID.
    """
    server: Server = request.getfixturevalue(name)
    is_stopping = threading.Event()
    with fresh_database(server) as database, connect(source_settings(server)) as source:
        server.execute("CREATE TABLE t (a INT, g VARCHAR(90))", database=database)
        threads = [threading.Thread(target=_write, args=(server, database, is_stopping, n)) for n in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(5):
                with exact_rows(
                    source, definition_of(source, database), server_id=77_005, rows_max=1000, on_wait=never
                ) as found:
                    count = sum(batch.num_rows for batch in found.batches)
                events = _inserts_up_to(server, database, found.position)
                assert count == events
        finally:
            is_stopping.set()
            for thread in threads:
                thread.join()


def _write(server: Server, database: str, is_stopping: threading.Event, number: int) -> None:
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        connection.autocommit(True)
        while not is_stopping.wait(0.002):
            cursor.execute(f"INSERT INTO t VALUES ({number}, NULL)")


def _inserts_up_to(server: Server, database: str, position: SourcePosition) -> int:
    """How many transactions on the table the log has up to the position, by SHOW BINLOG EVENTS."""
    assert position.file is not None
    count, group = 0, ""
    for row in server.execute(f"SHOW BINLOG EVENTS IN '{position.file.file}'"):
        kind, end, info = str(row[2]), int(row[4]), str(row[5])
        if kind == "Gtid":
            group = info
        if kind == "Table_map" and f"({database}.t)" in info and _is_in(position, group, end):
            count += 1
    return count


def _is_in(position: SourcePosition, group: str, end: int) -> bool:
    if isinstance(position.gtid, MysqlGtidSet):
        source, _, number = group.rpartition("'")[0].rpartition("'")[2].rpartition(":")
        return position.gtid.contains((source, ""), int(number))
    assert position.file is not None
    return end <= position.file.pos
