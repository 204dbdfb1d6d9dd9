"""A table's definition as text, beside the checkpoint that it belongs to."""

from __future__ import annotations

import dataclasses

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdc.errors import ResyncRequired
from cdc.model import ColumnDefinition, TableDefinition, TableName, UniqueKey, ValueKind
from cdc.schema.history import decode_definition, encode_definition

settings.register_profile("no deadline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no deadline")

texts = st.text(max_size=10)
columns = st.builds(
    ColumnDefinition,
    name=texts,
    kind=st.sampled_from(ValueKind),
    column_type=texts,
    is_nullable=st.booleans(),
    is_unsigned=st.booleans(),
    length=st.integers(0, 2**32),
    precision=st.integers(0, 65),
    scale=st.integers(0, 38),
    fraction_digits=st.integers(0, 6),
    charset=st.none() | texts,
    collation=st.none() | texts,
    members=st.lists(texts, max_size=3).map(tuple),
    is_generated=st.booleans(),
    is_invisible=st.booleans(),
    is_auto_increment=st.booleans(),
    default=st.none() | texts,
    comment=texts,
)
definitions = st.builds(
    TableDefinition,
    name=st.builds(TableName, texts, texts),
    columns=st.lists(columns, max_size=4).map(tuple),
    primary_key=st.lists(texts, max_size=2).map(tuple),
    unique_keys=st.lists(
        st.builds(UniqueKey, texts, st.lists(texts, max_size=2).map(tuple), st.booleans()), max_size=2
    ).map(tuple),
    engine=texts,
    charset=st.none() | texts,
    collation=st.none() | texts,
    comment=texts,
    flavor=st.sampled_from(("mysql", "mariadb")),
)


@given(definitions)
def test_a_definition_goes_round(definition: TableDefinition) -> None:
    found = decode_definition(encode_definition(definition))
    assert found == definition
    assert hash(found) == hash(definition)  # tuples again, not lists


def test_what_is_at_its_default_takes_no_room() -> None:
    plain = TableDefinition(TableName("a", "b"), (ColumnDefinition("c", ValueKind.BIT, "bit(1)"),))
    (column,) = orjson.loads(encode_definition(plain))["columns"]
    assert column == {"name": "c", "kind": "bit", "column_type": "bit(1)"}


@given(definitions)
def test_the_text_of_a_definition_stays_what_it_is(definition: TableDefinition) -> None:
    """The metadata tell definitions apart by it: every attribute, in the order of the fields."""
    content = dataclasses.asdict(definition)
    shown = zip(content["columns"], definition.columns, strict=True)
    plain = ColumnDefinition("", ValueKind.BIT, "")
    always = {"name", "kind", "column_type"}
    content["columns"] = [
        {name: value for name, value in column.items() if name in always or getattr(of, name) != getattr(plain, name)}
        for column, of in shown
    ]
    assert encode_definition(definition) == orjson.dumps({"format": 1, **content}).decode()


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_another_version_is_refused(version: object) -> None:
    content = orjson.loads(encode_definition(TableDefinition(TableName("a", "b"), ())))
    content["format"] = version
    with pytest.raises(ResyncRequired, match="another version"):
        decode_definition(orjson.dumps(content).decode())
