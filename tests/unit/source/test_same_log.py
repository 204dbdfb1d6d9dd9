"""What of a MariaDB GTID list a server lacks, by what it says of itself; real servers: test_source_changes.py."""

from __future__ import annotations

import pytest

from cdc.gtid import MariadbGtidList
from cdc.source.same_log import ahead_of


class Answers:
    """A server with these variables."""

    def __init__(self, state: str, replicated: str) -> None:
        self._known = {"gtid_binlog_state": state, "gtid_slave_pos": replicated}

    def query_text(self, sql: str) -> list[tuple[str | None, ...]]:
        return [(self._known[sql.rpartition(".")[2]],)]


@pytest.mark.parametrize(
    "applied, state, replicated, missing",
    [
        ("0-1-23", "0-1-23", "", ""),
        ("0-1-23", "0-1-60", "", ""),
        ("0-1-23", "0-1-22", "", "0-1-23"),
        ("0-1-23", "", "", "0-1-23"),
        ("", "", "", ""),
        # promoted: it numbers on from where it was, which need not be where the sink is
        ("0-1-23", "0-1-23,0-2-40", "", ""),
        ("0-1-23", "0-1-20,0-2-40", "0-1-20", "0-1-23"),
        ("0-1-23", "0-2-40", "0-1-23", ""),
        # made from a backup, and nothing was logged since; what it has beyond ours its log does not have
        ("0-1-23", "", "0-1-23", ""),
        ("0-1-23", "", "0-1-24", "0-1-23"),
        ("0-1-23", "", "0-1-22", "0-1-23"),
        ("0-1-23,7-1-5", "0-1-30", "7-1-5", ""),
        ("0-1-23,7-1-5", "0-1-30", "", "7-1-5"),
        ("0-1-23,7-1-5", "7-1-5,0-3-9,0-1-22", "", "0-1-23"),
        # out of order within the domain
        ("0-1-10", "0-1-12,0-2-7", "", ""),
        ("0-2-7", "0-1-12,0-2-7", "", ""),
    ],
)
def test_what_a_server_lacks(applied: str, state: str, replicated: str, missing: str) -> None:
    answers = Answers(state, replicated)
    assert str(ahead_of(answers, MariadbGtidList.parse(applied), is_same_server=False)) == missing  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "state, missing", [("0-1-30", ""), ("0-1-22", "0-1-23"), ("", "0-1-23,7-1-5"), ("9-1-1", "0-1-23,7-1-5")]
)
def test_a_domain_that_was_deleted_on_the_same_server_is_not_missing(state: str, missing: str) -> None:
    applied = MariadbGtidList.parse("0-1-23,7-1-5")
    assert str(ahead_of(Answers(state, ""), applied, is_same_server=True)) == missing  # type: ignore[arg-type]
