"""The checkpoint: a promise that everything up to a position is durable in the sink.

Restarting from a checkpoint is always safe. Encoded as JSON with a version and a checksum: a torn, edited or unknown
text is refused, never guessed at.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import orjson

from cdc.errors import ResyncRequired
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import FilePos, ServerIdentity, SourcePosition

__all__ = ["CHECKPOINT_FORMAT", "Checkpoint", "decode_position", "encode_position"]

CHECKPOINT_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`position` is durable in the sink; `sequence` counts the checkpoints of a pipeline and never goes back."""

    position: SourcePosition
    sequence: int

    def next(self, position: SourcePosition) -> Checkpoint:
        """The checkpoint after this one."""
        return Checkpoint(position, self.sequence + 1)


def encode_position(position: SourcePosition) -> str:
    """A position as text with version and checksum."""
    content: dict[str, Any] = {
        "format": CHECKPOINT_FORMAT,
        "flavor": position.server.flavor,
        "server": position.server.uuid,
        "gtid": None if position.gtid is None else str(position.gtid),
        "file": position.file.file if position.file else None,
        "pos": position.file.pos if position.file else None,
    }
    return orjson.dumps({**content, "crc": _crc(content)}).decode()


def decode_position(text: str) -> SourcePosition:
    """What `encode_position` wrote.

    Raises ResyncRequired when the text is damaged or of a version that is not known.
    """
    try:
        content = orjson.loads(text)
        crc = content.pop("crc")
        version = content["format"]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(text) from error
    if version != CHECKPOINT_FORMAT:
        raise ResyncRequired(
            f"the checkpoint has format {version}, this version of cdc knows {CHECKPOINT_FORMAT}",
            hint="run the version that wrote it",
        )
    if crc != _crc(content):
        raise _damaged(text)
    gtid: MysqlGtidSet | MariadbGtidList | None = None
    if content["gtid"] is not None:
        is_mysql = content["flavor"] == "mysql"
        gtid = MysqlGtidSet.parse(content["gtid"]) if is_mysql else MariadbGtidList.parse(content["gtid"])
    file = FilePos.of(content["file"], content["pos"]) if content["file"] is not None else None
    return SourcePosition(ServerIdentity(content["flavor"], content["server"]), file, gtid)


def _crc(content: dict[str, Any]) -> int:
    return zlib.crc32(orjson.dumps(content, option=orjson.OPT_SORT_KEYS))


def _damaged(text: str) -> ResyncRequired:
    return ResyncRequired(
        f"the checkpoint in the sink's metadata is damaged: {text[:200]!r}",
        hint="restore it, or load again with `cdc checkpoint reset`",
    )
