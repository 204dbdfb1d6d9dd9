"""Fixtures for every test: the run's servers, each started once and only when a test asks for it.

`mysql97`, `mariadb1011`, `mariadb118`, `pg15`, `pg17` are one server each; `source_server`, `mysql_sink_server` and
`pg_server` run a test once per version. They are shared by the whole run: a test works in a database of its own
(`tests.support.fresh_database`) and leaves global settings as they were. A test that kills or reconfigures a server
takes one of its own from `start_server`. With `-n` each worker is a run of its own in this: it has its own servers.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
from collections.abc import Callable, Generator, Hashable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from cdc.demo.servers import NotPrivate, Options, Server, ServerUnavailable
from tests.support.databases import fresh_database, fresh_pg_database
from tests.support.pool import POSTGRESQL, SOURCES, NothingToTestOn, ServerPool
from tests.support.sample import Candidate, sample

# PyMySQL makes a context for TLS for each connection, and that reads the system's certificates: 30 ms of CPU, ten
# times what is left with one. No test asks for them; processes started by tests inherit this.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("support") / "no_authority.pem")

# How long an example takes is up to who else uses the machine.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")

POOL = pytest.StashKey[ServerPool]()
REPORTS = pytest.StashKey[list[str]]()
LEFT_OUT = pytest.StashKey[int]()
SERVER_FIXTURES = frozenset((*SOURCES, *POSTGRESQL, "source_server", "mysql_sink_server", "pg_server", "start_server"))
MYSQL_SINKS = ("mariadb1011", "mysql97", "mariadb118")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup(
        "servers", "your own servers in place of private ones (as an administrator, with nothing to lose)"
    )
    group.addoption("--mysql-url", help="mysql://root:password@host:port/")
    group.addoption("--mariadb-url", help="mysql://root:password@host:port/")
    group.addoption("--postgres-url", help="postgresql://postgres:password@host:port/postgres")
    parser.getgroup("sample", "a part of the tests").addoption(
        "--sample",
        action="store_true",
        help="every test and case, on one server of each family or kind in turn (tests/support/sample.py)",
    )


def pytest_configure(config: pytest.Config) -> None:
    given = {
        "mysql": config.getoption("--mysql-url"),
        "mariadb": config.getoption("--mariadb-url"),
        "postgresql": config.getoption("--postgres-url"),
    }
    if any(given.values()) and getattr(config.option, "numprocesses", None):
        raise pytest.UsageError("tests that run side by side need servers of their own each: add -n 0 (make: JOBS=0)")
    config.stash[POOL] = ServerPool(urls={family: url for family, url in given.items() if url})
    config.stash[REPORTS] = []
    config.stash[LEFT_OUT] = 0


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[POOL].close()


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if not SERVER_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)
    if config.getoption("--sample"):
        _keep_the_sample(config, items)


def pytest_collection_finish() -> None:
    """What is there now stays to the end: the collector need not look at it each time, which some tests wait for."""
    gc.collect()
    gc.freeze()


def _keep_the_sample(config: pytest.Config, items: list[pytest.Item]) -> None:
    is_in_it = sample([_candidate(item) for item in items], functools.cache(config.stash[POOL].can_have))
    left_out = [item for item, is_in in zip(items, is_in_it, strict=True) if not is_in]
    config.stash[LEFT_OUT] = len(left_out)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item, is_in in zip(items, is_in_it, strict=True) if is_in]


def _candidate(item: pytest.Item) -> Candidate:
    parameters: dict[str, tuple[Any, Hashable]] = {}
    if (spec := getattr(item, "callspec", None)) is not None:
        plain = (str, bytes, int, float, bool, type(None))
        for name, value in spec.params.items():
            # by its text, in which 0 is not -0.0 or False
            parameters[name] = (value, repr(value) if isinstance(value, plain) else spec.indices[name])
    return Candidate(
        item.nodeid.partition("[")[0],
        parameters,
        is_full=item.get_closest_marker("full") is not None,
        is_on_every_server=item.get_closest_marker("every_server") is not None,
        is_in_turn=item.get_closest_marker("in_turn") is not None,
        is_on_any_server=item.get_closest_marker("any_server") is not None,
    )


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """With `-n`, a worker has ended: what its servers were, for the last lines of the run."""
    told = getattr(node, "workeroutput", {})
    node.config.stash[REPORTS].extend(told.get("servers", []))
    node.config.stash[LEFT_OUT] = max(node.config.stash[LEFT_OUT], told.get("left_out", 0))


def pytest_sessionfinish(session: pytest.Session) -> None:
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["servers"] = session.config.stash[POOL].report()
        told["left_out"] = session.config.stash[LEFT_OUT]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, Any, Any]:
    return (yield from _skip_what_is_not_ours_to_do())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    return (yield from _skip_what_is_not_ours_to_do())


def _skip_what_is_not_ours_to_do() -> Generator[None, Any, Any]:
    """A test that wants to stop, kill or reconfigure the user's own server is skipped."""
    try:
        return (yield)
    except NotPrivate as error:
        pytest.skip(str(error))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reports = config.stash[REPORTS]
    lines = [*config.stash[POOL].report(), *sorted(reports)]
    if lines:
        terminalreporter.section("servers")
        for line in lines:
            terminalreporter.write_line(line, red="NOT TESTED" in line)
    if config.stash[LEFT_OUT]:
        terminalreporter.section("sample")
        terminalreporter.write_line(
            f"{config.stash[LEFT_OUT]} tests are not in the sample: the same ones on further servers, and those "
            "marked `full`. `make test-all` runs them too."
        )


@pytest.fixture(scope="session")
def server_pool(pytestconfig: pytest.Config) -> ServerPool:
    """For tests that choose a kind while they run: `server_pool.get(name)`; mark such a test `integration` by hand."""
    return pytestconfig.stash[POOL]


def _server(pool: ServerPool, name: str) -> Server:
    with _skip_or_fail():
        return pool.get(name)


@contextlib.contextmanager
def _skip_or_fail() -> Iterator[None]:
    try:
        yield
    except ServerUnavailable as error:
        pytest.skip(str(error))
    except NothingToTestOn as error:
        pytest.fail(f"no server to test on: {error}", pytrace=False)


# Function-scoped on purpose: the pool keeps the server, and a test that finds it stopped gets it started again.


@pytest.fixture
def mysql97(server_pool: ServerPool) -> Server:
    return _server(server_pool, "mysql97")


@pytest.fixture
def mariadb1011(server_pool: ServerPool) -> Server:
    return _server(server_pool, "mariadb1011")


@pytest.fixture
def mariadb118(server_pool: ServerPool) -> Server:
    return _server(server_pool, "mariadb118")


@pytest.fixture
def pg15(server_pool: ServerPool) -> Server:
    return _server(server_pool, "pg15")


@pytest.fixture
def pg17(server_pool: ServerPool) -> Server:
    return _server(server_pool, "pg17")


@pytest.fixture(params=SOURCES)
def source_server(request: pytest.FixtureRequest, server_pool: ServerPool) -> Server:
    """Every kind that changes are read from."""
    return _server(server_pool, request.param)


@pytest.fixture(params=MYSQL_SINKS)
def mysql_sink_server(request: pytest.FixtureRequest, server_pool: ServerPool) -> Server:
    """Every kind of the MySQL family that changes are written to."""
    return _server(server_pool, request.param)


@pytest.fixture(params=POSTGRESQL)
def pg_server(request: pytest.FixtureRequest, server_pool: ServerPool) -> Server:
    """Every PostgreSQL that changes are written to."""
    return _server(server_pool, request.param)


@pytest.fixture
def start_server(server_pool: ServerPool) -> Iterator[Callable[..., Server]]:
    """`start_server(name, options={...})`: a private server for this test alone, gone when it ends."""
    with contextlib.ExitStack() as stack:

        def start(name: str, *, options: Options | None = None) -> Server:
            with _skip_or_fail():
                return stack.enter_context(server_pool.start(name, options=options))

        yield start


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[Callable[[Server], str]]:
    """`database(server)`: the name of a new database on it, dropped when the test ends; as many as asked for."""
    with contextlib.ExitStack() as stack:

        def make(server: Server) -> str:
            fresh = fresh_pg_database if server.family == "postgresql" else fresh_database
            return stack.enter_context(fresh(server))

        yield make
