"""Instances that start together on a fresh sink, and a database of a hostile name."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter

import pytest

from cdc.demo.servers import Server
from checkpoints.store import InSinkStore, LeaseHeld
from tests.integration.test_store import PIPELINE, Place, take
from tests.support.databases import fresh_database, fresh_pg_database

pytestmark = pytest.mark.integration
INSTANCES = 8


@pytest.mark.parametrize("name", ["pg15", "pg17", "mysql97", "mariadb1011"])
def test_of_instances_that_start_together_one_is_the_holder(request: pytest.FixtureRequest, name: str) -> None:
    server: Server = request.getfixturevalue(name)
    fresh = fresh_pg_database if server.family == "postgresql" else fresh_database
    for _ in range(3):
        with fresh(server) as database, contextlib.ExitStack() as stack:
            place = Place(server, database, stack)
            stores = [InSinkStore(place.sink(), PIPELINE) for _ in range(INSTANCES)]
            barrier = threading.Barrier(INSTANCES)
            outcomes: Counter[str] = Counter()

            def start(
                number: int,
                stores: list[InSinkStore] = stores,
                barrier: threading.Barrier = barrier,
                outcomes: Counter[str] = outcomes,
            ) -> None:
                barrier.wait()
                try:
                    stores[number].create()
                    barrier.wait()
                    take(stores[number], f"host-{number}")
                    outcomes["holder"] += 1
                except LeaseHeld:
                    outcomes["held"] += 1
                except Exception as error:  # noqa: BLE001  # whatever it is, the test shows it
                    outcomes[repr(error)] += 1
                    barrier.abort()

            threads = [threading.Thread(target=start, args=(number,)) for number in range(INSTANCES)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert outcomes == {"holder": 1, "held": INSTANCES - 1}
            assert sorted(store.epoch for store in stores) == [0] * (INSTANCES - 1) + [1]


def test_the_tables_are_found_in_a_database_with_wildcards_in_its_name(mysql97: Server) -> None:
    with fresh_database(mysql97, "a%b") as database, contextlib.ExitStack() as stack:
        place = Place(mysql97, database, stack)
        store = InSinkStore(place.sink(), PIPELINE)
        assert not store.exists()
        store.create()
        assert store.exists()
