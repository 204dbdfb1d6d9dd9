"""Tables with foreign keys of every rule, and random writes that act on them."""

from __future__ import annotations

import random

__all__ = ["FAMILY", "TABLES", "family_statement"]

# Every rule; a key that is a part of the child's own and goes on from there; a table that refers to itself.
FAMILY = (
    "CREATE TABLE p (id INT PRIMARY KEY, code BIGINT UNSIGNED NULL UNIQUE, name VARCHAR(20))",
    (
        "CREATE TABLE c (id INT PRIMARY KEY, p INT NULL, v INT, FOREIGN KEY (p) REFERENCES p (id) "
        "ON DELETE CASCADE ON UPDATE CASCADE)"
    ),
    (
        "CREATE TABLE g (id INT PRIMARY KEY, c INT NULL, v INT, FOREIGN KEY (c) REFERENCES c (id) "
        "ON DELETE SET NULL ON UPDATE CASCADE)"
    ),
    (
        "CREATE TABLE i (p INT, n INT, v INT, PRIMARY KEY (p, n), FOREIGN KEY (p) REFERENCES p (id) "
        "ON DELETE CASCADE ON UPDATE CASCADE)"
    ),
    (
        "CREATE TABLE d (p INT, n INT, k INT, PRIMARY KEY (p, n, k), FOREIGN KEY (p, n) REFERENCES i (p, n) "
        "ON DELETE CASCADE ON UPDATE CASCADE)"
    ),
    (
        "CREATE TABLE s (id INT PRIMARY KEY, code BIGINT UNSIGNED NULL, FOREIGN KEY (code) REFERENCES p (code) "
        "ON DELETE SET NULL ON UPDATE SET NULL)"
    ),
    "CREATE TABLE tree (id INT PRIMARY KEY, up INT NULL, FOREIGN KEY (up) REFERENCES tree (id) ON DELETE CASCADE)",
    # Reached in two ways: rows that only go, and columns that have nothing in common.
    (
        "CREATE TABLE line (id INT PRIMARY KEY, c INT NULL, up INT NULL, "
        "FOREIGN KEY (c) REFERENCES c (id) ON DELETE SET NULL ON UPDATE CASCADE, "
        "FOREIGN KEY (up) REFERENCES p (id) ON DELETE CASCADE ON UPDATE CASCADE)"
    ),
    (
        "CREATE TABLE twig (id INT PRIMARY KEY, t INT NULL, root INT NULL, "
        "CONSTRAINT b FOREIGN KEY (t) REFERENCES tree (id) ON DELETE CASCADE, "
        "CONSTRAINT a FOREIGN KEY (root) REFERENCES tree (id) ON DELETE CASCADE)"
    ),
)
TABLES = ("p", "c", "g", "i", "d", "s", "tree", "line", "twig")


def family_statement(chance: random.Random) -> str:
    """One statement on the family; the source may refuse it (no parent, a key that is there, a cycle, 15 levels)."""
    one, two, three = (chance.randrange(1, 13) for _ in range(3))
    child = chance.randrange(1, 40)
    up = chance.choice((one, "NULL"))
    return chance.choice(
        (
            f"INSERT IGNORE INTO p VALUES ({one}, {two + 18446744073709551590}, 'n'), ({two}, NULL, 'm')",
            f"REPLACE INTO p VALUES ({one}, {three + 18446744073709551590}, 'r')",
            f"INSERT INTO p VALUES ({one}, NULL, 'o') ON DUPLICATE KEY UPDATE id = {two}",
            f"UPDATE p SET id = {two} WHERE id = {one}",
            f"UPDATE p SET code = {three + 18446744073709551590} WHERE id = {one}",
            f"UPDATE p SET name = 'x{three}'",
            f"DELETE FROM p WHERE id = {one}",
            f"DELETE FROM p WHERE id IN ({one}, {two})",
            f"REPLACE INTO c VALUES ({child}, {up}, {two}), ({child + 1}, {two}, 1)",
            f"REPLACE INTO c VALUES ({child}, {two}, {two})",
            f"UPDATE c SET p = {two} WHERE id % 5 = {one % 5}",
            f"UPDATE c SET id = {child} WHERE id = {child + 1}",
            f"DELETE FROM c WHERE id = {child}",
            f"INSERT IGNORE INTO g SELECT id + 100, id, 1 FROM c WHERE id > {child}",
            f"REPLACE INTO g VALUES ({child}, {child}, 2)",
            f"REPLACE INTO i VALUES ({one}, {two}, 1), ({two}, {one}, 2)",
            f"UPDATE i SET n = {three} WHERE p = {one} AND n = {two}",
            f"INSERT IGNORE INTO d SELECT p, n, {three} FROM i",
            f"DELETE FROM i WHERE n = {two}",
            "INSERT IGNORE INTO s SELECT id, code FROM p",
            f"REPLACE INTO tree VALUES ({child}, {up})",
            f"REPLACE INTO tree VALUES ({one}, NULL), ({child}, {one}), ({child + 1}, {child})",
            f"DELETE FROM tree WHERE id = {one}",
            f"REPLACE INTO line VALUES ({child}, {child}, {up}), ({one}, {two}, {three})",
            f"INSERT IGNORE INTO line SELECT id + 100, id, p FROM c WHERE id > {child}",
            f"INSERT IGNORE INTO twig SELECT id, id, up FROM tree WHERE id > {one}",
            f"REPLACE INTO twig VALUES ({one}, {child}, {two})",
        )
    )
