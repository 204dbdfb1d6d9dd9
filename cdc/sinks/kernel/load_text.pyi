from collections.abc import Sequence
from typing import Literal, Protocol

import pyarrow as pa

from cdc.binlog.kernel.memory import Block
from cdc.model import ColumnDefinition

PIECE_BYTES: int

class _Cell(Protocol):
    """encode_mysql.Cell"""

    @property
    def source(self) -> ColumnDefinition: ...
    @property
    def is_parsed(self) -> bool: ...
    @property
    def is_raw(self) -> bool: ...
    @property
    def is_left(self) -> bool: ...
    @property
    def leaves_zero(self) -> bool: ...

class RowText:
    def __init__(
        self,
        columns: Sequence[tuple[_Cell, pa.Array]],
        selection: pa.Int32Array | None = ...,
        *,
        form: Literal["load", "values", "keys"],
        piece_bytes: int = ...,
        piece_rows_max: int = ...,
        row_bytes_max: int,
        has_odd_zero: bool,
    ) -> None: ...
    def next_piece(self) -> tuple[Block, int] | None: ...
    def take_left(self) -> pa.Int32Array: ...
