import pyarrow as pa

from cdc.model import TableDefinition

class Consumed:
    WANTS_MORE: int
    IS_FULL: int
    IS_ODD: int
    IS_LARGE: int
    IS_END: int
    IS_ERROR: int
    IS_BROKEN: int

class RowBuffer:
    def __init__(self, definition: TableDefinition) -> None: ...
    @property
    def definition(self) -> TableDefinition: ...
    @property
    def row_count(self) -> int: ...
    @property
    def byte_count(self) -> int: ...
    def consume(
        self, window: bytes | bytearray | memoryview, sequence: int, rows_stop: int, bytes_stop: int
    ) -> tuple[int, int, int]: ...
    def append_row(self, payload: bytes | bytearray | memoryview) -> bool: ...
    def take(self) -> pa.RecordBatch: ...
