"""How the dictionaries of the MySQL family show text: in three-byte UTF-8, whatever the table has.

information_schema and SHOW CREATE TABLE show `?` for each character beyond U+FFFF (MySQL 9.7, MariaDB 10.11 and 11.8,
seen). The server itself knows: a recursive query keeps the type of its first part, so that numbers written into an
ENUM or SET there come out as members. It reads no row, and needs no more than reading the table does.
"""

from __future__ import annotations

from cdc.model import Flavor

__all__ = ["as_dictionaries_show", "has_whole_unicode", "is_beyond_dictionaries", "may_hide", "members_query"]

_NUMBERS_MAX = 70000  # an ENUM has up to 65535 members; the servers' own limit of recursion is 1000
_WITHOUT_LIMIT = {
    "mysql": f"{{}}SELECT /*+ SET_VAR(cte_max_recursion_depth={_NUMBERS_MAX}) */ {{}}",
    "mariadb": f"SET STATEMENT max_recursive_iterations={_NUMBERS_MAX} FOR {{}}SELECT {{}}",
}


def as_dictionaries_show(text: str) -> str:
    return "".join("?" if is_beyond_dictionaries(character) else character for character in text)


def is_beyond_dictionaries(character: str) -> bool:
    return character > "\uffff"


def has_whole_unicode(charset: str | None) -> bool:
    """Whether a character set has characters beyond U+FFFF."""
    return charset in ("utf8mb4", "utf16", "utf16le", "utf32", "gb18030")


def may_hide(shown: str, charset: str | None) -> bool:
    """Can what a dictionary shows stand for something else?"""
    return "?" in shown and has_whole_unicode(charset)


def members_query(flavor: Flavor, table: str, column: str, count: int, *, is_set: bool) -> str:
    """The members of an ENUM or SET in their order, in UTF-8, '' as '' or NULL. MySQL 8.0 and MariaDB 10.2 know it.

    `table` and `column` are quoted; `count`: how many members there are.
    """
    number = "1 << n" if is_set else "n + 1"
    numbered = (
        f"WITH RECURSIVE numbered (n, v) AS (SELECT 0, t.{column} FROM (SELECT 1) AS one LEFT JOIN {table} AS t "
        f"ON FALSE UNION ALL SELECT n + 1, {number} FROM numbered WHERE n < {count}) "
    )
    return _WITHOUT_LIMIT[flavor].format(numbered, "CONVERT(v USING utf8mb4) FROM numbered WHERE n > 0 ORDER BY n")
