"""`--schema FILE`: what is read out of CREATE TABLE statements as the servers and their dumps print them."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from cdc.errors import ConfigError
from cdc.model import FilePos, Flavor, ServerIdentity, SourcePosition, TableDefinition, TableName, UniqueKey, ValueKind
from cdc.source.schema_file import read_schema_file
from checkpoints.history import HistoryEntry, TableHistory, described

ORDERS = TableName("shop", "orders")

DUMP = r"""
-- MySQL dump 10.13
/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;
CREATE DATABASE /*!32312 IF NOT EXISTS*/ `shop` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;
USE `shop`;
DROP TABLE IF EXISTS `orders`;
/*!50503 SET character_set_client = utf8mb4 */;
CREATE TABLE `orders` (
  `id` bigint unsigned NOT NULL AUTO_INCREMENT,
  `kind` enum('a','it''s','b,c)') CHARACTER SET latin1 COLLATE latin1_swedish_ci DEFAULT 'a' COMMENT 'of; what',
  `total` decimal(10,2) DEFAULT '0.00',
  `at` timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
  `note` varchar(40) DEFAULT (concat(`kind`,_utf8mb4')')),
  `twice` bigint GENERATED ALWAYS AS ((`id` * 2)) VIRTUAL,
  `hidden` int DEFAULT NULL /*!80023 INVISIBLE */,
  `flags` bit(5) DEFAULT b'101',
  `old` int(8) unsigned zerofill DEFAULT NULL,
  `doc` json DEFAULT NULL,
  `place` point DEFAULT NULL /*!80003 SRID 4326 */,
  PRIMARY KEY (`id`),
  UNIQUE KEY `by_note` (`note`(10),`kind`) USING BTREE,
  UNIQUE KEY `by_expression` ((lower(`note`))),
  KEY `plain` (`total` DESC),
  CONSTRAINT `fk` FOREIGN KEY (`hidden`) REFERENCES `other` (`id`) ON DELETE CASCADE,
  CONSTRAINT `positive` CHECK ((`total` >= 0))
) ENGINE=InnoDB AUTO_INCREMENT=7 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_ai_ci COMMENT='x; CREATE TABLE y (z int)'
/*!50100 PARTITION BY HASH (`id`) PARTITIONS 4 */;
DELIMITER ;;
CREATE PROCEDURE p() BEGIN
  CREATE TABLE inside (id int);
END ;;
DELIMITER ;
CREATE TABLE `odd` (`id` int NOT NULL, `what` nonsense DEFAULT NULL, PRIMARY KEY (`id`));
CREATE TABLE other.`t` LIKE shop.orders;
"""


def read(tmp_path: Path, text: str, table: TableName = ORDERS, flavor: Flavor = "mysql") -> TableDefinition | None:
    path = tmp_path / "schema.sql"
    path.write_text(text)
    return read_schema_file(path).find(table, flavor, None)


def test_a_dump_gives_what_decides_how_rows_are_read(tmp_path: Path) -> None:
    found = read(tmp_path, DUMP)
    assert found is not None
    shown = [(c.name, c.kind, c.column_type, c.charset) for c in found.columns]
    assert shown == [
        ("id", ValueKind.INTEGER, "bigint unsigned", None),
        ("kind", ValueKind.ENUM, "enum('a','it''s','b,c)')", "latin1"),
        ("total", ValueKind.DECIMAL, "decimal(10,2)", None),
        ("at", ValueKind.TIMESTAMP, "timestamp(3)", None),
        ("note", ValueKind.TEXT, "varchar(40)", "utf8mb4"),
        ("twice", ValueKind.INTEGER, "bigint", None),
        ("hidden", ValueKind.INTEGER, "int", None),
        ("flags", ValueKind.BIT, "bit(5)", None),
        ("old", ValueKind.INTEGER, "int(8) unsigned zerofill", None),
        ("doc", ValueKind.JSON, "json", None),
        ("place", ValueKind.GEOMETRY, "point", None),
    ]
    assert found.column("kind").members == ("a", "it's", "b,c)")
    assert found.column("id").is_unsigned
    assert found.column("id").is_auto_increment
    assert not found.column("id").is_nullable
    assert found.column("old").is_unsigned
    assert found.column("at").fraction_digits == 3
    assert (found.column("total").precision, found.column("total").scale) == (10, 2)
    assert found.column("flags").length == 5
    assert found.column("note").length == 40
    assert found.column("twice").is_generated
    assert found.column("hidden").is_invisible
    assert found.primary_key == ("id",)
    assert found.unique_keys == (UniqueKey("by_note", ("note", "kind"), has_prefix=True),)
    assert (found.engine, found.charset, found.collation) == ("InnoDB", "utf8mb4", "utf8mb4_0900_ai_ci")


def test_tables_are_found_by_their_database(tmp_path: Path) -> None:
    path = tmp_path / "schema.sql"
    path.write_text(DUMP)
    file = read_schema_file(path)
    assert file.tables() == [TableName("other", "t"), TableName("shop", "odd"), ORDERS]
    assert file.find(TableName("elsewhere", "orders"), "mysql", None) is None
    without_use = read(tmp_path, "CREATE TABLE t (id int PRIMARY KEY)", TableName("any", "t"))
    assert without_use is not None
    assert without_use.name == TableName("any", "t")
    assert without_use.primary_key == ("id",)


@pytest.mark.parametrize("table", [TableName("shop", "odd"), TableName("other", "t")])
def test_a_statement_that_is_not_understood_is_refused_by_its_tables_name(tmp_path: Path, table: TableName) -> None:
    with pytest.raises(ConfigError, match=str(table)):
        read(tmp_path, DUMP, table)


def test_a_text_without_a_character_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="character set"):
        read(tmp_path, "CREATE TABLE shop.orders (id int, b varchar(3))")


def test_mariadbs_json_is_told_by_its_check(tmp_path: Path) -> None:
    text = (
        "CREATE TABLE shop.orders (`j` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL "
        "CHECK (json_valid(`j`)), `l` longtext, `k` json, `u` uuid DEFAULT uuid(), "
        "`c` varchar(90) /*M!100301 COMPRESSED*/ DEFAULT NULL) DEFAULT CHARSET=latin1"
    )
    found = read(tmp_path, text, flavor="mariadb")
    assert found is not None
    assert [column.kind for column in found.columns] == [
        ValueKind.JSON,
        ValueKind.TEXT,
        ValueKind.JSON,
        ValueKind.UUID,
        ValueKind.TEXT,
    ]
    assert found.column("l").charset == "latin1"


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "has no CREATE TABLE"),
        ("SELECT 1;", "has no CREATE TABLE"),
        ('{"format": 9, "tables": []}', "none that `cdc checkpoint history"),
        ("[1", "none that `cdc checkpoint history"),
    ],
)
def test_a_file_without_tables_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read(tmp_path, text)
    with pytest.raises(ConfigError, match="No such file"):
        read_schema_file(tmp_path / "elsewhere.sql")


def test_a_history_is_looked_up_by_the_place_also_of_a_file_that_names_no_server(tmp_path: Path) -> None:
    server = ServerIdentity("mysql", "3e11fa47-71ca-11e1-9e33-c80aa9429562")

    def at(pos: int, where: ServerIdentity = server) -> SourcePosition:
        return SourcePosition(where, FilePos.of("binlog.000001", pos))

    first, second = (TableDefinition(ORDERS, (), comment=text) for text in ("first", "second"))
    entries = (HistoryEntry(at(10), "source", first), HistoryEntry(at(20), "statement", second))
    path = tmp_path / "history.json"
    path.write_bytes(orjson.dumps(described({ORDERS: TableHistory(entries, at(30))})))
    file = read_schema_file(path)
    nobody = ServerIdentity("mysql", "")
    found = [file.find(ORDERS, "mysql", at(pos, who)) for who in (server, nobody) for pos in (9, 10, 20, 31)]
    assert found == [None, first, second, None] * 2
