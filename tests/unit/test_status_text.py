"""What `cdc status` prints for people."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from cdc.commands.status_text import print_status

_GTID = ",".join(f"{domain}-1-{domain * 1000}" for domain in range(1, 12))


def _error(message: str, hint: str | None = None) -> dict[str, Any]:
    return {"class": "SinkRefused", "message": message, "hint": hint, "position": None}


def _document(*sinks: str) -> dict[str, Any]:
    place = {"gtid": _GTID, "file": "binlog.000001", "pos": 4}
    return {
        "name": "shop",
        "version": "1",
        "source": {
            "flavor": None,
            "server_version": None,
            "position": {"gtid": None, "file": None, "pos": None},
            "error": _error("cannot connect to the source", "start it"),
        },
        "sinks": [
            {
                "name": sink,
                "kind": "postgresql",
                "state": "retrying",
                "position": place,
                "lag_seconds": None,
                "last_commit": None,
                "error": _error(f"sink {sink}: it is away"),
            }
            for sink in sinks
        ],
        "tables": [
            {
                "sink": sinks[0],
                "table": "shop.orders",
                "target": "shop.orders",
                "state": "parked",
                "rows": 1,
                "last_change": None,
                "policy_changes": {},
                "error": _error("shop.orders: refused", "not shop.orders_old: `cdc snapshot shop.orders`"),
            }
        ],
    }


def test_what_is_no_terminal_gets_whole_positions_and_no_blanks_at_the_ends(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(_document("pg", "copy"))
    printed = capsys.readouterr().out
    assert printed.count(_GTID) == 2
    assert [line for line in printed.splitlines() if line != line.rstrip()] == []


def test_a_terminal_gets_the_end_of_a_long_position() -> None:
    text = StringIO()
    print_status(_document("pg"), Console(file=text, force_terminal=True, width=160))
    assert _GTID not in text.getvalue()
    assert f"…{_GTID[-46:]}" in text.getvalue()


def test_errors_name_their_subject_once_and_why_the_source_is_away(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(_document("pg"))
    printed = capsys.readouterr().out
    assert "source: cannot connect to the source\n  hint: start it\n" in printed
    assert "sink pg: it is away\n" in printed
    assert "sink pg: sink pg" not in printed
    assert "pg: shop.orders: refused\n" in printed


@pytest.mark.parametrize("sinks, command", [(("pg",), "shop.orders`"), (("pg", "copy"), "shop.orders --sink pg`")])
def test_a_hint_names_the_sink_where_there_are_several(
    capsys: pytest.CaptureFixture[str], sinks: tuple[str, ...], command: str
) -> None:
    print_status(_document(*sinks))
    assert f"hint: not shop.orders_old: `cdc snapshot {command}\n" in capsys.readouterr().out
