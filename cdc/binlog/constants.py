"""The numbers of the binlog format: event types, flags, column types, optional metadata fields.

A table of our own; knows nothing but the numbers and what they mean. What an event *is to the caller* is decided
in events.py (`classify`).

Sources: MySQL libs/mysql/binlog/event/binlog_event.h, rows_event.h, control_events.h (trunk, 9.x) and
include/field_types.h; MariaDB sql/log_event.h, sql/rpl_constants.h (11.8); "MySQL Internals: Replication".
"""

from __future__ import annotations

import enum

__all__ = [
    "BINLOG_MAGIC",
    "CHECKSUM_BYTES",
    "EVENT_BYTES_MAX",
    "EVENT_HEADER_BYTES",
    "TABLE_ID_DUMMY",
    "ChecksumAlgorithm",
    "ColumnType",
    "EventFlag",
    "EventType",
    "GtidFlag",
    "MariadbGtidExtraFlag",
    "MariadbGtidFlag",
    "MetadataField",
    "QueryVariable",
    "RowsFlag",
]

# The four bytes that open a binlog file.
BINLOG_MAGIC = b"\xfebin"
EVENT_HEADER_BYTES = 19
CHECKSUM_BYTES = 4
# Servers never write an event above max_allowed_packet's own limit (MySQL max_log_event_size); one more header
# and status block is what MariaDB's MAX_LOG_EVENT_HEADER allows on top, so we leave it 64 KiB.
EVENT_BYTES_MAX = (1 << 30) + (1 << 16)
# The table id of a rows event that only ends a statement (STMT_END) and holds no rows.
TABLE_ID_DUMMY = 0xFFFFFF


class ChecksumAlgorithm(enum.IntEnum):
    """`binlog_checksum`, as the algorithm byte of a format description event says it."""

    NONE = 0
    CRC32 = 1


class EventType(enum.IntEnum):
    """Event type codes. 1 to 42 are MySQL's (MariaDB shares those up to 27), 160 and above MariaDB's."""

    START_V3 = 1  # binlog version 1 and 3 (MySQL 3.23, 4.x)
    QUERY = 2
    STOP = 3
    ROTATE = 4
    INTVAR = 5
    LOAD = 6  # MySQL 3.23 to 5.0.2
    SLAVE = 7  # never written
    CREATE_FILE = 8  # MySQL 4.x to 5.0.2
    APPEND_BLOCK = 9
    EXEC_LOAD = 10  # MySQL 4.x to 5.0.2
    DELETE_FILE = 11
    NEW_LOAD = 12  # MySQL 4.x to 5.0.2
    RAND = 13
    USER_VAR = 14
    FORMAT_DESCRIPTION = 15
    XID = 16
    BEGIN_LOAD_QUERY = 17
    EXECUTE_LOAD_QUERY = 18
    TABLE_MAP = 19
    PRE_GA_WRITE_ROWS = 20  # MySQL 5.1.0 to 5.1.15
    PRE_GA_UPDATE_ROWS = 21
    PRE_GA_DELETE_ROWS = 22
    WRITE_ROWS_V1 = 23  # MySQL 5.1.16 to 5.6.5, and with log_bin_use_v1_row_events; every MariaDB
    UPDATE_ROWS_V1 = 24
    DELETE_ROWS_V1 = 25
    INCIDENT = 26
    HEARTBEAT = 27
    IGNORABLE = 28
    ROWS_QUERY = 29
    WRITE_ROWS = 30
    UPDATE_ROWS = 31
    DELETE_ROWS = 32
    GTID = 33
    ANONYMOUS_GTID = 34
    PREVIOUS_GTIDS = 35
    TRANSACTION_CONTEXT = 36  # group replication
    VIEW_CHANGE = 37  # group replication
    XA_PREPARE = 38
    PARTIAL_UPDATE_ROWS = 39
    TRANSACTION_PAYLOAD = 40
    HEARTBEAT_V2 = 41
    GTID_TAGGED = 42
    MARIADB_ANNOTATE_ROWS = 160
    MARIADB_BINLOG_CHECKPOINT = 161
    MARIADB_GTID = 162
    MARIADB_GTID_LIST = 163
    MARIADB_START_ENCRYPTION = 164
    MARIADB_QUERY_COMPRESSED = 165
    MARIADB_WRITE_ROWS_COMPRESSED_V1 = 166
    MARIADB_UPDATE_ROWS_COMPRESSED_V1 = 167
    MARIADB_DELETE_ROWS_COMPRESSED_V1 = 168
    MARIADB_WRITE_ROWS_COMPRESSED = 169
    MARIADB_UPDATE_ROWS_COMPRESSED = 170
    MARIADB_DELETE_ROWS_COMPRESSED = 171


class EventFlag(enum.IntFlag):
    """Flags of the common header."""

    BINLOG_IN_USE = 0x1  # on a format description: the file was not closed (or is the one being written)
    FORCED_ROTATE = 0x2
    THREAD_SPECIFIC = 0x4
    SUPPRESS_USE = 0x8
    ARTIFICIAL = 0x20  # made up by the sender; in no file
    RELAY_LOG = 0x40
    IGNORABLE = 0x80  # who does not know the type may skip it
    NO_FILTER = 0x100
    MTS_ISOLATE = 0x200
    SKIP_REPLICATION = 0x8000  # MariaDB: written under @@skip_replication


class RowsFlag(enum.IntFlag):
    """Flags of a rows event."""

    STMT_END = 0x1
    NO_FOREIGN_KEY_CHECKS = 0x2
    RELAXED_UNIQUE_CHECKS = 0x4
    COMPLETE_ROWS = 0x8
    NO_CHECK_CONSTRAINT_CHECKS = 0x80  # MariaDB


class GtidFlag(enum.IntFlag):
    """MySQL's GTID event: `gtid_flags`."""

    MAY_HAVE_STATEMENTS = 0x1


class MariadbGtidFlag(enum.IntFlag):
    """MariaDB's GTID event: `flags2` (sql/log_event.h, Gtid_log_event)."""

    STANDALONE = 0x1  # one statement, no COMMIT follows
    GROUP_COMMIT_ID = 0x2
    TRANSACTIONAL = 0x4
    ALLOW_PARALLEL = 0x8
    WAITED = 0x10
    DDL = 0x20
    PREPARED_XA = 0x40
    COMPLETED_XA = 0x80


class MariadbGtidExtraFlag(enum.IntFlag):
    """MariaDB's GTID event: `flags_extra`."""

    MULTI_ENGINE = 0x1
    START_ALTER = 0x2
    COMMIT_ALTER = 0x4
    ROLLBACK_ALTER = 0x8
    THREAD_ID = 0x10


class ColumnType(enum.IntEnum):
    """Column types as a table map holds them (`enum_field_types`)."""

    DECIMAL_OLD = 0  # before MySQL 5.0
    TINY = 1
    SHORT = 2
    LONG = 3
    FLOAT = 4
    DOUBLE = 5
    NULL = 6
    TIMESTAMP = 7  # before MySQL 5.6.4; MariaDB with mysql56_temporal_format=OFF
    LONGLONG = 8
    INT24 = 9
    DATE = 10
    TIME = 11  # as TIMESTAMP
    DATETIME = 12  # as TIMESTAMP
    YEAR = 13
    NEWDATE = 14
    VARCHAR = 15
    BIT = 16
    TIMESTAMP2 = 17
    DATETIME2 = 18
    TIME2 = 19
    MARIADB_BLOB_COMPRESSED = 140
    MARIADB_VARCHAR_COMPRESSED = 141
    VECTOR = 242
    INVALID = 243
    TYPED_ARRAY = 244  # never stored
    JSON = 245
    NEWDECIMAL = 246
    ENUM = 247  # only as the real type in STRING's metadata
    SET = 248  # only as the real type in STRING's metadata
    TINY_BLOB = 249
    MEDIUM_BLOB = 250
    LONG_BLOB = 251
    BLOB = 252
    VAR_STRING = 253
    STRING = 254
    GEOMETRY = 255


class MetadataField(enum.IntEnum):
    """Fields of a table map's optional metadata (`Optional_metadata_field_type`)."""

    SIGNEDNESS = 1
    DEFAULT_CHARSET = 2
    COLUMN_CHARSET = 3
    COLUMN_NAME = 4
    SET_STR_VALUE = 5
    ENUM_STR_VALUE = 6
    GEOMETRY_TYPE = 7
    SIMPLE_PRIMARY_KEY = 8
    PRIMARY_KEY_WITH_PREFIX = 9
    ENUM_AND_SET_DEFAULT_CHARSET = 10
    ENUM_AND_SET_COLUMN_CHARSET = 11
    COLUMN_VISIBILITY = 12
    VECTOR_DIMENSIONALITY = 13


class QueryVariable(enum.IntEnum):
    """Status variables of a query event (`Q_..._CODE`); 128 and above are MariaDB's."""

    FLAGS2 = 0
    SQL_MODE = 1
    CATALOG = 2
    AUTO_INCREMENT = 3
    CHARSET = 4
    TIME_ZONE = 5
    CATALOG_NZ = 6
    LC_TIME_NAMES = 7
    CHARSET_DATABASE = 8
    TABLE_MAP_FOR_UPDATE = 9
    MASTER_DATA_WRITTEN = 10
    INVOKER = 11
    UPDATED_DB_NAMES = 12
    MICROSECONDS = 13
    COMMIT_TS = 14
    COMMIT_TS2 = 15
    EXPLICIT_DEFAULTS_FOR_TIMESTAMP = 16
    DDL_LOGGED_WITH_XID = 17
    DEFAULT_COLLATION_FOR_UTF8MB4 = 18
    SQL_REQUIRE_PRIMARY_KEY = 19
    DEFAULT_TABLE_ENCRYPTION = 20
    ENABLE_CASCADE_TRIGGERS = 21
    MARIADB_HRNOW = 128
    MARIADB_XID = 129
    MARIADB_GTID_FLAGS3 = 130
    MARIADB_CHARACTER_SET_COLLATIONS = 131
