"""The sample that CI runs has every test and every case, and each server somewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.support.sample import MANY_CASES, Candidate, sample

MYSQL_FAMILY = ("mysql97", "mariadb1011", "mariadb118")
SINKS = ("pg15", "pg17", *MYSQL_FAMILY)


def cases(
    function: str, servers: Sequence[str], count: int, *, is_full: bool = False, is_on_every_server: bool = False
) -> list[Candidate]:
    return [
        Candidate(
            function,
            {"place": (server, server), "number": (number, number)},
            is_full=is_full,
            is_on_every_server=is_on_every_server,
        )
        for server in servers
        for number in range(count)
    ]


def kept(candidates: Sequence[Candidate], has_server: Callable[[str], bool] = lambda _: True) -> list[tuple[int, str]]:
    is_in_it = sample(candidates, has_server)
    return [
        (one.parameters["number"][0], one.servers()[0])
        for one, is_in in zip(candidates, is_in_it, strict=True)
        if is_in
    ]


def test_a_test_without_servers_is_in_it() -> None:
    numbers = [Candidate("u", {"number": (number, repr(number))}) for number in (1, 2, 2)]
    assert all(sample([Candidate("t", {}), *numbers]))


def test_one_case_stays_on_a_server_of_each_family() -> None:
    servers = {server for _, server in kept(cases("t", SINKS, 1))}
    assert len(servers) == 3
    assert "mysql97" in servers
    assert servers & {"pg15", "pg17"}
    assert servers & {"mariadb1011", "mariadb118"}


def test_versions_take_turns() -> None:
    assert {server for number in range(20) for _, server in kept(cases(f"t{number}", SINKS, 1))} == set(SINKS)


def test_many_cases_each_stay_on_each_kind_of_sink_and_meet_every_server_together() -> None:
    found = kept(cases("t", SINKS, MANY_CASES))
    assert len(found) == 2 * MANY_CASES
    for number in range(MANY_CASES):
        assert len({server for n, server in found if n == number} & {"pg15", "pg17"}) == 1
    assert {server for _, server in found} == set(SINKS)


def test_few_cases_each_stay_on_each_family() -> None:
    found = kept(cases("t", MYSQL_FAMILY, MANY_CASES - 1))
    assert [server for _, server in found].count("mysql97") == MANY_CASES - 1
    assert len(found) == 2 * (MANY_CASES - 1)


def test_each_of_many_cases_stays_on_each_family_of_sources() -> None:
    candidates = [
        Candidate("t", {"source_server": (server, server), "number": (number, number)})
        for server in MYSQL_FAMILY
        for number in range(MANY_CASES)
    ]
    servers = [server for _, server in kept(candidates)]
    assert len(servers) == 2 * MANY_CASES
    assert servers.count("mysql97") == MANY_CASES
    assert set(servers) == set(MYSQL_FAMILY)


def test_a_combination_of_servers_is_one_choice() -> None:
    places = [("mariadb1011", "pg15"), ("mysql97", "mariadb1011"), ("mariadb118", "pg17"), ("mariadb1011", "mysql97")]
    found = sample([Candidate("t", {"place": (place, number)}) for number, place in enumerate(places)])
    assert found.count(True) == 3
    assert found[0] != found[2]
    assert found[1]
    assert found[3]


def test_what_only_looks_like_a_server_is_a_case() -> None:
    values = [("mysql97", 5), "sqlite", (), ["pg15", "no server"]]
    assert all(sample([Candidate("t", {"value": (value, number)}) for number, value in enumerate(values)]))


def test_a_case_of_a_test_that_takes_turns_has_one_source_and_each_kind_of_sink() -> None:
    candidates = [
        Candidate("t", {"number": (n, n), "source": (source, source), "sink": (sink, sink)}, is_in_turn=True)
        for n in range(3)
        for source in MYSQL_FAMILY
        for sink in SINKS
    ]
    found = [one.servers() for one, is_in in zip(candidates, sample(candidates), strict=True) if is_in]
    assert len(found) == 2 * 3
    assert sum(sink in ("pg15", "pg17") for _, sink in found) == 3


def test_what_the_servers_have_no_part_in_is_on_one_of_them() -> None:
    candidates = [
        Candidate("t", {"number": (n, n), "sink": (sink, sink)}, is_on_any_server=True)
        for n in range(5)
        for sink in SINKS
    ]
    found = [one.servers()[0] for one, is_in in zip(candidates, sample(candidates), strict=True) if is_in]
    assert sorted(found) == sorted(SINKS)


def test_the_marked_ones_are_on_every_server_or_left_out() -> None:
    assert all(sample(cases("t", SINKS, 3, is_on_every_server=True)))
    assert not any(sample(cases("t", SINKS, 3, is_full=True)))


def test_a_server_that_cannot_be_had_gives_its_turn_away() -> None:
    found = kept(cases("t", SINKS, MANY_CASES), lambda name: name in ("pg17", "mariadb1011"))
    assert {server for _, server in found} == {"pg17", "mariadb1011"}
    assert len(found) == 2 * MANY_CASES


def test_what_nobody_can_have_is_skipped_by_name_and_not_left_out() -> None:
    assert len(kept(cases("t", SINKS, 1), lambda _: False)) == 3
