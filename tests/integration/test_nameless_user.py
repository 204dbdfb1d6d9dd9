"""Commands given by a uid that no passwd file knows, as in a container that runs as any user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cdc.demo.servers import Server
from tests.integration.test_skip import end_of_log, skips, write
from tests.support.deployment import Deployment, deployment

_UID = 54_321
_CAPABILITIES = "+dac_override,+dac_read_search"  # the test's files are its own user's
# The last: access(2), by which the configuration is looked at, counts them too.
_SETPRIV = ["--reuid", str(_UID), "--clear-groups", "--inh-caps", _CAPABILITIES, "--ambient-caps", _CAPABILITIES]
_SETPRIV += ["--securebits", "+no_setuid_fixup"]
# Where nobody may become another user: one that seems to have no name.
_SEEMS_NAMELESS = """
import pwd
def unknown(uid):
    raise KeyError(uid)
pwd.getpwuid = unknown
from cdc.cli import main
main()
"""


def _as_nameless() -> list[str]:
    """What a command line begins with that runs Python as such a user; empty where that cannot be had here."""
    program = shutil.which("setpriv")
    if program is None or os.getuid() != 0:
        return []
    prefix = [program, *_SETPRIV]
    tried = subprocess.run([*prefix, sys.executable, "-c", "import pymysql"], capture_output=True, check=False)
    return prefix if tried.returncode == 0 else []


def _make_nameless(made: Deployment, monkeypatch: pytest.MonkeyPatch) -> str:
    """From now on everything that `made` runs; the user that its commands should say."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    command, prefix = made.command, _as_nameless()

    def nameless(*words: str) -> Sequence[str]:
        usual = command(*words)
        return [*prefix, *usual] if prefix else [sys.executable, "-c", _SEEMS_NAMELESS, *usual[3:]]

    made.command = nameless  # type: ignore[method-assign, assignment]
    return str(_UID) if prefix else str(os.getuid())


@pytest.mark.any_server
def test_commands_that_write_who_gave_them_need_no_name_of_the_user(
    tmp_path: Path, mariadb1011: Server, pg15: Server, mysql97: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with deployment(tmp_path, mariadb1011, pg=pg15, mysql=mysql97) as made:
        user = _make_nameless(made, monkeypatch)
        made.source.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=made.source_database)
        made.catch_up()
        file, pos = end_of_log(made.source)
        place = write(made, "INSERT INTO t VALUES (1)")

        for words in (("skip", place), ("checkpoint", "set", f"{file}:{pos}", "--reload"), ("checkpoint", "reset")):
            result = made.run(*words, "--yes")
            assert result.returncode == 0, (words, result.stderr)
            if words[0] == "skip":
                for sink in made.sinks:
                    (said,) = skips(made, sink)
                    assert said["who"].startswith(f"{user}@")
        made.catch_up()
        made.assert_equal("t")
