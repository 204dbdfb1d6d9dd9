"""No secret gets out: a service whose secrets are one marker is run, asked and broken, and its traces are searched."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from cdc.demo.servers import Server
from cdc.log import configure_logging
from tests.support import wait_until
from tests.support.databases import unique_name
from tests.support.deployment import Deployment, deployment

# What percent-encoding changes, so that the encoded form is another text; that is searched for too.
MARKER = "mArKeR/hunter2%é"
TRACES = ("mArKeR", "hunter2", quote(MARKER, safe=""), MARKER.encode().hex())
PATHS = ("/", "/health", "/healthz", "/readyz", "/metrics", "/api/status", "/dashboard", "/nope", "/dashboard/page.js")


def _search(where: str, text: str | bytes) -> None:
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    found = [trace for trace in TRACES if trace.lower() in text.lower()]
    assert not found, f"{where} shows {found}: …{text[max(0, text.lower().find(found[0].lower()) - 200) :][:500]}"


@contextlib.contextmanager
def _account(server: Server) -> Iterator[str]:
    name = unique_name("u").lower()
    if server.family == "postgresql":
        server.execute(f"CREATE ROLE {name} LOGIN SUPERUSER PASSWORD '{MARKER}'")
        path = Path(server.execute("SHOW hba_file")[0][0])
        path.write_text(f"host all {name} all scram-sha-256\n{path.read_text()}")
        server.execute("SELECT pg_reload_conf()")
        yield name  # the server is the test's own
        return
    server.execute(f"CREATE USER {name}@'%' IDENTIFIED BY '{MARKER}'")
    server.execute(f"GRANT ALL ON *.* TO {name}@'%'")
    try:
        yield name
    finally:
        server.execute(f"DROP USER {name}@'%'")


@pytest.fixture
def made(
    mysql97: Server,
    mariadb118: Server,
    start_server: Callable[..., Server],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Deployment]:
    """The source's password by a file, one sink's by the environment, the other's in the URL of the configuration."""
    warehouse = start_server("pg15")
    (tmp_path / "secret").write_text(MARKER)
    monkeypatch.setenv("SOURCE_PASS_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("REPLICA_PASS", MARKER)
    monkeypatch.setenv("TOKEN", MARKER)
    with contextlib.ExitStack() as stack:
        users = [stack.enter_context(_account(server)) for server in (mysql97, mariadb118, warehouse)]
        one = stack.enter_context(deployment(tmp_path, mysql97, replica=mariadb118, warehouse=warehouse))
        databases = [one.sinks[name][1] for name in ("replica", "warehouse")]
        one.config["source"]["url"] = f"mysql://{users[0]}:${{SOURCE_PASS}}@{mysql97.host}:{mysql97.port}"
        one.config["sinks"][0]["url"] = (
            f"mysql://{users[1]}:${{REPLICA_PASS}}@{mariadb118.host}:{mariadb118.port}/{databases[0]}"
        )
        one.config["sinks"][1]["url"] = (
            f"postgresql://{users[2]}:{quote(MARKER, safe='')}@{warehouse.host}:{warehouse.port}/{databases[1]}"
        )
        one.config["http"] = {"enabled": True, "port": 0, "token": "${TOKEN}"}
        one.config["log"] = {"level": "debug"}
        one.config["tables"]["hash_salt"] = MARKER + "0123456789"
        one.config["tables"]["overrides"] = [
            {"table": f"{one.source_database}.t", "columns": [{"column": "secret", "hash": True}]}
        ]
        mysql97.execute("CREATE TABLE t (id INT PRIMARY KEY, secret VARCHAR(99), v INT)", database=one.source_database)
        mysql97.execute("INSERT INTO t VALUES (1, 'x', 1)", database=one.source_database)
        yield one


def _url(made: Deployment) -> str:
    found = wait_until(lambda: re.findall(r'"url": "(http://[^"]+)"', made.log()), what=made.log)
    return str(found[0])


def _metadata(made: Deployment) -> Iterator[tuple[str, str]]:
    """All that the service has written of itself on the sinks."""
    for name, (server, database) in made.sinks.items():
        schema = "_cdc" if server.family == "postgresql" else database
        tables = server.execute(
            f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{schema}'", database=database
        )
        for (table,) in tables:
            place = f'"_cdc"."{table}"' if server.family == "postgresql" else f"`{table}`"
            yield f"{name}.{table}", repr(server.execute(f"SELECT * FROM {place}", database=database))


def test_nothing_that_the_service_leaves_behind_holds_a_secret(made: Deployment) -> None:
    process = made.start()
    url = _url(made)
    wait_until(lambda: httpx.get(url + "/readyz", timeout=10).status_code == 200, what=made.log)
    headers = {"Authorization": b"Bearer " + MARKER.encode()}
    for path in PATHS:
        for sent in ({}, headers, {"Authorization": "Bearer wrong"}):
            answer = httpx.get(url + path, headers=sent, timeout=10)  # type: ignore[arg-type]
            _search(path, answer.text + repr(answer.headers))
    assert httpx.get(url + "/api/status", headers=headers, timeout=10).json()["tables"]  # type: ignore[arg-type]
    _search("the command line", Path(f"/proc/{process.pid}/cmdline").read_bytes())
    _search("the threads' names", "".join(p.read_text() for p in Path(f"/proc/{process.pid}/task").glob("*/comm")))

    # The password is changed at the source and the sessions are ended: refused logins, from every thread.
    user = made.config["source"]["url"].split("//")[1].split(":")[0]
    made.source.execute(f"ALTER USER {user}@'%' IDENTIFIED BY 'another'")
    for (number,) in made.source.execute(f"SELECT ID FROM information_schema.PROCESSLIST WHERE USER = '{user}'"):
        with contextlib.suppress(Exception):  # ended by itself meanwhile
            made.source.execute(f"KILL {number}")
    wait_until(lambda: "was read again, and is the same" in made.log(), what=made.log)
    for path in ("/health", "/metrics", "/api/status"):
        _search(path, httpx.get(url + path, headers=headers, timeout=10).text)  # type: ignore[arg-type]
    for command in (("status",), ("status", "--json"), ("check",), ("check", "--json"), ("config", "show"), ("run",)):
        told = made.run(*command)
        _search(" ".join(command), told.stdout + told.stderr)
    assert made.run("run").returncode == 2, "a refused login at the start"
    made.source.execute(f"ALTER USER {user}@'%' IDENTIFIED BY '{MARKER}'")
    made.source.execute("INSERT INTO t VALUES (2, 'y', 2)", database=made.source_database)
    wait_until(lambda: len(made.sink_rows("warehouse", "t", ["id"])) == 2, what=made.log)
    told = made.run("check", "--grants")
    assert told.returncode == 0, told.stderr
    _search("check --grants", told.stdout)
    assert made.stop() == 0

    _search("the log", made.log())
    for name, text in _metadata(made):
        _search(name, text)
    own = {made.directory / "config.yaml", made.directory / "secret"}
    for file in made.directory.rglob("*"):
        if file.is_file() and file not in own:
            _search(str(file), file.read_bytes())
    shown = json.loads(made.run("config", "show").stdout)
    assert shown["http"]["token"] == "***"
    assert shown["tables"]["hash_salt"] == "***"


@pytest.mark.parametrize("broken", ["url", "yaml", "token"])
def test_a_configuration_that_is_wrong_is_not_quoted(tmp_path: Path, mysql97: Server, broken: str) -> None:
    with deployment(tmp_path, mysql97) as made:
        made.config["sinks"] = [{"name": "s", "url": f"postgresql://u:{quote(MARKER, safe='')}@h/d"}]
        if broken == "url":
            made.config["sinks"][0]["url"] = f"postgresql://u:{MARKER}@h:port/d"
        if broken == "token":
            made.config["http"] = {"token": "hunter2"}
        path = made.write_config()
        if broken == "yaml":
            path.write_text(path.read_text() + f"\nhttp: {{token: '{MARKER}\n")
            made.write_config = lambda: path  # type: ignore[method-assign]
        told = made.run("run")

    assert told.returncode == 2
    _search(broken, told.stdout + told.stderr)


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_values(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the variables of its frames nor a URL in an exception's text."""
    out, secret = io.StringIO(), MARKER
    monkeypatch.setattr(sys, "stderr", out)
    log = configure_logging("debug", form)  # type: ignore[arg-type]

    def connect(password: str) -> None:
        settings = {"password": password}
        raise RuntimeError(f"cannot open mysql://u:{quote(settings['password'], safe='')}@db1/x")

    try:
        connect(secret)
    except RuntimeError as error:
        log.error("pipeline_failed", exc_info=error)  # noqa: TRY400 - as the service does
    assert "pipeline_failed" in out.getvalue()
    assert "cannot open" in out.getvalue()
    _search("the traceback", out.getvalue())
