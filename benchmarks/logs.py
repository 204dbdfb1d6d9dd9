"""The logs that figures are taken on, each made once on a private server and kept for further runs.

A *site* is a private server of one kind with one setting of `binlog_row_metadata`; its data directory stays under
var/benchmarks/ of the checkout. A *log* is a stretch of whole binlog files of a site, and what they hold according to
the server's own SELECT, taken while the log was made. Durability is relaxed: what is measured is reading.

    python -m benchmarks.logs make [--server ...] [--log ...] [--scale 1 10] [--metadata full minimal]
    python -m benchmarks.logs list
    python -m benchmarks.logs drop [--server ...]

Canonical text of an image, which is hashed: one letter for what it is (I insert, B before and A after an update,
D delete), then the columns as the server's SELECT prints them (BIT as a number, NULL as `~`), joined by `|`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.summary import HASH_HEX_DIGITS, Summary
from cdc.demo.servers import Server, ServerUnavailable

__all__ = ["LOGS", "SERVERS", "Log", "Metadata", "Site", "read_list", "site_directory"]

Metadata = Literal["full", "minimal"]

SERVERS = ("mysql97", "mariadb1011")
PLACE = Path(__file__).resolve().parent.parent / "var" / "benchmarks"
LOGS_VERSION = 1  # raise it when a log is made otherwise: kept ones are made anew

_CHUNK_ROWS = 100_000
_BLOCK_ROWS = 1_000_000
_TX_FIRST = 2_000_001
_TX_CONNECTIONS = 4
_TX_STATEMENTS = 250  # a round trip
_HOT_ROWS = 10_000
_HOT_ROWS_PER_TRANSACTION = 100


# ---------------------------------------------------------------- tables


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type, what a SELECT prints of it, and whether its bytes are counted."""

    name: str
    sql_type: str
    text: str = "{}"
    is_counted_text: bool = False

    @property
    def canonical(self) -> str:
        """The SQL expression of its part of the canonical text."""
        return f"COALESCE({self.text.format(self.name)}, '~')"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a log and the values of its row number `seq`."""

    name: str
    columns: tuple[Column, ...]
    values: tuple[str, ...]
    has_amount: bool = True

    @property
    def create(self) -> str:
        """The statement that makes it."""
        columns = ", ".join(f"{column.name} {column.sql_type}" for column in self.columns)
        return f"CREATE TABLE {self.name} ({columns}) DEFAULT CHARSET=utf8mb4"

    @property
    def row(self) -> str:
        """The SELECT list of row number `seq`."""
        return ", ".join(self.values)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Those whose bytes are counted."""
        return tuple(column.name for column in self.columns if column.is_counted_text)


_BASE = "'2024-01-01 00:00:00'"

ORDERS = Table(
    "orders",
    (
        Column("id", "BIGINT PRIMARY KEY"),
        Column("customer_id", "INT NOT NULL"),
        Column("status", "VARCHAR(20)", is_counted_text=True),
        Column("amount", "DECIMAL(12,2)"),
        Column("qty", "SMALLINT"),
        Column("created", "DATETIME(3)"),
        Column("updated", "TIMESTAMP NULL"),
        Column("note", "VARCHAR(100)", is_counted_text=True),
        Column("flag", "BIT(1)", "{}+0"),
        Column("ratio", "DOUBLE"),
    ),
    (
        "seq",
        "seq%50000",
        "elt(1+seq%4,'new','paid','shipped','closed')",
        "(seq%1000000)/100+10",
        "seq%100",
        f"{_BASE} + interval seq*1013000 microsecond",
        f"{_BASE} + interval seq second",
        "concat('order note number ', seq)",
        "seq&1",
        "seq/7",
    ),
)

# One of each turn: type, value of row `seq` in column {k}, text. All values have an exact and unambiguous text.
_WIDE_TURN: tuple[tuple[str, str, str], ...] = (
    ("BIGINT", "seq*1000003+{k}", "{}"),
    ("INT", "seq%100000+{k}", "{}"),
    ("SMALLINT", "(seq+{k})%30000", "{}"),
    ("TINYINT", "(seq+{k})%100", "{}"),
    ("INT UNSIGNED", "3000000000+seq+{k}", "{}"),
    ("DECIMAL(10,2)", "(seq%1000000)/100+{k}", "{}"),
    ("DECIMAL(20,6)", "seq*1.000001+{k}", "{}"),
    ("DOUBLE", "seq/8+{k}", "{}"),
    ("FLOAT", "(seq%1000)/8", "{}"),
    ("VARCHAR(20)", "concat('v',seq%1000,'-{k}')", "{}"),
    ("VARCHAR(60)", "concat('wert über ',seq,' {k}')", "{}"),
    ("CHAR(10)", "left(concat('c',seq%10000,'xxxxxxxxx'),10)", "{}"),
    ("DATETIME", f"{_BASE} + interval seq*61+{{k}} second", "{}"),
    ("DATETIME(6)", f"{_BASE} + interval seq*1000003+{{k}} microsecond", "{}"),
    ("TIMESTAMP NULL", f"{_BASE} + interval seq+{{k}} second", "{}"),
    ("DATE", "'2000-01-01' + interval (seq+{k})%9000 day", "{}"),
    ("TIME", "sec_to_time((seq+{k})%86400)", "{}"),
    ("BIT(8)", "(seq+{k})%256", "{}+0"),
    ("ENUM('a','b','c')", "1+(seq+{k})%3", "{}"),
    ("VARCHAR(30)", "if((seq+{k})%3=0,NULL,concat('maybe ',seq))", "{}"),
)


def _wide() -> Table:
    columns = [Column("id", "BIGINT PRIMARY KEY"), Column("amount", "DECIMAL(12,2)")]
    values = ["seq", "(seq%1000000)/100+10"]
    for k in range(198):
        sql_type, value, text = _WIDE_TURN[k % len(_WIDE_TURN)]
        columns.append(Column(f"c{k:03d}", sql_type, text, is_counted_text="CHAR" in sql_type))
        values.append(value.format(k=k))
    return Table("wide", tuple(columns), tuple(values))


WIDE = _wide()


def _text_value(pattern: str, turn: int) -> str:
    length = f"200+(seq*7919+{turn}*1237)%3801"
    return f"left(concat(seq,' ',repeat('{pattern}',70)),{length})"


TEXTS = Table(
    "texts",
    (
        Column("id", "BIGINT PRIMARY KEY"),
        Column("plain", "TEXT", is_counted_text=True),
        Column("mixed", "TEXT", is_counted_text=True),
        Column("western", "TEXT CHARACTER SET latin1", "convert({} using utf8mb4)"),
    ),
    (
        "seq",
        _text_value("The quick brown fox jumps over the lazy dog again and again; it costs 5 €. ", 1),
        _text_value("Größe über alles – привет мир, 你好世界, 😀 and plain words follow here. ", 2),
        _text_value("Äpfel und Öl für 5 Pfund, señor: déjà vu, plain text goes on and on. ", 3),
    ),
    has_amount=False,
)

_JSON_ITEMS = ",".join(
    f"""'{{"sku":"SKU-',seq*{i}%99991,'","qty":',seq%{i + 3},',"price":',seq%977,'.5,"tags":["a{i}","b',seq%7,'"]}}'"""
    for i in range(1, 9)
).replace("}',", "},',")
_JSON_VALUE = (
    """concat('{"id":',seq,',"status":"new","customer":{"name":"Customer ',seq%5000,'","email":"customer',seq%5000,"""
    """'@example.com","address":{"street":"Long Street ',seq%300,'","city":"Zürich","zip":"',8000+seq%100,'",'"""
    """,'"geo":{"lat":47.25,"lon":8.5}},"vip":',if(seq%5=0,'true','false'),',"phone":null},"items":[',"""
    + _JSON_ITEMS
    + """,'],"total":',seq%100000,'.25,"count":',seq%50,',"note":"order note number ',seq,"""
    """' with a sentence that goes on for a while, as notes do"}')"""
)
DOCUMENTS = Table(
    "documents",
    (Column("id", "BIGINT PRIMARY KEY"), Column("doc", "JSON")),
    ("seq", _JSON_VALUE),
    has_amount=False,
)


# ---------------------------------------------------------------- a log


@dataclass(slots=True)
class Log:
    """A stretch of whole binlog files, and what it holds.

    `end_pos` is where the last transaction ends in `files[-1]`; a rotate event follows. `gtid_before` is the server's
    GTID set (MariaDB: list) at the beginning. `expected` is by the server's own SELECT.
    """

    name: str
    scale: int
    database: str
    table: str
    files: list[str]
    end_pos: int
    byte_count: int
    gtid_before: str
    text_columns: list[str]
    expected: Summary
    server_version: str
    made_seconds: float
    options: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """`bulk-10`: its name and scale."""
        return f"{self.name}-{self.scale}"

    def to_dict(self) -> dict[str, Any]:
        """As logs.json has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Log:
        return cls(**{**values, "expected": Summary.from_dict(values["expected"])})


class Maker:
    """What the making of one log works with: a session, numbers, and the sums of what goes into the log."""

    def __init__(self, server: Server, database: str, table: Table, scale: int) -> None:
        self.server = server
        self.database = database
        self.table = table
        self.scale = scale
        self.expected = Summary(hash_sum=0)
        self.session: dict[str, str] = {}
        self._connection = self.connect()

    @property
    def is_mariadb(self) -> bool:
        return self.server.family == "mariadb"

    def connect(self, **arguments: Any) -> Any:
        """A session in the log's database, in UTC."""
        connection = self.server.connect(self.database, **arguments)
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION time_zone='+00:00'")
            if not self.is_mariadb:
                cursor.execute("SET SESSION cte_max_recursion_depth=4294967295")
        return connection

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement in the maker's session."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def numbers(self, first: int, last: int) -> str:
        """Something to select `seq` from, first to last."""
        if self.is_mariadb:
            return f"seq_{first}_to_{last}"
        return (
            f"(WITH RECURSIVE s(seq) AS (SELECT {first} UNION ALL SELECT seq+1 FROM s WHERE seq<{last}) "
            "SELECT seq FROM s) AS numbers"
        )

    def insert(self, first: int, last: int) -> None:
        """Rows first to last in one statement, one transaction."""
        table = self.table
        self.execute(f"INSERT INTO {table.name} SELECT {table.row} FROM {self.numbers(first, last)}")

    def count(self, letter: Literal["I", "B", "A", "D"], source: str) -> None:
        """Add what `source` (a FROM clause with the table's columns) holds as images of that kind to the sums."""
        table = self.table
        canonical = f"concat_ws('|', '{letter}', {', '.join(c.canonical for c in table.columns)})"
        text_bytes = "+".join(f"COALESCE(LENGTH({name}),0)" for name in table.text_columns) or "0"
        null_count = "+".join(f"({column.name} IS NULL)" for column in table.columns)
        amount = "COALESCE(amount,0)*100" if table.has_amount else "0"
        row = self.execute(
            f"SELECT COUNT(*), COALESCE(SUM(id),0), COALESCE(SUM({amount}),0), COALESCE(SUM({null_count}),0), "
            f"COALESCE(SUM({text_bytes}),0), COALESCE(SUM(CAST(CONV(LEFT(SHA2({canonical},256),{HASH_HEX_DIGITS}),"
            f"16,10) AS UNSIGNED)),0) FROM {source}"
        )[0]
        count, id_sum, amount_sum, null_sum, byte_sum, hash_sum = map(int, row)
        expected = self.expected
        match letter:
            case "I":
                expected.inserts += count
            case "A":
                expected.updates += count
            case "D":
                expected.deletes += count
        expected.id_sum += id_sum
        expected.amount_sum += amount_sum
        expected.null_count += null_sum
        expected.text_bytes += byte_sum
        assert expected.hash_sum is not None
        expected.hash_sum += hash_sum

    def update(self, assignments: str, where: str) -> None:
        """One UPDATE, counted before and after."""
        self.count("B", f"{self.table.name} WHERE {where}")
        self.execute(f"UPDATE {self.table.name} SET {assignments} WHERE {where}")
        self.count("A", f"{self.table.name} WHERE {where}")

    def delete(self, where: str) -> None:
        """One DELETE, counted before."""
        self.count("D", f"{self.table.name} WHERE {where}")
        self.execute(f"DELETE FROM {self.table.name} WHERE {where}")

    def close(self) -> None:
        self._connection.close()


def _make_bulk(maker: Maker) -> None:
    """Per million rows: ten inserts of 100 000, an update of every fourth row, a delete of every twentieth."""
    for block in range(maker.scale):
        first, last = block * _BLOCK_ROWS + 1, (block + 1) * _BLOCK_ROWS
        for start in range(first, last, _CHUNK_ROWS):
            maker.insert(start, start + _CHUNK_ROWS - 1)
        within = f"id BETWEEN {first} AND {last}"
        maker.count("I", f"{maker.table.name} WHERE {within}")
        maker.update("status='updated', amount=amount+1, updated='2025-02-03 04:05:06'", f"id%4=0 AND {within}")
        maker.delete(f"id%20=0 AND {within}")


def _make_zstd(maker: Maker) -> None:
    """The bulk log, compressed by the server: whole transactions on MySQL, rows events on MariaDB."""
    if maker.is_mariadb:
        # By the length of a row, not of the event: below the default of 256 bytes nothing of this table would be.
        maker.execute("SET GLOBAL log_bin_compress=ON, log_bin_compress_min_len=10")
        try:
            maker.session |= {"log_bin_compress": "ON", "log_bin_compress_min_len": "10"}
            _make_bulk(maker)
        finally:
            maker.execute("SET GLOBAL log_bin_compress=OFF, log_bin_compress_min_len=DEFAULT")
    else:
        maker.execute("SET SESSION binlog_transaction_compression=ON")
        maker.session["binlog_transaction_compression"] = "ON"
        _make_bulk(maker)


_STATUS = ("new", "paid", "shipped", "closed")


def _order_literal(n: int) -> str:
    """Row n of `orders` as VALUES; what the server computes better than text says is left to it."""
    cents = n % 1_000_000 + 1000
    return (
        f"({n},{n % 50000},'{_STATUS[n % 4]}',{cents // 100}.{cents % 100:02d},{n % 100},"
        f"{_BASE}+interval {n * 1013000} microsecond,{_BASE}+interval {n} second,"
        f"'order note number {n}',{n & 1},{n}/7)"
    )


def _make_tx(maker: Maker) -> None:
    """Each row a transaction of its own, from four connections, many statements a round trip."""
    from pymysql.constants import CLIENT

    count = 200_000 * maker.scale
    errors: list[BaseException] = []

    def write(worker: int) -> None:
        connection = maker.connect(client_flag=CLIENT.MULTI_STATEMENTS)
        cursor = connection.cursor()
        try:
            mine = range(_TX_FIRST + worker, _TX_FIRST + count, _TX_CONNECTIONS)
            for start in range(0, len(mine), _TX_STATEMENTS):
                chunk = mine[start : start + _TX_STATEMENTS]
                cursor.execute(";".join(f"INSERT INTO orders VALUES{_order_literal(n)}" for n in chunk))
                while cursor.nextset():
                    pass
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(_TX_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    maker.count("I", "orders")


def _prepare_hot(maker: Maker) -> None:
    maker.insert(1, _HOT_ROWS)


def _make_hot(maker: Maker) -> None:
    """Updates spread at random over 10 000 rows, 100 a transaction (one statement)."""
    choose = random.Random(20240101)
    for _ in range(1_000_000 * maker.scale // _HOT_ROWS_PER_TRANSACTION):
        ids = ",".join(map(str, choose.sample(range(1, _HOT_ROWS + 1), _HOT_ROWS_PER_TRANSACTION)))
        maker.execute(f"UPDATE orders SET qty=qty+1, amount=amount+1 WHERE id IN ({ids})")
    # The k updates of a row took it through qty0 … qty0+k: its images are those of a join with the numbers.
    most = maker.execute("SELECT MAX(qty - id%100) FROM orders")[0][0]
    for letter, offset in (("B", 1), ("A", 0)):
        columns = ", ".join(
            f"{c.name} - (qty - id%100) + seq - {offset} AS {c.name}" if c.name in ("amount", "qty") else c.name
            for c in maker.table.columns
        )
        source = f"(SELECT {columns} FROM orders JOIN {maker.numbers(1, int(most))} ON seq <= qty - id%100) AS images"
        maker.count("B" if letter == "B" else "A", source)


def _make_wide(maker: Maker) -> None:
    """50 000 rows of 200 columns, one in two updated."""
    rows = 50_000 * maker.scale
    for start in range(1, rows, 10_000):
        maker.insert(start, start + 9_999)
    maker.count("I", "wide")
    for start in range(1, rows, 50_000):
        maker.update(
            "c001=c001+1, c005=c005+1, c009='changed', c012='2025-02-03 04:05:06', amount=amount+1",
            f"id%2=0 AND id BETWEEN {start} AND {start + 49_999}",
        )


def _make_text(maker: Maker) -> None:
    rows = 100_000 * maker.scale
    for start in range(1, rows, 10_000):
        maker.insert(start, start + 9_999)
    maker.count("I", "texts")


def _make_json(maker: Maker) -> None:
    """100 000 documents, half of them updated; half of those with PARTIAL_JSON where the server has it."""
    rows = 100_000 * maker.scale
    for start in range(1, rows, 10_000):
        maker.insert(start, start + 9_999)
    maker.count("I", "documents")
    change = "doc=JSON_SET(doc, '$.status', 'updated', '$.count', id%50+1, '$.customer.phone', '+41 44 000 00 00')"
    for remainder in (0, 2):
        if remainder == 2 and not maker.is_mariadb:
            maker.execute("SET SESSION binlog_row_value_options='PARTIAL_JSON'")
            maker.session["binlog_row_value_options"] = "PARTIAL_JSON for half of the updates"
        for start in range(1, rows, 20_000):
            maker.update(change, f"id%4={remainder} AND id BETWEEN {start} AND {start + 19_999}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a log is made: `prepare` before it begins, `make` in it."""

    title: str
    table: Table
    make: Callable[[Maker], None]
    prepare: Callable[[Maker], None] | None = None


LOGS: dict[str, Recipe] = {
    "bulk": Recipe("bulk statements", ORDERS, _make_bulk),
    "tx": Recipe("one-row transactions", ORDERS, _make_tx),
    "hot": Recipe("updates of a few hot rows", ORDERS, _make_hot, _prepare_hot),
    "wide": Recipe("200 columns", WIDE, _make_wide),
    "text": Recipe("long texts", TEXTS, _make_text),
    "json": Recipe("JSON documents", DOCUMENTS, _make_json),
    "zstd": Recipe("bulk, compressed", ORDERS, _make_zstd),
}


# ---------------------------------------------------------------- a site


def site_directory(kind: str, metadata: Metadata) -> Path:
    """Where the site's data directory and its list of logs are."""
    return PLACE / f"{kind}-{metadata}"


class Site:
    """A private server over a kept data directory. Make one by `Site.open`."""

    def __init__(self, directory: Path, kind: str, metadata: Metadata, server: Server) -> None:
        self.directory = directory
        self.kind = kind
        self.metadata = metadata
        self.server = server
        self.logs = read_list(directory)

    @classmethod
    @contextlib.contextmanager
    def open(cls, kind: str, metadata: Metadata = "full") -> Iterator[Site]:
        """Start it; stopped in order at the end, and its data kept.

        Raises ServerUnavailable when this machine does not have that server, or another process has the site open.
        """
        directory = site_directory(kind, metadata)
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ServerUnavailable(f"{directory} is in use by another benchmark") from None
            options = _options(kind, metadata) | _tls_options(kind, directory)
            data = directory / "data"
            if data.exists():
                server = Server.start(kind, options=options | {"datadir": str(data)})
            else:
                server = Server.start(kind, options=options)
            try:
                if not data.exists():
                    server.stop()
                    assert server.directory is not None
                    shutil.move(server.directory / "data", data)
                    server.restart(options={"datadir": str(data)})
                try:
                    yield cls(directory, kind, metadata, server)
                finally:
                    server.stop()
            finally:
                server.close()

    def log(self, name: str, scale: int) -> Log:
        """The log, made now where it was not made before."""
        found = self.logs.get(f"{name}-{scale}")
        if found is None:
            found = self._make(name, scale)
            self.logs[found.key] = found
            _write_list(self.directory, self.logs)
        return found

    def _make(self, name: str, scale: int) -> Log:
        recipe = LOGS[name]
        server = self.server
        database = f"{name}{scale}"
        began = time.monotonic()
        server.execute(f"DROP DATABASE IF EXISTS {database}")
        server.execute(f"CREATE DATABASE {database}")
        server.execute(recipe.table.create, database=database)
        maker = Maker(server, database, recipe.table, scale)
        try:
            if recipe.prepare:
                recipe.prepare(maker)
            server.execute("FLUSH BINARY LOGS")
            first, _ = self._end_of_log()
            gtid_before = self._gtid()
            recipe.make(maker)
            last, end_pos = self._end_of_log()
            server.execute("FLUSH BINARY LOGS")
            # The rows are in the log; of the table only its definition is needed.
            maker.execute("SET SESSION sql_log_bin=0")
            maker.execute(f"TRUNCATE TABLE {recipe.table.name}")
        finally:
            maker.close()
        sizes = {row[0]: int(row[1]) for row in server.execute("SHOW BINARY LOGS")}
        files = [file for file in sizes if first <= file <= last]
        return Log(
            name=name,
            scale=scale,
            database=database,
            table=recipe.table.name,
            files=files,
            end_pos=end_pos,
            byte_count=sum(sizes[file] for file in files),
            gtid_before=gtid_before,
            text_columns=list(recipe.table.text_columns),
            expected=replace(maker.expected),
            server_version=server.version,
            made_seconds=round(time.monotonic() - began, 1),
            options=maker.session,
        )

    def _end_of_log(self) -> tuple[str, int]:
        statement = "SHOW MASTER STATUS" if self.server.family == "mariadb" else "SHOW BINARY LOG STATUS"
        row = self.server.execute(statement)[0]
        return str(row[0]), int(row[1])

    def _gtid(self) -> str:
        name = "gtid_binlog_pos" if self.server.family == "mariadb" else "gtid_executed"
        return str(self.server.execute(f"SELECT @@GLOBAL.{name}")[0][0] or "").replace("\n", "")


def _options(kind: str, metadata: Metadata) -> dict[str, str | int | None]:
    options: dict[str, str | int | None] = {
        "server_id": 1,
        "binlog_row_metadata": metadata.upper(),
        "max_binlog_size": 1 << 30,
        "innodb_buffer_pool_size": "768M",
        "innodb_flush_log_at_trx_commit": 0,
        "innodb_doublewrite": 0,
        "tmp_table_size": "256M",
        "max_heap_table_size": "256M",
    }
    if kind.startswith("mysql"):
        return options | {"binlog_expire_logs_seconds": 0, "innodb_redo_log_capacity": "1G"}
    return options | {"expire_logs_days": 0, "innodb_log_file_size": "1G"}


def _tls_options(kind: str, directory: Path) -> dict[str, str | int | None]:
    """A certificate of the site's own, made once; MySQL makes its own."""
    if kind.startswith("mysql"):
        return {}
    certificate, key = directory / "server-cert.pem", directory / "server-key.pem"
    if not certificate.exists():
        if shutil.which("openssl") is None:
            return {}
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "3650",
            "-subj",
            "/CN=127.0.0.1",
        ]
        subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
        key.chmod(0o644)  # the server runs as another user; it guards nothing
    return {"ssl_cert": str(certificate), "ssl_key": str(key)}


def read_list(directory: Path) -> dict[str, Log]:
    """The logs that a site has, by their keys."""
    path = directory / "logs.json"
    if not path.exists():
        return {}
    kept = json.loads(path.read_text())
    if kept["version"] != LOGS_VERSION:
        return {}
    return {key: Log.from_dict(values) for key, values in kept["logs"].items()}


def _write_list(directory: Path, logs: dict[str, Log]) -> None:
    content = {"version": LOGS_VERSION, "logs": {key: log.to_dict() for key, log in logs.items()}}
    new = directory / "logs.json.new"
    new.write_text(json.dumps(content, indent=1))
    new.rename(directory / "logs.json")


# ---------------------------------------------------------------- by hand


def _size_of(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


def _sites() -> Iterable[Path]:
    return sorted(path for path in PLACE.glob("*-*") if (path / "lock").exists()) if PLACE.exists() else []


def main(arguments: Sequence[str]) -> int:
    """`make`, `list` or `drop`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.logs", description="The logs that figures are taken on."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="make the logs that are not there yet")
    make.add_argument("--log", nargs="+", choices=LOGS, default=["bulk", "tx"])
    make.add_argument("--scale", nargs="+", type=int, default=[1])
    make.add_argument("--metadata", nargs="+", choices=["full", "minimal"], default=["full"])
    make.add_argument("--server", nargs="+", default=list(SERVERS))
    commands.add_parser("list", help="what is kept, and its size")
    drop = commands.add_parser("drop", help="remove what is kept")
    drop.add_argument("--server", nargs="+", default=None)
    chosen = parser.parse_args(arguments)
    if chosen.command == "make":
        for kind in chosen.server:
            for metadata in chosen.metadata:
                try:
                    with Site.open(kind, metadata) as site:
                        for scale in chosen.scale:
                            for name in chosen.log:
                                _say(site, site.log(name, scale))
                except ServerUnavailable as error:
                    print(error)
    for directory in _sites():
        if chosen.command == "drop" and (chosen.server is None or directory.name.rpartition("-")[0] in chosen.server):
            print(f"{directory}: {_size_of(directory) / 1e9:.1f} GB removed")
            shutil.rmtree(directory)
        elif chosen.command == "list":
            print(f"{directory}: {_size_of(directory) / 1e9:.1f} GB")
            for log in read_list(directory).values():
                _say(None, log)
    return 0


def _say(site: Site | None, log: Log) -> None:
    where = f"{site.kind} {site.metadata} " if site else "  "
    print(
        f"{where}{log.key:8} {log.byte_count / 1e6:8.1f} MB in {len(log.files)} file(s), {log.expected.changes} row "
        f"changes, made in {log.made_seconds:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
