"""When a load is warned, stopped and ended, going by how long its log is there."""

from __future__ import annotations

from typing import Any

import pytest

from cdc.errors import BinlogPurged
from snapshot.retention import LogGuard, LogOutlook, LogTooShort
from tests.unit.pipeline.clocks import FakeClock

RULE = "binlog_expire_logs_seconds is 3600"


class Looks:
    """Stands in for the source's log: what is to be seen of it, look by look."""

    since = "binlog.000001:4"

    def __init__(self, *outlooks: LogOutlook) -> None:
        self.outlooks = list(outlooks)
        self.count = 0

    def look(self, _source: Any) -> LogOutlook:
        self.count += 1
        return self.outlooks.pop(0) if len(self.outlooks) > 1 else self.outlooks[0]


class Source:
    class settings:  # noqa: N801 - an attribute of a connection
        address = "db:3306"


def there(seconds_left: float | None, kept_seconds: float | None = 3600) -> LogOutlook:
    return LogOutlook(True, "binlog.000001", seconds_left, RULE, kept_seconds)


class Guarded:
    def __init__(self, *outlooks: LogOutlook) -> None:
        self.clock = FakeClock()
        self.looks = Looks(*outlooks)
        self.warnings: list[float] = []
        self.guard = LogGuard(self.looks, lambda _outlook, seconds: self.warnings.append(seconds), self.clock)  # type: ignore[arg-type]

    def check(self, seconds_left: float | None) -> None:
        self.guard.check(Source(), what="shop.orders", seconds_left=seconds_left)  # type: ignore[arg-type]
        self.clock.seconds += 10


def test_a_log_that_lasts_is_not_worth_a_word() -> None:
    guarded = Guarded(there(3600))
    guarded.check(None)
    guarded.check(3000)
    assert guarded.warnings == []


def test_a_load_that_may_outlast_its_log_is_warned_of_once() -> None:
    guarded = Guarded(there(3600))
    for seconds_left in (3000, 3541, 4000):
        guarded.check(seconds_left)
    assert guarded.warnings == [3541]


@pytest.mark.parametrize(
    "left, kept, load, is_stopped",
    [
        (61, 3600, 4000, False),
        (60, 3600, 4000, True),
        (60, 3600, None, True),
        (60, 3600, 29, False),  # it is done before
        (60, 3600, 31, True),
        (21, 100, 4000, False),  # logs are not kept for long: the margin is a part of that
        (20, 100, 4000, True),
        (60, None, 4000, True),
        (-5, 3600, 1, True),
    ],
)
def test_a_load_is_stopped_before_its_log_may_go(
    left: float, kept: float | None, load: float | None, is_stopped: bool
) -> None:
    guarded = Guarded(there(left, kept))
    if not is_stopped:
        guarded.check(load)
        return
    with pytest.raises(LogTooShort) as caught:
        guarded.check(load)
    assert caught.value.table == "shop.orders"
    assert RULE in caught.value.message
    assert "cdc snapshot shop.orders" in caught.value.hint


def test_a_log_that_nothing_purges_stops_no_load() -> None:
    guarded = Guarded(there(None))
    guarded.check(1e9)
    assert guarded.warnings == []


def test_a_log_that_is_gone_ends_the_load() -> None:
    guarded = Guarded(there(3600), LogOutlook(False, "binlog.000001"))
    guarded.check(None)
    with pytest.raises(BinlogPurged, match=r"binlog\.000001.* while shop\.orders was being loaded") as caught:
        guarded.check(1)
    assert caught.value.position == "binlog.000001:4"


def test_the_source_is_not_asked_at_every_row() -> None:
    guarded = Guarded(there(3600))
    for _ in range(100):
        guarded.guard.check(Source(), what="t", seconds_left=None)  # type: ignore[arg-type]
        guarded.clock.seconds += 0.2
    assert guarded.looks.count == 4  # once in six seconds, a tenth of the margin
