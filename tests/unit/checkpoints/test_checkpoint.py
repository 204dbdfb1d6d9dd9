"""A checkpoint's text: what was written comes back, and nothing that was not written is ever taken for a position."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.errors import ResyncRequired
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import FilePos, Flavor, ServerIdentity, SourcePosition
from checkpoints.checkpoint import CHECKPOINT_FORMAT, Checkpoint, decode_position, encode_position

U1, U2 = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "00000000-0000-0000-0000-00000000000a"

mysql_sets = st.dictionaries(
    st.tuples(st.sampled_from((U1, U2)), st.sampled_from(("", "mytag"))),
    st.tuples(st.integers(1, 50), st.integers(60, 2**62)).map(lambda span: (span,)),
    max_size=4,
).map(MysqlGtidSet)
mariadb_lists = st.dictionaries(
    st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 2**32 - 1), st.integers(1, 2**63)), max_size=3
).map(MariadbGtidList)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
files = st.builds(
    lambda base, number, pos: FilePos.of(f"{base}.{number:06}", pos),
    names,
    st.integers(0, 10**7),
    st.integers(4, 2**48),
)


def positions_of(flavor: Flavor, gtids: st.SearchStrategy[Any]) -> st.SearchStrategy[SourcePosition]:
    return st.builds(
        SourcePosition, st.builds(ServerIdentity, st.just(flavor), names), st.none() | files, st.none() | gtids
    )


positions = positions_of("mysql", mysql_sets) | positions_of("mariadb", mariadb_lists)
ONE = SourcePosition(
    ServerIdentity("mysql", U1), FilePos.of("binlog.000007", 5217), MysqlGtidSet.parse(f"{U1}:1-5:7,{U1}:mytag:1")
)
TEXT = encode_position(ONE)


@given(positions)
def test_a_position_goes_round(position: SourcePosition) -> None:
    found = decode_position(encode_position(position))
    assert found == position
    assert (found.file is None) == (position.file is None)
    if found.file and position.file:
        assert found.file.file == position.file.file  # not part of the comparison


def test_an_empty_set_is_not_no_set() -> None:
    """By GTID from the beginning, and by file and position, are two things."""
    for gtid in (MysqlGtidSet(), None):
        assert decode_position(encode_position(replace(ONE, gtid=gtid))).gtid == gtid


@given(st.data())
def test_any_character_changed_is_refused(data: st.DataObject) -> None:
    position = data.draw(positions)
    text = encode_position(position)
    index = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda c: c != text[index]))
    assert_refused(text[:index] + other + text[index + 1 :])


@pytest.mark.parametrize("bit", range(7))
def test_any_bit_flipped_anywhere_is_refused(bit: int) -> None:
    for index in range(len(TEXT)):
        assert_refused(TEXT[:index] + chr(ord(TEXT[index]) ^ 1 << bit) + TEXT[index + 1 :])


def test_any_end_cut_off_is_refused() -> None:
    for size in range(len(TEXT)):
        assert_refused(TEXT[:size])
    assert_refused(TEXT + "x")


@given(
    st.text()
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: orjson.dumps(str(v)).decode())
)
def test_any_other_text_is_refused(text: str) -> None:
    assert_refused(text)


def assert_refused(text: str) -> None:
    """Blanks between the tokens of JSON are no damage: what is read is what was written."""
    try:
        found = decode_position(text)
    except ResyncRequired as error:
        assert error.hint  # noqa: PT017 - either this error or the very same position
        return
    assert encode_position(found) in (TEXT, text.strip(), _packed(text))


def _packed(text: str) -> str:
    return orjson.dumps(orjson.loads(text)).decode()


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused_and_named_although_nothing_is_damaged(version: Any) -> None:
    content = orjson.loads(TEXT)
    del content["crc"]
    content["format"] = version
    content["crc"] = zlib.crc32(orjson.dumps(content, option=orjson.OPT_SORT_KEYS))
    with pytest.raises(ResyncRequired, match=f"has format {version}"):
        decode_position(orjson.dumps(content).decode())
    assert CHECKPOINT_FORMAT == 1


@pytest.mark.parametrize("text", ["", "null", "[]", "1", '"x"', "{}", '{"crc": 1}', '{"format": 1}', "\ud800"])
def test_json_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(ResyncRequired):
        decode_position(text)


def test_each_checkpoint_counts_one_more() -> None:
    first = Checkpoint(ONE, 41)
    later = replace(ONE, file=FilePos.of("binlog.000008", 4))
    assert first.next(later) == Checkpoint(later, 42)
