"""The queue between reader and applier: bounded in bytes, in order, and open to be closed at any time."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pyarrow as pa
import pytest

from cdc.errors import Stopping
from cdc.model import FilePos, SchemaChange, ServerIdentity, SourcePosition, TableName, TransactionRun
from cdc.pipeline.channel import Channel, Failure, Item, Progress
from tests.support.waiting import wait_until


def at(pos: int) -> SourcePosition:
    return SourcePosition(ServerIdentity("mysql", "u"), FilePos.of("binlog.000001", pos))


def run(size: int, pos: int = 4, *times: int) -> TransactionRun:
    return TransactionRun((), at(pos), pa.array(times, pa.int64()), byte_count=size)


def progress(pos: int) -> Progress:
    return Progress(at(pos))


CHANGE = SchemaChange((TableName("a", "b"),), at(9), "DROP TABLE b", 0)


def in_thread(act: Callable[[], None]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - for the test to look at
            errors.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    return thread, errors


def test_items_come_in_order() -> None:
    channel = Channel(1000)
    items: list[Item] = [run(1, 10), CHANGE, progress(20), run(2, 30), Failure(ValueError("x"))]
    for item in items:
        channel.put(item)
    assert [channel.get(0) for _ in items] == items
    assert channel.get(0) is None


def test_the_bound_is_in_bytes_and_a_put_waits_for_room() -> None:
    channel = Channel(100)
    channel.put(run(60))
    channel.put(run(40))
    assert channel.byte_count == 100
    thread, errors = in_thread(lambda: channel.put(run(1, 99)))
    thread.join(0.05)
    assert thread.is_alive()
    assert channel.byte_count == 100
    channel.get(0)
    thread.join(5)
    assert not thread.is_alive()
    assert errors == []
    assert channel.byte_count == 41


def test_an_item_over_the_bound_passes_when_the_channel_is_empty_and_only_then() -> None:
    channel = Channel(10)
    channel.put(run(5))
    thread, _ = in_thread(lambda: channel.put(run(1000, 99)))
    thread.join(0.05)
    assert thread.is_alive()
    channel.get(0)
    thread.join(5)
    assert not thread.is_alive()
    item = channel.get(0)
    assert isinstance(item, TransactionRun)
    assert item.byte_count == 1000
    assert channel.byte_count == 0


def test_items_without_rows_always_pass() -> None:
    channel = Channel(10)
    channel.put(run(10))
    channel.put(CHANGE)
    channel.put(progress(1))
    channel.put(Failure(ValueError()))
    assert channel.byte_count == 10


def test_what_has_no_rows_keeps_nothing_waiting() -> None:
    """The applier may be the one that puts: nobody else would make room."""
    channel = Channel(10)
    channel.put(Failure(ValueError()))
    channel.put(run(1000))
    assert channel.byte_count == 1000


def test_close_wakes_a_blocked_put_and_turns_every_later_one_away() -> None:
    channel = Channel(10)
    channel.put(run(10))
    thread, errors = in_thread(lambda: channel.put(run(10)))
    thread.join(0.05)
    assert thread.is_alive()
    channel.close()
    thread.join(5)
    assert [type(error) for error in errors] == [Stopping]
    with pytest.raises(Stopping):
        channel.put(progress(1))
    assert channel.get(0) is None
    assert channel.byte_count == 0


def test_only_the_latest_of_progresses_in_a_row_is_kept() -> None:
    channel = Channel(10)
    for pos in (10, 20, 30):
        channel.put(progress(pos))
    channel.put(run(1, 40))
    channel.put(progress(50))
    channel.put(progress(60))
    assert [channel.get(0) for _ in range(4)] == [progress(30), run_at(40), progress(60), None]


class run_at:  # noqa: N801 - reads as a value
    """Equal to a run that ends there."""

    def __init__(self, pos: int) -> None:
        self.pos = pos

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TransactionRun) and other.end == at(self.pos)

    __hash__ = None  # type: ignore[assignment]


def test_a_get_waits_for_an_item_and_says_that_it_is_hungry_meanwhile() -> None:
    channel = Channel(10)
    assert not channel.is_hungry
    found: list[Item | None] = []
    thread, _ = in_thread(lambda: found.append(channel.get(10)))
    wait_until(lambda: channel.is_hungry, 5, "the get to wait")
    channel.put(CHANGE)
    thread.join(5)
    assert found == [CHANGE]
    assert not channel.is_hungry


def test_the_oldest_queued_commit_is_that_of_the_first_run_with_transactions() -> None:
    channel = Channel(1000)
    assert channel.head_commit_us() is None
    channel.put(progress(1))
    channel.put(run(1, 10))
    assert channel.head_commit_us() is None
    channel.put(run(1, 20, 7_000, 8_000))
    channel.put(run(1, 30, 9_000))
    assert channel.head_commit_us() == 7_000


def test_a_get_that_finds_nothing_asks_for_more_and_returns_it_without_waiting() -> None:
    channel = Channel(10)
    asked: list[bool] = []

    def give() -> None:
        asked.append(channel.is_hungry)
        channel.put(CHANGE)

    channel.on_hungry = give
    assert channel.get(60) == CHANGE
    channel.put(progress(1))
    assert channel.get(60) == progress(1)
    assert asked == [True]
    assert not channel.is_hungry


def test_a_get_that_is_refused_more_is_hungry_no_longer() -> None:
    channel = Channel(10)

    def refuse() -> None:
        raise Stopping("over")

    channel.on_hungry = refuse
    with pytest.raises(Stopping):
        channel.get(60)
    assert not channel.is_hungry
