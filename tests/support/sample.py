"""Which tests are in the sample that CI runs: each test and each of its cases, but not each on every server.

The rule is the same for every test, so that nobody has to think of it when writing one:

- What differs by the servers alone (`source_server`, `place`, a parameter that is the name of one or of some) is one
  case. A case stays on one server of each family (MySQL, MariaDB, PostgreSQL); versions of a family take turns.
- A test of many cases (`MANY_CASES`) leaves it to the cases to meet every sink: each stays on one PostgreSQL and on one
  of the MySQL family, MySQL and the MariaDBs in turn. A source (by the parameter's name) is of each family always:
  MySQL's log is not MariaDB's.
- `@pytest.mark.in_turn`, for what takes long, says that of a test of few cases too, and of sources: each case has one.
- `@pytest.mark.any_server`, for what the servers have no part in: each case has one server or combination, in turn.
- `@pytest.mark.every_server` keeps a test on all of them; `@pytest.mark.full`, on a test or a parameter, leaves it to
  `make test-all`.

Turns go by the order of the cases, not by chance or by day: the sample of a commit is always the same.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdc.demo.servers import catalogue

__all__ = ["MANY_CASES", "Candidate", "sample"]

MANY_CASES = 8
_FAMILIES = {name: kind.family for name, kind in catalogue().items()}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A test with its parameters.

    Attributes:
        function: names the test without its parameters.
        parameters: by name, as `(value, what tells the value from others)`.
    """

    function: str
    parameters: Mapping[str, tuple[Any, Hashable]]
    is_full: bool = False
    is_on_every_server: bool = False
    is_in_turn: bool = False
    is_on_any_server: bool = False

    def servers(self) -> tuple[str, ...]:
        """The servers that parameters choose, in the order of the parameters."""
        return tuple(name for value, _ in self.parameters.values() for name in _server_names(value))

    def group(self, *, has_many_cases: bool) -> tuple[str, ...]:
        """What its servers are: of the candidates of one case and one group, one is in the sample."""
        if self.is_on_any_server:
            return ()
        return tuple(
            _kind(server) if self.is_in_turn or (has_many_cases and "source" not in name) else _FAMILIES[server]
            for name, (value, _) in self.parameters.items()
            for server in _server_names(value)
        )

    def case(self) -> Hashable:
        """All parameters that choose no server."""
        return tuple((name, known) for name, (value, known) in self.parameters.items() if not _server_names(value))


def sample(candidates: Sequence[Candidate], has_server: Callable[[str], bool] = lambda _: True) -> list[bool]:
    """For each candidate: is it in the sample?

    Args:
        has_server: whether this run can have a server of that name; one that it has goes before one that it lacks.
    """
    by_function: dict[str, dict[Hashable, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, candidate in enumerate(candidates):
        if not candidate.is_full:
            by_function[candidate.function][candidate.case()].append(index)
    chosen: set[int] = set()
    for function, cases in by_function.items():
        turn = zlib.crc32(function.encode())  # tests of one case do not all begin with the same server
        for number, places in enumerate(cases.values()):
            if candidates[places[0]].is_on_every_server or not candidates[places[0]].servers():
                chosen.update(places)
                continue
            alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
            for place in places:
                alike[candidates[place].group(has_many_cases=len(cases) >= MANY_CASES)].append(place)
            for some in alike.values():
                here = [place for place in some if all(map(has_server, candidates[place].servers()))] or some
                chosen.add(here[(turn + number) % len(here)])
    return [index in chosen for index in range(len(candidates))]


def _kind(server: str) -> str:
    return "postgresql" if _FAMILIES[server] == "postgresql" else "mysql"


def _server_names(value: Any) -> tuple[str, ...]:
    """The servers that a parameter's value is or consists of; none where it is anything else."""
    values = value if isinstance(value, tuple | list) and value else (value,)
    is_server = all(isinstance(one, str) and one in _FAMILIES for one in values)
    return tuple(values) if is_server else ()
