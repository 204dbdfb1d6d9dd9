"""Secrets that are read again: when they are, what a refusal means, and that nothing shows them."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from cdc.config import Config, load_config
from cdc.credentials import REST_SECONDS, Password, log_in

CONFIG = """\
name: shop
source: {url: "mysql://repl:${SOURCE_PASS}@db1", server_id: 4242}
sinks:
  - {name: warehouse, url: "postgresql://cdc:${SINK_PASS:-none}@pg/analytics"}
tables: {include: ["shop.*"]}
"""


class Refused(Exception):
    """What the server of these tests says to a wrong password."""


class Server:
    """Takes one password, and counts who asks."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.asked: list[str] = []

    def connect(self, password: str) -> str:
        self.asked.append(password)
        if password != self.password:
            raise Refused(1045, "Access denied")
        return f"session of {password}"

    def log_in(self, password: Password | str) -> str:
        return log_in(password, self.connect, lambda error: isinstance(error, Refused))


class Clock:
    """Stands still until it is told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class File:
    """A secret's file, or the trouble with it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.trouble = ""
        self.reads = 0

    def __call__(self) -> str:
        self.reads += 1
        if self.trouble:
            raise OSError(self.trouble)
        return self.text


def test_a_refused_password_is_read_again_and_the_new_one_taken_at_once() -> None:
    server, file = Server("old"), File("old")
    password = Password("old", file)
    assert server.log_in(password) == "session of old"
    assert file.reads == 0

    server.password = file.text = "new"

    assert server.log_in(password) == "session of new"
    assert server.asked == ["old", "old", "new"]
    assert password.reveal() == "new"


def test_a_password_that_has_not_changed_is_refused_and_not_shown_again_at_once() -> None:
    """Sessions of one service that each try once a second would have the account locked."""
    clock, server, file = Clock(), Server("old"), File("old")
    password = Password("old", file, clock=clock)
    server.log_in(password)
    server.password = "new"
    for _ in range(20):
        with pytest.raises(Refused, match="Access denied"):
            server.log_in(password)
        clock.now += REST_SECONDS / 100
    assert server.asked == ["old", "old"]

    clock.now += REST_SECONDS
    with pytest.raises(Refused):
        server.log_in(password)
    assert server.asked == ["old", "old", "old"]

    file.text = "new"
    assert server.log_in(password) == "session of new", "what has changed is tried without a wait"


def test_a_new_password_that_is_refused_too_is_one_more_refusal() -> None:
    server, file = Server("old"), File("old")
    password = Password("old", file)
    server.log_in(password)
    server.password, file.text = "newest", "new"

    with pytest.raises(Refused):
        server.log_in(password)

    file.text = "newest"
    assert server.log_in(password) == "session of newest"


@pytest.mark.parametrize(
    "make, has_worked, may_be_rotated",
    [
        (lambda: Password("old", File("old")), False, False),
        (lambda: Password("old", File("old")), True, True),
        (lambda: Password("old"), True, False),
    ],
)
def test_a_refusal_may_pass_where_it_worked_before_and_another_can_come(
    make: Callable[[], Password], has_worked: bool, may_be_rotated: bool
) -> None:
    password = make()
    if has_worked:
        Server("old").log_in(password)
    with pytest.raises(Refused):
        Server("other").log_in(password)

    assert password.may_be_rotated is may_be_rotated


def test_a_file_that_is_gone_leaves_the_password_and_is_told() -> None:
    server, file = Server("old"), File("old")
    password = Password("old", file)
    server.log_in(password)
    server.password, file.trouble = "new", "No such file or directory"

    with pytest.raises(Refused):
        server.log_in(password)

    assert password.reveal() == "old"
    assert "could not be read again (No such file or directory)" in password.advice()
    file.trouble, file.text = "", "new"
    assert server.log_in(password) == "session of new"
    assert "could not" not in password.advice()


def test_other_errors_read_nothing() -> None:
    def fail(_password: str) -> None:
        raise OSError("away")

    file = File("new")
    with pytest.raises(OSError, match="away"):
        log_in(Password("old", file), fail, lambda error: isinstance(error, Refused))
    assert file.reads == 0


def test_a_password_does_not_show_itself() -> None:
    password = Password("hunter2", File("hunter2"))

    assert "hunter2" not in f"{password} {password!r} {password:>20}"
    with pytest.raises(TypeError):
        pickle.dumps(password)
    with pytest.raises(Refused) as caught:
        Server("other").log_in(password)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


# ---------------------------------------------------------------- out of the configuration


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Config]:
    def run(env_file: str | None = None, **environ: str) -> Config:
        (tmp_path / "config.yaml").write_text(CONFIG)
        if env_file is not None:
            (tmp_path / "cdc.env").write_text(env_file)
        return load_config(
            tmp_path / "config.yaml", environ=environ, env_file=tmp_path / "cdc.env" if env_file is not None else None
        )

    return run


def test_a_variables_file_is_read_again(load: Callable[..., Config], tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("old\n")
    password = load(SOURCE_PASS_FILE=str(file)).source.password
    assert password.reveal() == "old"

    file.write_text("n/e:w@%\n")

    assert password.renew()
    assert password.reveal() == "n/e:w@%"
    assert not password.renew()


def test_the_file_of_a_whole_url_is_read_again(load: Callable[..., Config], tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://cdc:old@pg/analytics")
    password = load(SOURCE_PASS="x", CDC__SINKS__0__URL_FILE=str(file)).sinks[0].password
    file.write_text("postgresql://cdc:new@pg/analytics")

    assert password.renew()
    assert password.reveal() == "new"


@pytest.mark.parametrize(
    "url", ["postgresql://cdc:new@evil/analytics", "postgresql://eve:new@pg/analytics", "nonsense"]
)
def test_a_password_for_another_server_is_not_taken(load: Callable[..., Config], tmp_path: Path, url: str) -> None:
    """It would be shown to the server that it is not for."""
    file = tmp_path / "url"
    file.write_text("postgresql://cdc:old@pg/analytics")
    password = load(SOURCE_PASS="x", CDC__SINKS__0__URL_FILE=str(file)).sinks[0].password
    file.write_text(url)

    assert not password.renew()
    assert password.reveal() == "old"
    assert password.trouble
    assert "new" not in password.trouble


def test_the_file_of_env_file_is_read_again(load: Callable[..., Config], tmp_path: Path) -> None:
    config = load("SOURCE_PASS=old\nSINK_PASS=old\n")
    (tmp_path / "cdc.env").write_text("SOURCE_PASS=new\nSINK_PASS=newer\n")

    assert config.source.password.renew()
    assert config.sinks[0].password.renew()
    assert (config.source.password.reveal(), config.sinks[0].password.reveal()) == ("new", "newer")


def test_what_the_environment_says_cannot_change(load: Callable[..., Config]) -> None:
    config = load(SOURCE_PASS="old")

    assert not config.source.password.is_rereadable
    assert not config.sinks[0].password.is_rereadable, "the default of ${SINK_PASS:-none}"
    assert load(SOURCE_PASS="old", SOURCE_PASS_FILE="/nowhere").source.password.is_rereadable is False


def test_a_file_that_cannot_be_read_again_is_told_without_its_name(load: Callable[..., Config], tmp_path: Path) -> None:
    file = tmp_path / "hunter2"
    file.write_text("old")
    password = load(SOURCE_PASS_FILE=str(file)).source.password
    file.unlink()

    assert not password.renew()
    assert "the file that SOURCE_PASS_FILE names cannot be read: No such file or directory" in password.trouble
    assert "hunter2" not in password.trouble


def test_a_copy_of_the_configuration_shares_its_passwords(load: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("old")
    config = load(SOURCE_PASS_FILE=str(tmp_path / "secret"))

    assert config.model_copy(update={"sinks": config.sinks}).source.password is config.source.password
