"""Options of tables on real servers: the same from load and stream, equal by `cdc verify`, never half applied."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.deployment import Deployment, deployment

SALT = "a salt of the tests"
CUSTOMERS = """
CREATE TABLE customers (
    id INT PRIMARY KEY, email VARCHAR(60) NULL, phone VARCHAR(20) NOT NULL, born DATE NULL, credit DECIMAL(8,2) NULL,
    kind ENUM('new','old') NOT NULL, note TEXT NULL, secret VARBINARY(20) NULL
)"""
ROWS = (
    "(1, 'ada@example.org', '+44 20 7946 0018', '1815-12-10', 12.50, 'new', 'first', x'00ff'), "
    "(2, 'Zoë@北京', '1234', NULL, NULL, 'old', NULL, NULL), (3, NULL, '', '2000-02-29', 0, 'new', '', '')"
)
COLUMNS = [
    {"column": "email", "hash": True},
    {"column": "phone", "mask": "keep_last", "mask_keep": 4, "rename": "phone_hidden"},
    {"column": "born", "mask": "null"},
    {"column": "credit", "hash": True},
    {"column": "kind", "hash": True},
    {"column": "note", "mask": "text", "mask_text": "hidden"},
]


@pytest.fixture
def shop(tmp_path: Path, source_server: Server, pg15: Server, mariadb1011: Server) -> Iterator[Deployment]:
    """A table of customers, on a PostgreSQL and a MariaDB sink."""
    with deployment(tmp_path, source_server, pg=pg15, maria=mariadb1011) as made:
        _fill(made)
        yield made


@pytest.fixture
def pair(tmp_path: Path, mysql97: Server, pg15: Server, mariadb1011: Server) -> Iterator[Deployment]:
    """The same from MySQL alone."""
    with deployment(tmp_path, mysql97, pg=pg15, maria=mariadb1011) as made:
        _fill(made)
        yield made


def _fill(made: Deployment) -> None:
    _execute(made, CUSTOMERS)
    _execute(made, f"INSERT INTO customers VALUES {ROWS}")
    made.config["tables"]["hash_salt"] = SALT


def _execute(made: Deployment, statement: str) -> None:
    made.source.execute(statement, database=made.source_database)


def _set(made: Deployment, **options: Any) -> None:
    """The options of `customers` from now on."""
    made.config["tables"]["overrides"] = [{"table": f"{made.source_database}.customers", **options}]


def _rows(made: Deployment, sink: str, columns: str = "*", *, table: str = "customers") -> list[tuple[Any, ...]]:
    server, database = made.sinks[sink]
    quoted = f'"{made.source_database}"."{table}"' if server.family == "postgresql" else f"`{database}`.`{table}`"
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM {quoted} ORDER BY 1")
        return [tuple(row) for row in cursor.fetchall()]


def _names(made: Deployment, sink: str, table: str = "customers") -> list[str]:
    server, database = made.sinks[sink]
    namespace = made.source_database if server.family == "postgresql" else database
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s "
            "ORDER BY ordinal_position",
            (namespace, table),
        )
        return [str(row[0]) for row in cursor.fetchall()]


def _verify(made: Deployment) -> dict[str, str]:
    """State of `customers` by sink."""
    result = made.run("verify", "--json")
    return {one["sink"]: one["state"] for one in json.loads(result.stdout) if one["table"].endswith(".customers")}


def _status(made: Deployment, sink: str = "pg") -> dict[str, Any]:
    tables = made.status()["tables"]
    return next(one for one in tables if one["table"].endswith(".customers") and one["sink"] == sink)


EQUAL = {"pg": "equal", "maria": "equal"}


def _hash(text: str | None) -> str | None:
    return None if text is None else hmac.new(SALT.encode(), text.encode(), hashlib.sha256).hexdigest()


def _expected(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """id, email, phone, credit, kind, note of the source as COLUMNS leave them."""
    made = []
    for number, email, phone, credit, kind, note in rows:
        hidden = "*" * len(phone) if len(phone) <= 4 else "*" * (len(phone) - 4) + phone[-4:]
        masked = None if note is None else "hidden"
        made.append((number, _hash(email), hidden, None, _hash(credit), _hash(kind), masked))
    return made


LOADED = [
    (1, "ada@example.org", "+44 20 7946 0018", "12.50", "new", "first"),
    (2, "Zoë@北京", "1234", None, "old", None),
    (3, None, "", "0.00", "new", ""),
]
STREAMED = [
    (1, "ada@example.org", "+44 20 7946 0019", "12.50", "old", "first"),
    (3, "eve@example.org", "99", "-7.10", "new", None),
    (4, "ada@example.org", "12345", "12.50", "new", "x"),
]


def test_a_refused_row_is_kept_without_what_is_masked_and_left_out(pair: Deployment) -> None:
    _set(pair, exclude_columns=["secret"], columns=COLUMNS)
    pair.catch_up()
    for name, (server, database) in pair.sinks.items():
        target = f'"{pair.source_database}".customers' if name == "pg" else "customers"
        server.execute(f"ALTER TABLE {target} ADD CONSTRAINT few CHECK (id < 100)", database=database)
    _execute(pair, "INSERT INTO customers VALUES (100, 'marker-1', 'marker-2', NULL, 1, 'new', 'marker-3', 'marker-4')")
    refused = pair.run("run", "--until-caught-up")
    assert refused.returncode == 1
    tables = [(sink, table) for sink in pair.sinks for table in ("tables", "rejects", "lease")]
    kept = {
        (sink, table): repr(
            pair.sinks[sink][0].execute(
                f'SELECT * FROM "_cdc"."{table}"' if sink == "pg" else f"SELECT * FROM _cdc_{table}",
                database=pair.sinks[sink][1],
            )
        )
        for sink, table in tables
    }
    for sink in pair.sinks:
        assert all("hidden" in kept[sink, table] and "100" in kept[sink, table] for table in ("tables", "rejects"))
        image = _image(pair, sink)
        kept[sink, "image"] = f"{image!r} {image.schema.names} {image.to_pylist()}"
        assert image.schema.names == ["id", "email", "phone_hidden", "born", "credit", "kind", "note"]
        assert image.column("id").to_pylist() == [100]
    for where, text in [*kept.items(), ("the log", refused.stderr), ("the status", json.dumps(pair.status()))]:
        assert "er-1" not in text, where
        # Of the phone number the last four characters are shown.
        assert not any(word in text for word in ("marker", b"marker".hex())), where


def _image(made: Deployment, sink: str) -> pa.Table:
    """The row that was refused last, as the metadata have it."""
    server, database = made.sinks[sink]
    table = '"_cdc".rejects' if sink == "pg" else "_cdc_rejects"
    ((error,),) = server.execute(f"SELECT error FROM {table} ORDER BY id DESC LIMIT 1", database=database)
    return pa.ipc.open_stream(base64.b64decode(json.loads(error)["image"])).read_all()


def test_load_and_stream_mask_alike_and_verify_agrees(shop: Deployment) -> None:
    _set(shop, exclude_columns=["secret"], columns=COLUMNS)
    shop.catch_up()
    for sink in shop.sinks:
        assert _names(shop, sink) == ["id", "email", "phone_hidden", "born", "credit", "kind", "note"]
        assert _rows(shop, sink) == _expected(LOADED), sink
    assert _verify(shop) == EQUAL

    _execute(shop, "UPDATE customers SET phone = '+44 20 7946 0019', kind = 'old', secret = 'x' WHERE id = 1")
    _execute(
        shop, "UPDATE customers SET email = 'eve@example.org', phone = '99', credit = -7.1, note = NULL WHERE id = 3"
    )
    _execute(shop, "INSERT INTO customers VALUES (4, 'ada@example.org', '12345', NULL, 12.5, 'new', 'x', NULL)")
    _execute(shop, "DELETE FROM customers WHERE id = 2")
    shop.catch_up()
    for sink in shop.sinks:
        assert _rows(shop, sink) == _expected(STREAMED), sink
    assert _verify(shop) == EQUAL

    shop.run("snapshot", f"{shop.source_database}.customers")
    for sink in shop.sinks:
        assert _rows(shop, sink) == _expected(STREAMED), f"{sink}: loaded again"


def test_verify_finds_a_masked_value_that_differs(pair: Deployment) -> None:
    _set(pair, columns=COLUMNS)
    pair.catch_up()
    server, database = pair.sinks["maria"]
    server.execute("UPDATE customers SET email = REPEAT('0', 64) WHERE id = 1", database=database)

    result = json.loads(pair.run("verify", "--json").stdout)

    states = {one["sink"]: one for one in result}
    assert states["pg"]["state"] == "equal"
    assert states["maria"]["state"] == "different"
    assert states["maria"]["differences"] == [{"key": {"id": "1"}, "kind": "different", "columns": ["email"]}]


def test_a_renamed_key_is_followed(pair: Deployment) -> None:
    _set(pair, batch_size=1, columns=[{"column": "id", "rename": "customer"}, {"column": "kind", "rename": "id"}])
    pair.catch_up()
    _execute(pair, "UPDATE customers SET id = 7 WHERE id = 1")
    _execute(pair, "DELETE FROM customers WHERE id = 2")
    pair.catch_up()
    for sink in pair.sinks:
        assert _rows(pair, sink, "customer, id") == [(3, "new"), (7, "new")]
    assert _verify(pair) == EQUAL


def test_included_columns_stay_the_only_ones_when_the_source_gets_more(pair: Deployment) -> None:
    _set(pair, include_columns=["id", "kind"])
    pair.catch_up()
    _execute(pair, "ALTER TABLE customers ADD COLUMN extra INT NULL DEFAULT 7")
    _execute(pair, "INSERT INTO customers (id, phone, kind) VALUES (9, '', 'old')")
    pair.catch_up()
    for sink in pair.sinks:
        assert _names(pair, sink) == ["id", "kind"]
        assert _rows(pair, sink) == [(1, "new"), (2, "old"), (3, "new"), (9, "old")]
    assert _verify(pair) == EQUAL


def test_a_change_of_options_loads_the_table_again(pair: Deployment) -> None:
    pair.catch_up()
    assert _status(pair)["options"] == {}
    assert "secret" in _names(pair, "pg")

    _set(
        pair, exclude_columns=["secret"], columns=[{"column": "email", "hash": True}, {"column": "note", "rename": "n"}]
    )
    assert _verify(pair) == {"pg": "pending", "maria": "pending"}
    _execute(pair, "UPDATE customers SET note = 'changed meanwhile' WHERE id = 1")
    pair.catch_up()
    for sink in pair.sinks:
        assert _names(pair, sink) == ["id", "email", "phone", "born", "credit", "kind", "n"]
        assert _rows(pair, sink, "id, email, n")[0] == (1, _hash("ada@example.org"), "changed meanwhile")
    assert _verify(pair) == EQUAL
    options = _status(pair)["options"]
    assert options["exclude"] == ["secret"]
    assert options["rename"] == {"note": "n"}
    assert options["mask"]["email"].startswith("hash ")
    assert SALT not in json.dumps(pair.status())

    _set(pair, columns=[{"column": "note", "rename": "m"}])
    pair.catch_up()
    for sink in pair.sinks:
        assert _names(pair, sink) == ["id", "email", "phone", "born", "credit", "kind", "m", "secret"]
    assert _verify(pair) == EQUAL

    _set(pair, exclude_columns=["note"])
    pair.catch_up()
    for sink in pair.sinks:
        assert _names(pair, sink) == ["id", "email", "phone", "born", "credit", "kind", "secret"], "m is gone too"


def test_another_salt_loads_the_table_again_and_the_same_one_does_not(pair: Deployment) -> None:
    _set(pair, columns=[{"column": "email", "hash": True}])
    pair.catch_up()
    again = pair.run("run", "--until-caught-up")
    assert "table_loaded" not in again.stderr
    pair.config["tables"]["hash_salt"] = f"{SALT}, another"
    changed = pair.run("run", "--until-caught-up")
    assert changed.returncode == 0
    assert "table_options_changed" in changed.stderr
    assert SALT not in changed.stderr
    for sink in pair.sinks:
        assert _rows(pair, sink, "id, email")[0][1] != _hash("ada@example.org")
    assert _verify(pair) == EQUAL


@pytest.mark.parametrize("point", ["load_begun", "load_chunk"])
def test_a_crash_while_changed_options_are_loaded_leaves_nothing_half_applied(pair: Deployment, point: str) -> None:
    pair.catch_up()
    _set(pair, exclude_columns=["secret"], columns=[{"column": "email", "hash": True}])
    crashed = pair.run("run", "--until-caught-up", crash_at=point)
    assert crashed.returncode != 0, "the crash point was not reached"
    pair.catch_up()
    for sink in pair.sinks:
        assert _rows(pair, sink, "id, email")[0] == (1, _hash("ada@example.org"))
        assert "secret" not in _names(pair, sink)
    assert _verify(pair) == EQUAL


# Options that cannot be kept to, each on a table of its own (id INT PRIMARY KEY, email VARCHAR(9), kind ENUM('a')).
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "key_out": ({"exclude_columns": ["id"]}, "column id is part of the key (id) and cannot be left out"),
    "key_hashed": (
        {"columns": [{"column": "id", "hash": True}]},
        "column id is part of the key (id) and cannot be masked or hashed",
    ),
    "no_column": ({"columns": [{"column": "emial", "hash": True}]}, "has no column emial"),
    "no_excluded": ({"exclude_columns": ["Email"]}, "has no column Email"),
    "two_names": (
        {"columns": [{"column": "email", "rename": "kind"}]},
        "column kind has the same name on the sink as kind",
    ),
    "no_filtered": ({"row_filter": "knid = 'a'"}, "has no column knid, which its row_filter in tables.overrides names"),
    "no_member": ({"row_filter": "kind = 'gone'"}, "it has no member 'gone'"),
}


def test_what_cannot_be_kept_to_is_said_at_start_and_by_check(pair: Deployment) -> None:
    database = pair.source_database
    for name in WRONG:
        _execute(pair, f"CREATE TABLE {name} (id INT PRIMARY KEY, email VARCHAR(9), kind ENUM('a'))")
    pair.config["tables"]["overrides"] = [
        {"table": f"{database}.{name}", **options} for name, (options, _) in WRONG.items()
    ]

    check = pair.run("check")
    result = pair.run("run", "--until-caught-up")

    assert (check.returncode, result.returncode) == (1, 1)
    tables = {one["table"].rpartition(".")[2]: one for one in pair.status()["tables"] if one["sink"] == "pg"}
    assert tables.pop("customers")["state"] == "ready"
    assert {table["state"] for table in tables.values()} == {"parked"}
    for name, (_, said) in WRONG.items():
        assert said in " ".join(check.stdout.split()), name
        assert said in result.stderr, name
        assert said in tables[name]["error"]["message"], name


def test_a_masked_column_that_goes_by_ddl_parks_the_table(pair: Deployment) -> None:
    _set(pair, columns=[{"column": "email", "hash": True}])
    pair.catch_up()
    pair.start()
    pair.wait_for_log("service_started")
    _execute(pair, "ALTER TABLE customers CHANGE email mail VARCHAR(60) NULL")
    wait_until(lambda: _status(pair)["state"] == "parked", 30, "customers to be parked")
    assert pair.stop() == 0
    assert _status(pair)["error"]["message"].endswith("has no column email, which its entry in tables.overrides names")
    assert "mail" not in _names(pair, "pg")


# ---------------------------------------------------------------- rows

KEPT = "kind = 'new' AND (credit > 0 OR credit IS NULL)"


def test_rows_enter_and_leave_the_filter(shop: Deployment) -> None:
    _set(shop, row_filter=KEPT, exclude_columns=["credit"])
    shop.catch_up()
    for sink in shop.sinks:
        assert _rows(shop, sink, "id") == [(1,)]
    assert _verify(shop) == EQUAL

    _execute(shop, "UPDATE customers SET kind = 'new', note = 'enters' WHERE id = 2")
    _execute(shop, "UPDATE customers SET credit = -1 WHERE id = 1")
    _execute(shop, "UPDATE customers SET note = 'stays out' WHERE id = 3")
    _execute(shop, "INSERT INTO customers (id, phone, kind, credit) VALUES (4, '4', 'new', 1), (5, '5', 'old', 1)")
    _execute(shop, "INSERT INTO customers (id, phone, kind) VALUES (6, '6', 'new'), (7, '7', 'new')")
    shop.catch_up()
    for sink in shop.sinks:
        assert _rows(shop, sink, "id, note") == [(2, "enters"), (4, None), (6, None), (7, None)]

    _execute(shop, "UPDATE customers SET id = 14 WHERE id = 4")
    _execute(shop, "UPDATE customers SET id = 15, kind = 'new' WHERE id = 5")
    _execute(shop, "UPDATE customers SET id = 16, kind = 'old' WHERE id = 6")
    _execute(shop, "DELETE FROM customers WHERE id IN (3, 7)")
    shop.catch_up()
    for sink in shop.sinks:
        assert _rows(shop, sink, "id") == [(2,), (14,), (15,)]
    assert _verify(shop) == EQUAL
    assert _status(shop)["policy_changes"]["*"]["row_filter"] >= 2
    assert _status(shop)["options"]["row_filter"] == KEPT


def test_verify_finds_a_row_that_the_filter_does_not_keep(pair: Deployment) -> None:
    _set(pair, row_filter="id <> 2")
    pair.catch_up()
    server, database = pair.sinks["maria"]
    server.execute("INSERT INTO customers (id, phone, kind) VALUES (2, '', 'old')", database=database)
    results = {one["sink"]: one for one in json.loads(pair.run("verify", "--json").stdout)}
    assert (results["pg"]["state"], results["pg"]["source_rows"]) == ("equal", 2)
    assert results["maria"]["differences"] == [{"key": {"id": "2"}, "kind": "extra", "columns": []}]


def test_another_filter_replaces_the_rows(pair: Deployment) -> None:
    _set(pair, row_filter="id < 3")
    pair.catch_up()
    _set(pair, row_filter="id > 1")
    _execute(pair, "INSERT INTO customers (id, phone, kind) VALUES (9, '', 'old')")
    pair.catch_up()
    for sink in pair.sinks:
        assert _rows(pair, sink, "id") == [(2,), (3,), (9,)]
    assert _verify(pair) == EQUAL


def test_a_table_of_which_no_row_is_kept_is_followed(pair: Deployment) -> None:
    _set(pair, row_filter="id > 100", batch_size=1)
    pair.catch_up()
    assert _verify(pair) == EQUAL
    _execute(pair, "UPDATE customers SET id = 101 WHERE id = 1")
    pair.catch_up()
    for sink in pair.sinks:
        assert _rows(pair, sink, "id") == [(101,)]


def test_an_image_without_the_filters_column_parks_the_table(pair: Deployment) -> None:
    _set(pair, row_filter="kind = 'new'")
    pair.catch_up()
    with contextlib.closing(pair.source.connect(pair.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION binlog_row_image = MINIMAL")
        cursor.execute("UPDATE customers SET note = 'without its kind' WHERE id = 1")
        connection.commit()
    result = pair.run("run", "--until-caught-up")
    assert result.returncode == 1
    # Whether the table's images may lack columns at all is another mechanism's word: either way nothing is guessed.
    assert "binlog_row_image=FULL" in result.stderr
    assert _status(pair)["state"] == "parked"


def test_images_that_lack_columns_are_masked_and_lose_what_is_left_out(pair: Deployment) -> None:
    _set(pair, exclude_columns=["secret"], columns=COLUMNS)
    pair.catch_up()
    with contextlib.closing(pair.source.connect(pair.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION binlog_row_image = MINIMAL")
        cursor.execute("UPDATE customers SET email = 'new@example.org', secret = 'x' WHERE id = 1")
        cursor.execute("UPDATE customers SET secret = 'alone' WHERE id = 2")
        cursor.execute("UPDATE customers SET phone = '123456', note = 'x' WHERE id = 3")
        cursor.execute("UPDATE customers SET id = 20, kind = 'new' WHERE id = 2")
        connection.commit()
    pair.catch_up()
    expected = _expected(
        [
            (1, "new@example.org", "+44 20 7946 0018", "12.50", "new", "first"),
            (3, None, "123456", "0.00", "new", "x"),
            (20, "Zoë@北京", "1234", None, "new", None),
        ]
    )
    for sink in pair.sinks:
        assert _rows(pair, sink) == expected, sink
    assert _verify(pair) == EQUAL


# ---------------------------------------------------------------- metadata columns

METADATA = {
    "load_id": "_dlt_load_id",
    "row_id": "_dlt_id",
    "commit_time": "committed_at",
    "operation": "did",
    "position": "position",
}


def _stamps(made: Deployment, sink: str) -> dict[int, tuple[Any, ...]]:
    """load id, row id, commit time (seconds), operation and position by id."""
    server, _ = made.sinks[sink]
    time = "extract(epoch FROM committed_at)" if server.family == "postgresql" else "UNIX_TIMESTAMP(committed_at)"
    rows = _rows(made, sink, f"id, _dlt_load_id, _dlt_id, {time}, did, position")
    return {row[0]: tuple(row[1:]) for row in rows}


def test_metadata_columns_tell_where_a_row_came_from(shop: Deployment) -> None:
    shop.config["tables"]["metadata_columns"] = METADATA
    shop.catch_up()
    loaded = {sink: _stamps(shop, sink) for sink in shop.sinks}
    for stamps in loaded.values():
        assert {stamp[2:] for stamp in stamps.values()} == {(None, "load", None)}
        assert len({stamp[0] for stamp in stamps.values()}) == 1, "one load, one id"
        assert len({stamp[1] for stamp in stamps.values()}) == 3
    assert _verify(shop) == EQUAL

    _execute(shop, "INSERT INTO customers (id, phone, kind) VALUES (4, '', 'new')")
    _execute(shop, "UPDATE customers SET note = 'x' WHERE id = 4")
    _execute(shop, "UPDATE customers SET note = 'y' WHERE id = 2")
    now = float(shop.source.execute("SELECT UNIX_TIMESTAMP(NOW(6))")[0][0])
    shop.catch_up()
    is_mysql = shop.source.family == "mysql"
    for sink in shop.sinks:
        stamps = _stamps(shop, sink)
        assert stamps[1] == loaded[sink][1]
        assert stamps[2][1] == loaded[sink][2][1], "the row is the same"
        assert stamps[2][0] > loaded[sink][2][0]
        for number in (2, 4):
            assert abs(float(stamps[number][2]) - now) < 30
            assert stamps[number][3] == "update"
            assert stamps[number][4].count(":" if is_mysql else "-") >= 1
        assert stamps[2][4] != stamps[4][4]
    assert _stamps(shop, "pg")[4][1:] == (*_stamps(shop, "maria")[4][1:2], *_stamps(shop, "pg")[4][2:])
    assert _stamps(shop, "pg")[2][4] == _stamps(shop, "maria")[2][4]
    assert _verify(shop) == EQUAL
    assert _status(shop)["options"]["metadata"] == METADATA

    del shop.config["tables"]["metadata_columns"]
    shop.catch_up()
    for sink in shop.sinks:
        assert _names(shop, sink) == ["id", "email", "phone", "born", "credit", "kind", "note", "secret"]
    assert _verify(shop) == EQUAL


def test_a_transaction_larger_than_a_batch_has_one_position_and_one_load_id(pair: Deployment) -> None:
    pair.config["flush"] = {"rows_max": 100, "bytes_max": "64KiB", "age_ms_max": 50}
    pair.config["tables"]["metadata_columns"] = METADATA
    pair.catch_up()
    values = ", ".join(f"({n}, 'phone {n}', 'new')" for n in range(1000, 3000))
    _execute(pair, f"INSERT INTO customers (id, phone, kind) VALUES {values}")
    pair.catch_up()
    for sink in pair.sinks:
        stamps = [stamp for number, stamp in _stamps(pair, sink).items() if number >= 1000]
        assert len(stamps) == 2000
        assert len({(load_id, time, did, position) for load_id, _, time, did, position in stamps}) == 1
        assert len({row_id for _, row_id, *_ in stamps}) == 2000
    assert _verify(pair) == EQUAL


def test_a_metadata_column_that_meets_one_of_the_source_is_said(pair: Deployment) -> None:
    pair.config["tables"]["metadata_columns"] = {"load_id": "note"}
    check = pair.run("check")
    assert check.returncode == 1
    assert "column note has the same name on the sink as note" in " ".join(check.stdout.split())
    assert pair.run("run", "--until-caught-up").returncode == 1
    assert _status(pair)["state"] == "parked"


@pytest.mark.parametrize("options", [{"row_filter": "id > 1"}, {}], ids=["filter", "metadata"])
def test_check_says_where_row_images_will_not_do(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server, options: dict[str, Any]
) -> None:
    source = start_server("mysql97", options={"binlog_row_image": "MINIMAL"})
    with deployment(tmp_path, source, pg=pg15) as made:
        _fill(made)
        assert "sink.whole_images" not in made.run("check").stdout
        if options:
            _set(made, **options)
        else:
            made.config["tables"]["metadata_columns"] = {"operation": "did"}
        check = made.run("check")
        assert check.returncode == 1
        assert "sink.whole_images" in check.stdout
        assert f"{made.source_database}.customers need whole row images" in " ".join(check.stdout.split())


# ---------------------------------------------------------------- places


def _table_rows(made: Deployment, sink: str, namespace: str, table: str) -> list[tuple[Any, ...]]:
    server, database = made.sinks[sink]
    quote = '"' if server.family == "postgresql" else "`"
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT id FROM {quote}{namespace}{quote}.{quote}{table}{quote} ORDER BY 1")
        return [tuple(row) for row in cursor.fetchall()]


@pytest.fixture
def elsewhere(pair: Deployment) -> Iterator[str]:
    """The name of a schema and of a database that is not there yet."""
    name = f"{pair.source_database}_moved"
    yield name
    pair.kill()
    pair.sinks["maria"][0].execute(f"DROP DATABASE IF EXISTS `{name}`")


def test_a_table_goes_where_its_route_sends_it(pair: Deployment, elsewhere: str) -> None:
    _execute(pair, "CREATE TABLE other (id INT PRIMARY KEY)")
    _execute(pair, "INSERT INTO other VALUES (5)")
    pair.config["tables"]["routes"] = [
        {"tables": "*.customers", "target_schema": elsewhere, "target_table": "people"},
        {"tables": "*.oth*", "target_table": "the others"},
    ]
    assert pair.run("check").returncode == 0
    pair.catch_up()
    _execute(pair, "DELETE FROM customers WHERE id = 2")
    _execute(pair, "INSERT INTO other VALUES (6)")
    pair.catch_up()
    own = {"pg": pair.source_database, "maria": pair.sinks["maria"][1]}
    for sink in pair.sinks:
        assert _table_rows(pair, sink, elsewhere, "people") == [(1,), (3,)]
        assert _table_rows(pair, sink, own[sink], "the others") == [(5,), (6,)]
        assert _status(pair, sink)["target"] == f"{elsewhere}.people"
    assert _verify(pair) == EQUAL


def test_a_table_that_is_routed_elsewhere_later_is_loaded_there(pair: Deployment, elsewhere: str) -> None:
    pair.catch_up()
    pair.config["tables"]["routes"] = [{"tables": "*.customers", "target_schema": elsewhere}]
    _execute(pair, "DELETE FROM customers WHERE id = 2")
    result = pair.run("run", "--until-caught-up")
    assert result.returncode == 0, result.stderr
    assert "table_routed_elsewhere" in result.stderr
    for sink in pair.sinks:
        assert _table_rows(pair, sink, elsewhere, "customers") == [(1,), (3,)]
        assert _rows(pair, sink, "id") == [(1,), (2,), (3,)], "the old target is not ours to touch any more"
    assert _verify(pair) == EQUAL


def test_two_tables_routed_to_one_place_do_not_mix(pair: Deployment) -> None:
    _execute(pair, "CREATE TABLE other (id INT PRIMARY KEY)")
    pair.config["tables"]["routes"] = [{"tables": "*.*", "target_table": "one"}]
    check = pair.run("check")
    assert check.returncode == 2
    assert "tables.routes sends them there" in " ".join(check.stdout.split())
    result = pair.run("run", "--until-caught-up")
    assert result.returncode == 1
    assert "goes to the same target as" in result.stderr
    states = {one["table"].rpartition(".")[2]: one["state"] for one in pair.status()["tables"] if one["sink"] == "pg"}
    assert states == {"customers": "ready", "other": "parked"}
