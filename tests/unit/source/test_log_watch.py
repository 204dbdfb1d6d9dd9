"""Who follows a log that is not there any more."""

from __future__ import annotations

from collections.abc import Hashable

from cdc.gtid import MysqlGtidSet
from cdc.model import FilePos, ServerIdentity
from cdc.source.log_watch import Followed, LogEnd, LogWatch

ONE, OTHER = ServerIdentity("mysql", "one"), ServerIdentity("mysql", "other")
UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"


def at(number: int, pos: int) -> FilePos:
    return FilePos.of(f"binlog.{number:06}", pos)


def end(number: int, pos: int, server: ServerIdentity = ONE, executed: str | None = None) -> LogEnd:
    return LogEnd(server, at(number, pos), MysqlGtidSet.parse(executed) if executed is not None else None)


def followed(number: int, pos: int, server: ServerIdentity = ONE) -> dict[Hashable, Followed]:
    return {"lane": Followed(server, at(number, pos))}


def test_a_log_that_grows_and_is_rotated_is_followed() -> None:
    watch = LogWatch()
    assert watch.look(end(1, 500), followed(1, 400)) == {}
    assert watch.look(end(1, 500), followed(1, 900)) == {}, "who reads what was written since the look is ahead of it"
    assert watch.look(end(2, 157), followed(2, 157)) == {}
    assert not watch.is_strange


def test_a_log_that_ends_before_what_came_from_it_was_reset() -> None:
    watch = LogWatch()
    assert watch.look(end(2, 500), followed(2, 500)) == {}
    (what,) = watch.look(end(1, 157), followed(2, 500)).values()
    assert "its log ends at binlog.000001:157, and had more" in what


def test_a_log_that_ends_before_its_own_end_was_reset_however_far_behind_the_stream_is() -> None:
    watch = LogWatch()
    assert watch.look(end(1, 9000), followed(1, 200)) == {}
    assert list(watch.look(end(1, 800), followed(1, 300))) == ["lane"]


def test_transactions_that_are_not_there_any_more_tell_it_where_the_place_does_not() -> None:
    watch = LogWatch()
    assert watch.look(end(1, 500, executed=f"{UUID}:1-10"), followed(1, 500)) == {}
    assert watch.look(end(1, 600, executed=f"{UUID}:1-11"), followed(1, 600)) == {}
    assert list(watch.look(end(1, 700, executed=f"{UUID}:1-5"), followed(1, 600))) == ["lane"]


def test_another_server_counts_at_the_second_look() -> None:
    watch = LogWatch()
    assert watch.look(end(1, 500), followed(1, 500)) == {}
    assert watch.look(end(7, 100, OTHER), followed(1, 500)) == {}
    assert watch.is_strange
    (what,) = watch.look(end(7, 100, OTHER), followed(1, 500)).values()
    assert "leads to server other now, and the stream comes from one" in what


def test_a_look_at_the_old_server_by_mistake_ends_nothing() -> None:
    watch = LogWatch()
    watch.look(end(1, 500), followed(1, 500, OTHER))
    assert watch.look(end(1, 500), followed(1, 500, OTHER)) == {}
    assert watch.is_strange
    assert watch.look(end(9, 500, OTHER), followed(1, 500, OTHER)) == {}
    assert not watch.is_strange


def test_who_has_begun_anew_since_is_not_held_against_what_it_followed_before() -> None:
    watch = LogWatch()
    watch.look(end(1, 500), followed(1, 500))
    watch.look(end(9, 100, OTHER), followed(1, 500))
    assert watch.look(end(9, 100, OTHER), followed(9, 100, OTHER)) == {}
    assert watch.look(end(9, 100, OTHER), {}) == {}
    assert watch.look(end(9, 100, OTHER), {}) == {}
