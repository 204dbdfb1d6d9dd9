"""The servers' character sets: which one a collation id means, and how its bytes become text.

A decoder gives exactly what the server's own `CONVERT(... USING utf8mb4)` gives, for every byte sequence that the
server can convert, and raises ValueError for every other (the server prints `?` there, which would be a changed
value). Where Python's codec of the same or a similar name differs, the differing characters are in
charset_tables.py; tests/integration/test_binlog_types.py compares every code point with each server.

Source: information_schema.COLLATIONS and COLLATION_CHARACTER_SET_APPLICABILITY of MySQL 9.7, MariaDB 10.11 and 11.8,
whose ids do not contradict each other.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Mapping
from functools import cache

from cdc.binlog.charset_tables import MULTI_BYTE, SINGLE_BYTE

__all__ = [
    "MAX_BYTES",
    "UnprovenCharset",
    "character_cells",
    "charset_name",
    "collation_charset",
    "single_byte_table",
    "text_decoder",
]

TextDecoder = Callable[[bytes], str]


class UnprovenCharset(LookupError):
    """A charset whose conversion has not been compared with the server's."""


# Bytes that a character takes at most: VARCHAR(n) may have n times as many.
_CHARSETS_BY_BYTES = {
    1: (
        "armscii8 ascii binary cp1250 cp1251 cp1256 cp1257 cp850 cp852 cp866 dec8 geostd8 greek hebrew hp8 keybcs2 "
        "koi8r koi8u latin1 latin2 latin5 latin7 macce macroman swe7 tis620"
    ),
    2: "big5 cp932 euckr gb2312 gbk sjis ucs2",
    3: "eucjpms ujis utf8mb3",
    4: "gb18030 utf16 utf16le utf32 utf8mb4",
}
MAX_BYTES: Mapping[str, int] = {
    charset: count for count, charsets in _CHARSETS_BY_BYTES.items() for charset in charsets.split()
}

# Collation ids by charset, as numbers and ranges.
_COLLATION_IDS: Mapping[str, str] = {
    "armscii8": "32 64 1056 1088",
    "ascii": "11 65 1035 1089",
    "big5": "1 84 1025 1108",
    "binary": "63",
    "cp1250": "26 34 44 66 99 1050 1090",
    "cp1251": "14 23 50-52 1074-1075",
    "cp1256": "57 67 1081 1091",
    "cp1257": "29 58-59 1082-1083",
    "cp850": "4 80 1028 1104",
    "cp852": "40 81 1064 1105",
    "cp866": "36 68 1060 1092",
    "cp932": "95-96 1119-1120",
    "dec8": "3 69 1027 1093",
    "eucjpms": "97-98 1121-1122",
    "euckr": "19 85 1043 1109",
    "gb18030": "248-250",
    "gb2312": "24 86 1048 1110",
    "gbk": "28 87 1052 1111",
    "geostd8": "92-93 1116-1117",
    "greek": "25 70 1049 1094",
    "hebrew": "16 71 1040 1095",
    "hp8": "6 72 1030 1096",
    "keybcs2": "37 73 1061 1097",
    "koi8r": "7 74 1031 1098",
    "koi8u": "22 75 1046 1099",
    "latin1": "5 8 15 31 47-49 94 1032 1071",
    "latin2": "2 9 21 27 77 1033 1101",
    "latin5": "30 78 1054 1102",
    "latin7": "20 41-42 79 1065 1103",
    "macce": "38 43 1062 1067",
    "macroman": "39 53 1063 1077",
    "sjis": "13 88 1037 1112",
    "swe7": "10 82 1034 1106",
    "tis620": "18 89 1042 1113",
    "ucs2": "35 90 128-151 159 640-642 1059 1114 1152 1174 2560-2727 2744-2759",
    "ujis": "12 91 1036 1115",
    "utf16": "54-55 101-124 672-674 1078-1079 1125 1147 2816-2983 3000-3015",
    "utf16le": "56 62 1080 1086",
    "utf32": "60-61 160-183 736-738 1084-1085 1184 1206 3072-3239 3256-3271",
    "utf8mb3": "33 76 83 192-215 223 576-579 1057 1107 1216 1238 2048-2215 2232-2247",
    "utf8mb4": (
        "45-46 224-247 255-271 273-275 277-294 296-298 300 303-323 608-611 1069-1070 1248 1270 2304-2471 2488-2503"
    ),
}


@cache
def _charsets_by_collation() -> dict[int, str]:
    found = {}
    for charset, ranges in _COLLATION_IDS.items():
        for item in ranges.split():
            first, _, last = item.partition("-")
            found.update(dict.fromkeys(range(int(first), int(last or first) + 1), charset))
    return found


def collation_charset(collation: int) -> str | None:
    """The charset of a collation id; None for an id that no known server has."""
    return _charsets_by_collation().get(collation)


def charset_name(name: str) -> str:
    """One name a charset: `utf8` is what older servers call utf8mb3."""
    return "utf8mb3" if name == "utf8" else name


@cache
def text_decoder(charset: str) -> TextDecoder:
    """The decoder of a charset: bytes in, text out, ValueError (naming the charset) for bytes that are no text in it.

    Raises UnprovenCharset where we cannot promise the server's own result.
    """
    charset = charset_name(charset)
    if charset in _UNICODE:
        return _UNICODE[charset]
    if charset in SINGLE_BYTE:
        return _single_byte(charset)
    if charset in MULTI_BYTE:
        return _multi_byte(charset)
    raise UnprovenCharset(f"charset {charset!r}")


def _utf8mb4(raw: bytes) -> str:
    return raw.decode("utf-8")


def _utf8mb3(raw: bytes) -> str:
    return _basic_plane(raw.decode("utf-8"), "utf8mb3")


def _ucs2(raw: bytes) -> str:
    # a pair of surrogates is two characters in ucs2, and neither is one that any other charset has
    return _basic_plane(raw.decode("utf-16-be"), "ucs2")


def _basic_plane(text: str, charset: str) -> str:
    if not text.isascii() and max(text) > "\uffff":
        raise ValueError(f"a character beyond the basic plane in {charset}")
    return text


def _utf16(raw: bytes) -> str:
    return raw.decode("utf-16-be")


def _utf16le(raw: bytes) -> str:
    return raw.decode("utf-16-le")


def _utf32(raw: bytes) -> str:
    return raw.decode("utf-32-be")


def _ascii(raw: bytes) -> str:
    return raw.decode("ascii")


# The server follows the standard of 2005 here, Python that of 2000: the two exchange one character for another.
_GB18030_SWAPPED = {0xE7C7: 0x1E3F, 0x1E3F: 0xE7C7}


def _gb18030(raw: bytes) -> str:
    return raw.decode("gb18030").translate(_GB18030_SWAPPED)


# None of these takes a byte order mark for anything but a character, and neither do the servers.
_UNICODE: Mapping[str, TextDecoder] = {
    "ascii": _ascii,
    "gb18030": _gb18030,
    "ucs2": _ucs2,
    "utf16": _utf16,
    "utf16le": _utf16le,
    "utf32": _utf32,
    "utf8mb3": _utf8mb3,
    "utf8mb4": _utf8mb4,
}


def _single_byte(charset: str) -> TextDecoder:
    """By a table of 256 characters; U+FFFE makes `charmap_decode` raise."""
    lower, upper = SINGLE_BYTE[charset]
    table = "".join(lower.get(code, chr(code)) for code in range(128)) + upper

    def decode(raw: bytes) -> str:
        return codecs.charmap_decode(raw, "strict", table)[0]

    return decode


@cache
def single_byte_table(charset: str) -> tuple[bytes, bool]:
    """A single-byte charset for the kernel, and whether its lower half is ASCII.

    Four bytes a code: its character as UTF-8, and how many of the first three that takes; 0 for a code that is none.
    """
    decode = text_decoder(charset)
    table = bytearray()
    for code in range(256):
        try:
            sequence = decode(bytes((code,))).encode()
        except ValueError:
            sequence = b""
        table += sequence.ljust(3, b"\0") + bytes((len(sequence),))
    is_ascii_compatible = all(table[4 * code : 4 * code + 4] == bytes((code, 0, 0, 1)) for code in range(128))
    return bytes(table), is_ascii_compatible


def _multi_byte(charset: str) -> TextDecoder:
    """By a table of all byte sequences that are one character; no sequence begins with another."""
    cells = character_cells(charset)
    longest = max(map(len, cells))

    def decode(raw: bytes) -> str:
        if raw.isascii():
            return raw.decode("ascii")
        out = []
        at, end = 0, len(raw)
        while at < end:
            for length in range(1, longest + 1):
                character = cells.get(raw[at : at + length])
                if character is not None:
                    break
            else:
                raise ValueError(f"no character of {charset} at byte {at}")
            out.append(character)
            at += length
        return "".join(out)

    return decode


@cache
def character_cells(charset: str) -> Mapping[bytes, str]:
    """Every byte sequence that is one character of a multi-byte charset of charset_tables.py, and the character."""
    codec, differences = MULTI_BYTE[charset]
    cells: dict[bytes, str] = {}

    def fill(sequences: Iterable[bytes]) -> None:
        for sequence in sequences:
            try:
                text = sequence.decode(codec)
            except UnicodeDecodeError:
                continue
            if len(text) == 1:
                cells[sequence] = text

    fill(bytes((one,)) for one in range(256))
    leads = [one for one in range(0x80, 256) if bytes((one,)) not in cells]
    fill(bytes((one, two)) for one in leads for two in range(256))
    if MAX_BYTES[charset] == 3:
        fill(bytes((0x8F, two, three)) for two in range(0xA1, 0xFF) for three in range(0xA1, 0xFF))
    for item in differences.split():
        key, _, value = item.partition("=")
        first, _, count = key.partition("+")
        sequence = bytes.fromhex(first)
        for index in range(int(count or 1)):
            cell = sequence[:-1] + bytes((sequence[-1] + index,))
            if value == "-":
                cells.pop(cell, None)
            else:
                cells[cell] = chr(int(value, 16) + index)
    return cells
