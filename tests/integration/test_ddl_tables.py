"""CREATE, DROP and RENAME TABLE, and the cut-overs of tools, on real servers: what is proven is done without a load."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.databases import unique_name
from tests.support.ddl_targets import PAIRS, mark, on_sink, on_source, targets, unmarked
from tests.support.deployment import Deployment, deployment


def _events(log: str, event: str) -> list[str]:
    return [line for line in log.splitlines() if f'"event": "{event}"' in line]


def _loads(log: str) -> list[str]:
    return sorted(str(json.loads(line)["table"]).partition(".")[2] for line in _events(log, "table_loaded"))


# One source of each family is enough for CI.
_PARAMS = [pytest.param(one, id=one[0], marks=[pytest.mark.full] if one == PAIRS[-1] else []) for one in PAIRS]


@pytest.fixture(params=_PARAMS)
def pair(request: pytest.FixtureRequest, tmp_path: Path, pg15: Server) -> Iterator[Deployment]:
    """Every source; PostgreSQL and one of the MySQL family."""
    source, sink = request.param
    with deployment(tmp_path, request.getfixturevalue(source), pg=pg15, my=request.getfixturevalue(sink)) as made:
        yield made


@pytest.fixture
def one_pair(tmp_path: Path, mysql97: Server, pg15: Server, mariadb1011: Server) -> Iterator[Deployment]:
    """For what the source has no part in."""
    with deployment(tmp_path, mysql97, pg=pg15, my=mariadb1011) as made:
        yield made


def _caught_up(made: Deployment) -> str:
    """Up to the end of the source's log; what was logged."""
    result = made.run("run", "--until-caught-up", timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stderr


def _while_running(made: Deployment, statements: Iterable[str]) -> str:
    """With the service up: what it logged until it had all of it at every sink."""
    before = len(made.log())
    made.start()
    _wait_for_stream(made)
    for statement in statements:
        on_source(made, statement)
    _wait_for_stream(made)
    assert made.stop() == 0
    return made.log()[before:]


def _wait_for_stream(made: Deployment) -> None:
    """A row of now has come to every sink."""
    number = made.source.execute("SELECT UUID_SHORT()")[0][0] % 1_000_000_000
    on_source(made, f"INSERT INTO other (id) VALUES ({number})")
    wait_until(lambda: all((number,) in made.sink_rows(sink, "other", ["id"]) for sink in made.sinks))


def _state(made: Deployment, sink: str, table: str) -> str:
    name = f"{made.source_database}.{table}"
    return next(str(row["state"]) for row in made.status()["tables"] if (row["sink"], row["table"]) == (sink, name))


def _begin(made: Deployment, *tables: str) -> None:
    for table in tables:
        on_source(made, f"CREATE TABLE {table} (id INT PRIMARY KEY, a INT, b VARCHAR(20))")
        on_source(made, f"INSERT INTO {table} VALUES (1, 10, '{table}'), (2, 20, '{table}')")
    made.catch_up()
    for table in tables:
        mark(made, table)


# ---------------------------------------------------------------- CREATE


PLAIN = (
    "CREATE TABLE plain (id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, name VARCHAR(30) NOT NULL DEFAULT "
    "'x', at DATETIME(3) DEFAULT CURRENT_TIMESTAMP(3), price DECIMAL(10,2), kind ENUM('a','b'), KEY (name), "
    "UNIQUE u (kind, id)) ENGINE=InnoDB COMMENT = 'new'"
)


def test_new_tables_are_made_at_their_place_without_a_load(pair: Deployment) -> None:
    """The definition is that of the statement, and what became of it comes after."""
    _begin(pair, "t", "other")
    statements = (
        PLAIN,
        "INSERT INTO plain (name, price, kind) VALUES ('one', 1.5, 'a'), ('zwei\u00e4', NULL, 'b')",
        "ALTER TABLE plain ADD COLUMN more TEXT NULL AFTER id, DROP COLUMN at",
        "INSERT INTO plain (name, more) VALUES ('three', 'text')",
        "CREATE TABLE alike LIKE t",
        "INSERT INTO alike SELECT * FROM t",
        "CREATE TABLE IF NOT EXISTS alike (x INT)",
        "CREATE TABLE none (a INT, b VARCHAR(9))",
        "INSERT INTO none VALUES (1, 'x'), (1, 'x')",
        "CREATE TABLE two (a INT, b INT, c VARCHAR(9) COLLATE utf8mb4_bin, PRIMARY KEY (c, a)) PARTITION BY KEY (c)",
        "INSERT INTO two VALUES (1, 2, 'three')",
    )
    log = _while_running(pair, statements)
    assert not _loads(log), _events(log, "schema_not_followed")
    assert not _events(log, "definition_worked_out_wrong")
    on_source(pair, "INSERT INTO plain (name) VALUES ('again')")
    log = _caught_up(pair)
    assert not _loads(log)
    assert not _events(log, "definition_worked_out_wrong")
    pair.assert_equal("plain", "alike", "none", "two")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE n (id INT PRIMARY KEY, t INT, FOREIGN KEY (t) REFERENCES t (id) ON DELETE SET NULL)",
        pytest.param("CREATE TABLE n (id INT PRIMARY KEY, g INT AS (id + 1))", marks=pytest.mark.full),
        "CREATE TABLE n (PRIMARY KEY (id)) SELECT id, a FROM t",
        pytest.param("CREATE TABLE n (id INT PRIMARY KEY) ENGINE = MyISAM", marks=pytest.mark.full),
        pytest.param("CREATE TABLE n (id INT PRIMARY KEY, at TIMESTAMP)", marks=pytest.mark.full),
        pytest.param("CREATE OR REPLACE TABLE n LIKE t", marks=pytest.mark.full),
    ],
)
def test_tables_that_are_not_proven_are_loaded(pair: Deployment, statement: str) -> None:
    """CREATE TABLE … SELECT logs its rows behind the statement: they are there once, by the load or by the stream."""
    _begin(pair, "t")
    if "OR REPLACE" in statement and pair.source.family == "mysql" and "mysql" in pair.source.kind.name:
        pytest.skip("MariaDB alone has it")
    pair.config["policies"] = {"hidden_cascades": "accept"}
    on_source(pair, statement)
    on_source(pair, "INSERT INTO n (id) VALUES (7)")
    assert _loads(_caught_up(pair)) == ["n", "n"]
    pair.assert_equal("n")


def test_a_table_that_is_dropped_and_made_again_begins_empty(pair: Deployment) -> None:
    _begin(pair, "t", "u")
    on_source(pair, "DROP TABLE t")
    on_source(pair, "CREATE TABLE t (id INT PRIMARY KEY, a INT, b VARCHAR(20))")
    on_source(pair, "INSERT INTO t VALUES (1, 11, 'new')")
    on_source(pair, "DROP TABLE IF EXISTS u, nothing")
    on_source(pair, "CREATE TABLE u (other INT PRIMARY KEY, c DATE)")
    on_source(pair, "INSERT INTO u VALUES (7, '2024-01-01')")
    log = _caught_up(pair)
    assert not _loads(log), _events(log, "schema_not_followed")
    pair.assert_equal("t", "u")
    for sink in pair.sinks:
        assert unmarked(pair, sink, "t") == 1, "the target stayed, with the column that somebody added"


@pytest.mark.crash
def test_a_target_that_was_made_before_a_kill_is_ours(tmp_path: Path, mysql97: Server, mariadb1011: Server) -> None:
    """And is made anew where the table has been, since; as tools leave it that fail and are run again."""
    with deployment(tmp_path, mysql97, my=mariadb1011) as made:
        _begin(made, "other")
        process = made.start(crash_at="schema_altered:1")
        _wait_for_stream(made)
        on_source(made, "CREATE TABLE n (id INT PRIMARY KEY, a INT)")
        assert process.wait(60) == -signal.SIGKILL
        on_source(made, "DROP TABLE n")
        on_source(made, "CREATE TABLE n (id BIGINT PRIMARY KEY, b VARCHAR(9) NOT NULL)")
        on_source(made, "INSERT INTO n VALUES (1, 'x')")
        made.catch_up()
        assert _state(made, "my", "n") == "ready"
        made.assert_equal("n", "other")


@pytest.mark.crash
@pytest.mark.parametrize("columns", ["id INT PRIMARY KEY, a INT", "id INT PRIMARY KEY, theirs INT"])
def test_what_comes_where_a_target_was_not_made_before_a_kill_is_not_ours(
    tmp_path: Path, mysql97: Server, mariadb1011: Server, columns: str
) -> None:
    with deployment(tmp_path, mysql97, my=mariadb1011) as made:
        _begin(made, "other")
        process = made.start(crash_at="schema_intent:1")
        _wait_for_stream(made)
        on_source(made, "CREATE TABLE n (id INT PRIMARY KEY, a INT)")
        assert process.wait(60) == -signal.SIGKILL
        server, database = made.sinks["my"]
        server.execute(f"CREATE TABLE n ({columns})", database=database)
        server.execute("INSERT INTO n VALUES (7, 70)", database=database)
        made.run("run", "--until-caught-up")
        assert _state(made, "my", "n") == "parked"
        made.run("run", "--until-caught-up")
        assert [tuple(row) for row in server.execute("SELECT * FROM n", database=database)] == [(7, 70)]
        made.assert_equal("other")


def test_a_new_table_that_the_sink_refuses_is_parked(one_pair: Deployment) -> None:
    """All else goes on."""
    _begin(one_pair, "other")
    on_sink(one_pair, "pg", "CREATE TYPE {}big AS ENUM ('a table of that name would be such a type, too')")
    log = _while_running(one_pair, ["CREATE TABLE big (id INT PRIMARY KEY)", "INSERT INTO big VALUES (1)"])
    assert not _events(log, "pipeline_failed"), _events(log, "pipeline_failed")
    assert (_state(one_pair, "pg", "big"), _state(one_pair, "my", "big")) == ("parked", "ready")
    assert one_pair.sink_rows("my", "big") == [(1,)]
    one_pair.assert_equal("other")


def test_a_table_that_comes_into_sight_is_loaded(one_pair: Deployment) -> None:
    """CREATE TABLE IF NOT EXISTS is logged of a table that is there, too, with its rows."""
    _begin(one_pair, "other")
    on_source(one_pair, "CREATE TABLE hidden (id INT PRIMARY KEY)")
    on_source(one_pair, "INSERT INTO hidden VALUES (1), (2)")
    user = unique_name("sees").lower()
    root, database = one_pair.source, one_pair.source_database
    root.execute(f"CREATE USER `{user}`@'%' IDENTIFIED BY 'Secret-1'")
    try:
        root.execute(f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `{user}`@'%'")
        root.execute(f"GRANT SELECT ON `{database}`.other TO `{user}`@'%'")
        one_pair.config["source"]["url"] = f"mysql://{user}:Secret-1@127.0.0.1:{root.port}"
        one_pair.start()
        _wait_for_stream(one_pair)
        root.execute(f"GRANT SELECT ON `{database}`.* TO `{user}`@'%'")
        on_source(one_pair, "CREATE TABLE IF NOT EXISTS hidden (id INT PRIMARY KEY)")
        on_source(one_pair, "INSERT INTO hidden VALUES (3)")
        _wait_for_stream(one_pair)
        wait_until(lambda: all("hidden" in targets(one_pair, sink) for sink in one_pair.sinks))
        assert one_pair.stop() == 0
        one_pair.assert_equal("hidden")
    finally:
        root.execute(f"DROP USER `{user}`@'%'")


@pytest.mark.parametrize("is_excluded", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_statement_that_was_begun_and_refused_holds_up_no_new_tables(one_pair: Deployment, is_excluded: bool) -> None:
    """Neither where its table is parked, nor where it is not wanted any more."""
    made = one_pair
    _begin(made, "t", "other")
    if is_excluded:
        made.start(crash_at="schema_intent")
        on_source(made, "ALTER TABLE t ADD COLUMN c INT")
        made.wait_until_killed()
        made.config["tables"]["exclude"] = [f"{made.source_database}.t"]
    else:
        on_sink(made, "my", "ALTER TABLE t ADD INDEX (a)")
        on_sink(made, "my", "CREATE TABLE child (a INT, FOREIGN KEY (a) REFERENCES t (a))")
        on_source(made, "ALTER TABLE t DROP COLUMN a")
        result = made.run("run", "--until-caught-up")
        assert result.returncode == 1, result.stderr
        assert _state(made, "my", "t") == "parked"
    on_source(made, "CREATE TABLE n (id INT PRIMARY KEY)")
    on_source(made, "INSERT INTO n VALUES (1)")
    result = made.run("run", "--until-caught-up")
    assert result.returncode == (0 if is_excluded else 1), result.stderr
    made.assert_equal("n", "other")


# ---------------------------------------------------------------- RENAME


def test_a_table_that_gets_another_name_keeps_its_target(pair: Deployment) -> None:
    _begin(pair, "t", "u", "other")
    statements = (
        "INSERT INTO t VALUES (3, 30, 'before')",
        "RENAME TABLE t TO t_2",
        "INSERT INTO t_2 VALUES (4, 40, 'behind')",
        "ALTER TABLE u RENAME TO `u 2`",
        "ALTER TABLE `u 2` ADD COLUMN c INT DEFAULT 5",
        "CREATE TABLE t (id INT PRIMARY KEY)",
        "INSERT INTO t VALUES (9)",
    )
    log = _while_running(pair, statements)
    assert not _loads(log), _events(log, "schema_not_followed")
    pair.assert_equal("t", "t_2", "u 2")
    for sink in pair.sinks:
        assert unmarked(pair, sink, "t_2") == 2, "the rows of before were not read again"
        assert {"t", "t_2", "u 2", "other"} == targets(pair, sink)


def test_names_that_go_round_are_followed_where_the_sink_can_tell(pair: Deployment) -> None:
    """The MySQL family cannot: the names are the same before and after."""
    _begin(pair, "a", "b", "c", "other")
    for sink in pair.sinks:
        for table in "abc":
            on_sink(pair, sink, f"ALTER TABLE {{}}{table} DROP COLUMN mine")
    statements = (
        "RENAME TABLE a TO x, b TO a, x TO b",
        "INSERT INTO a VALUES (3, 30, 'to b, which is a')",
        "RENAME TABLE b TO d, a TO b, c TO a",
        "INSERT INTO d VALUES (3, 31, 'to a, which is d')",
    )
    log = _while_running(pair, statements)
    _caught_up(pair)  # a name that is new waits for the stream where another one is gone
    pair.assert_equal("a", "b", "d", "other")
    assert "which this kind of sink cannot tell" in log
    assert len(_events(log, "schema_followed")) >= 2, "both at PostgreSQL"


def test_a_table_that_leaves_or_comes_from_outside(pair: Deployment) -> None:
    pair.config["tables"]["exclude"] = [f"{pair.source_database}.out_*"]
    _begin(pair, "t", "u")
    on_source(pair, "CREATE TABLE out_1 (id INT PRIMARY KEY)")
    on_source(pair, "INSERT INTO out_1 VALUES (1)")
    on_source(pair, "RENAME TABLE t TO out_t, out_1 TO t")
    on_source(pair, "INSERT INTO t VALUES (2)")
    on_source(pair, "RENAME TABLE u TO out_u")
    on_source(pair, "INSERT INTO out_u VALUES (3, 3, 'unseen')")
    log = _caught_up(pair)
    assert _loads(log) == ["t", "t"]
    pair.assert_equal("t")
    states = {t["table"]: t["state"] for t in pair.status()["tables"]}
    assert states[f"{pair.source_database}.u"] == "dropped"
    for sink in pair.sinks:
        assert len(pair.sink_rows(sink, "u")) == 2, "the target of a table that is gone stays"


def test_a_name_that_came_before_a_session_began_is_left_to_the_statement(pair: Deployment) -> None:
    """The service was down, or another table's load had ended its session: the name is there, and the RENAME ahead."""
    _begin(pair, "t", "u", "other")
    on_source(pair, "ALTER TABLE other ADD COLUMN n INT AUTO_INCREMENT UNIQUE")
    on_source(pair, "INSERT INTO t VALUES (3, 30, 'three')")
    on_source(pair, "RENAME TABLE t TO t2")
    on_source(pair, "ALTER TABLE u RENAME TO shop_u")
    on_source(pair, "INSERT INTO t2 VALUES (4, 40, 'four')")
    on_source(pair, "CREATE TABLE made_meanwhile (id INT PRIMARY KEY) SELECT 1 AS id")
    log = _caught_up(pair)
    assert set(_loads(log)) == {"other", "made_meanwhile"}, log
    pair.assert_equal("t2", "shop_u", "other", "made_meanwhile")
    for sink in pair.sinks:
        assert unmarked(pair, sink, "t2") == 2


def test_a_table_that_is_gone_everywhere_is_no_more_spoken_of(one_pair: Deployment) -> None:
    made = one_pair

    def states() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for row in made.status()["tables"]:
            found.setdefault(row["table"].partition(".")[2], set()).add(row["state"])
        return found

    made.config["tables"]["overrides"] = [{"table": f"{made.source_database}.away", "on_drop_table": "archive"}]
    _begin(made, "t", "away", "kept")
    on_source(made, "RENAME TABLE t TO t2")
    on_source(made, "DROP TABLE away, kept")
    _caught_up(made)
    _caught_up(made)
    assert states() == {"t2": {"ready"}, "kept": {"dropped"}}
    on_sink(made, "pg", "DROP TABLE {}kept")
    _caught_up(made)
    assert [row["sink"] for row in made.status()["tables"] if row["table"].endswith(".kept")] == ["my"]
    on_sink(made, "my", "DROP TABLE {}kept")
    for table in ("t", "away", "kept"):
        on_source(made, f"CREATE TABLE {table} (id INT PRIMARY KEY, a INT, b VARCHAR(20))")
        on_source(made, f"INSERT INTO {table} VALUES (5, 50, 'again')")
    _caught_up(made)
    made.assert_equal("t", "t2", "away", "kept")


def test_what_readers_of_a_name_would_lose_is_loaded_instead(one_pair: Deployment) -> None:
    """A view and a grant on the old table of a cut-over, and a column that somebody has added to it."""
    made = one_pair
    for table in ("seen", "given", "wider"):
        on_source(made, f"CREATE TABLE {table} (id INT PRIMARY KEY, a INT)")
        on_source(made, f"CREATE TABLE _{table}_gho LIKE {table}")
        on_source(made, f"INSERT INTO {table} VALUES (1, 10)")
        on_source(made, f"INSERT INTO _{table}_gho VALUES (1, 10)")
    made.catch_up()
    on_sink(made, "pg", "CREATE VIEW {}shows AS SELECT a FROM {}seen".replace("{}", "{0}"))
    on_sink(made, "pg", "GRANT SELECT ON {}given TO PUBLIC")
    for sink in made.sinks:
        on_sink(made, sink, "ALTER TABLE {}wider ADD COLUMN mine INT NULL")
    for table in ("seen", "given", "wider"):
        on_source(made, f"RENAME TABLE {table} TO _{table}_del, _{table}_gho TO {table}")
    on_source(made, "INSERT INTO seen VALUES (2, 20)")
    log = _caught_up(made)
    assert {"seen", "given", "wider"} <= set(_loads(log))
    made.assert_equal("seen", "given", "wider")
    assert len(on_sink(made, "pg", "SELECT * FROM {}shows")) == 2
    for sink in made.sinks:
        assert on_sink(made, sink, "SELECT id, mine FROM {}wider")


# ---------------------------------------------------------------- temporary tables


def test_a_temporary_table_of_that_name_is_not_renamed(pair: Deployment) -> None:
    """MariaDB logs its RENAME TABLE like that of any other."""
    _begin(pair, "t")
    with pair.source.connect(pair.source_database) as session, session.cursor() as cursor:
        cursor.execute("SET SESSION binlog_format = 'STATEMENT'")
        cursor.execute("CREATE TEMPORARY TABLE t (id INT PRIMARY KEY, a INT)")
        if "mariadb" in pair.source.kind.name:
            cursor.execute("RENAME TABLE t TO t_elsewhere")
        else:
            cursor.execute("ALTER TABLE t RENAME TO t_elsewhere")
    on_source(pair, "INSERT INTO t VALUES (3, 30, 'behind')")
    _caught_up(pair)
    pair.assert_equal("t")
    states = {t["table"]: t["state"] for t in pair.status()["tables"]}
    assert states[f"{pair.source_database}.t"] == "ready"


# ---------------------------------------------------------------- within one session


def test_followed_statements_do_not_end_the_session(pair: Deployment) -> None:
    """Nor does a drop. Each session takes the lease anew, and counts its epoch up."""
    _begin(pair, "t", "other")
    pair.start()
    _wait_for_stream(pair)
    before, logged = _epochs(pair), len(pair.log())
    for number in range(10):
        on_source(pair, f"ALTER TABLE t ADD COLUMN c{number} INT DEFAULT {number}")
        on_source(pair, f"INSERT INTO t (id, c{number}) VALUES ({100 + number}, 7)")
    on_source(pair, "CREATE TABLE n LIKE t")
    on_source(pair, "INSERT INTO n SELECT * FROM t")
    on_source(pair, "DROP TABLE n")
    on_source(pair, "TRUNCATE TABLE t")
    on_source(pair, "INSERT INTO t (id) VALUES (1)")
    _wait_for_stream(pair)
    assert _epochs(pair) == before
    assert pair.stop() == 0
    log = pair.log()[logged:]
    assert len(_events(log, "schema_followed")) == 2 * 13
    assert not _events(log, "definition_worked_out_wrong")
    assert not _loads(log)
    pair.catch_up()
    pair.assert_equal("t")


def _epochs(made: Deployment) -> list[Any]:
    return sorted(on_sink(made, "pg", "SELECT pipeline, epoch FROM _cdc.lease"))


# ---------------------------------------------------------------- cut-overs

CHANGELOG_TABLE = (
    "CREATE TABLE _t_ghc (id BIGINT AUTO_INCREMENT, last_update TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE "
    "CURRENT_TIMESTAMP, hint VARCHAR(64) CHARSET ascii NOT NULL, value VARCHAR(4096) CHARSET ascii NOT NULL, PRIMARY "
    "KEY(id), UNIQUE KEY hint_uidx(hint)) AUTO_INCREMENT=256 COMMENT='(gh-ost)'"
)
GH_OST = (
    CHANGELOG_TABLE,
    "INSERT INTO _t_ghc (hint, value) VALUES ('state', 'GhostTableMigrated')",
    "CREATE TABLE _t_gho LIKE t",
    "ALTER TABLE _t_gho ADD COLUMN c INT NOT NULL DEFAULT 5, MODIFY b VARCHAR(90)",
    "INSERT /* gh-ost */ IGNORE INTO _t_gho (id, a, b) (SELECT id, a, b FROM t FORCE INDEX (PRIMARY) WHERE id >= 1)",
    "INSERT INTO t VALUES (3, 30, 'while it is copied')",
    "REPLACE /* gh-ost */ INTO _t_gho (id, a, b) VALUES (3, 30, 'while it is copied')",
    "UPDATE t SET a = 11 WHERE id = 1",
    "UPDATE /* gh-ost */ _t_gho SET id = 1, a = 11, b = 't' WHERE id = 1",
    "DELETE FROM t WHERE id = 2",
    "DELETE /* gh-ost */ FROM _t_gho WHERE id = 2",
    "CREATE TABLE _t_del (id INT AUTO_INCREMENT PRIMARY KEY) ENGINE=InnoDB COMMENT='ghost-cut-over-sentry'",
    "DROP TABLE IF EXISTS _t_del",
    "RENAME /* gh-ost */ TABLE t TO _t_del, _t_gho TO t",
    "INSERT INTO t VALUES (4, 40, 'behind', 7)",
    "DROP /* gh-ost */ TABLE IF EXISTS _t_ghc",
    "DROP /* gh-ost */ TABLE IF EXISTS _t_del",
)
_REPLACED = "REPLACE INTO _t_new (id, a, b) VALUES (NEW.id, NEW.a, NEW.b)"
PT_OSC = (
    "CREATE TABLE _t_new LIKE t",
    "ALTER TABLE _t_new ADD COLUMN c INT NOT NULL DEFAULT 5",
    "CREATE TRIGGER pt_osc_del AFTER DELETE ON t FOR EACH ROW DELETE IGNORE FROM _t_new WHERE _t_new.id <=> OLD.id",
    f"CREATE TRIGGER pt_osc_upd AFTER UPDATE ON t FOR EACH ROW {_REPLACED}",
    f"CREATE TRIGGER pt_osc_ins AFTER INSERT ON t FOR EACH ROW {_REPLACED}",
    "INSERT LOW_PRIORITY IGNORE INTO _t_new (id, a, b) SELECT id, a, b FROM t LOCK IN SHARE MODE /*pt-osc*/",
    "INSERT INTO t VALUES (3, 30, 'while it is copied')",
    "UPDATE t SET a = 11 WHERE id = 1",
    "DELETE FROM t WHERE id = 2",
    "ANALYZE TABLE _t_new /* pt-online-schema-change */",
    "RENAME TABLE t TO _t_old, _t_new TO t",
    "INSERT INTO t VALUES (4, 40, 'behind', 7)",
    "DROP TABLE IF EXISTS _t_old",
    "DROP TRIGGER IF EXISTS pt_osc_del",
    "DROP TRIGGER IF EXISTS pt_osc_upd",
    "DROP TRIGGER IF EXISTS pt_osc_ins",
)


@pytest.mark.parametrize(
    "is_live", [pytest.param(False, id="afterwards"), pytest.param(True, id="live", marks=pytest.mark.full)]
)
@pytest.mark.parametrize("tool", [GH_OST, PT_OSC], ids=["gh-ost", "pt-osc"])
def test_a_cut_over_of_captured_tables_is_a_rename_of_targets(
    pair: Deployment, tool: tuple[str, ...], is_live: bool
) -> None:
    """Twice: the second one finds what the first has left."""
    _begin(pair, "t", "other")
    on_source(pair, "INSERT INTO other VALUES (3, 30, 'x')")
    for sink in pair.sinks:  # a column of somebody's is a reason to load the table
        on_sink(pair, sink, "ALTER TABLE {}t DROP COLUMN mine")
    for round_number in range(2):
        statements = [_again(statement) if round_number else statement for statement in tool]
        if is_live:
            log = _while_running(pair, statements)
        else:
            for statement in statements:
                on_source(pair, statement)
            log = _caught_up(pair)
        assert not _events(log, "definition_worked_out_wrong")
        pair.assert_equal("t", "other")
        assert set(_loads(log)) <= {"_t_ghc"}, _events(log, "schema_not_followed")


def _again(statement: str) -> str:
    """For the second round: the column is there, and so are the rows."""
    if statement.startswith("INSERT INTO t VALUES"):
        return "INSERT INTO t (id, a, b) SELECT MAX(id) + 1, 1, 'z' FROM t"
    return statement.replace("ADD COLUMN c", "MODIFY COLUMN c")


def test_a_cut_over_with_excluded_shadows_is_one_load(pair: Deployment) -> None:
    pair.config["tables"]["exclude"] = [f"{pair.source_database}._t_*"]
    _begin(pair, "t", "other")
    for statement in GH_OST:
        on_source(pair, statement)
    assert _loads(_caught_up(pair)) == ["t", "t"]
    pair.assert_equal("t", "other")
