"""The servers of one test run: each started at most once, when first asked for, and all reported at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from cdc.demo.servers import Options, Server, ServerUnavailable, catalogue

SOURCES = ("mysql97", "mariadb1011", "mariadb118")
POSTGRESQL = ("pg15", "pg17")
# The series of each source: for the choice of a test's cases, before any server is started.
SERIES = {"mysql97": ("mysql", (9, 7)), "mariadb1011": ("mariadb", (10, 11)), "mariadb118": ("mariadb", (11, 8))}
# Which kind a server given by URL stands for; the other versions of its family are left out of that run.
STAND_INS = {"mysql": ("mysql97",), "mariadb": ("mariadb1011", "mariadb118"), "postgresql": POSTGRESQL}


class NothingToTestOn(Exception):
    """Not one server of a group that the suite cannot do without."""


@dataclass(slots=True)
class ServerPool:
    """Attributes:
    urls: family to the URL of the user's own server, which stands in for ours.
    servers: what has been started or reached.
    missing: kind to the reason why it was asked for in vain.
    """

    urls: Mapping[str, str] = field(default_factory=dict)
    servers: dict[str, Server] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> Server:
        """The run's server of that kind, running.

        Raises:
            ServerUnavailable: this run cannot have it; the test is to be skipped.
            NothingToTestOn: nor any other of its group; the test is to fail.
        """
        if name not in self.servers:
            if name in self.missing:
                self._give_up(name, self.missing[name])
            try:
                self.servers[name] = self._make(name)
            except ServerUnavailable as error:
                self._give_up(name, str(error))
        server = self.servers[name]
        if not server.is_running:  # a test that stopped it failed before it could start it again
            server.restart()
        return server

    def can_have(self, name: str) -> bool:
        """Whether `get` would find it here, without starting it."""
        kind = catalogue()[name]
        if kind.family in self.urls:
            return name == STAND_INS[kind.family][0]
        try:
            kind.home()
        except ServerUnavailable:
            return False
        return True

    def start(self, name: str, *, options: Options | None = None) -> Server:
        """A further private server of that kind, for the caller to close; raises as `get` does."""
        try:
            return Server.start(catalogue()[name], options=options)
        except ServerUnavailable as error:
            self._give_up(name, str(error))

    def _make(self, name: str) -> Server:
        kind = catalogue()[name]
        url = self.urls.get(kind.family)
        if url is None:
            return Server.start(kind)
        first = STAND_INS[kind.family][0]
        if name != first:
            raise ServerUnavailable(
                f"{kind.label} left out: the server given by URL is used in place of all {kind.family}"
            )
        return Server.external(kind, url)

    def _give_up(self, name: str, reason: str) -> NoReturn:
        self.missing[name] = reason
        self._demand_another_than(name)
        raise ServerUnavailable(reason)

    def _demand_another_than(self, name: str) -> None:
        group = SOURCES if name in SOURCES else POSTGRESQL
        reasons = []
        for other in group:
            kind = catalogue()[other]
            if other in self.servers or (kind.family in self.urls and other == STAND_INS[kind.family][0]):
                return
            try:
                kind.home()
            except ServerUnavailable as error:
                reasons.append(self.missing.get(other, str(error)))
            else:
                return
        raise NothingToTestOn("; ".join(reasons))

    def close(self) -> None:
        for server in self.servers.values():
            server.close()

    def report(self) -> list[str]:
        """One line per server used, then one per server that could not be had."""
        lines = []
        for name in catalogue():
            if name in self.servers:
                server = self.servers[name]
                whose = f"started in {server.start_seconds:.1f} s" if server.private else f"yours: {server.safe_url}"
                lines.append(f"{name:12} {server.version.split(' ')[0]:32} {whose}")
        lines += [f"{name:12} NOT TESTED: {reason}" for name, reason in sorted(self.missing.items())]
        return lines
