"""How the dictionaries of the MySQL family show text: in three-byte UTF-8, whatever the table has."""

from __future__ import annotations

__all__ = ["as_dictionaries_show", "has_whole_unicode", "is_beyond_dictionaries"]


def as_dictionaries_show(text: str) -> str:
    """`?` for each character beyond U+FFFF, as information_schema and SHOW CREATE TABLE have it (MySQL 9.7, MariaDB
    10.11 and 11.8, seen)."""
    return "".join("?" if is_beyond_dictionaries(character) else character for character in text)


def is_beyond_dictionaries(character: str) -> bool:
    return character > "\uffff"


def has_whole_unicode(charset: str | None) -> bool:
    """Whether a character set has characters beyond U+FFFF."""
    return charset in ("utf8mb4", "utf16", "utf16le", "utf32", "gb18030")
