"""Passwords that are changed under a running service, on real servers: it goes on with the new one, without a start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdc.credentials import Password
from cdc.demo.servers import Server
from cdc.errors import ConfigError, SourceUnavailable
from cdc.source.connection import SourceSettings, connect
from tests.support import wait_until
from tests.support.databases import unique_name
from tests.support.deployment import Deployment, deployment

# What percent-encoding, latin1 and a shell would each spoil.
OLD, NEW = "alt é€ /@:%41 \"'", "neu ß☃ ?#&=+ \\"


def _quoted(server: Server, text: str) -> str:
    text = text if server.family == "postgresql" else text.replace("\\", "\\\\")
    return "'" + text.replace("'", "''") + "'"


class Account:
    """A user of a server, whose password stands in a file."""

    def __init__(self, server: Server, file: Path) -> None:
        self.server, self.file = server, file
        self.name = unique_name("u").lower()
        file.write_text(OLD)
        if server.family == "postgresql":
            self.run(f"CREATE ROLE {self.name} LOGIN SUPERUSER PASSWORD {_quoted(server, OLD)}")
            path = Path(server.execute("SHOW hba_file")[0][0])
            path.write_text(f"host all {self.name} all scram-sha-256\n{path.read_text()}")
            self.run("SELECT pg_reload_conf()")
        else:
            self.run(f"CREATE USER {self.name}@'%' IDENTIFIED BY {_quoted(server, OLD)}")
            self.run(f"GRANT ALL ON *.* TO {self.name}@'%'")

    def run(self, sql: str) -> None:
        self.server.execute(sql)

    def rotate(self) -> None:
        """A new password at the server, and the end of the sessions that came with the old one."""
        user = self.name if self.server.family == "postgresql" else f"{self.name}@'%'"
        word = "PASSWORD" if self.server.family == "postgresql" else "IDENTIFIED BY"
        self.run(f"ALTER USER {user} {word} {_quoted(self.server, NEW)}")
        if self.server.family == "postgresql":
            self.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{self.name}'")
            return
        asked = f"SELECT ID FROM information_schema.PROCESSLIST WHERE USER = '{self.name}'"
        for (number,) in self.server.execute(asked):
            try:
                self.run(f"KILL {number}")
            except Exception as error:
                if error.args[0] != 1094:  # it has ended by itself
                    raise

    def write_file(self) -> None:
        unfinished = self.file.with_suffix(".new")
        unfinished.write_text(NEW + "\n")
        unfinished.replace(self.file)

    def url(self, variable: str, database: str) -> str:
        scheme = "postgresql" if self.server.family == "postgresql" else "mysql"
        return f"{scheme}://{self.name}:${{{variable}}}@{self.server.host}:{self.server.port}/{database}"

    def drop(self) -> None:
        if self.server.family != "postgresql":
            self.run(f"DROP USER {self.name}@'%'")


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Callable[[Server, str], Account]]:
    made: list[Account] = []

    def make(server: Server, name: str) -> Account:
        made.append(Account(server, tmp_path / name))
        return made[-1]

    yield make
    for one in made:
        one.drop()


def _insert(made: Deployment, number: int) -> None:
    made.source.execute(f"INSERT INTO t VALUES ({number})", database=made.source_database)


def _has_everywhere(made: Deployment, number: int) -> Callable[[], bool]:
    return lambda: all((number,) in made.sink_rows(sink, "t") for sink in made.sinks)


@pytest.mark.parametrize(
    "source_name, mysql_name, pg_name",
    [
        ("mysql97", "mariadb1011", "pg15"),
        pytest.param("mariadb118", "mysql97", "pg17", marks=pytest.mark.full),
        pytest.param("mariadb1011", "mariadb118", "pg15", marks=pytest.mark.full),
    ],
)
def test_a_password_rotated_under_the_service_is_taken_up_without_a_start(
    source_name: str,
    mysql_name: str,
    pg_name: str,
    request: pytest.FixtureRequest,
    start_server: Callable[..., Server],
    account: Callable[[Server, str], Account],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, replica = request.getfixturevalue(source_name), request.getfixturevalue(mysql_name)
    warehouse = start_server(pg_name)
    accounts = {
        "SOURCE_PASS": account(source, "source"),
        "REPLICA_PASS": account(replica, "replica"),
        "WAREHOUSE_PASS": account(warehouse, "warehouse"),
    }
    for variable, one in accounts.items():
        monkeypatch.setenv(f"{variable}_FILE", str(one.file))
    with deployment(tmp_path, source, replica=replica, warehouse=warehouse) as made:
        made.config["source"]["url"] = accounts["SOURCE_PASS"].url("SOURCE_PASS", "")
        for sink, name in zip(made.config["sinks"], ("REPLICA_PASS", "WAREHOUSE_PASS"), strict=True):
            sink["url"] = accounts[name].url(name, made.sinks[sink["name"]][1])
        source.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=made.source_database)
        _insert(made, 0)
        process = made.start()
        made.wait_for_log("table_ready", count=2)

        for number, one in enumerate(accounts.values(), start=1):
            refusals = made.log().count("was read again, and is the same")
            one.rotate()
            _insert(made, number)
            wait_until(
                lambda before=refusals: made.log().count("was read again, and is the same") > before,  # type: ignore[misc]
                what=made.log,
            )
            assert process.poll() is None, made.log()
            one.write_file()
            wait_until(_has_everywhere(made, number), what=made.log)

        assert process.poll() is None
        log = made.log()
        assert made.stop() == 0
    assert "pipeline_failed" not in log
    assert not any(secret in log for secret in (OLD, NEW, "é€", "☃"))


def _settings(server: Server, user: str, password: Password) -> SourceSettings:
    return SourceSettings(server.host, server.port, user, password, 77)


@pytest.mark.any_server
def test_a_refusal_is_final_where_no_other_password_can_come(
    source_server: Server, account: Callable[[Server, str], Account]
) -> None:
    """At the start, and out of the environment: the process has to end, so that its supervisor starts it anew."""
    one = account(source_server, "source")
    fixed, read = Password(OLD), Password(OLD, one.file.read_text)
    for password in (fixed, read):
        connect(_settings(source_server, one.name, password)).close()
    one.rotate()

    with pytest.raises(ConfigError, match="1045"):
        connect(_settings(source_server, one.name, Password(OLD, one.file.read_text)))
    with pytest.raises(ConfigError, match="1045"):
        connect(_settings(source_server, one.name, fixed))
    with pytest.raises(SourceUnavailable, match="1045") as caught:
        connect(_settings(source_server, one.name, read))
    assert "tried again by itself" in caught.value.hint
    one.write_file()
    read_now = Password(NEW + "\n", lambda: one.file.read_text().rstrip("\n"))
    connect(_settings(source_server, one.name, read_now)).close()


def test_an_account_that_is_locked_after_wrong_passwords_is_the_operators_business(mysql97: Server) -> None:
    """Not a server that is away: each further try with that password would count, too."""
    name = unique_name("u").lower()
    mysql97.execute(
        f"CREATE USER {name}@'%' IDENTIFIED BY 'right' FAILED_LOGIN_ATTEMPTS 1 PASSWORD_LOCK_TIME UNBOUNDED"
    )
    try:
        for password, hint in (("wrong", "password"), ("right", "ACCOUNT UNLOCK")):
            with pytest.raises(ConfigError) as refused:
                connect(SourceSettings(mysql97.host, mysql97.port, name, password, 7))
            assert hint in refused.value.hint
    finally:
        mysql97.execute(f"DROP USER {name}@'%'")
