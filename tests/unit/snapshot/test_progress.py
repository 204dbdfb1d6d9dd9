"""How far a load is said to be: never more than all of it, never less time than none."""

from __future__ import annotations

import threading

import pytest

from snapshot.progress import LoadRate, progress_text


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def now_us(self) -> int:
        return int(self.now * 1e6)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        raise NotImplementedError


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rate(clock: Clock) -> LoadRate:
    return LoadRate(clock)


def test_the_rest_takes_as_long_as_the_rate_says(rate: LoadRate, clock: Clock) -> None:
    for second in range(11):
        clock.now = second
        rate.at(second * 100, 5000)
    said = rate.to_dict()
    assert (said["rows"], said["rows_estimate"]) == (1000, 5000)
    assert (said["rows_per_second"], said["seconds_left"]) == (100, 40)
    assert progress_text(said) == "1,000 of about 5,000 rows, 100 rows/s, 40 s left"


def test_rows_of_an_earlier_attempt_took_no_time(rate: LoadRate, clock: Clock) -> None:
    rate.at(1_000_000, 2_000_000)
    clock.now = 10
    rate.at(1_000_100, 2_000_000)
    assert rate.rows_per_second == 10


def test_nothing_is_said_of_the_rate_before_it_is_measured(rate: LoadRate, clock: Clock) -> None:
    assert rate.rows_per_second is None
    rate.at(0, 100)
    clock.now = 0.1
    rate.at(50, 100)
    assert (rate.rows_per_second, rate.seconds_left) == (None, None)


@pytest.mark.parametrize("estimate", [0, 1, 999, 1000])
def test_an_estimate_that_is_too_low_shows_neither_too_many_percent_nor_time_below_nothing(
    rate: LoadRate, clock: Clock, estimate: int
) -> None:
    rate.at(0, estimate)
    clock.now = 10
    rate.at(1000, estimate)
    said = rate.to_dict()
    assert said["rows_estimate"] == 1000
    assert said["seconds_left"] is None
    assert progress_text(said) == "1,000 rows, 100 rows/s"


def test_without_an_estimate_there_is_a_rate_and_no_time(rate: LoadRate, clock: Clock) -> None:
    rate.at(0, None)
    clock.now = 5
    rate.at(50, None)
    assert rate.to_dict() == {
        "rows": 50,
        "rows_estimate": None,
        "rows_per_second": 10,
        "seconds_left": None,
        "waits_for": None,
        "log_seconds_left": None,
    }


def test_a_load_that_stands_still_has_no_rate_after_a_while_and_no_time_left(rate: LoadRate, clock: Clock) -> None:
    for second in range(100):
        clock.now = second
        rate.at(min(second, 50) * 10, 1000, waits_for="Threads_running is 9, more than 8")
    said = rate.to_dict()
    assert (said["rows_per_second"], said["seconds_left"]) == (0, None)
    assert progress_text(said).endswith("waits: Threads_running is 9, more than 8")


def test_the_rate_is_that_of_the_last_seconds(rate: LoadRate, clock: Clock) -> None:
    rows = 0
    for second in range(200):
        clock.now = second
        rows += 1000 if second < 100 else 10
        rate.at(rows, 10_000_000)
    assert rate.rows_per_second == pytest.approx(10)


def test_a_load_that_begins_again_is_measured_anew(rate: LoadRate, clock: Clock) -> None:
    for second, rows in enumerate((0, 500, 1000, 0, 10, 20)):
        clock.now = second
        rate.at(rows, 5000)
    assert rate.rows_per_second == 10


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0 s"), (59.4, "59 s"), (61, "1 min 01 s"), (3599.4, "59 min 59 s"), (7500, "2 h 05 min")]
)
def test_times_are_written_as_one_reads_them(seconds: float, text: str) -> None:
    progress = {"rows": 1, "rows_estimate": None, "seconds_left": seconds}
    assert progress_text(progress) == f"1 row, {text} left"
