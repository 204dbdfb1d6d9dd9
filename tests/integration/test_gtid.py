"""A dump from a GTID position gives exactly what the position lacks, on servers that alone can say so."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from cdc.binlog.constants import EventType
from cdc.binlog.events import EventClass, classify, parse_gtid, parse_mariadb_gtid
from cdc.binlog.framing import EventFramer
from cdc.demo.servers import Server
from cdc.errors import BinlogPurged, CdcError
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import FilePos, Flavor, ServerIdentity, SourcePosition
from cdc.source.connection import SourceSettings
from cdc.source.stream import BinlogStream
from tests.support.collector import Collector, next_event
from tests.support.waiting import wait_until

StartServer = Callable[..., Server]


def text(server: Server, sql: str) -> str:
    return str(server.execute(sql)[0][0]).replace("\n", "")


@contextlib.contextmanager
def dump(
    server: Server, gtid: MysqlGtidSet | MariadbGtidList | None, file: FilePos | None = None
) -> Iterator[BinlogStream]:
    settings = SourceSettings(
        server.host, server.port, server.user, server.password, server_id=77, heartbeat_seconds=0.2
    )
    flavor: Flavor = "mysql" if server.family == "mysql" else "mariadb"
    position = SourcePosition(ServerIdentity(flavor, "x"), file, gtid)
    stream = BinlogStream(settings, flavor=flavor, position=position, server_id=77)
    stream.open()
    try:
        yield stream
    finally:
        stream.close()


def received(stream: BinlogStream) -> list[str]:
    """The GTIDs of all that the server sends, until it has nothing more and says so by a heartbeat."""
    framer = EventFramer(initial_checksum=stream.checksum_negotiated)
    collector = Collector()
    found: list[str] = []
    last_end = 0
    while True:
        content = next_event(stream, collector, 30)
        assert content is not None, "no event and no heartbeat for 30 s"
        event = framer.frame(content)
        kind = classify(event.header.event_type, event.header.flags)
        if kind is EventClass.GTID:
            is_mariadb = event.header.event_type == EventType.MARIADB_GTID
            found.append(str(parse_mariadb_gtid(event) if is_mariadb else parse_gtid(event)))
        if kind is EventClass.HEARTBEAT and last_end == event.header.log_pos:
            return found  # twice at the same place: not one of those that are sent while it seeks
        last_end = event.header.log_pos if kind is EventClass.HEARTBEAT else 0


# ---------------------------------------------------------------- MySQL


@pytest.fixture
def tagged(start_server: StartServer) -> Server:
    """Transactions of the server itself, with two tags, and of a foreign server with a gap, over three files."""
    server = start_server("mysql97")
    with contextlib.closing(server.connect()) as session, session.cursor() as cursor:
        cursor.execute("CREATE DATABASE d")
        cursor.execute("CREATE TABLE d.t (k INT PRIMARY KEY AUTO_INCREMENT)")
        for tag in ("AUTOMATIC", "AUTOMATIC:mytag", "AUTOMATIC", "AUTOMATIC:other_tag", "AUTOMATIC:mytag"):
            cursor.execute(f"SET gtid_next = '{tag}'")
            for _ in range(3):
                cursor.execute("INSERT INTO d.t VALUES ()")
            if tag == "AUTOMATIC":
                cursor.execute("FLUSH BINARY LOGS")
        for gtid in ("11111111-71ca-11e1-9e33-c80aa9429562:5", "11111111-71ca-11e1-9e33-c80aa9429562:mytag:7"):
            cursor.execute(f"SET gtid_next = '{gtid}'")
            cursor.execute("INSERT INTO d.t VALUES ()")
    return server


def as_list(some: MysqlGtidSet) -> set[str]:
    return {
        f"{uuid}:{tag}:{n}" if tag else f"{uuid}:{n}"
        for (uuid, tag), spans in some.intervals.items()
        for first, last in spans
        for n in range(first, last + 1)
    }


def test_mysql_sends_exactly_what_the_set_lacks(tagged: Server) -> None:
    executed = MysqlGtidSet.parse(text(tagged, "SELECT @@GLOBAL.gtid_executed"))
    server = text(tagged, "SELECT @@server_uuid")
    assert executed.count() == 19
    assert {tag for _, tag in executed.intervals} == {"", "mytag", "other_tag"}
    sets = {
        "empty": "",
        "all": str(executed),
        "without tags": ",".join(str(MysqlGtidSet({s: v})) for s, v in executed.intervals.items() if not s[1]),
        "a prefix": f"{server}:1-4",
        "gaps": f"{server}:1:3-4:7",
        "one tag": f"{server}:mytag:1-2",
        "tags with gaps": f"{server}:1-8:mytag:1-2:4:6:other_tag:2,11111111-71ca-11e1-9e33-c80aa9429562:mytag:7",
        "a foreign source": "22222222-71ca-11e1-9e33-c80aa9429562:1-9:sometag:1",
        "the longest tag": f"{server}:1,22222222-71ca-11e1-9e33-c80aa9429562:{'t' * 32}:1",
    }
    for name, some in sets.items():
        known = MysqlGtidSet.parse(some)
        with dump(tagged, known) as stream:
            found = received(stream)
        assert len(set(found)) == len(found), name
        assert set(found) == as_list(executed.subtract(known)), name


def test_sets_mean_what_the_server_says_they_mean(tagged: Server) -> None:
    """Union, difference and the printed form, against the server's own functions."""
    a = MysqlGtidSet.parse(text(tagged, "SELECT @@GLOBAL.gtid_executed"))
    (server, _) = next(iter(a.intervals))
    b = MysqlGtidSet.parse(f"{server}:2-3:9:mytag:2,22222222-71ca-11e1-9e33-c80aa9429562:1-2:5:zz:1")
    assert MysqlGtidSet.parse(text(tagged, f"SELECT GTID_SUBTRACT('{a}', '{b}')")) == a.subtract(b)
    assert MysqlGtidSet.parse(text(tagged, f"SELECT GTID_SUBTRACT('{b}', '{a}')")) == b.subtract(a)
    assert bool(tagged.execute(f"SELECT GTID_SUBSET('{a}', '{a.union(b)}')")[0][0])
    assert text(tagged, f"SELECT GTID_SUBTRACT('{b}', '')") == str(b)


def test_mysql_says_when_the_set_lacks_what_is_purged(tagged: Server) -> None:
    last = tagged.execute("SHOW BINARY LOGS")[-1][0]
    tagged.execute(f"PURGE BINARY LOGS TO '{last}'")
    assert tagged.execute("SELECT @@GLOBAL.gtid_purged")[0][0]
    with dump(tagged, MysqlGtidSet()) as stream, pytest.raises(BinlogPurged, match="no longer has"):
        received(stream)


def test_mysql_says_when_the_set_has_more_of_its_own_than_it_has(tagged: Server) -> None:
    server = text(tagged, "SELECT @@server_uuid")
    with dump(tagged, MysqlGtidSet.parse(f"{server}:1-1000")) as stream, pytest.raises(BinlogPurged):
        received(stream)


# ---------------------------------------------------------------- MariaDB


@pytest.mark.parametrize("name", ["mariadb1011", "mariadb118"])
def test_mariadb_sends_what_is_behind_the_list_and_all_of_a_domain_that_is_missing_in_it(
    start_server: StartServer, name: str
) -> None:
    server = start_server(name)
    with contextlib.closing(server.connect()) as session, session.cursor() as cursor:
        cursor.execute("CREATE DATABASE d")
        cursor.execute("CREATE TABLE d.t (k INT PRIMARY KEY AUTO_INCREMENT) ENGINE=InnoDB")
        for domain in (0, 7, 0, 9, 7):
            cursor.execute(f"SET gtid_domain_id = {domain}")
            for _ in range(3):
                cursor.execute("INSERT INTO d.t VALUES ()")
            if domain == 0:
                cursor.execute("FLUSH BINARY LOGS")
    end = MariadbGtidList.parse(text(server, "SELECT @@GLOBAL.gtid_binlog_pos"))
    assert set(end.positions) == {0, 7, 9}
    with dump(server, MariadbGtidList()) as stream:
        everything = received(stream)
    assert len(everything) >= 17
    assert len({gtid.split("-")[0] for gtid in everything}) == 3

    def sequence(gtid: str) -> tuple[int, int]:
        domain, _, number = map(int, gtid.split("-"))
        return domain, number

    middle = {d: (s, number - 2) for d, (s, number) in end.positions.items()}
    for positions in (end.positions, middle, {0: middle[0], 9: middle[9]}, {7: end.positions[7]}):
        with dump(server, MariadbGtidList(positions)) as stream:
            found = received(stream)
        behind = [g for g in everything if sequence(g)[1] > positions.get(sequence(g)[0], (0, 0))[1]]
        assert found == behind, positions
    for wrong in ("0-99-1", f"0-{end.positions[0][0]}-100000"):
        with dump(server, MariadbGtidList.parse(wrong)) as stream, pytest.raises(BinlogPurged):
            received(stream)


# ---------------------------------------------------------------- by file


@pytest.mark.parametrize("name", ["mysql97", "mariadb1011"])
def test_a_file_that_does_not_exist_is_purged(name: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(name)
    with dump(server, None, FilePos.of("binlog.900000", 4)) as stream, pytest.raises(BinlogPurged) as caught:
        received(stream)
    assert "binlog.900000:4" in caught.value.message


@pytest.mark.parametrize("name", ["mysql97", "mariadb1011"])
def test_a_second_dump_with_the_same_id_ends_the_first_and_is_not_an_error_itself(
    name: str, request: pytest.FixtureRequest
) -> None:
    """The uuid that we give is ours at each start: the server ends the zombie that we left."""
    server: Server = request.getfixturevalue(name)
    file, position = server.execute("SHOW BINARY LOG STATUS" if name == "mysql97" else "SHOW MASTER STATUS")[0][:2]
    at = FilePos.of(file, int(position))

    collector = Collector()

    def reads(stream: BinlogStream) -> CdcError | bool:
        try:
            next_event(stream, collector, 1)
        except CdcError as error:
            return error
        return False

    with dump(server, None, at) as first:
        assert next_event(first, Collector(), 10) is not None
        with dump(server, None, at) as second:
            assert next_event(second, Collector(), 10) is not None
            error = wait_until(lambda: reads(first), 20, "the first dump to be ended")
            assert isinstance(error, CdcError)
            assert next_event(second, Collector(), 10) is not None
