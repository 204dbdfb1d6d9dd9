"""`sinks[].lanes`: a number or lists of patterns, and whether the block of server ids suffices."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc.app import lane_rule, lane_server_ids, service_ids, side_server_ids, target_place
from cdc.check import run_checks
from cdc.clock import SystemClock
from cdc.config import Config, load_config, load_source_config, redacted
from cdc.errors import ConfigError
from cdc.model import TableName

FILE = """\
name: shop
source: {{url: "mysql://r@127.0.0.1", server_id: 100, server_id_count: {ids}}}
tables:
  include: ["shop.*"]
  routes: [{{tables: "shop.Eu_*", target_table: both}}, {{tables: "shop.us", target_table: BOTH}}]
sinks:
  - {{name: one, url: "mysql://r@127.0.0.1/x", lanes: {one}}}
  - {{name: two, url: "mysql://r@127.0.0.1/y", lanes: {two}}}
"""


def load(tmp_path: Path, one: str = "1", two: str = "1", *, ids: int = 16, **environ: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(FILE.format(one=one, two=two, ids=ids))
    return load_config(path, environ=environ)


def test_a_number_is_so_many_lanes_and_one_is_the_default(tmp_path: Path) -> None:
    config = load(tmp_path, "3")
    assert [(lane_rule(sink).count, lane_rule(sink).chosen) for sink in config.sinks] == [(3, ()), (1, ())]
    assert [sink["lanes"] for sink in redacted(config)["sinks"]] == [3, 1]
    path = tmp_path / "config.yaml"
    path.write_text("\n".join(line.replace(", lanes: 1", "") for line in path.read_text().splitlines()))
    assert [len(sink.lanes) for sink in load_config(path, environ={}).sinks] == [3, 1]


def test_lists_name_tables_in_order_and_a_star_is_every_table(tmp_path: Path) -> None:
    config = load(tmp_path, '[["shop.orders", "shop.items"], ["shop.log_*"], ["*"]]')
    rule = lane_rule(config.sinks[0])
    names = ("orders", "items", "log_2024", "other")
    assert [rule.named(TableName("shop", name)) for name in names] == [1, 1, 2, 3]
    assert redacted(config)["sinks"][0]["lanes"] == [["shop.orders", "shop.items"], ["shop.log_*"], ["*.*"]]


@pytest.mark.parametrize("written, count", [("2", 2), ('[["a.*"],["*"],["b.c"]]', 3)])
def test_the_environment_sets_them(tmp_path: Path, written: str, count: int) -> None:
    assert len(load(tmp_path, CDC__SINKS__0__LANES=written).sinks[0].lanes) == count


@pytest.mark.parametrize(
    "written, problem",
    [
        ("0", "0 is not in 1..16"),
        ("17", "17 is not in 1..16"),
        ("true", "true is not a number"),
        ("2.5", "neither a number nor a list"),
        ("[]", "0 lanes are not in 1..16"),
        ('[["shop.a"], []]', "a lane is empty"),
        ('[["shop"]]', "not of the form db.table"),
        ("[3]", "is not a list"),
    ],
)
def test_what_is_no_set_of_lanes_is_refused_with_its_line(tmp_path: Path, written: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, written)
    assert "config.yaml:7 sinks[0].lanes" in caught.value.message
    assert problem in caught.value.message


def test_every_lane_has_an_id_of_its_own_and_the_first_ones_keep_theirs(tmp_path: Path) -> None:
    assert lane_server_ids(load(tmp_path)) == {"one": [100], "two": [101]}
    assert lane_server_ids(load(tmp_path, "3", "2")) == {"one": [100, 102, 103], "two": [101, 104]}


def test_a_block_that_does_not_suffice_for_the_lanes_is_refused(tmp_path: Path) -> None:
    load(tmp_path, "3", "2", ids=5)
    with pytest.raises(ConfigError, match=r"sinks\[1\].lanes: the sinks have 5 lanes.*server_id_count is 4"):
        load(tmp_path, "3", "2", ids=4)


@pytest.mark.parametrize("written, count", [("3", 4), ("[[a.b],[c.d]]", 3), ("nonsense", 2), ("'5'", 6)])
def test_a_command_without_sinks_knows_how_many_ids_are_theirs(tmp_path: Path, written: str, count: int) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(FILE.format(one=written, two="1", ids=16))
    assert load_source_config(path, environ={}).stream_count == count


@pytest.mark.parametrize(
    "lanes, ids, sides",
    [
        (("1", "1"), 16, {"one": [102, 104], "two": [103, 105]}),
        (("3", "2"), 16, {"one": [105, 107], "two": [106, 108]}),
        (("1", "1"), 5, {"one": [102], "two": [103]}),
        (("1", "1"), 4, {"one": [102], "two": []}),
        (("1", "1"), 2, {"one": [], "two": []}),
    ],
)
def test_sides_have_the_ids_behind_the_lanes_and_leave_the_last_one(
    tmp_path: Path, lanes: tuple[str, str], ids: int, sides: dict[str, list[int]]
) -> None:
    config = load(tmp_path, *lanes, ids=ids)
    assert side_server_ids(config) == sides
    taken = [
        number for found in (lane_server_ids(config), side_server_ids(config)) for n in found.values() for number in n
    ]
    assert sorted(taken) == list(range(100, 100 + service_ids(config)))
    assert load_source_config(tmp_path / "config.yaml", environ={}).service_ids == service_ids(config)


def test_tables_of_one_target_have_one_place_in_any_case(tmp_path: Path) -> None:
    config = load(tmp_path)
    names = ("Eu_1", "us", "other")
    places = [target_place(config, config.sinks[0], TableName("shop", name)) for name in names]
    assert places[0] == places[1] != places[2]


def test_check_finds_a_block_that_does_not_suffice_for_the_sinks(tmp_path: Path) -> None:
    """Whatever the servers say: none of them is there."""
    path = tmp_path / "config.yaml"
    for ids, expected in (
        (7, []),
        (6, [("warning", "(sink two: 1)")]),
        (2, [("warning", "(sink one: 0, sink two: 0)")]),
        (1, [("error", "the block has 1")]),
    ):
        path.write_text(FILE.format(one=1, two=1, ids=ids).replace("127.0.0.1", "127.0.0.1:1"))
        report = run_checks(load_config(path, environ={}), clock=SystemClock())
        found = [finding for finding in report.findings if finding.check == "source.lanes"]
        assert [finding.severity for finding in found] == [severity for severity, _ in expected]
        assert all(text in finding.problem for finding, (_, text) in zip(found, expected, strict=True))
