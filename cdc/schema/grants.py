"""What a MySQL or MariaDB account may do, read from SHOW GRANTS.

Sources: MySQL manual "SHOW GRANTS Statement", "GRANT Statement" (wildcards in database names); MariaDB knowledge base
"SHOW GRANTS", "Roles Overview".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Grants", "Scope", "account_text", "grant_pattern", "parse_grants", "quoted"]

Scope = Literal["global", "database", "table", "columns"]

_GRANT = re.compile(
    r"^(?P<verb>GRANT|REVOKE) (?P<what>.+?) ON (?:TABLE )?(?P<where>\*\.\*|`(?:[^`]|``)*`\.(?:\*|`(?:[^`]|``)*`)) "
    r"(?:TO|FROM) ",
    re.DOTALL,
)
_ROLES = re.compile(r"^GRANT (?P<roles>[`'\"][^ ].*) TO [`'\"]", re.DOTALL)
_PRIVILEGE = re.compile(
    r"\s*(?P<name>[A-Za-z][A-Za-z_ ]*?)\s*(?:\((?P<columns>(?:`(?:[^`]|``)*`|[^()`])*)\))?\s*(?:,|$)"
)
# One right, two names: MariaDB 10.5 renamed it and still takes the old one.
_SAME = {"BINLOG MONITOR": "REPLICATION CLIENT"}
# A right on rows or objects, as opposed to one on the server.
_ADMINISTRATIVE = frozenset({"USAGE", "PROXY"})


@dataclass(frozen=True, slots=True)
class _Entry:
    privileges: frozenset[str]
    database: str  # a pattern: `_` and `%` are wildcards unless escaped
    table: str | None
    is_revoked: bool


@dataclass(frozen=True, slots=True)
class Grants:
    """Rights by where they hold. Names in capitals; BINLOG MONITOR is called REPLICATION CLIENT here."""

    everywhere: frozenset[str] = frozenset()
    entries: tuple[_Entry, ...] = ()
    column_entries: tuple[_Entry, ...] = ()
    roles: tuple[str, ...] = ()
    has_literal_databases: bool = False

    def scope(self, privilege: str, database: str, table: str | None = None) -> Scope | None:
        """The widest grant that gives `privilege` there; None where none does.

        Without a table: on all of the database, those made later included. Roles count as far as SHOW GRANTS
        shows what they give, which is while they are active.
        """
        if self._is_revoked(privilege, database):
            return self._narrow(privilege, database, table)
        if _gives(self.everywhere, privilege):
            return "global"
        if any(e.table is None and _gives(e.privileges, privilege) for e in self._on(self.entries, database)):
            return "database"
        return self._narrow(privilege, database, table)

    def _narrow(self, privilege: str, database: str, table: str | None) -> Scope | None:
        if table is None:
            return None
        if any(e.table == table and _gives(e.privileges, privilege) for e in self._on(self.entries, database)):
            return "table"
        if any(e.table == table and privilege in e.privileges for e in self._on(self.column_entries, database)):
            return "columns"
        return None

    def _is_revoked(self, privilege: str, database: str) -> bool:
        return any(e.is_revoked and e.database == database and _gives(e.privileges, privilege) for e in self.entries)

    def _on(self, entries: Iterable[_Entry], database: str) -> Iterable[_Entry]:
        for entry in entries:
            if entry.is_revoked:
                continue
            # In a grant on one table the database is a name, in one on a whole database a pattern.
            is_literal = entry.table is not None or self.has_literal_databases
            if entry.database == database if is_literal else _like(entry.database, database):
                yield entry


def _gives(privileges: frozenset[str], privilege: str) -> bool:
    return privilege in privileges or "ALL PRIVILEGES" in privileges


def _like(pattern: str, name: str) -> bool:
    """SQL LIKE, with case."""
    parts = []
    for unit in re.finditer(r"\\(.)|(.)", pattern, re.DOTALL):
        wild = {"_": ".", "%": ".*"}.get(unit[2] or "")
        parts.append(wild or re.escape(unit[1] or unit[2]))
    return re.fullmatch("".join(parts), name, re.DOTALL) is not None


def parse_grants(lines: Iterable[str], *, has_literal_databases: bool = False) -> Grants:
    """Read the lines of SHOW GRANTS (session without ANSI_QUOTES). Grants on routines and proxies are passed over.

    Args:
        has_literal_databases: MySQL's `partial_revokes` is on, so that `_` and `%` are no wildcards.
    """
    everywhere: set[str] = set()
    entries: list[_Entry] = []
    column_entries: list[_Entry] = []
    roles: list[str] = []
    for line in lines:
        match = _GRANT.match(line)
        if match is None:
            granted = _ROLES.match(line)
            if granted and " ON " not in line:
                roles += re.findall(r"[`'\"]([^`'\"]+)[`'\"](?:@[`'\"][^`'\"]*[`'\"])?", granted["roles"])
            continue
        whole, on_columns = _privileges(match["what"])
        if match["where"] == "*.*":
            everywhere |= whole
            continue
        database, table = _place(match["where"])
        is_revoked = match["verb"] == "REVOKE"
        if whole:
            entries.append(_Entry(whole, database, table, is_revoked))
        if on_columns:
            column_entries.append(_Entry(on_columns, database, table, is_revoked))
    return Grants(frozenset(everywhere), tuple(entries), tuple(column_entries), tuple(roles), has_literal_databases)


def _privileges(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Rights on the whole, and rights on some columns."""
    whole: set[str] = set()
    on_columns: set[str] = set()
    for match in _PRIVILEGE.finditer(text):
        name = match["name"].strip().upper()
        name = _SAME.get(name, "ALL PRIVILEGES" if name == "ALL" else name)
        if name not in _ADMINISTRATIVE:
            (whole if match["columns"] is None else on_columns).add(name)
    return frozenset(whole), frozenset(on_columns)


def _place(text: str) -> tuple[str, str | None]:
    names = [name.replace("``", "`") for name in re.findall(r"`((?:[^`]|``)*)`", text)]
    return names[0], names[1] if len(names) > 1 else None


def quoted(name: str) -> str:
    """An identifier of the MySQL family in backticks."""
    return "`" + name.replace("`", "``") + "`"


def grant_pattern(database: str) -> str:
    """A database in backticks as GRANT ... ON x.* takes it by name: `_` and `%` escaped, or they would be wildcards."""
    return quoted(re.sub(r"([_%\\])", r"\\\1", database))


def account_text(current_user: str) -> str:
    """`'user'@'host'` of what CURRENT_USER() says."""
    user, _, host = current_user.rpartition("@")
    return f"{_literal(user)}@{_literal(host)}"


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
