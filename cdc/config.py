"""Read the configuration: a YAML file, variables and the environment become one frozen, typed `Config`.

Reports every problem at once, each with its file and line, and never shows a password. Knows nothing of
servers: whether a host answers is `cdc check`'s business. docs/configuration.md is generated from the field
descriptions below (`python -m cdc.config > docs/configuration.md`); config.yaml is the commented example.
"""

from __future__ import annotations

import difflib
import functools
import ipaddress
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Never, NoReturn, TypeGuard, TypeVar, Union, get_args, get_origin
from urllib.parse import quote, unquote

import yaml
from annotated_types import Ge, Le
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from cdc.credentials import Password
from cdc.errors import ConfigError
from cdc.rowfilter import RowFilter, parse_filter
from cdc.table_file import TableEntry, parse_table_file

ENVIRONMENT_PREFIX: Final = "CDC__"

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

SERVER_ID_MAX: Final = 4294967295  # server_id is an unsigned 32-bit integer on the wire (COM_REGISTER_SLAVE)

HASH_SALT_BYTES_MIN: Final = 16  # 128 bits, were they random: beyond trying them all
MASK_TEXT_CHARACTERS_MAX: Final = 255
TOKEN_CHARACTERS_MIN: Final = 16

LOAD_PRIORITY: Final = 100  # of tables of which nothing else is said

SYSTEM_SCHEMAS: Final = frozenset({"mysql", "information_schema", "performance_schema", "sys"})


# ---------------------------------------------------------------------------------------------------------------------
# Secrets and URLs


class Secret:
    """A text that does not show itself: only `reveal()` gives it. It is not pickled; a copy is the same object."""

    __slots__ = ("__value",)
    __value: str

    def __init__(self, value: str) -> None:
        object.__setattr__(self, "_Secret__value", value)

    def reveal(self) -> str:
        """The text itself, for handing to a driver and nothing else."""
        return self.__value

    def __bool__(self) -> bool:
        return bool(self.__value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.__value == self.__value

    def __hash__(self) -> int:
        return hash(self.__value)

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError("a Secret does not change")

    def __delattr__(self, name: str) -> Never:
        raise AttributeError("a Secret does not change")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret is not pickled")


DatabaseKind = Literal["mysql", "postgresql"]

_SCHEMES: Final[Mapping[str, DatabaseKind]] = {
    "mysql": "mysql",
    "mariadb": "mysql",
    "postgresql": "postgresql",
    "postgres": "postgresql",
}
_DEFAULT_PORTS: Final[Mapping[DatabaseKind, int]] = {"mysql": 3306, "postgresql": 5432}

# What drivers call these options, and the key that says it here.
_KEY_FOR_OPTION: Final[Mapping[str, str]] = {
    "ssl": "ssl_mode",
    "sslmode": "ssl_mode",
    "ssl-mode": "ssl_mode",
    "ssl_mode": "ssl_mode",
    "sslrootcert": "ssl_ca",
    "ssl-ca": "ssl_ca",
    "ssl_ca": "ssl_ca",
    "sslcert": "ssl_cert",
    "ssl-cert": "ssl_cert",
    "ssl_cert": "ssl_cert",
    "sslkey": "ssl_key",
    "ssl-key": "ssl_key",
    "ssl_key": "ssl_key",
    "connect_timeout": "connect_timeout_seconds",
}


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """Where a server is and who connects. Its `str` is the URL with the password as ***."""

    kind: DatabaseKind
    user: str
    password: Secret  # empty when the URL has none
    host: str  # without brackets for IPv6
    port: int
    database: str | None = None
    options: tuple[tuple[str, str], ...] = ()  # none are known yet: TLS and timeouts are keys of the section

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        password = ":***" if self.password else ""
        database = f"/{quote(self.database, safe='')}" if self.database else ""
        return f"{self.kind}://{quote(self.user, safe='')}{password}@{host}:{self.port}{database}"

    @property
    def is_loopback(self) -> bool:
        """The host is this machine by name or address, so the connection crosses no network."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Is that this machine, by name or address?"""
    if host.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_database_url(text: str) -> DatabaseUrl:
    """Parse `scheme://user:password@host:port/database`.

    Raises:
        ValueError: with a text that quotes no part of the URL: in a malformed one any part may be the password.
    """
    if any(character.isspace() or not character.isprintable() for character in text):
        raise ValueError("the URL contains a space or a control character: percent-encode it, or use ${VAR}")
    scheme, separator, rest = text.partition("://")
    kind = _SCHEMES.get(scheme.lower())
    if not separator or kind is None:
        raise ValueError("the URL does not begin with one of " + ", ".join(f"{known}://" for known in _SCHEMES))
    authority, path, query = _split_url(rest)
    userinfo, separator, address = authority.rpartition("@")
    user, _, password = userinfo.partition(":")
    if not user:
        raise ValueError(f"the URL has no user: write {scheme.lower()}://USER@HOST")
    host, port = _host_and_port(address)
    if query:
        _refuse_options(query)
    database = _percent_decoded(path)
    if "/" in path:
        raise ValueError("the URL has more than one / after the host: one database name at most")
    return DatabaseUrl(
        kind=kind,
        user=_percent_decoded(user),
        password=Secret(_percent_decoded(password)),
        host=host,
        port=_DEFAULT_PORTS[kind] if port is None else port,
        database=database or None,
    )


def _split_url(rest: str) -> tuple[str, str, str]:
    """Authority, path without its first slash, query."""
    end = min((index for index in map(rest.find, "/?#") if index >= 0), default=len(rest))
    authority, tail = rest[:end], rest[end:]
    if "@" in tail:
        raise ValueError("the user or the password contains / ? or #: percent-encode it, or use ${VAR}")
    if "#" in tail:
        raise ValueError("the URL contains #: percent-encode it as %23")
    path, _, query = tail.partition("?")
    return authority, path.removeprefix("/"), query


def _host_and_port(address: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(?:\[(?P<six>[^\[\]]*)\]|(?P<name>[^:\[\]\\%]*))(?::(?P<port>.*))?", address)
    if match is None:
        raise ValueError("the host is malformed: a name, an IPv4 address, or an IPv6 address in [ ]")
    if match["six"] is not None:
        host = _percent_decoded(match["six"])
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("what stands in [ ] is not an IPv6 address") from None
    else:
        host = match["name"]
        if not host:
            raise ValueError("the URL has no host")
    text = match["port"]
    if text is None:
        return host, None
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError("the port is not in 1..65535")
    return host, int(text)


def _refuse_options(query: str) -> NoReturn:
    names = [item.partition("=")[0] for item in query.split("&")]
    # Only names of this table are quoted: what else stands here may be half of somebody's password.
    known = [f"{name} (write {_KEY_FOR_OPTION[name]})" for name in names if name in _KEY_FOR_OPTION]
    raise ValueError(
        f"the URL has {'the option ' + ', '.join(known) if known else 'options'} after ?, and none is known: "
        "use the keys ssl_mode, ssl_ca, ssl_cert, ssl_key and connect_timeout_seconds beside url"
    )


def _percent_decoded(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError("the URL has a % without two hexadecimal digits: write %25 for a %, or use ${VAR}")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("the URL is not UTF-8 after percent-decoding") from None


# ---------------------------------------------------------------------------------------------------------------------
# Table patterns


@dataclass(frozen=True, slots=True)
class TablePattern:
    """`db.table` with `*` (any text) and `?` (one character) in either half; a backslash takes the next as it is."""

    database: re.Pattern[str]
    table: re.Pattern[str]

    def matches(self, database: str, table: str) -> bool:
        return self.database.fullmatch(database) is not None and self.table.fullmatch(table) is not None

    def wildcards(self, database: str, table: str) -> tuple[str, ...]:
        """What each wildcard stands for in names that match, those of the database first; the first ones take most."""
        matched = (self.database.fullmatch(database), self.table.fullmatch(table))
        return tuple(text for match in matched if match is not None for text in match.groups())

    @property
    def wildcard_count(self) -> int:
        return self.database.groups + self.table.groups


def parse_table_pattern(text: str) -> TablePattern:
    """Raises ValueError when `text` is not `db.table` or can match nothing that is ever captured."""
    database, table = _split_table(text)
    exact = _exact_text(database)
    if exact is not None and _is_system_schema(exact):
        raise ValueError(f"{exact} is a system schema, which is never captured")
    return TablePattern(_pattern_regex(database), _pattern_regex(table))


def parse_table_name(text: str) -> tuple[str, str]:
    """Database and table of an exact `db.table`; raises ValueError for patterns."""
    halves = [_exact_text(half) for half in _split_table(text)]
    if halves[0] is None or halves[1] is None:
        raise ValueError("an exact db.table is needed here, without * or ? (write \\* for the character itself)")
    return halves[0], halves[1]


# A character with the backslash before it, if any: the unit in which patterns are read.
_PATTERN_UNIT: Final = re.compile(r"\\(?P<escaped>.)|(?P<plain>.)", re.DOTALL)


def _split_table(text: str) -> tuple[str, str]:
    """Split at the first dot without a backslash: later dots belong to the table's name."""
    if re.search(r"(?<!\\)(?:\\\\)*\\\Z", text):
        raise ValueError("the pattern ends with a lone backslash: write \\\\ for the character itself")
    for unit in _PATTERN_UNIT.finditer(text):
        if unit["plain"] == ".":
            database, table = text[: unit.start()], text[unit.end() :]
            if database and table:
                return database, table
            break
    raise ValueError("not of the form db.table (for a whole database: db.*)")


def _exact_text(half: str) -> str | None:
    """The name that `half` stands for, or None when it is a pattern."""
    units = list(_PATTERN_UNIT.finditer(half))
    if any(unit["plain"] in ("*", "?") for unit in units):
        return None
    return "".join(unit["plain"] or unit["escaped"] for unit in units)


def _pattern_regex(half: str) -> re.Pattern[str]:
    special = {"*": "(.*)", "?": "(.)"}
    units = (
        re.escape(unit["escaped"]) if unit["escaped"] else special.get(unit["plain"], re.escape(unit["plain"]))
        for unit in _PATTERN_UNIT.finditer(half)
    )
    return re.compile(re.sub(r"(?:\(\.\*\)){2,}", "(.*)", "".join(units)), re.DOTALL)


# A template of a source column: {{ and }} are the characters themselves.
_TEMPLATE_UNIT: Final = re.compile(r"\{\{|\}\}|\{(?P<name>[^{}]*)\}|(?P<stray>[{}])")
_NAME_CHARACTERS_MAX: Final = 64  # of a database or table, and of a part of its name
_SOURCE_VALUE_CHARACTERS_MAX: Final = 255  # it is in the key, which has 3072 bytes on the MySQL family


def _template_problem(template: str, wildcard_count: int) -> str | None:
    known = ["database", "table", *map(str, range(1, wildcard_count + 1))]
    for unit in _TEMPLATE_UNIT.finditer(template):
        if unit["stray"]:
            return f"has a single {unit['stray']} (write {unit['stray'] * 2} for the character itself)"
        if unit["name"] is not None and unit["name"] not in known:
            return f"has {{{unit['name']}}}, and known are {', '.join(f'{{{name}}}' for name in known)}"
    if _template_length(template) > _SOURCE_VALUE_CHARACTERS_MAX:
        return f"may be longer than {_SOURCE_VALUE_CHARACTERS_MAX} characters, counting {_NAME_CHARACTERS_MAX} a name"
    return None


def _template_length(template: str) -> int:
    """How long its text may be, whatever the names are."""
    return len(_TEMPLATE_UNIT.sub(lambda unit: "x" * (1 if unit["name"] is None else _NAME_CHARACTERS_MAX), template))


def _template_text(template: str, names: Mapping[str, str]) -> str:
    return _TEMPLATE_UNIT.sub(lambda unit: unit[0][0] if unit["name"] is None else names[unit["name"]], template)


def is_own_table(database: str, table: str) -> bool:
    """Are those the metadata of a service like this one, for which the server is a sink? They say nothing elsewhere."""
    return database == "_cdc" or table.startswith("_cdc_")


def _is_system_schema(database: str) -> bool:
    # information_schema is not a directory: servers take it in any case. The others are, so that `Sys` on a
    # case-sensitive server is a user's database and must not be dropped in silence.
    return database in SYSTEM_SCHEMAS or database.lower() == "information_schema"


# ---------------------------------------------------------------------------------------------------------------------
# Types of the keys


def _fail(text: str) -> NoReturn:
    """Refuse a value, from inside a validator, with a text that is shown as it is."""
    raise PydanticCustomError("cdc", "{text}", {"text": text})


_T = TypeVar("_T")


def _refusing(parse: Callable[[str], _T]) -> Callable[[Any], _T]:
    """A validator out of a parser: its ValueError becomes a problem, and what is not text is refused."""

    def validate(value: Any) -> _T:
        if not isinstance(value, str):
            _fail("is not text")
        try:
            return parse(value)
        except ValueError as error:
            text = str(error)
        _fail(text)

    return validate


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # else true would pass for 1
        _fail(f"{str(value).lower()} is not a number")
    return value


_SIZE_UNITS: Final[Mapping[str, int]] = {
    "": 1,
    "b": 1,
    "k": KIB,
    "kib": KIB,
    "kb": 1000,
    "m": MIB,
    "mib": MIB,
    "mb": 1000**2,
    "g": GIB,
    "gib": GIB,
    "gb": 1000**3,
}


def _parse_size(value: Any) -> Any:
    if not isinstance(value, str):
        return _no_bool(value)
    match = re.fullmatch(r"\s*([0-9]{1,18})\s*([A-Za-z]*)\s*", value)
    if match is None or match[2].lower() not in _SIZE_UNITS:
        _fail("not a size: a whole number of bytes, or one with KiB, MiB, GiB (also k, M, G), such as 8MiB")
    return int(match[1]) * _SIZE_UNITS[match[2].lower()]


def size_text(count: int) -> str:
    """The shortest exact way to write a size: 8388608 is 8MiB."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count and count % unit == 0:
            return f"{count // unit}{name}"
    return str(count)


def _source_url(text: str) -> DatabaseUrl:
    url = parse_database_url(text)
    if url.kind != "mysql":
        raise ValueError("a source is MySQL or MariaDB: the URL must begin with mysql:// or mariadb://")
    return replace(url, database=None)  # a replica reads the whole log; what is captured is said by `tables`


def _sink_url(text: str) -> DatabaseUrl:
    url = parse_database_url(text)
    if url.kind == "postgresql" and url.database is None:
        raise ValueError("a PostgreSQL sink needs a database: postgresql://user@host/DATABASE")
    return url


def _database_url(parse: Callable[[str], DatabaseUrl]) -> Callable[[Any], DatabaseUrl]:
    validate = _refusing(parse)
    return lambda value: value if isinstance(value, DatabaseUrl) else validate(value)


def _null_text(value: Any) -> Any:
    return "null" if value is None else value


def _empty_is_none(value: Any) -> Any:
    return None if value == "" else value


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


LANES_MAX: Final = 16


def _lanes(value: Any) -> Any:
    """Lanes as one list of patterns each; a number is as many lanes without patterns."""
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        value = int(value)
    if isinstance(value, int):
        count = _no_bool(value)
        if not 1 <= count <= LANES_MAX:
            _fail(f"{count} is not in 1..{LANES_MAX}")
        return ((),) * count
    if not isinstance(value, list | tuple):
        _fail('is neither a number nor a list of lists of patterns, such as [["shop.orders"], ["*.*"]]')
    if not 1 <= len(value) <= LANES_MAX:
        _fail(f"{len(value)} lanes are not in 1..{LANES_MAX}")
    if any(value) and any(isinstance(lane, list | tuple) and not lane for lane in value):
        _fail("a lane is empty: name its tables, or give the number of lanes alone")
    return tuple(("*.*",) if lane in (["*"], ("*",)) else lane for lane in value)


def _shown_lanes(lanes: tuple[tuple[str, ...], ...]) -> Any:
    return [list(lane) for lane in lanes] if any(lanes) else len(lanes)


def _checked(check: Callable[[str], object]) -> AfterValidator:
    """Keep the text, refuse it when `check` raises ValueError."""
    validate = _refusing(check)

    def checked(value: str) -> str:
        validate(value)
        return value

    return AfterValidator(checked)


def _ssl_mode_by_host(value: Any, info: ValidationInfo) -> Any:
    if value is not None:
        return value
    url = info.data.get("url")
    return "preferred" if isinstance(url, DatabaseUrl) and url.is_loopback else "required"


def _key_needs_cert(value: Path | None, info: ValidationInfo) -> Path | None:
    if value is not None and "ssl_cert" in info.data and info.data["ssl_cert"] is None:
        _fail("a key without ssl_cert proves nothing: give both, or neither")
    return value


def _sink_schema(name: str) -> None:
    if not name or len(name.encode()) > 63:
        raise ValueError("not in 1..63 bytes, the length of a PostgreSQL name")
    if name in ("_cdc", "information_schema") or name.startswith("pg_"):
        raise ValueError("a schema of PostgreSQL itself or of this service's metadata: choose another")


def _distinct(columns: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(columns)) < len(columns) or "" in columns:
        _fail("a column is empty or named twice")
    return columns


def _salt(value: Any) -> Secret:
    """A problem's text never quotes it."""
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        _fail("is not text: put it in quotes")
    if len(value.encode(errors="surrogateescape")) < HASH_SALT_BYTES_MIN:
        _fail(f"is shorter than {HASH_SALT_BYTES_MIN} bytes: hashes of short texts could be guessed back")
    return Secret(value)


def _token(value: Any) -> Secret:
    """A problem's text never quotes it."""
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        _fail("is not text: put it in quotes")
    if len(value) < TOKEN_CHARACTERS_MIN:
        _fail(f"is shorter than {TOKEN_CHARACTERS_MIN} characters: it could be guessed")
    if any(character.isspace() or not character.isprintable() for character in value):
        _fail("has a space or a control character, which no header could hold")
    return Secret(value)


def _row_filter(value: Any) -> RowFilter:
    return value if isinstance(value, RowFilter) else _refusing(parse_filter)(value)


def _mask_text(text: str) -> str:
    if not text.isprintable() or len(text) > MASK_TEXT_CHARACTERS_MAX:
        _fail(f"not 0 to {MASK_TEXT_CHARACTERS_MAX} printable characters")
    return text


_URL_SCHEMA: Final = WithJsonSchema({"type": "string", "format": "uri"})
_MASK_SCHEMA: Final = WithJsonSchema({"enum": ["null", None, "text", "keep_first", "keep_last"]})
# Those of schema.asked_types, which a test holds it to.
_ASKED_TYPE: Final = (
    r"^(boolean|smallint|integer|bigint|numeric|text|json|jsonb|geometry|varchar\(([1-9][0-9]{0,3}|1[0-5][0-9]{3})\))$"
)
_ZERO_DATES_SCHEMA: Final = WithJsonSchema({"enum": ["null", None, "error", "infinity"]})
_COLUMNS_SCHEMA: Final = WithJsonSchema(
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
)
_SIZE_SCHEMA: Final = WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}]})

SourceUrl = Annotated[
    DatabaseUrl, PlainValidator(_database_url(_source_url)), PlainSerializer(str, return_type=str), _URL_SCHEMA
]
SinkUrl = Annotated[
    DatabaseUrl, PlainValidator(_database_url(_sink_url)), PlainSerializer(str, return_type=str), _URL_SCHEMA
]
Integer = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Size = Annotated[int, BeforeValidator(_parse_size), _SIZE_SCHEMA]
Pattern = Annotated[str, _checked(parse_table_pattern)]
_Lanes = Annotated[
    tuple[tuple[Pattern, ...], ...],
    BeforeValidator(_lanes),
    PlainSerializer(_shown_lanes),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": LANES_MAX},
                {"type": "array", "items": {"type": "array", "items": {"type": "string"}, "minItems": 1}},
            ]
        }
    ),
]
_Columns = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_distinct)]
_OptionalColumns = Annotated[_Columns | None, BeforeValidator(_one_or_many), _COLUMNS_SCHEMA]
Salt = Annotated[
    Secret,
    PlainValidator(_salt),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "minLength": HASH_SALT_BYTES_MIN}),
]
Token = Annotated[
    Secret,
    PlainValidator(_token),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "minLength": TOKEN_CHARACTERS_MIN}),
]
SyncStrategy = Literal["cdc", "incremental", "full_refresh", "auto"]
_Interval = Annotated[Number, Field(ge=0.1, le=2_592_000)]
_Lookback = Annotated[Number, Field(ge=0, le=2_592_000)]
_Every = Annotated[Integer, Field(ge=0, le=1_000_000)]
TableMode = Literal["mirror", "soft_delete", "append_only", "history"]
_ModeColumn = Annotated[str, Field(min_length=1, validate_default=True, json_schema_extra={"range_text": "name"})]
_MetadataName = Annotated[str | None, Field(min_length=1, json_schema_extra={"range_text": "name"})]
Filter = Annotated[
    RowFilter,
    PlainValidator(_row_filter),
    PlainSerializer(lambda found: found.text, return_type=str),
    WithJsonSchema({"type": "string"}),
]
Mask = Literal["null", "text", "keep_first", "keep_last"]
TableName = Annotated[str, _checked(parse_table_name)]

ZeroDates = Literal["null", "error", "infinity"]
NulBytes = Literal["replace", "strip", "error"]
IndexesMade = Literal["none", "unique", "all"]
DefaultsKept = Literal["none", "constant", "all"]
AskedType = Annotated[str, Field(pattern=_ASKED_TYPE)]
SslMode = Literal["disabled", "preferred", "required", "verify_ca", "verify_identity"]

_BY_HOST: Final[Any] = None  # replaced by _ssl_mode_by_host: no default of its own type says "it depends"

# The same five keys on the source and on every sink.
_SslMode = Annotated[
    SslMode,
    BeforeValidator(_ssl_mode_by_host),
    Field(
        validate_default=True,
        json_schema_extra={"default_text": "`preferred` on loopback, else `required`"},
        description="Encryption of the connection. `preferred` encrypts when the server can; `required` refuses to go "
        "on in the clear; `verify_ca` also checks the certificate's signer; `verify_identity` also its host name. "
        "Passwords and rows cross the network, so only a server on this machine may do without.",
    ),
]
_SslFile = Annotated[Path | None, BeforeValidator(_empty_is_none)]
_SslCa = Annotated[
    _SslFile,
    Field(
        description="PEM file of the certificate authorities that `verify_ca` and `verify_identity` trust. Unset: "
        "those of the system."
    ),
]
_SslCert = Annotated[
    _SslFile, Field(description="PEM file of the client certificate, for accounts that must show one (REQUIRE X509).")
]
_SslKey = Annotated[
    _SslFile,
    AfterValidator(_key_needs_cert),
    Field(description="PEM file of the client certificate's key. Unset: it stands in the file of `ssl_cert`."),
]
_ConnectTimeout = Annotated[
    Number,
    Field(
        ge=1,
        le=300,
        json_schema_extra={"unit": "seconds"},
        description="Longest wait for a connection. 10 s outlasts a slow name server; a host that is down is retried.",
    ),
]


# ---------------------------------------------------------------------------------------------------------------------
# The keys. Each description says what the key does and why its default is what it is.


DdlPolicy = Literal["apply", "log", "approve"]
OnDropColumn = Literal["drop", "keep"]
OnDropTable = Literal["keep", "drop", "archive"]
OnTruncate = Literal["apply", "ignore", "park"]
OnTypeChange = Literal["apply", "widen", "park"]


class Section(BaseModel):
    """A mapping of the file: frozen, and no key that is not named here."""

    # hide_input_in_errors: a ValidationError that escapes must not quote the value it refuses.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Server(Section):
    """A server that is logged in to."""

    _password: Password = PrivateAttr(default_factory=lambda: Password(""))

    def model_post_init(self, _context: Any) -> None:
        self._password = Password(self.url.password.reveal())  # type: ignore[attr-defined]  # of each kind its own

    @property
    def password(self) -> Password:
        """That of the URL, which may be another one later on."""
        return self._password


class SourceSettings(Server):
    """The server to follow. Rights needed: SELECT, REPLICATION SLAVE, REPLICATION CLIENT (MariaDB: BINLOG MONITOR)."""

    url: SourceUrl = Field(
        description="`mysql://user:password@host:port` or `mariadb://...`; the port is 3306 unless given. A database "
        "in it is ignored: `tables` says what is captured.",
    )
    server_id: Integer = Field(
        ge=1,
        le=SERVER_ID_MAX,
        description="First of the block of replica ids this deployment uses. No other replica of the source may have "
        "one of the block: the server ends one of two connections with the same id.",
    )
    server_id_count: Integer = Field(
        default=16,
        validate_default=True,
        ge=1,
        le=256,
        description="Size of the block that starts at `server_id`. Every concurrent stream (each sink, a table loading "
        "beside the stream, `cdc tail`) takes its own id; 16 leaves room for all of them on a few sinks.",
    )
    position: Literal["auto", "gtid", "file"] = Field(
        default="auto",
        description="How the place in the log is named. `auto`: by GTID set where the server has GTIDs on, which "
        "survives a change of primary, else by file and position, which does not.",
    )
    ssl_mode: _SslMode = Field(default=_BY_HOST)
    ssl_ca: _SslCa = None
    ssl_cert: _SslCert = None
    ssl_key: _SslKey = None
    connect_timeout_seconds: _ConnectTimeout = 10
    read_timeout_seconds: Number = Field(
        default=60,
        ge=1,
        le=3600,
        json_schema_extra={"unit": "seconds"},
        description="Silence after which the stream counts as dead and is opened again. Must exceed two heartbeats; "
        "60 s rides out a pause of the source that reconnecting would not shorten.",
    )
    heartbeat_seconds: Number = Field(
        default=1,
        validate_default=True,
        ge=0.1,
        le=60,
        json_schema_extra={"unit": "seconds"},
        description="How often an idle source says that it is alive. It is the only proof of progress while nothing "
        "that is captured changes, so lag is known to about this much.",
    )

    @field_validator("server_id_count")
    @classmethod
    def _block_fits(cls, value: int, info: ValidationInfo) -> int:
        if info.data.get("server_id", 1) + value - 1 > SERVER_ID_MAX:
            _fail(f"the block server_id..server_id+{value - 1} goes beyond {SERVER_ID_MAX}")
        return value

    @field_validator("heartbeat_seconds")
    @classmethod
    def _read_timeout_outlasts_heartbeats(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("read_timeout_seconds", 3601) <= 2 * value:
            _fail("read_timeout_seconds must be more than two heartbeat_seconds, or an idle source looks dead")
        return value

    @property
    def server_ids(self) -> range:
        """Every id of the block."""
        return range(self.server_id, self.server_id + self.server_id_count)


class SinkSettings(Server):
    """One target. Each sink has a pipeline of its own: a sink that is down does not hold up the others."""

    name: str = Field(
        pattern=r"^[a-z0-9_-]{1,63}$",
        json_schema_extra={"range_text": "`[a-z0-9_-]`, 1 to 63 characters, unique"},
        description="Identity of the sink in commands, metrics and metadata: do not change it later.",
    )
    url: SinkUrl = Field(
        description="`postgresql://user:password@host:port/database` (also `postgres://`; port 5432), or "
        "`mysql://...`, `mariadb://...` (port 3306). On MySQL the database is optional: without one, a table goes to a "
        "database of the same name as on the source. A PostgreSQL database must exist; schemas and MySQL databases are "
        "made. libpq's variables (PGHOSTADDR, PGSERVICE, …) do not count, but for PGPASSFILE.",
    )
    schema_name: Annotated[str, _checked(_sink_schema)] | None = Field(
        default=None,
        alias="schema",
        json_schema_extra={"range_text": "1 to 63 bytes, PostgreSQL only"},
        description="Schema that every table goes to which `tables.routes` sends nowhere else. Unset: one schema per "
        "source database, so that tables of the same name in two databases do not meet.",
    )
    ssl_mode: _SslMode = Field(default=_BY_HOST)
    ssl_ca: _SslCa = None
    ssl_cert: _SslCert = None
    ssl_key: _SslKey = None
    connect_timeout_seconds: _ConnectTimeout = 10
    statement_timeout_seconds: Number = Field(
        default=0,
        ge=0,
        le=86400,
        json_schema_extra={"unit": "seconds"},
        description="Longest run of one statement; 0 is no limit, because a large merge may rightly take long and "
        "cancelling it would only start it again.",
    )
    pool_size: Integer = Field(
        default=3,
        ge=1,
        le=64,
        json_schema_extra={"unit": "connections"},
        description="Connections kept to the sink: one applies and one renews the lease, for each of its `lanes`; one "
        "answers the status page.",
    )

    lanes: _Lanes = Field(
        default=((),),
        json_schema_extra={
            "range_text": f"1..{LANES_MAX}, or a list of lists of `db.table` patterns",
            "default_text": "`1`",
        },
        description="Pipelines that feed the sink at once, each with a stream (and a `server_id`), a checkpoint and "
        "two connections to either server. A table belongs to one of them. More than one loads and applies several "
        "tables at a time; a transaction that spans lanes is then seen in parts by the sink's readers. A number deals "
        "the tables by size; lists say which tables stay together, the first that matches counts, and what none "
        "names goes with the last. May be changed at any restart.",
    )

    @field_validator("schema_name")
    @classmethod
    def _schema_needs_postgresql(cls, value: str | None, info: ValidationInfo) -> str | None:
        url = info.data.get("url")
        if value is not None and isinstance(url, DatabaseUrl) and url.kind != "postgresql":
            _fail("only PostgreSQL has schemas: name the target database in the url instead (mysql://user@host/NAME)")
        return value


class ColumnOverride(Section):
    """What becomes of one column on its way to the sinks: another name, a mask, a hash. Keys keep their values."""

    column: str = Field(
        min_length=1,
        json_schema_extra={"range_text": "name, as the source spells it"},
        description="The column this entry is about. One that the table does not have parks the table: a mask that "
        "finds no column must not let its values through.",
    )
    rename: str | None = Field(
        default=None,
        min_length=1,
        json_schema_extra={"range_text": "name"},
        description="The column's name on the sinks. Unset: its own.",
    )
    mask: Annotated[Mask | None, BeforeValidator(_null_text), _MASK_SCHEMA] = Field(
        default=None,
        description="Hide the values: `null` stores NULL; `text` stores `mask_text`; `keep_first` and `keep_last` "
        "leave `mask_keep` characters of a text and write `*` for each of the others (for all, where there are no "
        "more). NULL stays NULL. Unset: they are stored as they are. A `mask:` without a value is `null`.",
    )
    mask_text: Annotated[str, AfterValidator(_mask_text)] = Field(
        default="***",
        json_schema_extra={"range_text": f"0 to {MASK_TEXT_CHARACTERS_MAX} printable characters"},
        description="What `mask: text` stores.",
    )
    mask_keep: Integer = Field(
        default=4,
        ge=1,
        le=255,
        json_schema_extra={"unit": "characters"},
        description="How many characters `keep_first` and `keep_last` leave: four are what receipts show of a card.",
    )
    hash: bool = Field(
        default=False,
        description="Store HMAC-SHA-256 of the value with `tables.hash_salt`, as 64 hexadecimal digits: equal values "
        "stay equal, so that joins and counts go on working, and nobody without the salt can try values. What is "
        "hashed is the UTF-8 of the value's text (docs/options.md), or the bytes of a binary one. NULL stays NULL. "
        "Not for FLOAT, DOUBLE, BIT, GEOMETRY and VECTOR.",
    )
    type: AskedType | None = Field(
        default=None,
        validate_default=True,
        json_schema_extra={"range_text": "type", "default_text": "the mapping's"},
        description="The column's type on the sinks, as in `targets.types`. The table is loaded again when it changes.",
    )
    zero_dates: Annotated[ZeroDates | None, BeforeValidator(_null_text), _ZERO_DATES_SCHEMA] = Field(
        default=None,
        json_schema_extra={"default_text": "the table's"},
        description="As `policies.zero_dates`, for this column.",
    )
    nul_bytes: NulBytes | None = Field(
        default=None,
        json_schema_extra={"default_text": "the table's"},
        description="As `policies.nul_bytes`, for this column.",
    )

    @field_validator("type")
    @classmethod
    def _type_or_mask(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and (info.data.get("mask") is not None or info.data.get("hash")):
            _fail("a column that is masked or hashed has the type that the mask makes")
        return value

    @field_validator("mask_text", "mask_keep")
    @classmethod
    def _has_its_mask(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = ("text",) if info.field_name == "mask_text" else ("keep_first", "keep_last")
        is_default = value == cls.model_fields[info.field_name or ""].default
        if not is_default and "mask" in info.data and info.data["mask"] not in wanted:
            _fail(f"goes with mask: {' or '.join(wanted)}")
        return value

    @field_validator("hash")
    @classmethod
    def _hash_or_mask(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("mask") is not None:
            _fail("a column is masked or hashed, not both")
        return value


class TableOverride(Section):
    """What differs for one table."""

    table: TableName = Field(
        json_schema_extra={"range_text": "exact `db.table`, named once"},
        description="The table this entry is about; it must be one that `include` and `exclude` let through.",
    )
    primary_key: _OptionalColumns = Field(
        default=None,
        json_schema_extra={"range_text": "column, or list of columns"},
        description="Columns that identify a row. Unset: the table's own key; where it has none, all columns together "
        "(docs/keyless.md). For tables without a key, or whose rows should be told apart otherwise on the sink; the "
        "columns must be unique together and not NULL.",
    )
    sync_strategy: SyncStrategy | None = Field(
        default=None,
        json_schema_extra={"default_text": "`tables.sync_strategy`"},
        description="As `tables.sync_strategy`, for this table.",
    )
    modifier: str | None = Field(
        default=None,
        min_length=1,
        validate_default=True,
        json_schema_extra={"range_text": "column"},
        description="For `incremental`, and for `auto` where it should not be the one that the server sets itself: the "
        "column that says when a row changed, a TIMESTAMP, DATETIME, DATE or whole number that never goes back "
        "(docs/strategies.md). It should be NOT NULL and indexed.",
    )
    interval_seconds: _Interval | None = Field(
        default=None,
        json_schema_extra={"unit": "seconds", "default_text": "`polling.interval_seconds`"},
        description="As `polling.interval_seconds`, for this table.",
    )
    lookback_seconds: _Lookback | None = Field(
        default=None,
        json_schema_extra={"unit": "seconds", "default_text": "`polling.lookback_seconds`"},
        description="As `polling.lookback_seconds`, for this table.",
    )
    detect_deletes_every: _Every | None = Field(
        default=None,
        json_schema_extra={"unit": "runs", "default_text": "`polling.detect_deletes_every`"},
        description="As `polling.detect_deletes_every`, for this table.",
    )
    batch_size: Integer | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        json_schema_extra={"unit": "rows", "default_text": "`snapshot.chunk_rows`"},
        description="Rows per snapshot chunk of this table at most, and per batch where it is polled.",
    )
    priority: Integer = Field(
        default=LOAD_PRIORITY,
        ge=1,
        le=1000,
        description="Which of the tables that wait is loaded first: the one with the lowest number, then by name. `cdc "
        "analyze` gives small tables low numbers, so that most of them are there soon; each table is read with all "
        "`snapshot.workers`.",
    )
    zero_dates: Annotated[ZeroDates | None, BeforeValidator(_null_text), _ZERO_DATES_SCHEMA] = Field(
        default=None,
        json_schema_extra={"default_text": "`policies.zero_dates`"},
        description="As `policies.zero_dates`, for this table.",
    )
    nul_bytes: NulBytes | None = Field(
        default=None,
        json_schema_extra={"default_text": "`policies.nul_bytes`"},
        description="As `policies.nul_bytes`, for this table.",
    )
    hidden_cascades: Literal["apply", "park", "accept"] | None = Field(
        default=None,
        json_schema_extra={"default_text": "`policies.hidden_cascades`"},
        description="As `policies.hidden_cascades`, for this table.",
    )
    ddl: DdlPolicy | None = Field(
        default=None,
        json_schema_extra={"default_text": "`policies.ddl`"},
        description="As `policies.ddl`, for this table.",
    )
    on_drop_column: OnDropColumn | None = Field(
        default=None,
        json_schema_extra={"default_text": "`policies.on_drop_column`"},
        description="As `policies.on_drop_column`, for this table.",
    )
    on_drop_table: OnDropTable | None = Field(
        default=None,
        json_schema_extra={"default_text": "`policies.on_drop_table`"},
        description="As `policies.on_drop_table`, for this table.",
    )
    on_truncate: OnTruncate | None = Field(
        default=None,
        json_schema_extra={"default_text": "`policies.on_truncate`"},
        description="As `policies.on_truncate`, for this table.",
    )
    on_type_change: OnTypeChange | None = Field(
        default=None,
        json_schema_extra={"default_text": "`policies.on_type_change`"},
        description="As `policies.on_type_change`, for this table.",
    )
    include_columns: _OptionalColumns = Field(
        default=None,
        json_schema_extra={"range_text": "column, or list of columns", "default_text": "all"},
        description="The only columns that go to the sinks; those that the source gets later do not. The key's columns "
        "must be among them.",
    )
    exclude_columns: _OptionalColumns = Field(
        default=None,
        json_schema_extra={"range_text": "column, or list of columns"},
        description="Columns that do not go to the sinks; those that the source gets later do. Not beside "
        "`include_columns`. The service still reads them, and `cdc tail` shows them.",
    )
    row_filter: Filter | None = Field(
        default=None,
        json_schema_extra={"range_text": "condition, in SQL"},
        description="The rows that go to the sinks: those of which it is true, such as `status <> 'test' AND amount >= "
        "10`. Columns are compared with literals: `= <> < <= > >= IN BETWEEN IS NULL AND OR NOT` (docs/options.md). A "
        "row that an UPDATE takes out of it is deleted on the sinks, one that it brings in is inserted. Rows left out "
        "are counted. Unset: all.",
    )
    columns: tuple[ColumnOverride, ...] = Field(default=())
    mode: TableMode | None = Field(
        default=None,
        json_schema_extra={"default_text": "`tables.mode`"},
        description="As `tables.mode`, for this table.",
    )
    indexes: IndexesMade | None = Field(
        default=None,
        json_schema_extra={"default_text": "`targets.indexes`"},
        description="As `targets.indexes`, for this table.",
    )
    defaults: DefaultsKept | None = Field(
        default=None,
        json_schema_extra={"default_text": "`targets.defaults`"},
        description="As `targets.defaults`, for this table.",
    )
    comments: bool | None = Field(
        default=None,
        json_schema_extra={"default_text": "`targets.comments`"},
        description="As `targets.comments`, for this table.",
    )
    identity: bool | None = Field(
        default=None,
        json_schema_extra={"default_text": "`targets.identity`"},
        description="As `targets.identity`, for this table.",
    )

    @field_validator("modifier")
    @classmethod
    def _incremental_has_a_modifier(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("sync_strategy") == "incremental":
            _fail("sync_strategy: incremental needs the column that says when a row changed")
        return value

    @field_validator("include_columns", "exclude_columns")
    @classmethod
    def _columns_leave_the_key(cls, value: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        is_include = info.field_name == "include_columns"
        if value is not None and not is_include and info.data.get("include_columns") is not None:
            _fail("a table has include_columns or exclude_columns, not both")
        for column in (info.data.get("primary_key") or ()) if value is not None else ():
            if (column in value) != is_include:  # type: ignore[operator]  # it is not None here
                _fail(f"{column} is part of primary_key, without which rows cannot be told apart")
        return value

    @field_validator("columns")
    @classmethod
    def _columns_fit(cls, value: tuple[ColumnOverride, ...], info: ValidationInfo) -> tuple[ColumnOverride, ...]:
        seen: set[str] = set()
        for entry in value:
            name = entry.column
            is_changed = entry.mask is not None or entry.hash
            if name in seen:
                _fail(f"{name} has two entries")
            is_told = any((entry.rename, entry.type, entry.zero_dates, entry.nul_bytes))
            if not is_changed and not is_told:
                _fail(f"the entry of {name} says nothing: rename, mask, hash, type or a policy is missing")
            if is_changed and name in (info.data.get("primary_key") or ()):
                _fail(f"{name} is part of primary_key, whose values are not masked or hashed")
            included, excluded = info.data.get("include_columns"), info.data.get("exclude_columns")
            if name in (excluded or ()) or (included is not None and name not in included):
                _fail(f"{name} does not go to the sinks (include_columns, exclude_columns), so its entry has no effect")
            seen.add(name)
        return value


class MetadataColumns(Section):
    """Columns that the sinks' tables get besides those of the source. Each is there if it has a name here."""

    tables: tuple[Pattern, ...] = Field(
        default=("*.*",),
        json_schema_extra={"range_text": "list of `db.table` patterns", "default_text": '`["*.*"]`'},
        description="The tables that get them; patterns are those of `include`.",
    )
    load_id: _MetadataName = Field(
        default=None,
        description="Which load, or which of our transactions, wrote the row: seconds since 1970 as text, so that "
        "later ones sort behind (`_dlt_load_id` for readers of dlt).",
    )
    row_id: _MetadataName = Field(
        default=None,
        description="32 hexadecimal digits made of the source table's name and the row's key: the same for as long as "
        "the key is (`_dlt_id`).",
    )
    commit_time: _MetadataName = Field(
        default=None,
        description="When the source committed the transaction that last changed the row, in UTC; NULL while the row "
        "is as it was loaded.",
    )
    operation: _MetadataName = Field(
        default=None, description="`load`, `insert` or `update`: what last put the row there as it is."
    )
    position: _MetadataName = Field(
        default=None,
        description="The transaction's GTID, or `file:offset` where it has none; NULL while the row is as it was "
        "loaded.",
    )

    @field_validator("row_id", "commit_time", "operation", "position")
    @classmethod
    def _names_differ(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and value in [name for key, name in info.data.items() if key != "tables"]:
            _fail(f"{value} is the name of two of these columns")
        return value


class ModeColumns(Section):
    """Names of the columns that the modes of tables add to those of the source, on every sink."""

    is_deleted: _ModeColumn = Field(
        default="_cdc_is_deleted",
        description="`soft_delete`: 1 in rows that the source does not have any more, else 0.",
    )
    deleted_at: _ModeColumn = Field(
        default="_cdc_deleted_at",
        description="`soft_delete`: when the source committed the deletion, in UTC (of a row that a load found gone: "
        "when that was); NULL in rows that the source has.",
    )
    sequence: _ModeColumn = Field(
        default="_cdc_sequence",
        description="`append_only`, `history`: a number that orders the changes of a table as the stream has them, and "
        "tells them apart; it is in the key.",
    )
    operation: _ModeColumn = Field(
        default="_cdc_operation",
        description="`append_only`: `insert`, `update`, `delete`, `load` for a row that was loaded, or `reload`, which "
        "says that all of the table follows as it is then.",
    )
    commit_time: _ModeColumn = Field(
        default="_cdc_commit_time",
        description="`append_only`: when the source committed the change, in UTC; NULL for rows that were loaded.",
    )
    position: _ModeColumn = Field(
        default="_cdc_position",
        description="`append_only`: the transaction's GTID, or `file:offset` where it has none; NULL for rows that "
        "were loaded.",
    )
    valid_from: _ModeColumn = Field(
        default="_cdc_valid_from",
        description="`history`: when the source committed the version, in UTC; when the load began, for one that was "
        "there before.",
    )
    valid_to: _ModeColumn = Field(
        default="_cdc_valid_to",
        description="`history`: when the version ended, by its successor or by a deletion, in UTC; NULL in current "
        "ones.",
    )

    @field_validator("*")
    @classmethod
    def _mode_names_differ(cls, value: str, info: ValidationInfo) -> str:
        if value in info.data.values():
            _fail(f"{value} is the name of two of these columns")
        return value


class SourceColumnSettings(Section):
    """A column that says whose a row is, so that tables may share a target. It comes first in the target's key."""

    name: str = Field(
        min_length=1, json_schema_extra={"range_text": "name"}, description="What the column is called on every sink."
    )
    value: str = Field(
        default="{database}",
        json_schema_extra={"range_text": "text with {database}, {table}, {1}, {2} …"},
        description="What it says of a table's rows: `{database}` and `{table}` are its names at the source, `{1}` is "
        "what the first `*` or `?` of the route's `tables` stands for, `{2}` the second, and so on (a `*` takes as "
        "much as it can); `{{` and `}}` are the characters themselves. No two tables of a target may have the same.",
    )


class TableRoute(Section):
    """Where some tables go. Of several entries that match a table the first one counts."""

    tables: Pattern = Field(
        json_schema_extra={"range_text": "`db.table` pattern"},
        description="The tables this entry is about; patterns are those of `include`.",
    )
    source_column: SourceColumnSettings | None = Field(default=None)
    target_schema: str | None = Field(
        default=None,
        min_length=1,
        json_schema_extra={"range_text": "name", "default_text": "the sink's"},
        description="Schema on PostgreSQL, database on MySQL and MariaDB, on every sink; made when missing. It wins "
        "over the sink's `schema` and the database of its url, which are for all tables.",
    )
    target_table: str | None = Field(
        default=None,
        validate_default=True,
        min_length=1,
        json_schema_extra={"range_text": "name", "default_text": "the source's"},
        description="Name of the table on every sink. Several tables may have one target where a `source_column` tells "
        "their rows apart; else only one of them is loaded, and the others are parked.",
    )

    @field_validator("source_column")
    @classmethod
    def _has_a_value(cls, value: SourceColumnSettings | None, info: ValidationInfo) -> SourceColumnSettings | None:
        if value is not None and "tables" in info.data:
            problem = _template_problem(value.value, parse_table_pattern(info.data["tables"]).wildcard_count)
            if problem:
                _fail(f"its value {problem}")
        return value

    @field_validator("target_table")
    @classmethod
    def _leads_somewhere(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("target_schema", "") is None and info.data.get("source_column", "") is None:
            _fail("a route needs target_schema, target_table or source_column")
        return value


class Tables(Section):
    """What is captured. System schemas (mysql, information_schema, performance_schema, sys) never are, nor is what such
    a service keeps of its own where this source is its sink: the database `_cdc`, tables that begin with `_cdc_`."""

    include: tuple[Pattern, ...] = Field(
        min_length=1,
        json_schema_extra={"range_text": "list of `db.table` patterns, at least one"},
        description="Tables to capture, those made later too. `*` stands for any text, `?` for one character, each "
        "within the database or the table; a backslash takes the next character as it is; case counts. No default: a "
        "replica of everything should be somebody's decision.",
    )
    exclude: tuple[Pattern, ...] = Field(
        default=(),
        json_schema_extra={"range_text": "list of `db.table` patterns"},
        description="Tables to leave out of those that `include` names.",
    )
    file: Annotated[Path | None, BeforeValidator(_empty_is_none)] = Field(
        default=None,
        json_schema_extra={"range_text": "file"},
        description="A JSON list of objects with `table`, `primary_key`, `modifier`, `sync_strategy` and `batch_size`, "
        "as the earlier system had it. Its tables are captured as if `include` named them, and each object is an entry "
        "of `overrides`; where `overrides` has one for the same table, each key that it gives counts, and the file's "
        "others are added. A name without a database is of the one that `include` is about. Or, ending in `.yml` or "
        "`.yaml`, what `cdc analyze` writes (docs/analyze.md): settings as in `overrides` by `db.table`, merged in the "
        "same way, for tables that `include` and `exclude` let through. Relative to the working directory.",
    )
    sync_strategy: SyncStrategy = Field(
        default="cdc",
        description="How changes are found (docs/strategies.md). `cdc` reads them from the binlog; `incremental` asks "
        "every `polling.interval_seconds` for the rows whose `modifier` has moved; `full_refresh` reads all rows each "
        "time; `auto` is `cdc` where the source has a binlog that we may read, else what the table allows.",
    )
    routes: tuple[TableRoute, ...] = Field(default=())
    metadata_columns: MetadataColumns = MetadataColumns()
    mode: TableMode = Field(
        default="mirror",
        description="What the sinks hold of each table (docs/options.md). `mirror`: the rows that the source has. "
        "`soft_delete`: those too that it had, marked. `append_only`: every change, as a row of its own. `history`: "
        "every version of a row, with the time from which and to which it was there. What the last three keep is never "
        "thrown away by a change of the configuration alone: the table is parked until `cdc snapshot TABLE`.",
    )
    mode_columns: ModeColumns = ModeColumns()
    hash_salt: Salt | None = Field(
        default=None,
        json_schema_extra={"range_text": f"text of at least {HASH_SALT_BYTES_MIN} bytes", "default_text": "unset"},
        description="The secret that columns with `hash: true` are hashed with: take it from a variable or a file, "
        "like a password. With another salt the same values have other hashes, so those tables are loaded again.",
    )
    overrides: tuple[TableOverride, ...] = Field(
        default=(), description="Settings of single tables.", json_schema_extra={"range_text": "list of mappings"}
    )

    @field_validator("overrides")
    @classmethod
    def _hashes_have_their_salt(cls, value: tuple[TableOverride, ...], info: ValidationInfo) -> Any:
        if "hash_salt" in info.data and info.data["hash_salt"] is None:
            for override in value:
                hashed = [entry.column for entry in override.columns if entry.hash]
                if hashed:
                    _fail(f"{hashed[0]} of {override.table} is hashed, which needs tables.hash_salt")
        return value

    _included: tuple[TablePattern, ...] = PrivateAttr(default=())
    _excluded: tuple[TablePattern, ...] = PrivateAttr(default=())
    _stamped: tuple[TablePattern, ...] = PrivateAttr(default=())
    _routed: tuple[tuple[TablePattern, TableRoute], ...] = PrivateAttr(default=())
    _by_table: dict[tuple[str, str], TableOverride] = PrivateAttr(default_factory=dict)

    def model_post_init(self, _context: Any) -> None:
        self._included = tuple(map(parse_table_pattern, self.include))
        self._excluded = tuple(map(parse_table_pattern, self.exclude))
        self._stamped = tuple(map(parse_table_pattern, self.metadata_columns.tables))
        self._routed = tuple((parse_table_pattern(route.tables), route) for route in self.routes)
        self._by_table = {parse_table_name(override.table): override for override in self.overrides}

    def matches(self, database: str, table: str) -> bool:
        """The table is captured: included, not excluded, and in no system schema."""
        return (
            not _is_system_schema(database)
            and not is_own_table(database, table)
            and any(pattern.matches(database, table) for pattern in self._included)
            and not any(pattern.matches(database, table) for pattern in self._excluded)
        )

    def route_for(self, database: str, table: str) -> TableRoute | None:
        """The entry of `routes` that counts for this table."""
        return next((route for pattern, route in self._routed if pattern.matches(database, table)), None)

    def source_column_for(self, database: str, table: str) -> tuple[str, str, int] | None:
        """The source column of this table's target: its name, its value for the table, and how long a value may be."""
        for pattern, routed in self._routed:
            if pattern.matches(database, table):
                if routed.source_column is None:
                    return None
                template = routed.source_column.value
                parts = pattern.wildcards(database, table)
                names = {"database": database, "table": table, **{str(i): part for i, part in enumerate(parts, 1)}}
                return routed.source_column.name, _template_text(template, names), max(1, _template_length(template))
        return None

    def metadata_for(self, database: str, table: str) -> dict[str, str]:
        """The metadata columns of this table: kind and name."""
        if not any(pattern.matches(database, table) for pattern in self._stamped):
            return {}
        found = self.metadata_columns.model_dump(exclude={"tables"}, exclude_none=True)
        return {str(kind): str(name) for kind, name in found.items()}

    def mode_for(self, database: str, table: str) -> TableMode:
        """What the sinks hold of this table."""
        override = self.override_for(database, table)
        return self.mode if override is None or override.mode is None else override.mode

    def override_for(self, database: str, table: str) -> TableOverride | None:
        """The entry of `overrides` about this table."""
        return self._by_table.get((database, table))


class FlushSettings(Section):
    """When collected transactions are written: once the sink is free, at most so many at once, never half of one."""

    rows_max: Integer = Field(
        default=100_000,
        ge=1,
        le=10_000_000,
        json_schema_extra={"unit": "rows"},
        description="Row images (an update has two) that make a batch full. Changes of one row within a batch fold to "
        "one, so that large batches catch up faster; beyond this size they mostly take memory and hold locks for "
        "longer.",
    )
    bytes_max: Size = Field(
        default=16 * MIB,
        ge=64 * KIB,
        le=GIB,
        json_schema_extra={"unit": "bytes"},
        description="Bytes that make a batch full, where rows are wide. Three batches are in memory at a time: one "
        "that is put together, one in the queue (`queue_bytes_max`), one that is applied.",
    )
    age_ms_max: Integer = Field(
        default=0,
        ge=0,
        le=60_000,
        json_schema_extra={"unit": "milliseconds"},
        description="How old the oldest change of a batch that is not full may get while the sink is free: the price "
        "in lag for fewer commits on the sink. 0 writes what there is as soon as the sink is free, so that batches "
        "grow by themselves with what a commit takes.",
    )


class PauseSettings(Section):
    """What loads wait for. No chunk is begun while a value is above its limit, and for three seconds after."""

    threads_running: Integer | None = Field(
        default=None,
        ge=2,
        le=100_000,
        validate_default=True,
        json_schema_extra={"unit": "sessions", "default_text": "no limit"},
        description="`Threads_running` of the source, by its own count, in which the service's streams and reading "
        "sessions are. Asked for once a second.",
    )
    replica_lag_seconds: Number | None = Field(
        default=None,
        ge=0,
        le=86400,
        validate_default=True,
        json_schema_extra={"unit": "seconds", "default_text": "no limit"},
        description="How far a source that is a replica itself is behind (SHOW REPLICA STATUS; MariaDB: with the right "
        "REPLICA MONITOR). Replication that is stopped counts as behind. Loads do not wait on a source that is none.",
    )


class SnapshotSettings(Section):
    """How tables are loaded at first."""

    workers: Integer = Field(
        default=2,
        ge=1,
        le=64,
        json_schema_extra={"unit": "sessions"},
        description="Sessions on the source that read one table at a time, each a chunk of its own, per sink. More of "
        "them help while the sink waits for rows, and cost the source as many reading queries.",
    )
    writers: Integer = Field(
        default=2,
        ge=1,
        le=16,
        json_schema_extra={"unit": "sessions"},
        description="Sessions on a sink that write one table at a time, each a chunk of its own, where its load fills "
        "an empty target. A sink works on what one session sends with one processor. Where it has no connection left, "
        "a load goes on with fewer (`load_has_fewer_writers` in the log).",
    )
    chunk_seconds: Number = Field(
        default=1,
        ge=0.01,
        le=3600,
        json_schema_extra={"unit": "seconds"},
        description="How long reading a chunk should take: its rows are chosen by what the chunks before it took. Each "
        "is one SELECT, so that no read view stays open for long on the source, and one transaction on the sink: what "
        "a load that is cut off has to read again.",
    )
    chunk_rows: Integer = Field(
        default=200_000,
        ge=1,
        le=1_000_000,
        json_schema_extra={"unit": "rows"},
        description="Rows of a chunk at most, whatever it takes. What chunks have in memory counts for "
        "`queue_bytes_max`, which makes them smaller where rows are wide.",
    )
    beside: Integer = Field(
        default=2,
        ge=0,
        le=16,
        json_schema_extra={"unit": "streams"},
        description="Groups of tables that are loaded at a time beside the live stream, per sink, each with a stream, "
        "a `server_id` of the block and sessions of its own; `workers` read each. The sink's other tables stay current "
        "meanwhile. 0: tables are loaded in the sink's own stream, which waits for them; so it is where the block has "
        "no ids left, which the log says.",
    )
    beside_rows_min: Integer = Field(
        default=50_000,
        ge=0,
        le=1_000_000_000,
        json_schema_extra={"unit": "rows"},
        description="Smaller tables are loaded in the stream even so, as many at a time as have fewer rows together "
        "(and up to 16, of 8 MiB, by the source's estimate): it waits for about a second, and they are there sooner. "
        "Not while loads are limited or paused (`rows_per_second` and below), nor while somebody holds the table. "
        "Where none of a stream's tables is current yet, as at a first start, up to 2 GiB are loaded in it. "
        "0: every table beside.",
    )
    rows_per_second: Number | None = Field(
        default=None,
        ge=1,
        le=1e9,
        validate_default=True,
        json_schema_extra={"unit": "rows", "default_text": "no limit"},
        description="How fast all loads together read, whatever the sinks. Kept over a few seconds: a chunk is read at "
        "once, so that no read view stays open, and the next one waits.",
    )
    bytes_per_second: Number | None = Field(
        default=None,
        ge=1024,
        le=1e12,
        validate_default=True,
        json_schema_extra={"unit": "bytes", "default_text": "no limit"},
        description="Likewise, in bytes of the rows as they are held in memory.",
    )
    connections: Integer | None = Field(
        default=None,
        ge=1,
        le=1000,
        validate_default=True,
        json_schema_extra={"unit": "sessions", "default_text": "`workers` of each load"},
        description="Sessions on the source that read tables, of all loads together at most. A load goes on with one; "
        "where there are fewer than loads, they take turns. (Streams have theirs beside.)",
    )
    pause_when: PauseSettings = PauseSettings()


class PollingSettings(Section):
    """How tables are read that are not followed by the binlog (`sync_strategy`)."""

    interval_seconds: _Interval = Field(
        default=60,
        json_schema_extra={"unit": "seconds"},
        description="From the beginning of one run of a table to the next; a run that takes longer is followed at "
        "once. Every run is at least one query on the source for each table.",
    )
    workers: Integer = Field(
        default=2,
        ge=1,
        le=64,
        json_schema_extra={"unit": "tables"},
        description="Tables that are read at a time, per sink: each takes a session on the source and one on the sink.",
    )
    batch_delay_seconds: Number = Field(
        default=0,
        ge=0,
        le=3600,
        json_schema_extra={"unit": "seconds"},
        description="A pause between two batches (`batch_size`) of a run, and between two tables, to spare the source.",
    )
    lookback_seconds: _Lookback | None = Field(
        default=None,
        json_schema_extra={"unit": "seconds", "default_text": "300; 3900 for DATETIME and DATE"},
        description="`incremental`: how far behind the last value a run begins. It must be longer than any transaction "
        "on such tables is open, because its rows carry the time at which they were written and are seen when it "
        "commits. DATETIME has no time zone: where the writers' clock is set back in autumn, an hour comes twice.",
    )
    detect_deletes_every: _Every = Field(
        default=0,
        json_schema_extra={"unit": "runs"},
        description="`incremental`: every so many runs, all keys of the source are compared with those of the sink, "
        "rows that are gone are deleted, and rows that no run has seen are fetched. 0: never, and rows deleted at the "
        "source stay.",
    )


class StagingSettings(Section):
    """Files on local disk that chunks of loads go through, between the source and the sink (docs/loads.md)."""

    dir: Annotated[Path | None, BeforeValidator(_empty_is_none)] = Field(
        default=None,
        json_schema_extra={"range_text": "directory, made when missing"},
        description="Where the files lie, on a disk of this machine that keeps them through a restart. Unset: chunks "
        "go through memory (`queue_bytes_max`), which is faster, and a read waits for a sink that is slower. "
        "Relative to the working directory.",
    )
    compression: Literal["snappy", "gzip", "brotli", "zstd"] = Field(
        default="zstd",
        description="How the files' pages are packed. zstd is small at little cost; snappy costs least; gzip and "
        "brotli take several times as long to write.",
    )
    bytes_max: Size = Field(
        default=10 * GIB,
        ge=64 * MIB,
        le=64 * 1024 * GIB,
        json_schema_extra={"unit": "bytes"},
        description="What the files of one sink may take. Once they do, reading waits until the sink has taken some.",
    )
    retention_hours: Number = Field(
        default=0,
        ge=0,
        le=8760,
        json_schema_extra={"unit": "hours"},
        description="How long the files of a load that is over are kept, to be looked at, as far as nobody needs "
        "their room. 0 removes each once its rows are committed.",
    )


class Policies(Section):
    """What becomes of values that a sink cannot hold. Every value that is changed is counted and shown."""

    zero_dates: Annotated[ZeroDates, BeforeValidator(_null_text), _ZERO_DATES_SCHEMA] = Field(
        default="null",
        description="Zero and invalid dates ('0000-00-00', '2024-02-31') on PostgreSQL: `null` stores NULL, `error` "
        "parks the table, `infinity` stores an infinite one. NULL is what readers of such dates expect most.",
    )
    nul_bytes: NulBytes = Field(
        default="replace",
        description="The character U+0000 in text, which PostgreSQL cannot store: `replace` writes U+FFFD in its "
        "place, `strip` leaves it out, `error` parks the table. Replacing keeps the length and stays visible.",
    )
    hidden_cascades: Literal["apply", "park", "accept"] = Field(
        default="park",
        description="Tables whose rows foreign keys change (ON DELETE or ON UPDATE CASCADE, SET NULL, SET DEFAULT) on "
        "a source that does not log such changes: every MariaDB, MySQL before 9.6. `park` follows no such table; "
        "`apply` does the same on the sink, in the transaction of the parent's rows, and parks a table where it cannot "
        "be sure that the outcome is the same (`cdc check` says why); `accept` follows it without, and its copy goes "
        "wrong. After `accept`, load such tables again: `cdc snapshot TABLE`.",
    )

    ddl: DdlPolicy = Field(
        default="apply",
        description="What a statement that changes a captured table does to its target (docs/ddl.md). `apply`: the "
        "same, or the table is loaded again; `log`: nothing, and columns that the target lacks are left out; "
        "`approve`: the table is parked at the statement until `cdc ddl apply TABLE` or `cdc ddl skip TABLE`.",
    )
    on_drop_column: OnDropColumn = Field(
        default="drop",
        description="A column that the source drops: `drop` drops the target's, `keep` leaves it, NULL in rows to "
        "come. A load of the table empties it.",
    )
    on_drop_table: OnDropTable = Field(
        default="keep",
        description="A table that the source drops: `keep` leaves the target as it is, `drop` drops it, `archive` "
        "gives it another name, which says when that was. Only mirrors of one table are ever dropped or renamed.",
    )
    on_truncate: OnTruncate = Field(
        default="apply",
        description="TRUNCATE TABLE: `apply` empties the target, `ignore` leaves its rows (a later load does not), "
        "`park` parks the table until `cdc ddl apply TABLE` or `cdc ddl skip TABLE`.",
    )
    on_type_change: OnTypeChange = Field(
        default="apply",
        description="A column that gets another type: `apply` alters the target or loads the table again, `widen` does "
        "the first alone, where every value stays what it is, and else parks the table until "
        "`cdc ddl apply TABLE` or `cdc ddl skip TABLE`, `park` parks it always.",
    )


class TypeRule(Section):
    """The type that the columns of one type of the source's get on every sink."""

    source: str = Field(
        min_length=1,
        json_schema_extra={"range_text": "type, in small letters"},
        description="The source's type as information_schema has it, whole (`tinyint(1)`, `bigint unsigned`) or its "
        "name alone (`json`). The first rule that fits a column counts, and its own `type` before all.",
    )
    type: AskedType = Field(
        json_schema_extra={"range_text": "type"},
        description="`boolean` (of TINYINT, BIT(1)), `smallint`, `integer`, `bigint`, `numeric` (of integers), `text` "
        "(of texts and JSON), `varchar(N)` (of texts), `json`, `jsonb` (of JSON), `geometry` (PostGIS). A value that "
        "it cannot hold stops the table (docs/targets.md). A table that was loaded with another type is parked until "
        "`cdc snapshot TABLE`.",
    )


class TargetSettings(Section):
    """What tables of the sinks get of the source's definitions beside columns, types and keys (docs/targets.md)."""

    defaults: DefaultsKept = Field(
        default="constant",
        description="Defaults of columns, for whoever else writes there: `constant` keeps values and "
        "CURRENT_TIMESTAMP, `all` also the expressions that are the same on a sink of the source's kind, `none` none.",
    )
    comments: bool = Field(default=True, description="Comments of tables and columns.")
    indexes: IndexesMade = Field(
        default="none",
        description="Indexes beside the key's: `unique` makes the unique ones, `all` the others too, after a table's "
        "load, and follows those that the source makes and drops. `none`, because readers of a copy mostly ask "
        "otherwise than the source's application, and each index makes writing slower.",
    )
    identity: bool = Field(
        default=False,
        description="Columns that are AUTO_INCREMENT number new rows on the sinks as well: for a sink that is to take "
        "over one day. Off, because two that give numbers give the same ones.",
    )
    types: tuple[TypeRule, ...] = Field(default=())
    drift_seconds: Number = Field(
        default=3600,
        ge=0,
        le=30 * 86400,
        json_schema_extra={"unit": "seconds"},
        description="How often each target is compared with what the mapping makes, beside the start, each load and "
        "each DDL; 0: only then. A look is about ten short queries a table.",
    )


class LeaseSettings(Section):
    """Which of several instances writes."""

    seconds: Number = Field(
        default=15,
        ge=3,
        le=600,
        json_schema_extra={"unit": "seconds"},
        description="How long a silent holder keeps the right to write to a sink. Shorter takes over sooner from one "
        "that died, longer bears a slow sink.",
    )


class RetrySettings(Section):
    """The pauses between attempts while a server is away. Attempts do not end, unless `same_place_max` says so."""

    initial_seconds: Number = Field(
        default=0.5,
        ge=0.01,
        le=60,
        json_schema_extra={"unit": "seconds"},
        description="First pause, doubled at each attempt: a restarted server is back soon.",
    )
    max_seconds: Number = Field(
        default=30,
        validate_default=True,
        ge=0.01,
        le=3600,
        json_schema_extra={"unit": "seconds"},
        description="Longest pause, at least `initial_seconds`: after an outage work resumes within this time.",
    )
    per_hour: int = Field(
        default=240,
        ge=10,
        le=100_000,
        json_schema_extra={"unit": "retries"},
        description="How often within an hour a pipeline's session may end in trouble though both servers had answered "
        "(cut connections, dead-locks, rows that stay locked). When that is spent the log says so, `/health` is "
        "`degraded`, and sessions begin no more often than evenly spread over the hour, every 15 s by default: "
        "each one costs the servers something. A server that is away spends nothing; another replica with our "
        "`server_id`, for which the source has ended the stream five times, all of it.",
    )
    same_place_max: int = Field(
        default=0,
        ge=0,
        le=100_000,
        json_schema_extra={"unit": "retries"},
        description="How many such sessions may end in a row without the sink having moved on; with that many the "
        "pipeline stops (`RetriesSpent`), for setups where somebody is called. 0: it tries without end, and what "
        "passes by itself, such as a full disk, needs nobody.",
    )

    @field_validator("max_seconds")
    @classmethod
    def _max_is_not_below_initial(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("initial_seconds", 0):
            _fail("is less than retry.initial_seconds")
        return value


class RecoverySettings(Section):
    """What the service does by itself about a gap in the log, and about tables that are parked."""

    on_purged: Literal["stop", "resnapshot"] = Field(
        default="stop",
        description="What becomes of a sink whose next binlog the source has purged: `stop` ends its pipeline with a "
        "hint; `resnapshot` goes on from where the source is now and loads every table again that was followed up to "
        "the gap (tables whose `mode` keeps what was are parked: no load brings back their changes). A source that "
        "lacks what the sink has stops it in any case.",
    )
    loads_per_day: Integer = Field(
        default=0,
        ge=0,
        le=100,
        json_schema_extra={"unit": "loads"},
        description="How often a parked table is loaded again by itself within 24 hours, for what passes: a row that "
        "is mended, a target that is altered. 0: never; `cdc snapshot TABLE` does it. Each load reads the whole table.",
    )
    first_seconds: Number = Field(
        default=300,
        ge=0.1,
        le=86_400,
        json_schema_extra={"unit": "seconds"},
        description="How long after it was parked the first such load begins; twice as long for each one of the last "
        "24 hours that ended in its being parked again.",
    )


class HistorySettings(Section):
    """Which definitions the tables have had, kept with the checkpoint."""

    entries_max: Integer = Field(
        default=64,
        ge=2,
        le=10_000,
        json_schema_extra={"unit": "entries"},
        description="How many definitions of one table are kept, the newest ones; about 1 KB each for ten columns. "
        "What the source can send no more goes at each start. For `cdc checkpoint set POSITION` and "
        "`cdc tail --schema FILE`, which need those of the time that they go back to.",
    )


class HttpSettings(Section):
    """Health, metrics, status and the dashboard."""

    enabled: bool = Field(default=True, description="Serve them at all.")
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        json_schema_extra={"range_text": "name or address"},
        description="Address to listen on. Only this machine gets in unless you say `0.0.0.0` or `::` (as in a "
        "container, behind its network): then set `token`.",
    )
    port: Integer = Field(
        default=8089, ge=0, le=65535, description="Port to listen on; 0 takes any free one and logs which."
    )
    token: Token | None = Field(
        default=None,
        json_schema_extra={"range_text": f"text of at least {TOKEN_CHARACTERS_MIN} characters"},
        description="The secret that a request has to show, as `Authorization: Bearer …`; who does not is told no more "
        "than `/healthz` and `/readyz` say. Take it from a variable or a file, like a password; one that changes in "
        "its file is taken up within seconds. Unset, whoever reaches the address may read ([http](http.md)).",
    )
    _token: Password | None = PrivateAttr(default=None)

    def model_post_init(self, _context: Any) -> None:
        if self.token is not None:
            self._token = Password(self.token.reveal())

    @property
    def current_token(self) -> Password | None:
        """The token, which may be another one later on."""
        return self._token

    @property
    def is_loopback(self) -> bool:
        """Is it this machine alone that is listened to?"""
        return is_loopback(self.host)


class LogSettings(Section):
    """The service's own log, on stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="Least severity that is written. `info` is one line per batch, never one per row.",
    )
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`auto` is `console` on a terminal and `json` elsewhere, where programs read it."
    )


class Config(Section):
    """Everything that the operator decides."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$",
        json_schema_extra={"range_text": "`[a-z0-9][a-z0-9_-]{0,62}`"},
        description="Identity of this deployment in the sinks' metadata: two deployments on one sink need two names, "
        "and a new name starts from nothing.",
    )
    source: SourceSettings
    sinks: tuple[SinkSettings, ...] = Field(min_length=1)
    tables: Tables
    flush: FlushSettings = FlushSettings()
    queue_bytes_max: Size = Field(
        default=32 * MIB,
        ge=MIB,
        le=64 * GIB,
        json_schema_extra={"unit": "bytes"},
        description="Decoded changes that may wait between reading and applying, per sink; its lanes share it evenly. "
        "Reading is faster than every sink, so that more than two batches (`flush.bytes_max`) a lane only take memory.",
    )
    snapshot: SnapshotSettings = SnapshotSettings()
    staging: StagingSettings = StagingSettings()
    polling: PollingSettings = PollingSettings()
    policies: Policies = Policies()
    targets: TargetSettings = TargetSettings()
    lease: LeaseSettings = LeaseSettings()
    retry: RetrySettings = RetrySettings()
    recovery: RecoverySettings = RecoverySettings()
    history: HistorySettings = HistorySettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    standby: bool = Field(
        default=False,
        description="What a second instance of this deployment does: `false`, it exits with the name of the one that "
        "runs; `true`, it waits as a hot standby, in state `standby`, and takes over within seconds once that one "
        "stops or dies, or is silent for `lease.seconds`. Where each has this, either may be the one that runs. Not "
        "with `--until-caught-up`.",
    )
    var_dir: Path = Field(
        default=Path("var"),
        json_schema_extra={"range_text": "directory, made when missing"},
        description="Where events that were not understood are kept for inspection (the latest 20 of a pipeline), and "
        "tables without a key, or polled by `full_refresh`, lie on their way. Relative to the working directory.",
    )

    def policies_for(self, database: str, table: str) -> Policies:
        """The policies with what the table's override says instead."""
        override = self.tables.override_for(database, table)
        if override is None:
            return self.policies
        return Policies(
            zero_dates=override.zero_dates or self.policies.zero_dates,
            nul_bytes=override.nul_bytes or self.policies.nul_bytes,
            hidden_cascades=override.hidden_cascades or self.policies.hidden_cascades,
            ddl=override.ddl or self.policies.ddl,
            on_drop_column=override.on_drop_column or self.policies.on_drop_column,
            on_drop_table=override.on_drop_table or self.policies.on_drop_table,
            on_truncate=override.on_truncate or self.policies.on_truncate,
            on_type_change=override.on_type_change or self.policies.on_type_change,
        )

    @property
    def applies_hidden_cascades(self) -> bool:
        """Is `hidden_cascades` of any table `apply`?"""
        chosen = [self.policies.hidden_cascades, *(override.hidden_cascades for override in self.tables.overrides)]
        return "apply" in chosen

    def chunk_rows_for(self, database: str, table: str) -> int:
        """Rows per snapshot chunk of the table."""
        override = self.tables.override_for(database, table)
        return self.snapshot.chunk_rows if override is None or override.batch_size is None else override.batch_size

    def priority_for(self, database: str, table: str) -> int:
        """Which table is loaded first: the one with the lowest number."""
        override = self.tables.override_for(database, table)
        return LOAD_PRIORITY if override is None else override.priority

    @property
    def may_poll(self) -> bool:
        """May some table be read otherwise than by the binlog?"""
        strategies = [self.tables.sync_strategy, *(override.sync_strategy for override in self.tables.overrides)]
        return any(strategy not in (None, "cdc") for strategy in strategies)

    def ids_taken(self, lanes: int, sinks: int) -> int:
        """How many ids of the source's block are the service's, from the first on: of all lanes, and of the sides of
        all sinks, which leave the last of the block to `cdc tail`."""
        sides = self.snapshot.beside * sinks
        return max(lanes, min(lanes + sides, self.source.server_id_count - 1))


class SourceConfig(Config):
    """The configuration of a command that opens no sink: those that it names may be incomplete, or none at all."""

    sinks: tuple[SinkSettings, ...] = ()
    _lane_counts: tuple[int, ...] = PrivateAttr(default=())

    @property
    def stream_count(self) -> int:
        """How many lanes the service's sinks have: each takes one id of the source's block."""
        return sum(self._lane_counts)

    @property
    def service_ids(self) -> int:
        """How many ids of the block are the service's."""
        return self.ids_taken(self.stream_count, len(self._lane_counts))


def config_schema() -> dict[str, Any]:
    """JSON schema of the file, for editors and `cdc config schema`."""
    return Config.model_json_schema(by_alias=True)


def redacted(config: Config) -> dict[str, Any]:
    """The configuration in force as JSON values, defaults filled in, passwords as ***; what is unset is left out."""
    return config.model_dump(mode="json", by_alias=True, exclude_none=True)


# ---------------------------------------------------------------------------------------------------------------------
# Loading


def load_config(path: Path | None, *, environ: Mapping[str, str], env_file: Path | None = None) -> Config:
    """Read the configuration from a file, `${VAR}` in it, and `CDC__...` in the environment.

    Args:
        path: the YAML file, or None to take everything from the environment.
        environ: variables of the process; they win over those of `env_file`, and `CDC__...` wins over the YAML file.
        env_file: lines of KEY=VALUE.
    Raises:
        ConfigError: one line for each problem; none quotes a URL, nor a value that came from a variable.
    """
    loader = _Loader(dict(environ), env_file)
    return loader.checked(loader.load(path))


def load_source_config(path: Path | None, *, environ: Mapping[str, str], env_file: Path | None = None) -> SourceConfig:
    """As `load_config`, for a command that opens no sink: there may be none, and what is wrong with them, or with their
    variables, is no problem."""
    loader = _Loader(dict(environ), env_file)
    return loader.checked(loader.load_source(path))


_HINT: Final = "correct these; docs/configuration.md and `cdc config schema` say every key, its range and its reason."

_Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a value was set. `order` sorts problems: by line, then the environment's by name."""

    place: str  # `config.yaml:14`, or `environment CDC__SOURCE__URL`
    order: tuple[int, str]
    path: _Path | None = None  # what an environment variable is about; None in a file

    def problem(self, path: _Path, text: str) -> _Problem:
        """`config.yaml:14 source.url: text`, or `environment CDC__SOURCE__URL: text`."""
        key = "" if path == self.path or not path else f" {_path_text(path)}"
        separator = ":" if self.path is not None and key else ""
        return _Problem(self.order, _scrubbed(f"{self.place}{separator}{key}: {text}"), str(path[0]) if path else "")


@dataclass(frozen=True, slots=True)
class _Problem:
    order: tuple[int, str]
    text: str
    section: str = ""  # the top-level key that it is about


@dataclass(frozen=True, slots=True)
class _Node:
    """A value of the file or the environment that remembers where it was set."""

    origin: _Origin
    value: Any  # a scalar, dict[str, _Node] or list[_Node]
    variables: tuple[
        str, ...
    ] = ()  # names of the variables that the value was made of, or of the file it was read from
    is_broken: bool = False  # its problem is already reported
    reread: Callable[[_Loader], _Node] | None = None  # makes it anew, where what it is made of may change


class _Refusal(Exception):
    """A variable that cannot be had, with the text for the operator: a problem on its way to the list."""


def _environment_name(path: _Path) -> str:
    return ENVIRONMENT_PREFIX + "__".join(str(part).upper() for part in path)


def _path_text(path: _Path) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            # A key can be a misplaced URL; one that does not look like a name is not quoted.
            name = part if re.fullmatch(r"[\w.-]{1,64}", part) else "(not a name)"
            text += f".{name}" if text else name
    return text


def _scrubbed(text: str) -> str:
    """The last guard: whatever looks like the user part of a URL does not get out."""
    return re.sub(r"//[^@\s]*:.*@", "//***@", text, flags=re.DOTALL)


_AnyConfig = TypeVar("_AnyConfig", bound=Config)


class _Loader:
    """One run of `load_config`: the variables, and the problems found so far."""

    def __init__(self, variables: dict[str, str], env_file: Path | None = None) -> None:
        self.environ = variables
        self.env_file = env_file
        self.variables = dict(variables)
        self.problems: list[_Problem] = []
        self.hint = _HINT
        if env_file is not None:
            self.read_env_file(env_file)

    def load(self, path: Path | None) -> Config | None:
        """The configuration, or None with at least one problem noted."""
        root = self.read(path)
        return None if root is None else self.checked_tree(root, Config)

    def load_source(self, path: Path | None) -> SourceConfig | None:
        """The configuration without its sinks; their lanes are counted, and nothing else is looked at."""
        root = self.read(path)
        if root is None:
            return None
        lane_counts = tuple(_lane_count(sink) for sink in _list_at(root, ("sinks",)))
        if isinstance(root.value, dict):
            root.value.pop("sinks", None)
        self.problems = [problem for problem in self.problems if problem.section != "sinks"]
        config = self.checked_tree(root, SourceConfig)
        if config is not None:
            config._lane_counts = lane_counts
        return config

    def read(self, path: Path | None) -> _Node | None:
        """File and environment as one tree, variables put in; None when there is none, with a problem noted."""
        root = self.read_yaml_file(path) if path is not None else None
        if path is not None and root is None:
            return None
        if root is None:
            root = _Node(_Origin("environment", (2, "")), {})
        return self.with_table_file(self.with_environment(root))

    def checked_tree(self, root: _Node, model: type[_AnyConfig]) -> _AnyConfig | None:
        config = self.validated(root, model)
        if config is not None:
            self.check_server_ids(root, config)
            self.keep_readers(root, config)
        self.check_lists(root)
        self.check_files(root)
        return None if self.problems else config

    def checked(self, config: _AnyConfig | None) -> _AnyConfig:
        """Raises ConfigError with all problems where there is no configuration."""
        # Outside every except block: the error carries no __context__ that could show what was refused.
        if config is None:
            lines = [problem.text for problem in sorted(self.problems, key=lambda problem: problem.order)]
            raise ConfigError("\n".join(dict.fromkeys(lines)), hint=self.hint)
        return config

    def note(self, origin: _Origin, path: _Path, text: str) -> None:
        self.problems.append(origin.problem(path, text))

    # -- files

    def read_text(self, path: Path, hint: str) -> str | None:
        try:
            return path.read_bytes().decode("utf-8-sig")
        except FileNotFoundError:
            reason = "no such file"
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        except UnicodeDecodeError as error:
            line_count = error.object.count(b"\n", 0, error.start)
            reason = f"line {line_count + 1} is not UTF-8"
            hint = "save the file as UTF-8."
        self.hint = hint
        self.problems.append(_Problem((0, ""), f"{path}: {reason}"))
        return None

    def read_env_file(self, path: Path) -> None:
        """Add KEY=VALUE lines to the variables; those of the process win."""
        text = self.read_text(path, "pass --env-file the path of a file with lines of KEY=VALUE, or leave it away.")
        for number, line in enumerate(re.split(r"\r?\n", text or ""), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            assignment = _parse_assignment(line)
            if assignment is None:  # the line is not quoted: it may well hold a password
                self.problems.append(_Problem((0, ""), f"{path}:{number} is not KEY=VALUE, or a quote is not closed"))
            else:
                self.variables.setdefault(*assignment)

    def read_yaml_file(self, path: Path) -> _Node | None:
        text = self.read_text(
            path, "pass the path with -c, or set everything by environment: CDC__NAME, CDC__SOURCE__URL, ..."
        )
        if text is None:
            return None
        return self.parse_yaml(text, lambda line: _Origin(f"{path}:{line}", (1, f"{line:09}")), ())

    # -- YAML

    def parse_yaml(self, text: str, origin_at: Callable[[int], _Origin], path: _Path) -> _Node | None:
        """The tree of a document; None after a syntax error, which is noted without quoting the text."""
        try:
            document = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line if mark is not None else 0
            lines = text.splitlines()
            clue = (
                " (inside { } or [ ], a value with ${...} must be quoted)" if "${" in "".join(lines[line:][:1]) else ""
            )
            self.note(origin_at(line + 1), path, f"not valid YAML: {_yaml_problem(error)}{clue}")
            return None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self.note(origin_at(line), path, "a character that YAML does not allow")
            return None
        if document is None:
            return _Node(origin_at(1), {})
        return self.from_yaml(document, origin_at(document.start_mark.line + 1), origin_at, path, ())

    def from_yaml(
        self,
        node: yaml.Node,
        origin: _Origin,
        origin_at: Callable[[int], _Origin],
        path: _Path,
        parents: tuple[yaml.Node, ...],
    ) -> _Node:
        """`node` with variables put in. `origin` is the line of its key, else its own."""
        if node in parents:
            self.note(origin, path, "an alias that contains itself")
            return _Node(origin, None, is_broken=True)
        parents = (*parents, node)
        if isinstance(node, yaml.MappingNode):
            return self.from_mapping(node, origin, origin_at, path, parents)
        if isinstance(node, yaml.SequenceNode):
            items = [
                self.from_yaml(item, origin_at(item.start_mark.line + 1), origin_at, (*path, index), parents)
                for index, item in enumerate(node.value)
            ]
            return _Node(origin, items)
        assert isinstance(node, yaml.ScalarNode)
        if "${" in node.value:
            return self.substituted(node.value, origin, path, empty_is_null=node.style is None)
        try:
            return _Node(origin, yaml.constructor.SafeConstructor().construct_object(node, deep=True))
        except (yaml.YAMLError, ValueError):
            self.note(origin, path, "cannot be read as the kind of value that it looks like: quote it")
            return _Node(origin, None, is_broken=True)

    def from_mapping(
        self,
        node: yaml.MappingNode,
        origin: _Origin,
        origin_at: Callable[[int], _Origin],
        path: _Path,
        parents: tuple[yaml.Node, ...],
    ) -> _Node:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (
                "tag:yaml.org,2002:str",
                "tag:yaml.org,2002:merge",
            ):
                self.note(origin_at(line), path, "a key that is not text")
            elif key.value in seen:
                text = f"this key is given twice (first on line {seen[key.value]})"
                self.note(origin_at(line), (*path, key.value), text)
            else:
                seen[key.value] = line
        try:
            yaml.constructor.SafeConstructor().flatten_mapping(node)
        except yaml.YAMLError:
            self.note(origin, path, "<< does not name a mapping")
            return _Node(origin, None, is_broken=True)
        members = {
            key.value: self.from_yaml(value, origin_at(key.start_mark.line + 1), origin_at, (*path, key.value), parents)
            for key, value in node.value
            if isinstance(key, yaml.ScalarNode) and key.tag == "tag:yaml.org,2002:str"
        }
        return _Node(origin, members)

    # -- variables

    def lookup(self, name: str) -> str | None:
        """The variable, else the content of the file that NAME_FILE names, else None. Raises _Refusal."""
        if name in self.variables:
            return self.variables[name]
        file_name = f"{name}_FILE"
        if not self.variables.get(file_name):
            return None
        return self.read_secret_file(file_name)

    def read_secret_file(self, name: str) -> str:
        # The path is not quoted: a password put into NAME_FILE by mistake would be shown.
        try:
            content = Path(self.variables[name]).read_bytes().decode()
        except OSError as error:
            reason = error.strerror
        except ValueError:  # not UTF-8, or a NUL in the path
            reason = "not UTF-8 text"
        else:
            return content.rstrip("\r\n")
        raise _Refusal(f"the file that {name} names cannot be read: {reason}")

    def substituted(self, text: str, origin: _Origin, path: _Path, *, empty_is_null: bool) -> _Node:
        """A scalar with its `${...}` replaced. It stays text: the key's type decides what it is read as."""
        template = _Template(self.lookup)
        result = template.fill(text)
        for problem in template.problems:
            self.note(origin, path, problem)
        variables = tuple(dict.fromkeys(template.variables))
        reread: Callable[[_Loader], _Node] | None = None
        if any(name not in self.environ and self.is_of_file(name) for name in variables):

            def reread(again: _Loader) -> _Node:
                return again.substituted(text, origin, path, empty_is_null=empty_is_null)

        if empty_is_null and not result:
            return _Node(origin, None, variables, is_broken=bool(template.problems), reread=reread)
        return _Node(origin, result, variables, is_broken=bool(template.problems), reread=reread)

    # -- secrets that may change

    def is_of_file(self, name: str) -> bool:
        return bool(name in self.variables or self.variables.get(f"{name}_FILE"))

    def keep_readers(self, root: _Node, config: Config) -> None:
        """Give each section with a secret the way to read it again."""
        servers: list[tuple[_Path, Server]] = [
            (("source",), config.source),
            *((("sinks", index), sink) for index, sink in enumerate(config.sinks)),
        ]
        for path, section in servers:
            url: DatabaseUrl = section.url  # type: ignore[attr-defined]  # of each kind its own
            if (node := self.rereadable(root, (*path, "url"))) is not None:
                section._password = Password(url.password.reveal(), functools.partial(self.password_now, node, url))

        token = self.rereadable(root, ("http", "token"))
        if token is not None and config.http.token is not None:
            config.http._token = Password(config.http.token.reveal(), lambda: _token(self.text_now(token)).reveal())

    def rereadable(self, root: _Node, path: _Path) -> _Node | None:
        node, found = _deepest(root, path)
        return node if found and node.reread is not None else None

    def password_now(self, node: _Node, url: DatabaseUrl) -> str:
        """The password as it stands at its source now. Raises ConfigError; what else has changed takes a new start."""
        found = parse_database_url(self.text_now(node))
        if replace(found, password=url.password, database=url.database) != url:
            raise ConfigError("it now names another server or user: start the service again")
        return found.password.reveal()

    def text_now(self, node: _Node) -> str:
        """The text of a node as it stands at its source now. Raises ConfigError."""
        assert node.reread is not None
        again = _Loader(self.environ, self.env_file)
        text = node.reread(again).value
        if again.problems or not isinstance(text, str):
            raise ConfigError("; ".join(problem.text for problem in again.problems) or "it is empty")
        return text

    # -- CDC__...

    def with_environment(self, root: _Node) -> _Node:
        """The tree with every `CDC__...` variable put in its place."""
        settings = {}
        for name in self.variables:
            if name.startswith(ENVIRONMENT_PREFIX) and self.variables[name]:
                path = tuple(int(part) if part.isdecimal() else part.lower() for part in name[5:].split("__"))
                settings[name] = path
        # Shorter paths first: a whole section, then single keys of it. Indexes sort as numbers.
        for name in sorted(settings, key=lambda name: (len(settings[name]), [str(p).zfill(9) for p in settings[name]])):
            path = settings[name]
            is_file = _annotation_at(path) is None and str(path[-1]).endswith("_file")
            if is_file:
                path = (*path[:-1], str(path[-1]).removesuffix("_file"))
                if self.variables.get(_environment_name(path)):
                    continue  # as with ${VAR}: the variable wins over its file
            node = self.environment_node(name, path, is_file=is_file)
            root = self.put(root, path, path, node)
        return root

    def environment_node(self, name: str, path: _Path, *, is_file: bool) -> _Node:
        origin = _Origin(f"environment {name}", (3, name), path)
        text = self.variables[name]
        if is_file:
            try:
                text = self.read_secret_file(name)
            except _Refusal as refusal:
                self.note(origin, path, str(refusal))
                return _Node(origin, None, is_broken=True)
        if _takes_yaml(_annotation_at(path), text):
            node = self.parse_yaml(text, lambda _line: origin, path)
            return _Node(origin, None, is_broken=True) if node is None else node
        if is_file:
            return _Node(origin, text, (name,), reread=lambda again: again.environment_node(name, path, is_file=True))
        return self.substituted(text, origin, path, empty_is_null=True) if "${" in text else _Node(origin, text)

    def put(self, node: _Node, path: _Path, full_path: _Path, new: _Node) -> _Node:
        """`node` with `new` at `path` below it; a mapping or list on the way is made when missing."""
        if not path:
            return new
        key, rest = path[0], path[1:]
        value = node.value
        if value is None and not node.is_broken:
            node = replace(node, origin=new.origin, value=[] if isinstance(key, int) else {})
            value = node.value
        if isinstance(value, dict):
            name = str(key)
            child = value.get(name, _Node(new.origin, None))
            return replace(node, value={**value, name: self.put(child, rest, full_path, new)})
        if isinstance(value, list) and isinstance(key, int) and key <= len(value):
            child = value[key] if key < len(value) else _Node(new.origin, None)
            return replace(node, value=[*value[:key], self.put(child, rest, full_path, new), *value[key + 1 :]])
        if isinstance(value, list):
            self.note(new.origin, full_path, f"the next index of this list is {len(value)}")
        elif not node.is_broken:
            self.note(new.origin, full_path, f"nothing can be set below {node.origin.place}, which is not a section")
        return node

    # -- tables.file

    def with_table_file(self, root: _Node) -> _Node:
        """The tree with the entries of `tables.file` among its overrides."""
        node, found = _deepest(root, ("tables", "file"))
        if not found or not isinstance(node.value, str) or not node.value:
            return root
        try:
            text = Path(node.value).read_bytes().decode("utf-8-sig")
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8"
            self.note(node.origin, ("tables", "file"), f"{_shown(node)} cannot be read: {reason}")
            return root
        # A file that a variable names is not quoted: it may be a password in the wrong place.
        shown = Path(node.value).name if not node.variables else "tables.file"
        if Path(node.value).suffix in (".yml", ".yaml"):
            return self.with_table_mapping(root, text, shown)
        entries, problems = parse_table_file(text)
        for problem in problems:
            place = f"{shown}:{problem.line}" + ("" if problem.index is None else f" entry {problem.index + 1}")
            self.note(_Origin(place, (1, f"{problem.line:09}"), ()), (), problem.text)
        seen: dict[str, str] = {}
        for entry in entries:
            place = f"{shown}:{entry.line} entry {entry.index + 1}"
            origin = _Origin(f"{place}.table", (1, f"{entry.line:09}"), ())
            try:
                name = self.full_name(root, entry.values["table"])
            except ValueError as error:
                self.note(origin, (), str(error))
                continue
            if name in seen:
                self.note(origin, (), f"{name} has an entry already, {seen[name]}")
                continue
            seen[name] = place
            root = self.with_table_entry(root, place, entry, name)
        return root

    def with_table_mapping(self, root: _Node, text: str, shown: str) -> _Node:
        """The tree with the tables of a file that `cdc analyze` made. It widens nothing: what is captured counts."""
        tree = self.parse_yaml(text, lambda line: _Origin(f"{shown}:{line}", (1, f"{line:09}")), ())
        if tree is not None and not isinstance(tree.value, dict):
            self.note(tree.origin, (), "is not a mapping of tables to their settings")
        for name, node in tree.value.items() if tree is not None and isinstance(tree.value, dict) else ():
            settings = {} if node.value is None and not node.is_broken else node.value
            problem = _table_mapping_problem(name, settings)
            if problem:
                self.note(node.origin, (), f"{name}: {problem}")
            elif _is_named(root, "include", name) and not _is_named(root, "exclude", name):
                overrides = _list_at(root, ("tables", "overrides"))
                here = [_deepest(override, ("table",))[0].value for override in overrides]
                index = here.index(name) if name in here else len(overrides)
                for key, value in {**settings, "table": _Node(node.origin, name)}.items():
                    at: _Path = ("tables", "overrides", index, key)
                    root = root if _deepest(root, at)[1] else self.put(root, at, at, value)
        return root

    def with_table_entry(self, root: _Node, place: str, entry: TableEntry, name: str) -> _Node:
        """What the configuration itself says of the table counts, key by key."""

        def origin(key: str, path: _Path) -> _Origin:
            return _Origin(f"{place}.{key}", (1, f"{entry.line:09}"), path)

        include: _Path = ("tables", "include")
        patterns = [node.value for node in _list_at(root, include) if isinstance(node.value, str)]
        if not any(_is_match(pattern, name) for pattern in patterns):
            at: _Path = (*include, len(_list_at(root, include)))
            root = self.put(root, at, at, _Node(origin("table", at), name))
        overrides = _list_at(root, ("tables", "overrides"))
        here = [_deepest(node, ("table",))[0].value for node in overrides]
        index = here.index(name) if name in here else len(overrides)
        for key, value in {**entry.values, "table": name}.items():
            at = ("tables", "overrides", index, key)
            if _deepest(root, at)[1]:
                continue
            where = origin(key, at)
            items = [_Node(where, item) for item in value] if isinstance(value, list) else value
            root = self.put(root, at, at, _Node(where, items))
        return root

    def full_name(self, root: _Node, text: str) -> str:
        """`db.table`, spelled as a pattern of just that; raises ValueError."""
        database, dot, table = text.partition(".")
        if not dot:
            named = {
                half
                for node in _list_at(root, ("tables", "include"))
                if isinstance(node.value, str) and not _is_of_table_file(node)
                for half in [_split_database(node.value)]
            }
            found = next(iter(named)) if len(named) == 1 else None
            if found is None:
                raise ValueError("the name has no database, and tables.include is not about just one: write db.table")
            database, table = found, text
        if not database or not table:
            raise ValueError("the name is not of the form db.table")
        return ".".join(re.sub(r"([\\*?])", r"\\\1", half) for half in (database, table))

    # -- checking

    def validated(self, root: _Node, model: type[_AnyConfig]) -> _AnyConfig | None:
        errors: Sequence[Any] = ()
        try:
            return model.model_validate(_plain(root))
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
        for details in errors:
            self.note_invalid(root, details["loc"], details["type"], details["msg"], details.get("ctx", {}))
        return None

    def note_invalid(self, root: _Node, path: _Path, kind: str, message: str, context: Mapping[str, Any]) -> None:
        node, found = _deepest(root, path)
        if node.is_broken:
            return
        if kind == "too_short" and node.value:
            return  # entries that were refused are not counted: they have problems of their own
        if kind == "missing":
            if node.origin.path is None and node.origin.place != "environment":
                self.note(node.origin, path, "is required")
            else:  # the section is not in the file: name the variable that would set it
                name = _environment_name(path)
                self.note(_Origin(f"environment {name}", (3, name), path), path, "is required and not set")
        elif kind == "extra_forbidden":
            self.note(node.origin, path, _unknown_key(path, in_environment=node.origin.path is not None))
        else:
            self.note(node.origin, path, _refusal_text(node if found else None, path, kind, message, context))

    def check_lists(self, root: _Node) -> None:
        """What no single entry shows: names given twice, overrides of tables that are not captured."""
        for path, key in ((("sinks",), "name"), (("tables", "overrides"), "table")):
            seen: dict[Any, _Path] = {}
            for index, node in enumerate(_list_at(root, path)):
                member, found = _deepest(node, (key,))
                if not found or not isinstance(member.value, str):
                    continue
                if member.value in seen:
                    self.note(member.origin, (*path, index, key), f"the same as {_path_text(seen[member.value])}")
                seen.setdefault(member.value, (*path, index, key))
        self.check_overrides(root)

    def check_server_ids(self, root: _Node, config: Config) -> None:
        """Each lane takes an id; a second stream with one id would cut the first."""
        needed, count = sum(len(sink.lanes) for sink in config.sinks), config.source.server_id_count
        several = [index for index, sink in enumerate(config.sinks) if len(sink.lanes) > 1]
        if several and needed > count:
            path: _Path = ("sinks", several[-1], "lanes")
            node, _ = _deepest(root, path)
            text = f"the sinks have {needed} lanes, each takes an id, and source.server_id_count is {count}"
            self.note(node.origin, path, text)

    def check_overrides(self, root: _Node) -> None:
        tables, found = _deepest(root, ("tables",))
        if not found or not isinstance(tables.value, dict):
            return
        try:
            patterns = _plain(
                _Node(tables.origin, {k: v for k, v in tables.value.items() if k in ("include", "exclude")})
            )
            captured = Tables.model_validate(patterns)
        except ValidationError:
            return  # noted already
        for index, node in enumerate(_list_at(root, ("tables", "overrides"))):
            table, found = _deepest(node, ("table",))
            try:
                if found and isinstance(table.value, str) and not captured.matches(*parse_table_name(table.value)):
                    text = "tables.include and exclude do not let this table through, so the entry has no effect"
                    self.note(table.origin, ("tables", "overrides", index, "table"), text)
            except ValueError:
                continue  # noted already

    def check_files(self, root: _Node) -> None:
        sections: list[_Path] = [("source",), *(("sinks", index) for index in range(len(_list_at(root, ("sinks",)))))]
        for section in sections:
            for key in ("ssl_ca", "ssl_cert", "ssl_key"):
                node, found = _deepest(root, (*section, key))
                if found and isinstance(node.value, str) and node.value and not Path(node.value).is_file():
                    self.note(node.origin, (*section, key), f"{_shown(node)} is not a file that can be read")


def _is_of_table_file(node: _Node) -> bool:
    return re.search(r" entry \d+\.table$", node.origin.place) is not None


def _is_match(pattern: str, name: str) -> bool:
    try:
        return parse_table_pattern(pattern).matches(*parse_table_name(name))
    except ValueError:
        return False  # noted elsewhere


def _is_named(root: _Node, key: str, name: str) -> bool:
    """Do the patterns at `tables.<key>` match the table?"""
    patterns = [node.value for node in _list_at(root, ("tables", key)) if isinstance(node.value, str)]
    return any(_is_match(pattern, name) for pattern in patterns)


def _table_mapping_problem(name: str, settings: Any) -> str:
    """What is wrong with one table of a file that `cdc analyze` made; '' if nothing is."""
    try:
        parse_table_name(name)
    except ValueError as error:
        return str(error)
    if not isinstance(settings, dict):
        return "its settings are not a mapping (key: value)"
    return "the table is named by the key above, not by `table`" if "table" in settings else ""


def _split_database(pattern: str) -> str | None:
    """The one database that a pattern is about."""
    try:
        return _exact_text(_split_table(pattern)[0])
    except ValueError:
        return None


def _parse_assignment(line: str) -> tuple[str, str] | None:
    """Name and value of `[export ]KEY=VALUE`, or None when the line is something else."""
    match = re.fullmatch(
        r"\s*(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*"
        r"(?:'(?P<single>[^']*)'|\"(?P<double>(?:[^\"\\]|\\.)*)\"|(?P<bare>(?!['\"]).*?))\s*(?:(?<=\s)\#.*)?",
        line,
    )
    if match is None:
        return None
    if match["single"] is not None:
        return match["name"], match["single"]
    if match["double"] is not None:
        escapes = {"n": "\n", "r": "\r", "t": "\t"}
        return match["name"], re.sub(r"\\(.)", lambda found: escapes.get(found[1], found[1]), match["double"])
    return match["name"], match["bare"]


def _yaml_problem(error: yaml.MarkedYAMLError) -> str:
    text = error.problem or error.context or "syntax error"
    if "undefined alias" in text:
        return "an alias that is not defined (a value that begins with * or & must be quoted)"
    # Tokens ('<block end>') and single characters may be quoted; anything longer is a piece of the file.
    return re.sub(r"'[\w!][^']+'|\"[\w!][^\"]+\"", "a piece of text", text)


# -- ${...}


class _Template:
    """Fills `${NAME}` and `${NAME:-default}`; `$${` stands for `${` itself.

    In a URL, what is put in before the last @ is percent-encoded: any password just works.
    """

    def __init__(self, lookup: Callable[[str], str | None]) -> None:
        self.lookup = lookup
        self.variables: list[str] = []
        self.problems: list[str] = []

    def fill(self, text: str) -> str:
        pieces = list(self.pieces(text))
        # Values are one NUL each here, so that nothing in them is taken for a part of the URL.
        outline = "".join("\0" if is_value else piece for piece, is_value in pieces)
        start, end = _userinfo_span(outline)
        result, index = "", 0
        for piece, is_value in pieces:
            inside = is_value and start <= index < end
            result += quote(piece, safe="", errors="surrogateescape") if inside else piece
            index += 1 if is_value else len(piece)
        return result

    def pieces(self, text: str) -> Iterator[tuple[str, bool]]:
        """Pieces of the text, each with whether it is the value of a variable."""
        index = 0
        while (found := text.find("$", index)) >= 0:
            yield text[index:found], False
            if text.startswith("$${", found):
                yield "${", False
                index = found + 3
            elif text.startswith("${", found):
                end = _closing_brace(text, found + 2)
                if end is None:
                    self.problems.append("a ${ without its } (write $${ for the characters themselves)")
                    return
                yield self.value(text[found + 2 : end]), True
                index = end + 1
            else:
                yield "$", False
                index = found + 1
        yield text[index:], False

    def value(self, expression: str) -> str:
        match = re.fullmatch(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", expression, re.DOTALL)
        if match is None:
            self.problems.append("only ${NAME} and ${NAME:-default} are known (write $${ for the characters ${)")
            return ""
        name, default = match["name"], match["default"]
        self.variables.append(name)
        try:
            value = self.lookup(name)
        except _Refusal as refusal:
            self.problems.append(str(refusal))
            return ""
        if default is not None and not value:  # as in a shell, an empty variable counts as unset here
            return "".join(piece for piece, _ in self.pieces(default))
        if value is None:
            self.problems.append(f"the variable {name} is not set, nor is {name}_FILE (or write ${{{name}:-default}})")
            return ""
        return value


def _closing_brace(text: str, index: int) -> int | None:
    depth = 1
    for token in re.compile(r"\$\$\{|\$\{|\}").finditer(text, index):
        if token[0] == "${":
            depth += 1
        elif token[0] == "}":
            depth -= 1
            if depth == 0:
                return token.start()
    return None


def _userinfo_span(outline: str) -> tuple[int, int]:
    """Where user and password stand in a URL; an empty span when `outline` is none."""
    match = re.match(r"[^/?#@]*://(?P<authority>[^/?#]*)", outline)
    end = -1 if match is None else match["authority"].rfind("@")
    if match is None or end < 0:
        return 0, 0
    return match.start("authority"), match.start("authority") + end


# -- the tree


def _plain(node: _Node) -> Any:
    """What pydantic gets. A key without a value counts as not given, except where null is a choice."""
    if isinstance(node.value, dict):
        return {
            key: _plain(child)
            for key, child in node.value.items()
            if child.value is not None or key in ("zero_dates", "mask") or child.is_broken
        }
    if isinstance(node.value, list):
        return [_plain(child) for child in node.value]
    return node.value


def _deepest(node: _Node, path: _Path) -> tuple[_Node, bool]:
    """The node at `path`, or the last one that exists on the way to it; and whether it is the former."""
    for part in path:
        child = None
        if isinstance(node.value, dict):
            child = node.value.get(part)
        elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            child = node.value[part]
        if child is None:
            return node, False
        node = child
    return node, True


def _list_at(root: _Node, path: _Path) -> list[_Node]:
    node, found = _deepest(root, path)
    return node.value if found and isinstance(node.value, list) else []


def _lane_count(sink: _Node) -> int:
    """How many lanes a sink has that is not checked; 1 where they are wrong."""
    node, found = _deepest(sink, ("lanes",))
    if found and isinstance(node.value, list):
        return max(1, len(node.value))
    text = str(node.value).strip() if found else ""
    return max(1, min(int(text), LANES_MAX)) if re.fullmatch(r"[0-9]{1,9}", text) else 1


# -- the model, seen from a path


def _unwrapped(annotation: Any) -> Any:
    """Without Annotated and `| None`."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, UnionType):
            annotation = next(member for member in get_args(annotation) if member is not NoneType)
        else:
            return annotation


def _is_section(annotation: Any) -> TypeGuard[type[Section]]:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _annotation_at(path: _Path) -> Any:
    """Type of the key at `path`, or None when there is no such key."""
    annotation: Any = Config
    for part in path:
        if _is_section(annotation):
            key = _keys(annotation).get(str(part))
            if key is None:
                return None
            annotation = _unwrapped(key.annotation)
        elif get_origin(annotation) is tuple and isinstance(part, int):
            annotation = _unwrapped(get_args(annotation)[0])
        else:
            return None
    return annotation


def _keys(section: type[Section]) -> dict[str, FieldInfo]:
    """The keys of a section as the file spells them."""
    return {key.alias or name: key for name, key in section.model_fields.items()}


def _field_at(path: _Path) -> FieldInfo | None:
    names = [part for part in path if isinstance(part, str)]
    if not names or path[-1] != names[-1]:
        return None
    section = _annotation_at(path[:-1])
    return _keys(section).get(names[-1]) if _is_section(section) else None


def _takes_yaml(annotation: Any, text: str) -> bool:
    """The text of an environment variable is a YAML value, not the scalar itself."""
    if _is_section(annotation):
        return True
    return get_origin(annotation) is tuple and text.lstrip().startswith(("[", "- "))


# -- texts


def _shown(node: _Node) -> str:
    """A value for a problem's text. What came from a variable is not shown: it may be a password in the wrong place."""
    value = node.value
    if node.variables:
        return "the value of " + " and ".join(f"${{{name}}}" for name in node.variables)
    if isinstance(value, str):
        if "//" in value or "@" in value:
            return "a URL"
        return repr(value if len(value) <= 60 else value[:60] + "…")
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _unknown_key(path: _Path, *, in_environment: bool) -> str:
    section = _annotation_at(path[:-1])
    known = sorted(_keys(section)) if _is_section(section) else []
    name = str(path[-1])
    close = difflib.get_close_matches(name.lower(), known, n=1)
    if close and in_environment:
        return f"there is no such key; did you mean {_environment_name((*path[:-1], close[0]))}?"
    if close:
        return f"there is no such key; did you mean {close[0]}?"
    return f"there is no such key; known here: {', '.join(known)}"


_EXPECTED: Final[Mapping[str, str]] = {
    "string_type": "is not text: put it in quotes",
    "path_type": "is not text: put it in quotes",
    "bool_type": "is not true or false",
    "bool_parsing": "is not true or false",
    "model_type": "is not a mapping (key: value)",
    "tuple_type": 'is not a list, such as ["a", "b"]',
    "int_type": "is not a whole number",
    "int_parsing": "is not a whole number",
    "int_parsing_size": "is not a whole number of a usual size",
    "int_from_float": "is not a whole number",
    "float_type": "is not a number",
    "float_parsing": "is not a number",
    "finite_number": "is not a number",
}


def _refusal_text(node: _Node | None, path: _Path, kind: str, message: str, context: Mapping[str, Any]) -> str:
    if kind == "cdc":
        return str(context["text"])
    value = "the default" if node is None else _shown(node)
    if kind in ("model_type", "tuple_type") and node is not None and isinstance(node.value, str):
        value = "text"  # a whole section pasted wrongly may hold anything: not quoted
    if kind in _EXPECTED:
        return f"{value} {_EXPECTED[kind]}"
    key = _field_at(path)
    if kind in ("greater_than_equal", "less_than_equal", "literal_error") and key is not None:
        # '0' given as text is still the number 0 to the reader.
        return f"{value.strip(chr(39)) if kind != 'literal_error' else value} is not in {_range_text(key)}"
    if kind == "string_pattern_mismatch" and key is not None:
        return f"{value} does not match {_extra(key).get('range_text', '')}".replace("`", "")
    if kind in ("too_short", "string_too_short"):
        return "needs at least one entry" if kind == "too_short" else "is empty"
    return message


# ---------------------------------------------------------------------------------------------------------------------
# docs/configuration.md


def _extra(key: FieldInfo) -> dict[str, Any]:
    return key.json_schema_extra if isinstance(key.json_schema_extra, dict) else {}


def _bounds(key: FieldInfo) -> tuple[Any, Any]:
    low = next((item.ge for item in key.metadata if isinstance(item, Ge)), None)
    high = next((item.le for item in key.metadata if isinstance(item, Le)), None)
    return low, high


def _range_text(key: FieldInfo) -> str:
    """`1..256`, `64KiB..1GiB`, `a, b, c`, or what the key says of itself."""
    annotation = _unwrapped(key.annotation)
    if get_origin(annotation) is Literal:
        return ", ".join(get_args(annotation))
    low, high = _bounds(key)
    if low is None:
        return str(_extra(key).get("range_text", ""))
    text = size_text if _extra(key).get("unit") == "bytes" else str
    return f"{text(low)}..{text(high)}"


def _type_text(key: FieldInfo) -> str:
    annotation = _unwrapped(key.annotation)
    names = {int: "integer", float: "number", bool: "true or false", str: "text", Path: "file", DatabaseUrl: "URL"}
    unit = _extra(key).get("unit")
    if unit == "bytes":
        return f"size, {_range_text(key)}"
    if get_origin(annotation) is Literal:
        return " \\| ".join(f"`{choice}`" for choice in get_args(annotation))
    if "range_text" in _extra(key):
        return str(_extra(key)["range_text"]).replace("|", "\\|")
    return ", ".join(part for part in (names.get(annotation, ""), _range_text(key)) if part) + (
        f" {unit}" if unit else ""
    )


def _default_text(key: FieldInfo) -> str:
    if key.is_required():
        return "**required**"
    extra, default = _extra(key), key.default
    if "default_text" in extra:
        return str(extra["default_text"])
    if default is None or default == ():
        return "unset" if default is None else "`[]`"
    if extra.get("unit") == "bytes":
        return f"`{size_text(default)}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _sections(section: type[Section], name: str) -> Iterator[tuple[str, type[Section]]]:
    """Every section below `section`, as `sinks[]`, in the order of the file."""
    for key, info in _keys(section).items():
        annotation, path = _unwrapped(info.annotation), f"{name}.{key}" if name else key
        if get_origin(annotation) is tuple and _is_section(_unwrapped(get_args(annotation)[0])):
            annotation, path = _unwrapped(get_args(annotation)[0]), f"{path}[]"
        if _is_section(annotation):
            yield path, annotation
            yield from _sections(annotation, path)


def _every_section() -> Iterator[tuple[str, type[Section]]]:
    yield "", Config
    yield from _sections(Config, "")


def setting_paths() -> list[str]:
    """Every key that takes a value, as `sinks[].url`, in the order of the documentation."""
    return [
        f"{name}.{key}".removeprefix(".")
        for name, section in _every_section()
        for key, info in _keys(section).items()
        if not _holds_sections(info)
    ]


def _holds_sections(key: FieldInfo) -> bool:
    annotation = _unwrapped(key.annotation)
    return _is_section(annotation) or (
        get_origin(annotation) is tuple and _is_section(_unwrapped(get_args(annotation)[0]))
    )


_DOCUMENT_HEAD: Final = """\
# Configuration

<!-- Generated by `python -m cdc.config > docs/configuration.md`: edit the descriptions in cdc/config.py. -->

One YAML file, `config.yaml` unless `-c` names another; the one at the root of the repository is an example with a
comment on every key. All problems are reported at once, each with file and line, and end the command with exit code 2:

    config.yaml:14 source.server_id: 0 is not in 1..4294967295
    environment CDC__HTTP__PORT: 'web' is not a whole number

Unknown keys and keys given twice are problems. A key without a value counts as not given. `cdc config show` prints what
is in force, with passwords as `***`; `cdc config schema` prints the JSON schema for an editor.

## Variables

- `${NAME}` anywhere in a value is replaced by the variable, `${NAME:-default}` by the default where the variable is
  unset or empty; a variable that is unset and has no default is a problem. `$${` stands for `${` itself. Inside `{ }`
  and `[ ]` YAML wants such a value in quotes.
- In a URL, a variable before the `@` is percent-encoded as it is put in: `"mysql://repl:${DB_PASS}@db1"` works with any
  password. Use one variable for the user and one for the password. Characters typed there by hand (`@ : / ? # %`) must
  be percent-encoded; so must those in a variable that holds a whole URL.
- Secrets from files: where `NAME` is not set but `NAME_FILE` is, the value is the content of that file without its
  last newline (Docker and Kubernetes secrets).
- A password out of such a file, or of `--env-file`, is read again when a server refuses it: one that is rotated while
  the service runs needs no start ([operations](operations.md)). What the process's own environment or the configuration
  file says stays as it was read.
- `--env-file FILE` adds variables from lines of `KEY=VALUE` (`#` comments, quotes and `export` are understood); those
  of the process win.

## Environment

Every key can be set by environment, which wins over the file: the path in capitals after `CDC__`, with two underscores
between the parts. No file is needed when the environment says enough. A variable that is set but empty is left out.

    CDC__SOURCE__URL='mysql://repl:secret@db1'      CDC__SOURCE__URL_FILE=/run/secrets/source_url
    CDC__SINKS__0__URL='postgresql://cdc@pg/dw'     # entries of a list by index, from 0
    CDC__TABLES__INCLUDE='["shop.*", "crm.*"]'      # lists and sections as JSON or YAML

`${NAME}` is replaced in these values too, but not in the content of files.

Sizes are bytes, or a whole number with `KiB`, `MiB`, `GiB` (1024; also `k`, `M`, `G`) or `KB`, `MB`, `GB` (1000).
"""


def configuration_markdown() -> str:
    """The text of docs/configuration.md."""
    parts = [_DOCUMENT_HEAD]
    for name, section in _every_section():
        keys = {key: info for key, info in _keys(section).items() if not _holds_sections(info)}
        title = f"`{name}`" if name else "Top level"
        lines = [f"\n## {title}\n", f"{' '.join((section.__doc__ or '').split())}\n"]
        lines += ["| key | value | default | what it does, and why |", "|---|---|---|---|"]
        lines += [
            f"| `{key}` | {_type_text(info)} | {_default_text(info)} | {info.description} |"
            for key, info in keys.items()
        ]
        parts.append("\n".join(lines) + "\n")
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(configuration_markdown())
