"""What tests share: waiting without sleeping blindly, databases of their own, and the run's servers."""

from tests.support.databases import fresh_database, fresh_pg_database
from tests.support.waiting import wait_until

__all__ = ["fresh_database", "fresh_pg_database", "wait_until"]
