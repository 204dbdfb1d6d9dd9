"""What is advised for a table, from what was seen of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdc.model import ColumnDefinition, TableDefinition, TableName, UniqueKey, ValueKind
from cdc.schema.advice import Candidate, TableFacts, advise, schema_hash, size_class

ID = ColumnDefinition("id", ValueKind.INTEGER, "bigint", is_nullable=False, length=64)
AT = ColumnDefinition("updated_at", ValueKind.TIMESTAMP, "timestamp", is_nullable=False)
DEFINITION = TableDefinition(TableName("shop", "orders"), (ID, AT), primary_key=("id",))
GOOD = Candidate("updated_at", "timestamp", is_time=True, is_nullable=False, index="u", sets_itself=True)


def facts(rows: int = 50_000, candidate: Candidate | None = GOOD, **changed: object) -> TableFacts:
    definition = replace(DEFINITION, **changed)  # type: ignore[arg-type]  # by name, in the tests below
    return TableFacts(definition, rows, rows * 100, 0, (candidate,) if candidate else ())


@pytest.mark.parametrize(
    "rows, name",
    [
        (0, "tiny"),
        (9_999, "tiny"),
        (10_000, "small"),
        (99_999, "small"),
        (100_000, "medium"),
        (999_999, "medium"),
        (1_000_000, "large"),
        (10**12, "large"),
    ],
)
def test_size_classes(rows: int, name: str) -> None:
    assert size_class(rows) == name


def test_small_tables_are_loaded_before_large_ones() -> None:
    priorities = [advise(facts(rows)).settings["priority"] for rows in (1, 20_000, 200_000, 2_000_000)]
    assert priorities == sorted(set(priorities))


@pytest.mark.parametrize(
    "candidate, quality, problem",
    [
        (GOOD, "good", None),
        (replace(GOOD, index=None), "usable", "leads no index"),
        (replace(GOOD, is_nullable=True), "poor", "may be NULL"),
        (GOOD.with_greatest("2999-01-01", is_future=True), "poor", "is in the future (2999-01-01)"),
        (GOOD.with_greatest("2001-01-01", is_future=False), "good", None),
        (replace(GOOD, sets_itself=False), "usable", "by its name alone"),
        (replace(GOOD, column="created_at", sets_itself=False), "poor", "an UPDATE leaves it as it is"),
        (replace(GOOD, column="amount", sets_itself=False), "poor", "nothing says that an UPDATE changes it"),
        (replace(GOOD, column="DateTStamp", sets_itself=False), "usable", "by its name alone"),
    ],
)
def test_quality_of_a_column_to_find_changes_by(candidate: Candidate, quality: str, problem: str | None) -> None:
    assert candidate.quality == quality
    assert candidate.problems == () if problem is None else problem in "; ".join(candidate.problems)


NO_LOG = "log_bin is OFF"


@pytest.mark.parametrize(
    "seen, no_stream, strategy, modifier",
    [
        (facts(), "", "cdc", None),
        (facts(), NO_LOG, "incremental", "updated_at"),
        (facts(rows=50), NO_LOG, "full_refresh", None),
        (facts(primary_key=()), NO_LOG, "full_refresh", None),
        (facts(candidate=None), NO_LOG, "full_refresh", None),
        (facts(candidate=GOOD.with_greatest("2999-01-01", is_future=True)), NO_LOG, "full_refresh", None),
    ],
)
def test_strategy(seen: TableFacts, no_stream: str, strategy: str, modifier: str | None) -> None:
    advice = advise(seen, no_stream=no_stream)
    assert (advice.strategy, advice.settings.get("modifier")) == (strategy, modifier)
    assert advice.settings["sync_strategy"] == strategy
    assert no_stream in advice.reason


def test_what_a_full_refresh_costs_and_what_may_do_instead_is_said() -> None:
    by_name = replace(GOOD, sets_itself=False)
    warnings = advise(facts(rows=5_000_000, candidate=by_name), no_stream=NO_LOG).warnings
    assert warnings[0] == "it is large, and every run reads all of it"
    assert "updated_at may do as modifier" in warnings[1]


@pytest.mark.parametrize(
    "row_bytes, rows", [(10, 200_000), (90, 100_000), (1_600, 10_000), (1_700, 5_000), (10**7, 500)]
)
def test_a_batch_is_about_sixteen_mebibytes_in_steps(row_bytes: int, rows: int) -> None:
    wide = TableFacts(DEFINITION, 10_000_000, 10_000_000 * row_bytes, 0)
    assert advise(wide).settings["batch_size"] == rows


def test_a_table_of_one_chunk_is_read_in_one() -> None:
    assert advise(TableFacts(DEFINITION, 1, 16_384, 0)).settings["batch_size"] == 200_000


def test_the_schema_hash_is_of_what_counts() -> None:
    first = schema_hash(DEFINITION)
    keys = (UniqueKey("a", ("id",)), UniqueKey("b", ("updated_at",)))
    assert schema_hash(replace(DEFINITION, name=TableName("x", "y"), comment="said")) == first
    assert schema_hash(replace(DEFINITION, unique_keys=keys)) == schema_hash(
        replace(DEFINITION, unique_keys=keys[::-1])
    )
    others = [
        replace(DEFINITION, columns=(ID,)),
        replace(DEFINITION, columns=(AT, ID)),
        replace(DEFINITION, columns=(replace(ID, column_type="int"), AT)),
        replace(DEFINITION, primary_key=()),
        replace(DEFINITION, unique_keys=keys),
        replace(DEFINITION, engine="MyISAM"),
    ]
    assert len({schema_hash(one) for one in others} | {first}) == len(others) + 1
