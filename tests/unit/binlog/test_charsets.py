"""Charsets: the tables as they were compared with the servers, pinned, so that another Python cannot change them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.binlog.charset_tables import MULTI_BYTE, SINGLE_BYTE
from cdc.binlog.charsets import MAX_BYTES, UnprovenCharset, character_cells, collation_charset, text_decoder

TEXT_CHARSETS = sorted(set(MAX_BYTES) - {"binary"})


def digest(charset: str) -> str:
    """Of every single character that the charset has, in the order of its bytes."""
    if charset in MULTI_BYTE:
        cells = sorted(character_cells(charset).items())
    else:
        decode = text_decoder(charset)
        cells = []
        for code in range(256):
            try:
                cells.append((bytes((code,)), decode(bytes((code,)))))
            except ValueError:
                continue
    return hashlib.sha256(b"".join(raw + text.encode() for raw, text in cells)).hexdigest()[:16]


# Compared with MySQL 9.7, MariaDB 10.11 and 11.8 by tests/integration/test_binlog_types.py.
PINNED = {
    "armscii8": "664106692f361875",
    "ascii": "41b5f7a8f09fa1d7",
    "big5": "d19a24b4d4a4c827",
    "cp1250": "561f5a160b70d8b2",
    "cp1251": "9a21a6fd9328f7d2",
    "cp1256": "808ee76241b87084",
    "cp1257": "3ccd624073eeede5",
    "cp850": "2bd2f49585fe59ac",
    "cp852": "f21d799c9d0872d1",
    "cp866": "a4842149cb860fc9",
    "cp932": "15fd5d32acee2334",
    "dec8": "c9d003dd2dd54133",
    "eucjpms": "7eec0b592e73911b",
    "euckr": "0e206fcf3e56a36f",
    "gb2312": "50ef5d53278d4970",
    "gbk": "3e22b222d8d049fb",
    "geostd8": "0f9c7c2fbe5fc0a9",
    "greek": "9a7b8c4e3e19b212",
    "hebrew": "3fbf472b7cafc95f",
    "hp8": "bcbce865f48aef55",
    "keybcs2": "68481cd5ca0d4e45",
    "koi8r": "a7571158fa094e5f",
    "koi8u": "55b98d74210bdeff",
    "latin1": "9f1b504ed5c9711c",
    "latin2": "34a7e34b80f002a2",
    "latin5": "5f817b50b40db077",
    "latin7": "8007f042982a4d99",
    "macce": "db00d125b5c6ecf1",
    "macroman": "527560b177b2f431",
    "sjis": "22d3c78f808d4f2c",
    "swe7": "687f09ef65813059",
    "tis620": "a175aaea6ffb9219",
    "ujis": "3629787c0528a7f0",
}


@pytest.mark.parametrize("charset", sorted({*SINGLE_BYTE, *MULTI_BYTE, "ascii"}))
def test_characters_are_those_that_were_compared_with_the_servers(charset: str) -> None:
    assert digest(charset) == PINNED[charset]


@pytest.mark.parametrize("charset", TEXT_CHARSETS)
def test_every_charset_of_the_servers_has_a_decoder(charset: str) -> None:
    decode = text_decoder(charset)
    raw = {"utf16": b"\0a", "ucs2": b"\0a", "utf16le": b"a\0", "utf32": b"\0\0\0a"}.get(charset, b"a")
    assert decode(raw) == "a"
    assert decode(b"") == ""


@pytest.mark.parametrize("charset", ["binary", "klingon", ""])
def test_what_is_no_charset_of_text_is_not_decoded(charset: str) -> None:
    with pytest.raises(UnprovenCharset):
        text_decoder(charset)


@pytest.mark.parametrize(
    "charset, raw",
    [
        ("utf8mb4", b"\xed\xa0\x80"),  # a lone surrogate
        ("utf8mb4", b"\xc0\x80"),
        ("utf8mb4", b"\xf4\x90\x80\x80"),
        ("utf8mb4", b"\xf0\x9f\x98"),
        ("utf8mb3", b"\xf0\x9f\x98\x80"),
        ("ascii", b"\x80"),
        ("ucs2", b"\xd8\x3d\xde\x00"),  # a pair of surrogates is two characters there
        ("ucs2", b"\xd8\x00"),
        ("ucs2", b"a"),
        ("utf16", b"\xd8\x00"),
        ("utf16le", b"\x00\xd8"),
        ("utf32", b"\x00\x11\x00\x00"),
        ("utf32", b"\x00\x00\xd8\x00"),
        ("cp1257", b"\xa1"),
        ("gbk", b"\x81"),
        ("gbk", b"\x81\x30"),
        ("cp932", b"\xa0"),
        ("big5", b"\xa1\x5a"),  # the server has U+FFFD for it
        ("swe7", b"\x80"),
        ("tis620", b"\xff"),
        ("gb18030", b"\x81\x30\x81"),
    ],
)
def test_bytes_that_are_no_text_are_refused(charset: str, raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        text_decoder(charset)(raw)


@pytest.mark.parametrize(
    "charset, raw, text",
    [
        ("latin1", b"\x80\x81\x8d\x8f\x90\x9d\x9f\xa0\xff", "€\x81\x8d\x8f\x90\x9dŸ\xa0ÿ"),
        ("sjis", b"\x5c\x7e\x81\x5f\x83\x5c", "\\~\\ソ"),
        ("cp932", b"\x5c\x7e\x81\x5f\x87\x40", "\\~＼①"),
        ("ujis", b"\x8e\xb1\x8f\xb0\xa1\xf5\xa1", "ｱ丂\ue000"),
        ("eucjpms", b"\xa1\xc1\xad\xa1", "～①"),
        ("gb18030", b"\xa8\xbc\x81\x35\xf4\x37\x94\x39\xda\x33", "ḿ\ue7c7💩"),
        ("utf16", b"\xfe\xff\x00a", "\ufeffa"),  # no byte order mark, but a character
        ("utf16le", b"\xff\xfe", "\ufeff"),
        ("utf8", "é".encode(), "é"),
        ("swe7", b"[]{}", "ÄÅäå"),
    ],
)
def test_odd_characters_of_the_servers(charset: str, raw: bytes, text: str) -> None:
    assert text_decoder(charset)(raw) == text


@given(charset=st.sampled_from(TEXT_CHARSETS), raw=st.binary(max_size=50))
def test_any_bytes_give_text_or_a_value_error(charset: str, raw: bytes) -> None:
    try:
        text_decoder(charset)(raw)
    except ValueError:
        return


@given(charset=st.sampled_from(sorted(MULTI_BYTE)), data=st.data())
def test_characters_of_a_multi_byte_charset_decode_one_after_the_other(charset: str, data: st.DataObject) -> None:
    cells = character_cells(charset)
    some = data.draw(st.lists(st.sampled_from(sorted(cells)), max_size=20))
    assert text_decoder(charset)(b"".join(some)) == "".join(cells[cell] for cell in some)


@pytest.mark.parametrize(
    "collation, charset",
    [
        (8, "latin1"),
        (33, "utf8mb3"),
        (45, "utf8mb4"),
        (63, "binary"),
        (255, "utf8mb4"),
        (309, "utf8mb4"),
        (2304, "utf8mb4"),
        (3271, "utf32"),
        (249, "gb18030"),
        (0, None),
        (301, None),
        (65535, None),
    ],
)
def test_collations_name_their_charset(collation: int, charset: str | None) -> None:
    assert collation_charset(collation) == charset
