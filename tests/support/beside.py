"""Somebody else on a sink: rows that they hold, who waits for them, and the sessions that they end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.support.deployment import Deployment
from tests.support.waiting import wait_until

__all__ = ["Beside", "Holder"]

_IS_BLOCKED_BY = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))",
    "mysql": "SELECT w.PROCESSLIST_ID FROM performance_schema.data_lock_waits l "
    "JOIN performance_schema.threads w ON w.THREAD_ID = l.REQUESTING_THREAD_ID "
    "JOIN performance_schema.threads h ON h.THREAD_ID = l.BLOCKING_THREAD_ID WHERE h.PROCESSLIST_ID = %s",
    "mariadb": "SELECT w.trx_mysql_thread_id FROM information_schema.INNODB_LOCK_WAITS l "
    "JOIN information_schema.INNODB_TRX w ON w.trx_id = l.requesting_trx_id "
    "JOIN information_schema.INNODB_TRX h ON h.trx_id = l.blocking_trx_id WHERE h.trx_mysql_thread_id = %s",
}

# The servers make the contents of INNODB_TRX and INNODB_LOCK_WAITS anew only when nobody has read them for 0.1 s.
_TRX_POLL_SECONDS = 0.25


class Holder:
    """A session with an open transaction. `session` is its number on the server."""

    def __init__(self, connection: Any, session: int) -> None:
        self.connection = connection
        self.session = session

    def execute(self, statement: str) -> None:
        """Run a statement in the open transaction."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement)

    def release(self) -> None:
        """Roll back: whoever waits goes on."""
        self.execute("ROLLBACK")


class Beside:
    """One sink of a deployment, seen by others who use it too."""

    def __init__(self, made: Deployment, sink: str = "sink") -> None:
        self.server, self.database = made.sinks[sink]
        self.is_postgresql = self.server.family == "postgresql"
        self._namespace = made.source_database if self.is_postgresql else self.database

    def table(self, name: str) -> str:
        """The target's qualified name."""
        return f'"{self._namespace}"."{name}"' if self.is_postgresql else f"`{self._namespace}`.`{name}`"

    def execute(self, statement: str) -> list[Any]:
        """Run one statement on a session of its own."""
        return self.server.execute(statement, database=self.database)

    def count(self, name: str) -> int:
        """How many rows everybody sees."""
        return int(self.execute(f"SELECT count(*) FROM {self.table(name)}")[0][0])

    @contextlib.contextmanager
    def session(self) -> Iterator[Holder]:
        """A session in an open transaction, ended with the block."""
        with contextlib.closing(self.server.connect(self.database)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()" if self.is_postgresql else "SELECT CONNECTION_ID()")
            session = int(cursor.fetchone()[0])
            if not self.is_postgresql:  # where GTIDs are enforced, what is logged may not mix engines
                cursor.execute("SET sql_log_bin = 0")
            cursor.execute("BEGIN")
            yield Holder(connection, session)

    @contextlib.contextmanager
    def holding(self, name: str, key: int) -> Iterator[Holder]:
        """A session that has changed the row `id = key` and not committed."""
        with self.session() as holder:
            # A change, not FOR UPDATE: MariaDB lists no blocking transaction that has changed nothing.
            holder.execute(f"UPDATE {self.table(name)} SET v = 'held' WHERE id = {key}")
            yield holder

    def waiter(self, holder: Holder, timeout: float = 60) -> int:
        """The session that waits for what `holder` has; waits until there is one."""
        statement = _IS_BLOCKED_BY[self.server.family] % holder.session
        found = wait_until(
            lambda: self.execute(statement),
            timeout,
            "a session that waits for the held row",
            poll_seconds=_TRX_POLL_SECONDS,
        )
        return int(found[0][0])

    def changed_bytes(self, name: str, session: int) -> int:
        """What `session` has put into the target and not committed: rows on the MySQL family, else the file's bytes."""
        if self.is_postgresql:
            return int(self.execute(f"SELECT pg_relation_size('{self.table(name)}')")[0][0])
        statement = "SELECT trx_rows_modified FROM information_schema.INNODB_TRX WHERE trx_mysql_thread_id = %s"
        return int(self.execute(statement % session)[0][0])

    def end(self, session: int) -> None:
        """Kill it."""
        self.execute(f"SELECT pg_terminate_backend({session})" if self.is_postgresql else f"KILL {session}")

    def wait_until_gone(self, session: int) -> None:
        """Until what `session` had not committed is rolled back."""
        if self.is_postgresql:
            statement = f"SELECT 1 FROM pg_stat_activity WHERE pid = {session}"
        else:
            statement = f"SELECT 1 FROM information_schema.INNODB_TRX WHERE trx_mysql_thread_id = {session}"
        wait_until(
            lambda: not self.execute(statement), 60, f"the end of session {session}", poll_seconds=_TRX_POLL_SECONDS
        )
