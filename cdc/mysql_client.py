"""The driver's connection to MySQL and MariaDB, on its guard: what a server sends may cost it time, not us memory.

A server is not to be trusted with more than its answers: the one behind the URL may be another than it was, and where
certificates are not verified, anybody on the way. Refused: to show the password in the clear to a server that is not
verified, to send a file (EDGE_CASES G7), more columns than any server has, answers without end, and bytes that are no
protocol, each as an error of the driver's own. A log-in has to be done within the time for connecting, however slowly
the bytes come.

Knows pymysql and nothing of what is asked over the connection.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from pymysql import err
from pymysql.connections import Connection, MySQLResult
from pymysql.constants import CR
from pymysql.protocol import MysqlPacket

__all__ = ["ANSWER_BYTES_MAX", "COLUMNS_MAX", "LOGIN_BYTES_MAX", "GuardedConnection"]

LOGIN_BYTES_MAX: Final = 256 * 1024  # of all packets of a log-in; a few hundred, and a key or certificate at most
ANSWER_BYTES_MAX: Final = 256 * 1024 * 1024  # of one answer that is held in memory: catalogs of 100 000 tables
ROW_BYTES_MAX: Final = (1 << 30) + (1 << 20)  # max_allowed_packet is 1 GiB at most
COLUMNS_MAX: Final = 4096  # of a table or a result, in both families
_PACKET_BYTES_MAX: Final = (1 << 24) - 1  # longer payloads come in several packets

# What a value takes besides its bytes, once it is an object in a row: short ones would be many times their bytes.
_VALUE_BYTES: Final = 48
_RESULT_BYTES: Final = 16 * 1024  # one of many results of a statement counts as so much: no more than 16 384 of them
_LENGTH_IN_ONE_BYTE_MAX: Final = 250
# What the driver's parser raises of bytes that it does not understand.
_NO_PROTOCOL: Final = (
    struct.error, IndexError, KeyError, ValueError, TypeError, AssertionError, AttributeError, UnboundLocalError
)  # fmt: skip


class _ClearPassword:
    """Shows the password to a server whose certificate is verified, and to no other.

    The driver shows it to whoever asks; the servers' own clients want --enable-cleartext-plugin for that.
    """

    def __init__(self, connection: Any, *, plugin: bytes) -> None:
        self._connection = connection
        self._plugin = plugin

    def authenticate(self, packet: MysqlPacket) -> MysqlPacket:
        sock = self._connection._sock
        if not (isinstance(sock, ssl.SSLSocket) and sock.context.verify_mode == ssl.CERT_REQUIRED):
            raise err.OperationalError(
                CR.CR_AUTH_PLUGIN_ERR,
                "the server asks for the password in the clear, and its certificate is not verified: set ssl_mode "
                "verify_identity, or give the account another authentication plugin",
            )
        answer: MysqlPacket = self._connection._process_auth(self._plugin, packet)
        return answer


class _WeakHash:
    """Refuses the hash of before MySQL 4.1, out of which the password can be worked out."""

    def __init__(self, _connection: Any) -> None:
        pass

    def authenticate(self, _packet: MysqlPacket) -> MysqlPacket:
        raise err.OperationalError(
            CR.CR_AUTH_PLUGIN_ERR, "the server asks for mysql_old_password, which gives the password away"
        )


_PLUGINS: Final[dict[str, Callable[[Connection[Any]], Any]]] = {
    "mysql_clear_password": functools.partial(_ClearPassword, plugin=b"mysql_clear_password"),
    "dialog": functools.partial(_ClearPassword, plugin=b"dialog"),
    "mysql_old_password": _WeakHash,
}


if TYPE_CHECKING:
    # What the stubs leave out of what is overridden below.

    class _Driver(Connection[Any]):
        _sock: Any
        _result: Any
        _ssl_required: bool
        server_status: int
        connect_timeout: float

        def _force_close(self) -> None: ...
        def _get_server_information(self) -> None: ...
        def _read_bytes(self, num_bytes: int) -> bytes: ...
        def _read_packet(self, *arguments: Any) -> MysqlPacket: ...
        def _execute_command(self, command: int, sql: str | bytes) -> None: ...
        def _read_query_result(self, unbuffered: bool = False) -> int: ...

    class _DriverResult(MySQLResult):
        connection: Any
        converters: list[tuple[str | None, Callable[[Any], Any] | None]]

        def _get_descriptions(self) -> None: ...
        def _read_load_local_packet(self, first_packet: MysqlPacket) -> None: ...
        def _read_row_from_packet(self, packet: MysqlPacket) -> tuple[Any, ...]: ...
        def _read_rowdata_packet_unbuffered(self) -> Any: ...
else:
    _Driver, _DriverResult = Connection, MySQLResult


class GuardedConnection(_Driver):
    """A session of the driver that refuses what no honest server sends."""

    def __init__(self, **arguments: Any) -> None:
        self._is_logging_in = True
        self._is_late = False
        self._bytes_left = LOGIN_BYTES_MAX
        self._line: socket.socket | None = None
        self._deadline: threading.Timer | None = None
        super().__init__(auth_plugin_map=_PLUGINS, **arguments)

    # ------------------------------------------------------------ the log-in

    def connect(self, sock: Any = None) -> None:
        """As the driver's; the log-in that follows the connection has `connect_timeout` seconds in all."""
        self._is_logging_in, self._is_late, self._bytes_left = True, False, LOGIN_BYTES_MAX
        try:
            with self.understood():
                super().connect(sock)
        except err.Error as error:
            if not self._is_late:
                raise
            raise err.OperationalError(
                CR.CR_SERVER_LOST, f"the server has not let us in within {self.connect_timeout:g} s"
            ) from error
        finally:
            if self._deadline is not None and self._line is not None:
                self._deadline.cancel()
                self._line.close()
        self._is_logging_in = False

    def _get_server_information(self) -> None:
        # A descriptor of its own: the driver's is another one once TLS begins.
        self._line = socket.socket(fileno=os.dup(self._sock.fileno()))
        self._deadline = threading.Timer(self.connect_timeout, self._end_login, (self._line,))
        self._deadline.daemon = True
        try:
            self._deadline.start()
        except RuntimeError as error:  # no thread left: the driver takes it for what it is, no connection
            raise OSError(errno.EAGAIN, str(error)) from error
        super()._get_server_information()

    def _end_login(self, line: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed: it has ended this moment
            self._is_late = True
            line.shutdown(socket.SHUT_RDWR)

    # ------------------------------------------------------------ answers

    @contextlib.contextmanager
    def understood(self) -> Iterator[None]:
        """What the driver's parser raises inside comes out as an error of the driver, and the session is over."""
        try:
            yield
        except OSError:
            raise
        except UnicodeEncodeError:
            raise  # something of ours: a host, a password
        except _NO_PROTOCOL as error:
            self._force_close()
            raise err.OperationalError(
                CR.CR_MALFORMED_PACKET, f"the server's bytes are no protocol ({type(error).__name__})"
            ) from error

    def charge(self, size: int) -> None:
        """So many bytes more come of this answer. Raises the driver's error where they are too many."""
        self._bytes_left -= size
        if self._bytes_left >= 0:
            return
        self._force_close()
        what = "its part of the log-in" if self._is_logging_in else "one answer"
        raise err.OperationalError(CR.CR_MALFORMED_PACKET, f"the server sends more than {what} may have: hung up")

    def _read_bytes(self, num_bytes: int) -> bytes:
        self.charge(num_bytes)
        return super()._read_bytes(num_bytes)

    def _read_packet(self, *arguments: Any) -> MysqlPacket:
        result = self._result
        if result is not None and result.unbuffered_active:
            self._bytes_left = ROW_BYTES_MAX  # rows that are handed on one by one
        return super()._read_packet(*arguments)

    def _execute_command(self, command: int, sql: str | bytes) -> None:
        if not self._is_logging_in:
            self._bytes_left = ANSWER_BYTES_MAX
        super()._execute_command(command, sql)

    def _read_query_result(self, unbuffered: bool = False) -> int:  # the driver's own name and default
        self._result = None
        if not self._is_logging_in and self._bytes_left > ANSWER_BYTES_MAX:
            self._bytes_left = ANSWER_BYTES_MAX  # what is left of a row's
        self.charge(_RESULT_BYTES)
        result = _GuardedResult(self)
        with self.understood():
            if unbuffered:
                result.init_unbuffered_query()
            else:
                result.read()
        self._result = result
        if result.server_status is not None:
            self.server_status = result.server_status
        return result.affected_rows or 0


class _GuardedResult(_DriverResult):
    """A result that counts what it takes, and never opens a file."""

    def _get_descriptions(self) -> None:
        if self.field_count > COLUMNS_MAX:
            self.connection._force_close()
            raise err.OperationalError(
                CR.CR_MALFORMED_PACKET, f"the server announces a result of {self.field_count} columns: hung up"
            )
        super()._get_descriptions()

    def _read_load_local_packet(self, first_packet: MysqlPacket) -> None:  # noqa: ARG002 - the name is never opened
        self.connection._force_close()
        raise err.OperationalError(
            CR.CR_MALFORMED_PACKET, "the server asks for a file in answer to a statement that offers none: hung up"
        )

    def _read_row_from_packet(self, packet: Any) -> tuple[Any, ...]:
        data, at = packet._data, packet._position
        row: list[Any] = []
        for encoding, converter in self.converters:  # as the driver does, without a call or three for each value
            if at >= len(data):
                break
            size = data[at]
            at += 1
            if size > _LENGTH_IN_ONE_BYTE_MAX:
                packet._position = at - 1
                long = packet.read_length_encoded_integer()
                if long is None:
                    row.append(None)
                    continue
                at, size = packet._position, long
            value = data[at : at + size]
            if len(value) != size:
                raise IndexError("a value ends behind its packet")
            at += size
            if encoding is not None:
                value = value.decode(encoding)
            row.append(value if converter is None else converter(value))
        if not self.unbuffered_active:
            self.connection.charge(_VALUE_BYTES * (1 + len(row)))
        return tuple(row)

    def _read_rowdata_packet_unbuffered(self) -> Any:
        connection = self.connection
        if connection is None:
            return super()._read_rowdata_packet_unbuffered()
        with connection.understood():
            return super()._read_rowdata_packet_unbuffered()
