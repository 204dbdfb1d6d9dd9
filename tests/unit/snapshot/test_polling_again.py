"""A run of a polled table that is begun again."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cdc.model import TableName
from cdc.source.connection import TableGone
from checkpoints.polls import PollState
from checkpoints.store import TableRecord
from snapshot import polling
from snapshot.polling import TableRun, _Altered


@pytest.mark.parametrize("error", [TableGone("definition has changed (error 1412)"), _Altered()])
def test_a_run_that_an_alter_has_ended_knows_the_target_that_it_made(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Taken for somebody else's, it would not fit the new definition, and park the table."""
    name = TableName("shop", "t")
    first = TableRecord(name, "shop.t", "pending")
    stored = replace(first, state="snapshotting", key=("id",))
    seen: list[TableRecord] = []

    def attempt(record: TableRecord, state: PollState, *_: object, **__: object) -> tuple[TableRecord, PollState]:
        seen.append(record)
        if len(seen) == 1:
            raise error
        return record, state

    monkeypatch.setattr(polling, "read_definition", lambda *_: object())
    run: Any = object.__new__(TableRun)
    run._source, run._store, run._try = None, SimpleNamespace(load_tables=lambda: {name: stored}), attempt
    run.run(first, PollState(), None, why_no_log="", may_replace=False)
    assert seen == [first, replace(stored, state="pending")]
