"""The one tree of errors, split by who has to act; retry logic reads the class, never the text.

    CdcError
     ├─ ConfigError           the operator edits configuration or a server setting   → exit 2
     ├─ TransientError        nobody: back off and retry from the same position
     │   ├─ SourceUnavailable
     │   └─ SinkUnavailable
     ├─ ResyncRequired        the operator loads again                               → stop
     │   ├─ BinlogPurged
     │   ├─ Incident
     │   └─ SourceChanged
     ├─ UnsupportedData       the operator decides per table; the table is parked    → the rest goes on
     │   └─ SinkRefused       the sink said no to a value, a key or a definition
     │       └─ TargetConflict   tables with one target do not fit together; tried again by itself
     ├─ ProtocolError         us or the server                                       → stop, the frame is kept
     │   ├─ MalformedEvent
     │   ├─ ChecksumMismatch
     │   └─ UnsupportedEvent  an event type or statement that is not understood
     ├─ RetriesSpent          the operator looks at what comes again and again       → stop, where a limit is set
     ├─ LeaseLost             another instance took the pipeline over                → stop
     └─ Stopping              asked to stop: roll back and leave
    InvariantBroken           our bug: crash, the last checkpoint is still true

Driver exceptions are translated once, at the border (`source/connection.py`, `sinks/*.py`).
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BinlogPurged",
    "CdcError",
    "ChecksumMismatch",
    "ConfigError",
    "Incident",
    "InvariantBroken",
    "LeaseLost",
    "MalformedEvent",
    "ProtocolError",
    "ResyncRequired",
    "RetriesSpent",
    "SinkRefused",
    "SinkUnavailable",
    "SourceChanged",
    "SourceUnavailable",
    "Stopping",
    "TargetConflict",
    "TransientError",
    "UnsupportedData",
    "UnsupportedEvent",
]


_MALFORMED_HINT = (
    "start again; if it comes back at the same place, read that place with the server's own mysqlbinlog: if that can, "
    "report this with the event, which `cdc run` keeps in var_dir"
)


# A name, or what a server says, may hold what a terminal takes for an order.
_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}


class CdcError(Exception):
    """What failed, on what, with which values (`message`), and what to do next (`hint`)."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", position: str | None = None) -> None:
        message = message.translate(_ESCAPED)
        super().__init__(message)
        self.message = message
        self.hint = hint.translate(_ESCAPED)
        self.position = position

    def __str__(self) -> str:
        return self.message

    def to_dict(self, *, since: str | None = None) -> dict[str, Any]:
        """The `error` object of `cdc status --json`."""
        return {
            "class": type(self).__name__,
            "message": self.message,
            "hint": self.hint,
            "position": self.position,
            "table": getattr(self, "table", None),
            "key": getattr(self, "key", None),
            "column": getattr(self, "column", None),
            "value": getattr(self, "value", None),
            "row": getattr(self, "row", None),
            "since": since,
        }


class ConfigError(CdcError):
    """The operator has to edit the configuration or a server setting."""

    exit_code = 2


class TransientError(CdcError):
    """May pass by itself: back off and retry from the same position.

    `is_full`: the server has no connection left for us. `has_rival`: it has ended ours for another's of the same id.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        position: str | None = None,
        is_full: bool = False,
        has_rival: bool = False,
    ) -> None:
        super().__init__(message, hint=hint, position=position)
        self.is_full = is_full
        self.has_rival = has_rival


class SourceUnavailable(TransientError):
    """The source cannot be reached, or cut the connection."""


class SinkUnavailable(TransientError):
    """The sink cannot be reached, cut the connection, or asked for a retry (dead-lock, lock timeout)."""


class ResyncRequired(CdcError):
    """The stream cannot go on from the checkpoint without a gap."""


class BinlogPurged(ResyncRequired):
    """The source no longer has the binlog that the checkpoint needs."""


class Incident(ResyncRequired):
    """The source wrote an INCIDENT event: its own log has a gap."""


class SourceChanged(ResyncRequired):
    """The server behind the URL is not the one that the checkpoint was taken from."""


class UnsupportedData(CdcError):
    """One table holds something that cannot be carried; that table is parked.

    `table` is the source table as `db.table`; `column` and `key` say where, if known. What was refused is kept for
    inspection: `value` of the column and all values of the `row`, as messages show them, and `image`, the row itself as
    it was to be written, in Arrow's IPC stream format; None where it is large, or no row was refused.
    """

    def __init__(
        self,
        message: str,
        *,
        table: str,
        column: str | None = None,
        key: str | None = None,
        hint: str = "",
        position: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, position=position)
        self.table = table
        self.column = column
        self.key = key
        self.value: str | None = None
        self.row: dict[str, str] | None = None
        self.image: bytes | None = None


class SinkRefused(UnsupportedData):
    """The sink refused a value, a row or a definition of one table."""


class TargetConflict(SinkRefused):
    """Tables that go to one target do not fit together. Tried again whenever a session starts: it may have mended."""


class ProtocolError(CdcError):
    """The server's bytes are not understood; the offending frame is kept for inspection."""

    def __init__(self, message: str, *, hint: str = "", position: str | None = None, frame: bytes = b"") -> None:
        super().__init__(message, hint=hint, position=position)
        self.frame = frame


class MalformedEvent(ProtocolError):
    """An event ends inside a value, has bytes left over, or contradicts its table map."""

    def __init__(self, message: str, *, hint: str = "", position: str | None = None, frame: bytes = b"") -> None:
        super().__init__(message, hint=hint or _MALFORMED_HINT, position=position, frame=frame)


class ChecksumMismatch(ProtocolError):
    """The CRC32 of an event is not the one that the server wrote."""


class UnsupportedEvent(ProtocolError):
    """An event type, or a statement in the binlog, that could carry data and is not understood."""


class RetriesSpent(CdcError):
    """What should pass by itself has come back at the same place as often as the operator allows."""


class LeaseLost(CdcError):
    """Another instance holds the pipeline's lease: nothing more may be written.

    `pipeline`: whose lease, as the metadata name it; '' where it is not known that somebody has it.
    """

    def __init__(self, message: str, *, hint: str = "", pipeline: str = "") -> None:
        super().__init__(message, hint=hint)
        self.pipeline = pipeline


class Stopping(CdcError):
    """The service was asked to stop: roll back what is open and leave."""


class InvariantBroken(AssertionError):
    """A bug of ours. The process ends; the last checkpoint is still true."""
