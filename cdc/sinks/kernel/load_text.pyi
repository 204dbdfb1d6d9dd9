from collections.abc import Sequence
from typing import Literal

import pyarrow as pa

from cdc.binlog.kernel.memory import Block
from cdc.sinks.encode_mysql import Cell

PIECE_BYTES: int

class RowText:
    def __init__(
        self,
        columns: Sequence[tuple[Cell, pa.Array]],
        selection: pa.Int32Array | None = ...,
        *,
        form: Literal["load", "values", "keys"],
        piece_bytes: int = ...,
        piece_rows_max: int = ...,
        row_bytes_max: int,
        has_odd_zero: bool,
    ) -> None: ...
    def write(self) -> tuple[list[tuple[Block, int]], pa.Int32Array]: ...
