"""A few thousand damaged inputs for each target, the same in every run; and every crasher ever found.

`make fuzz` runs the same for as long as is asked for; targets.py has the oracle.
"""

from __future__ import annotations

import gc
import random
from pathlib import Path

import pytest

from cdc.binlog.constants import EventType
from cdc.binlog.events import EventClass, classify
from cdc.binlog.kernel import memory
from tests.fuzz.__main__ import CRASHERS
from tests.fuzz.corpus import captures
from tests.fuzz.targets import TARGETS

# How often, so that each target takes about a second.
_RUNS = {
    "framing": 5_000,
    "events": 8_000,
    "maps": 4_000,
    "rows": 1_500,
    "json": 6_000,
    "diffs": 4_000,
    "stream": 150,
    "packets": 300,
    "files": 500,
    "results": 1_000,
    "statements": 4_000,
    "gtids": 10_000,
    "compact": 1_500,
    "copy_text": 700,
    "load_text": 250,
}


def test_the_corpus_has_every_event_type_that_a_server_writes_on_demand() -> None:
    seen = {event.header.event_type for capture in captures() for event in capture.events()}
    not_on_demand = {
        EventType.HEARTBEAT,  # sent when nothing happens
        EventType.HEARTBEAT_V2,
        EventType.INCIDENT,
        EventType.IGNORABLE,
        EventType.STOP,  # when the server ends
        EventType.BEGIN_LOAD_QUERY,  # LOAD DATA by statement
        EventType.EXECUTE_LOAD_QUERY,
        EventType.APPEND_BLOCK,
        EventType.DELETE_FILE,
        EventType.TRANSACTION_CONTEXT,  # group replication
        EventType.VIEW_CHANGE,
        EventType.MARIADB_START_ENCRYPTION,
        EventType.MARIADB_WRITE_ROWS_COMPRESSED,  # version 2 of what MariaDB writes as version 1
        EventType.MARIADB_UPDATE_ROWS_COMPRESSED,
        EventType.MARIADB_DELETE_ROWS_COMPRESSED,
    }
    known = {kind for kind in EventType if classify(kind, 0) not in (EventClass.UNKNOWN, EventClass.IGNORABLE)}
    assert known - seen == not_on_demand - {EventType.IGNORABLE}


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_is_accepted_or_refused_in_words(name: str) -> None:
    target = TARGETS[name]
    for seed in target.seeds():
        target.run(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_any_damage_gives_a_result_or_a_declared_error(name: str) -> None:
    target = TARGETS[name]
    rng = random.Random(2024)
    words = {target.run(target.input(rng)) for _ in range(_RUNS[name])}
    assert len(words) > 1, "damage that changes nothing tests nothing"


@pytest.mark.parametrize("path", sorted(CRASHERS.glob("*-*")), ids=lambda path: path.name)
def test_what_once_was_a_crasher_is_none(path: Path) -> None:
    TARGETS[path.name.partition("-")[0]].run(path.read_bytes())


def test_damage_leaves_no_memory_behind() -> None:
    gc.collect()
    before = memory.live_bytes()
    for name in ("rows", "stream", "diffs", "compact", "copy_text", "load_text"):
        rng = random.Random(7)
        for _ in range(50):
            TARGETS[name].run(TARGETS[name].input(rng))
    gc.collect()
    assert memory.live_bytes() == before
