"""The format `cdc`: one object a change, with the position of its transaction (docs/tail.md)."""

from __future__ import annotations

from collections.abc import Mapping

from cdc.model import ColumnDefinition, Flavor, Operation, TableName
from cdc.tail.lines import Images, Transaction
from cdc.tail.values import ColumnWriter, column_writer, instant_text, quoted

__all__ = ["PlainFormat"]

_INSERT, _BEFORE, _AFTER = int(Operation.INSERT), int(Operation.UPDATE_BEFORE), int(Operation.UPDATE_AFTER)


class PlainFormat:
    """`{"operation", "table", "position", "time", "before", "after"}`."""

    needs_keys = False

    def column_writer(self, column: ColumnDefinition, flavor: Flavor) -> ColumnWriter:
        return column_writer(column, flavor)

    def changes(self, images: Images, transactions: Mapping[int, Transaction]) -> tuple[list[str], list[int]]:
        table = quoted(str(images.definition.name))
        insert, update, delete = (
            f'{{"operation":"{operation}","table":{table},' for operation in ("insert", "update", "delete")
        )
        heads = {index: _head(transactions[index]) for index in set(images.transactions)}
        lines: list[str] = []
        order: list[int] = []
        before = ""
        for operation, index, image in zip(images.operations, images.transactions, images.objects, strict=True):
            if operation == _INSERT:
                lines.append(f'{insert}{heads[index]},"before":null,"after":{image}}}\n')
            elif operation == _BEFORE:
                before = image
                continue
            elif operation == _AFTER:
                lines.append(f'{update}{heads[index]},"before":{before},"after":{image}}}\n')
            else:
                lines.append(f'{delete}{heads[index]},"before":{image},"after":null}}\n')
            order.append(index)
        return lines, order

    def schema_change(self, table: TableName, statement: str, transaction: Transaction) -> list[str]:
        named = f'"table":{quoted(str(table))},{_head(transaction)},"statement":{quoted(statement)}'
        return [f'{{"operation":"ddl",{named}}}\n']

    def abandoned(self, transaction: Transaction) -> list[str]:
        return [f'{{"operation":"abandoned","table":null,{_head(transaction)}}}\n']


def _head(transaction: Transaction) -> str:
    """`"position":{…},"time":"…"`; the position in the form of `cdc status --json`."""
    gtid = "null" if transaction.gtid is None else quoted(transaction.gtid)
    file = "null" if transaction.file is None else quoted(transaction.file)
    pos = "null" if transaction.pos is None else transaction.pos
    time = instant_text(transaction.commit_us, 6)
    return f'"position":{{"gtid":{gtid},"file":{file},"pos":{pos}}},"time":"{time}"'
