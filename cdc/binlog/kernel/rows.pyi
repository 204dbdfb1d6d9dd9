from cdc.binlog.events import RowsEvent, RowsKind
from cdc.binlog.layout import RowLayout
from cdc.model import RowBatch

class ImageBuffer:
    layout: RowLayout
    needs_all_columns: bool
    whole_count: int
    def __init__(self, layout: RowLayout, *, needs_all_columns: bool = ..., size_hint: int = ...) -> None: ...
    @property
    def image_count(self) -> int: ...
    @property
    def byte_count(self) -> int: ...
    def append(self, event: RowsEvent, transaction_index: int) -> int: ...
    def append_body(
        self,
        kind: RowsKind,
        is_partial: bool,
        body: bytes,
        offset: int,
        transaction_index: int,
        rows_stop: int,
        bytes_stop: int,
    ) -> tuple[int, int]: ...
    def truncate(self, row_count: int) -> None: ...
    def take(self) -> RowBatch: ...
