"""A consumer of a `BinlogStream` that keeps the events as they come."""

from __future__ import annotations

from cdc.source.stream import BinlogStream

__all__ = ["Collector", "next_event"]

_PACKET_MAX = 0xFFFFFF


class Collector:
    """Cuts packets by itself: what is tested is the stream."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.saw_barrier = False

    def consume(self, window: memoryview) -> int:
        done = 0
        while len(window) - done >= 5:
            length = int.from_bytes(window[done : done + 3], "little")
            end = done + 4 + length
            if not 0 < length < _PACKET_MAX or window[done + 4] != 0 or end > len(window):
                break
            self.events.append(bytes(window[done + 5 : end]))
            done = end
        return done

    def feed(self, content: memoryview) -> bool:
        self.events.append(bytes(content))
        return False


def next_event(stream: BinlogStream, collector: Collector, seconds: float) -> bytes | None:
    """The next event; None when none came within the time of one receive."""
    stream.deliver(collector)
    if not collector.events and stream.fill(seconds):
        stream.deliver(collector)
    return collector.events.pop(0) if collector.events else None
