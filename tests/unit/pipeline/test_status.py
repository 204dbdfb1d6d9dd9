"""What a pipeline says of itself: lag, errors, progress."""

from __future__ import annotations

import pytest

from cdc.errors import SinkRefused, SinkUnavailable, SourceUnavailable
from cdc.model import FilePos, ServerIdentity, SourcePosition
from cdc.pipeline.status import PipelineStatus
from cdc.pipeline.text import iso_time
from tests.unit.pipeline.clocks import FakeClock

NOW = 2_000_000_000_000_000


def file(pos: int, number: int = 1) -> FilePos:
    return FilePos.of(f"binlog.{number:06}", pos)


def at(pos: int, number: int = 1) -> SourcePosition:
    return SourcePosition(ServerIdentity("mysql", "u"), file(pos, number))


@pytest.fixture
def status() -> PipelineStatus:
    return PipelineStatus(FakeClock())


def lag(status: PipelineStatus, pos: int = 100, oldest_us: int | None = None, number: int = 1) -> float | None:
    return status.lag_seconds(written=file(pos, number), source_now_us=NOW, oldest_us=oldest_us)


def test_no_lag_is_known_before_anything_was_applied_or_seen(status: PipelineStatus) -> None:
    assert lag(status) is None


def test_lag_is_not_known_where_the_source_cannot_be_asked(status: PipelineStatus) -> None:
    status.committed(at(100), NOW)
    assert status.lag_seconds(written=None, source_now_us=NOW, oldest_us=None) is None
    assert status.lag_seconds(written=file(1), source_now_us=None, oldest_us=None) is None


def test_lag_is_zero_once_the_written_position_is_passed(status: PipelineStatus) -> None:
    status.committed(at(100), NOW - 9_000_000)
    assert lag(status, 101) == 9.0
    assert lag(status, 100) == 0
    status.seen(at(101))
    assert lag(status, 101) == 0


def test_idle_time_of_the_source_is_no_lag(status: PipelineStatus) -> None:
    status.committed(at(100), NOW - 3600_000_000)
    later = NOW + 1_500_000
    assert lag(status, 100) == 0
    assert status.lag_seconds(written=file(101), source_now_us=later, oldest_us=None) == 1.5
    assert status.lag_seconds(written=file(4, number=2), source_now_us=later, oldest_us=NOW + 500_000) == 1.0


def test_lag_and_what_was_seen_are_published(status: PipelineStatus) -> None:
    assert status.to_dict()["lag_seconds"] is None
    assert status.to_dict()["seen"] is None
    status.lag = lambda: 4.5
    status.set_checkpoint(at(100), NOW, is_same_server=True)
    status.seen(at(101))
    assert status.to_dict()["lag_seconds"] == 4.5
    assert status.to_dict()["seen"] == {"server": "u", "file": "binlog.000001", "pos": 101}


def test_lag_is_the_age_of_the_oldest_that_is_not_applied(status: PipelineStatus) -> None:
    status.committed(at(100), NOW - 60_000_000)
    assert lag(status, 200, oldest_us=NOW - 2_500_000) == 2.5


def test_lag_is_never_negative_when_clocks_disagree(status: PipelineStatus) -> None:
    status.committed(at(100), NOW + 5_000_000)
    assert lag(status, 200) == 0


def test_transactions_without_a_time_keep_the_one_before(status: PipelineStatus) -> None:
    status.committed(at(100), NOW - 3_000_000)
    status.committed(at(200), None)
    assert lag(status, 300) == 3.0
    assert status.seen_file == file(200)


def test_a_checkpoint_of_another_server_says_nothing_of_where_the_stream_is(status: PipelineStatus) -> None:
    status.set_checkpoint(at(100), NOW, is_same_server=False)
    assert status.seen_file is None
    status.set_checkpoint(at(100), NOW, is_same_server=True)
    assert status.seen_file == file(100)


def test_an_error_is_shown_until_something_goes_right_again(status: PipelineStatus) -> None:
    status.failed(SourceUnavailable("cut", hint="wait"))
    shown = status.to_dict()
    assert shown["error"]["class"] == "SourceUnavailable"
    assert shown["error"]["since"] == iso_time(1_000_000_000)
    status.committed(at(1), None)
    assert status.to_dict()["error"] is None
    assert [one["class"] for one in status.recent_errors] == ["SourceUnavailable"]


def test_the_error_of_a_table_is_not_that_of_the_pipeline(status: PipelineStatus) -> None:
    status.failed(SinkRefused("no", table="shop.t", key="id=1"), table="shop.t")
    assert status.to_dict()["error"] is None
    assert (status.recent_errors[0]["table"], status.recent_errors[0]["key"]) == ("shop.t", "id=1")


def test_a_bug_is_shown_as_one(status: PipelineStatus) -> None:
    status.failed(ZeroDivisionError("x"))
    assert "bug" in status.to_dict()["error"]["hint"]


def test_errors_are_counted_all_and_kept_the_last(status: PipelineStatus) -> None:
    for number in range(30):
        status.failed(SourceUnavailable(str(number)))
    assert status.error_counts == {"SourceUnavailable": 30}
    assert [one["message"] for one in status.recent_errors] == [str(n) for n in range(10, 30)]


def test_progress_is_shown_while_a_load_lasts(status: PipelineStatus) -> None:
    status.progress("a.b", 5, None)
    said = status.to_dict()["progress"]["a.b"]
    assert said.pop("rows") == 5
    assert said == dict.fromkeys(("rows_estimate", "rows_per_second", "seconds_left", "waits_for", "log_seconds_left"))
    status.progress("a.b", 6, 4, waits_for="Threads_running is 9")
    assert status.to_dict()["progress"]["a.b"]["rows_estimate"] == 6
    assert status.to_dict()["progress"]["a.b"]["waits_for"] == "Threads_running is 9"
    status.progress_done("a.b")
    status.progress_done("a.b")
    assert status.to_dict()["progress"] == {}


@pytest.mark.parametrize(
    "microseconds, text",
    [(None, None), (0, "1970-01-01T00:00:00Z"), (1_790_000_000_000_001, "2026-09-21T14:13:20.000001Z")],
)
def test_times_are_utc(microseconds: int | None, text: str | None) -> None:
    assert iso_time(microseconds) == text


def test_an_error_stands_until_the_stream_has_passed_its_place(status: PipelineStatus) -> None:
    status.failed(SinkUnavailable("the sink is full"))
    status.seen(at(90), is_well=False)
    assert status.to_dict()["error"]["message"] == "the sink is full"
    status.seen(at(101))
    assert status.to_dict()["error"] is None
