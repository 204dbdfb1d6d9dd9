"""Forms of DDL, each for a fresh table `{t}` of `TABLE`, by what the service makes of them."""

from __future__ import annotations

__all__ = ["FOLLOWED", "LISTED", "LISTED_LOADED", "LOADED", "PARTITIONED", "ROWS", "SWAPPED", "TABLE"]

TABLE = (
    "CREATE TABLE {t} (id INT NOT NULL AUTO_INCREMENT, a INT NULL, b VARCHAR(20) NOT NULL, c DECIMAL(10,2) NULL, "
    "d DATETIME NULL, e ENUM('x','y') NULL, s SET('p','q') NULL, t TEXT NULL, v VARBINARY(10) NULL, f FLOAT NULL, "
    "u BIGINT UNSIGNED NULL, ts TIMESTAMP NULL, n1 INT NOT NULL DEFAULT 3, PRIMARY KEY (id), UNIQUE KEY by_b (b), "
    "KEY by_a (a)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci"
)
PARTITIONED = (
    "CREATE TABLE {t} (id INT NOT NULL PRIMARY KEY, a INT NULL) PARTITION BY RANGE (id) "
    "(PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN (1000))"
)
LISTED = (
    "CREATE TABLE {t} (id INT NOT NULL PRIMARY KEY, a INT NULL) PARTITION BY LIST (id) "
    "(PARTITION p0 VALUES IN (1, 2), PARTITION p1 VALUES IN (3, 4))"
)
# The server deletes 1, 2 and 4, without a word; and what deletes none is not told apart from it.
LISTED_LOADED = (
    "REORGANIZE PARTITION p0, p1 INTO (PARTITION p1 VALUES IN (3))",
    "REORGANIZE PARTITION p0, p1 INTO (PARTITION p1 VALUES IN (1, 2, 3, 4))",
)
# Behind the name of the table; the columns that every form leaves as they are stand first.
ROWS = (
    "INSERT INTO {t} (a, b, c, d, e, s, t, v, f, u, ts) VALUES "
    "(1, 'one', 1.25, '2024-02-29 01:02:03', 'x', 'p,q', 'text', x'00ff', 1.5, 18446744073709551615, "
    "'2024-01-01 00:00:00'), (-5, 'tw\u00f6', -0.5, '1000-01-01 00:00:00', 'y', '', '', '', -0.25, 0, NULL), "
    "(NULL, 'three', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"
)

# On every source. The target is altered, or there is nothing to do to it; no row is read again.
FOLLOWED = (
    "ADD COLUMN n INT",
    "ADD COLUMN n INT NULL DEFAULT 7",
    "ADD n INT UNSIGNED NOT NULL DEFAULT '7' AFTER id",
    "ADD COLUMN n BIGINT NOT NULL FIRST",
    "ADD n SMALLINT(3) UNSIGNED",
    "ADD n TINYINT(1) NOT NULL DEFAULT TRUE",
    "ADD n BOOL DEFAULT FALSE",
    "ADD n INTEGER DEFAULT -12 COMMENT 'a, (b) '' c'",
    "ADD n VARCHAR(30) NOT NULL DEFAULT 'it''s \"so\"'",
    "ADD n VARCHAR(30) CHARACTER SET latin1 COLLATE latin1_bin NULL DEFAULT ''",
    "ADD n VARCHAR(30) COLLATE utf8mb4_bin NOT NULL",
    "ADD n CHAR(3) NOT NULL",
    "ADD n CHAR",
    "ADD n DECIMAL(12,3) NOT NULL DEFAULT 1.5",
    "ADD n NUMERIC(5) UNSIGNED DEFAULT '3'",
    "ADD n DEC(6,2) DEFAULT -0.5",
    "ADD n DECIMAL NOT NULL",
    "ADD n DOUBLE NOT NULL DEFAULT 0",
    "ADD n DOUBLE PRECISION DEFAULT -7",
    "ADD n FLOAT UNSIGNED",
    "ADD n DATE DEFAULT '2024-02-29'",
    "ADD n DATETIME(3) NOT NULL DEFAULT '2024-02-29 10:11:12'",
    "ADD n DATETIME NULL ON UPDATE CURRENT_TIMESTAMP",
    "ADD n TIMESTAMP NULL",
    "ADD n TIMESTAMP(6) NULL DEFAULT NULL ON UPDATE CURRENT_TIMESTAMP(6)",
    "ADD n TIME(2) NULL",
    "ADD n YEAR",
    "ADD n ENUM('a','b''c') NOT NULL DEFAULT 'b''c'",
    "ADD n ENUM('a','b') NOT NULL",
    "ADD n SET('a','b') NULL",
    "ADD n TINYTEXT",
    "ADD n MEDIUMTEXT NOT NULL",
    "ADD n BLOB",
    "ADD n VARBINARY(9) NOT NULL",
    "ADD n BINARY(4)",
    "ADD n BIT(9)",
    "ADD n JSON",
    "ADD n INT INVISIBLE",
    "ADD (n INT, m INT DEFAULT 3)",
    "ADD n INT, ADD m INT AFTER n, ADD k INT FIRST, ALGORITHM=INPLACE",
    "ADD n INT AFTER b, ADD INDEX by_n (n, b(5)), LOCK=NONE",
    "ADD n INT DEFAULT 1, DROP COLUMN f, RENAME COLUMN a TO z, MODIFY b VARCHAR(60) NOT NULL AFTER d",
    "DROP COLUMN c",
    "DROP d",
    "DROP COLUMN f, DROP u",
    "RENAME COLUMN b TO bb",
    "RENAME COLUMN id TO nr",
    "CHANGE a z INT NULL",
    "CHANGE COLUMN a z BIGINT NULL AFTER e",
    "MODIFY a BIGINT",
    "MODIFY a INT AFTER e",
    "MODIFY COLUMN a INT FIRST, MODIFY e ENUM('x','y') AFTER a",
    "MODIFY b VARCHAR(200) NOT NULL",
    "MODIFY b VARCHAR(20) NULL",
    "MODIFY b VARCHAR(20) COLLATE utf8mb4_bin NOT NULL",
    "MODIFY c DECIMAL(20,2)",
    "MODIFY d DATETIME(6)",
    "MODIFY d DATETIME DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP",
    "MODIFY ts TIMESTAMP(3) NULL",
    "MODIFY e ENUM('x','y','z')",
    "MODIFY s SET('p','q','r')",
    "MODIFY t LONGTEXT",
    "MODIFY v VARBINARY(100)",
    "MODIFY v BLOB",
    "MODIFY f FLOAT NULL DEFAULT 0",
    "MODIFY id BIGINT NOT NULL AUTO_INCREMENT",
    "MODIFY n1 BIGINT NULL DEFAULT 3",
    "MODIFY a INT DEFAULT 5 COMMENT 'five'",
    "ADD INDEX by_d (d)",
    "ADD KEY (a, b)",
    "ADD UNIQUE by_both (b, a)",
    "ADD CONSTRAINT by_both UNIQUE KEY (b, a)",
    "DROP INDEX by_a",
    "DROP KEY by_b",
    "RENAME INDEX by_b TO other",
    "COMMENT='about it'",
    "AUTO_INCREMENT = 1000",
    "ROW_FORMAT=DYNAMIC COMMENT 'x'",
    "ENGINE=InnoDB",
    "FORCE",
    "ALTER COLUMN a SET DEFAULT 5",
    "ALTER n1 DROP DEFAULT",
    "DEFAULT CHARACTER SET latin1 COLLATE latin1_bin",
)

# On every source. The rows that come of it are in no event, or not proven: the table is loaded again.
LOADED = (
    "ADD n DATETIME DEFAULT CURRENT_TIMESTAMP",
    "ADD n TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP",
    "ADD n DATETIME DEFAULT NOW() ON UPDATE NOW()",
    "ADD n INT AS (a + 1)",
    "ADD n INT GENERATED ALWAYS AS (a + 1) STORED",
    "ADD n INT DEFAULT (1 + 1)",
    "ADD n VARCHAR(9) CHARACTER SET utf8mb4",
    "ADD n VARCHAR(9) DEFAULT 'a\\\\b'",
    "ADD n VARCHAR(9) DEFAULT '\u00e9'",
    "ADD n DECIMAL(5,1) DEFAULT 1.25",
    "ADD n INT UNIQUE",
    "ADD n INT CHECK (n > 0)",
    "MODIFY a BIGINT UNSIGNED",
    "MODIFY n1 TINYINT NOT NULL",
    "MODIFY b VARCHAR(10) NOT NULL",
    "MODIFY b CHAR(20) NOT NULL",
    "MODIFY b VARCHAR(20) CHARACTER SET latin1 COLLATE latin1_bin NOT NULL",
    "MODIFY c DECIMAL(10,1)",
    "MODIFY c DECIMAL(12,3)",
    "MODIFY c DOUBLE",
    "MODIFY f DOUBLE",
    "MODIFY d DATE",
    "MODIFY e ENUM('y','x')",
    "MODIFY e VARCHAR(3)",
    "MODIFY u BIGINT",
    "CHANGE a z DOUBLE",
    "DROP PRIMARY KEY, ADD PRIMARY KEY (id, b)",
    "CONVERT TO CHARACTER SET latin1",
    "DEFAULT CHARACTER SET latin1",
    "ENGINE=MyISAM",
    "ORDER BY b",
    "ADD /*!50000 COLUMN */ n INT",
)

# What they make of the definition is known; a target in the middle of them could not be told from one before or behind.
SWAPPED = (
    "CHANGE a c INT, CHANGE c a DECIMAL(10,2)",
    "DROP COLUMN a, ADD COLUMN a INT",
)
