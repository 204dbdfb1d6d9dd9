"""LOAD DATA LOCAL from memory, over a connection of pymysql.

A server may answer any statement by asking for a file, of any name (EDGE_CASES G7). The driver's own handler, which
would open it, stays off; rows are sent here, to a server that asks, right after our own statement, for the name that
this statement made up. Whatever else asks is refused, and the connection is closed.

Source: MySQL's protocol documentation, "LOCAL INFILE Request" (0xFB and the file's name; the content in packets of any
size; an empty packet; OK or an error), and "OK_Packet", whose text has the counts.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pymysql.constants import COMMAND
from pymysql.protocol import OKPacketWrapper

__all__ = ["PIECE_BYTES_MAX", "ForeignRequest", "LoadReply", "load_local"]

PIECE_BYTES_MAX = 1 << 20  # of a packet; a larger one gains nothing
_COUNTS = re.compile(rb"Records: (\d+)  Deleted: (\d+)  Skipped: (\d+)  Warnings: (\d+)")


class ForeignRequest(Exception):
    """The server did not ask for what was offered to it."""


@dataclass(frozen=True, slots=True)
class LoadReply:
    """What the server says of the lines that it was sent. `deleted` counts rows overwritten, for REPLACE."""

    records: int
    deleted: int
    skipped: int
    warnings: int


def load_local(
    connection: Any, statement: Callable[[str], str], pieces: Iterable[memoryview], *, packet_bytes_max: int
) -> LoadReply:
    """Run one LOAD DATA LOCAL and send it `pieces`, in packets of at most 1 MiB and `packet_bytes_max`.

    Args:
        statement: the statement for a file name: one that nobody can know before.
        pieces: may be made while they are asked for; the server works on those that it has in the meantime.
    Raises:
        ForeignRequest: the answer is none to this statement; the connection is closed.
        The driver's errors, those of the server among them.
        What `pieces` raises: the connection is closed, for the server would take the beginning for the whole.
    """
    token = f"_cdc_{secrets.token_hex(16)}"
    connection._execute_command(COMMAND.COM_QUERY, statement(token))
    packet = connection._read_packet()
    if not packet.is_load_local_packet():
        connection._force_close()
        raise ForeignRequest("the server answered LOAD DATA LOCAL without asking for its rows")
    if not hmac.compare_digest(packet.get_all_data()[1:], token.encode()):
        connection._force_close()
        raise ForeignRequest("the server asked for a file that it was not offered")
    size = max(1, min(PIECE_BYTES_MAX, packet_bytes_max))
    is_sent = False
    try:
        for piece in pieces:
            for start in range(0, len(piece), size):
                connection.write_packet(piece[start : start + size])
        is_sent = True
    finally:
        if not is_sent:
            connection._force_close()
    connection.write_packet(b"")
    return _reply(connection)


def _reply(connection: Any) -> LoadReply:
    packet = connection._read_packet()
    if not packet.is_ok_packet():
        connection._force_close()
        raise ForeignRequest("the server did not say what became of the rows")
    done = OKPacketWrapper(packet)
    connection.server_status = done.server_status
    counts = _COUNTS.search(bytes(done.message))
    if counts is None or done.has_next:
        connection._force_close()
        raise ForeignRequest("the server did not say how many rows it took")
    records, deleted, skipped, warnings = map(int, counts.groups())
    return LoadReply(records, deleted, skipped, max(warnings, done.warning_count))
