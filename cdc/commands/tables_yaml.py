"""The text of `tables.yml`: settings of tables by name, made by `cdc analyze` and edited by people.

Knows lines. What a run has to say of a table stands in lines that begin with `#:`, which each run writes anew. Every
other comment, and every setting that is not the same as the one that the run before wrote, is somebody's: it stays as
it is, to the letter, unless all is forced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import yaml

from cdc.errors import ConfigError

__all__ = ["Entry", "TablesText", "Wanted", "merged", "table_pattern"]

_MARK = "#:"
_INDENT = "  "


@dataclass(slots=True)
class _Setting:
    """One key of a table: the comments above it, its lines, and what they say."""

    comments: list[str]
    lines: list[str]
    value: Any


@dataclass(slots=True)
class Entry:
    """One table as the file has it. `comments` stand above it, `rest` below its settings; `head_line` has its name."""

    name: str
    comments: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, _Setting] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)
    head_line: str = ""

    def values(self) -> dict[str, Any]:
        """What is set."""
        return {key: setting.value for key, setting in self.settings.items()}

    def set(self, key: str, value: Any) -> None:
        """Write the setting anew; comments above it stay."""
        before = self.settings.get(key)
        self.settings[key] = _Setting(before.comments if before else [], [f"{_INDENT}{key}: {_scalar(value)}"], value)

    def lines(self) -> Iterator[str]:
        """As the file has it."""
        yield from self.comments
        yield self.head_line or f"{_scalar(self.name)}:{'' if self.settings else ' {}'}"
        yield from (f"{_INDENT}{_MARK} {note}" for note in self.notes)
        for setting in self.settings.values():
            yield from setting.comments
            yield from setting.lines
        yield from self.rest


@dataclass(slots=True)
class TablesText:
    """A file's content. `head` are the comments at its top that are not ours."""

    head: list[str] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, path: str) -> TablesText:
        """Raises ConfigError, with the line, for what is no mapping of tables to settings."""
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigError(f"{path}:{line} {error.problem}", hint="mend it, or name another file") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: {error}", hint="save the file as UTF-8 text") from None
        lines = text.split("\n")
        if root is None:
            return cls(head=[line for line in lines if line.strip() and not line.startswith(_MARK)])
        if not isinstance(root, yaml.MappingNode) or root.flow_style:
            raise ConfigError(f"{path}:{root.start_mark.line + 1} is not a mapping of tables, each on its own line")
        starts = [key.start_mark.line for key, _ in root.value] + [len(lines)]
        made = cls()
        above = lines[: starts[0]]
        blank = next((at for at, line in enumerate(above) if not line.strip()), 0)
        made.head, above = _foreign(above[:blank]), above[blank:]
        for (key, value), end in zip(root.value, starts[1:], strict=True):
            if not isinstance(key, yaml.ScalarNode) or key.value in made.entries:
                raise ConfigError(f"{path}:{key.start_mark.line + 1} is no table's name, or stands there twice")
            own, below = _split_trailing(lines[key.start_mark.line : end])
            entry = _entry(key, value, own, path)
            entry.comments = _foreign(above)
            made.entries[entry.name] = entry
            above = below
        if last := _foreign(above):
            next(reversed(made.entries.values())).rest += last
        return made

    def render(self, head: Sequence[str]) -> str:
        """The file, tables by name; `head` is what we say at its top."""
        blocks = ["\n".join([*(f"{_MARK} {line}".rstrip() for line in head), *self.head])]
        blocks += ["\n".join(self.entries[name].lines()) for name in sorted(self.entries)]
        return "\n\n".join(blocks) + "\n"


def _foreign(lines: Sequence[str]) -> list[str]:
    """Without blank lines and what a run wrote."""
    return [line for line in lines if line.strip() and not line.lstrip().startswith(_MARK)]


def _split_trailing(lines: list[str]) -> tuple[list[str], list[str]]:
    """A table's own lines, and the comments behind it that begin at the margin: they belong to the next one."""
    end = len(lines)
    while end > 1 and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
        end -= 1
    return lines[:end], lines[end:]


def _entry(key: yaml.ScalarNode, value: yaml.Node, lines: list[str], path: str) -> Entry:
    entry = Entry(name=key.value)
    first = key.start_mark.line
    if isinstance(value, yaml.ScalarNode) and value.tag == "tag:yaml.org,2002:null":
        entry.rest = _foreign(lines[1:])
        return entry
    if not isinstance(value, yaml.MappingNode):
        raise ConfigError(f"{path}:{first + 1} {key.value}: its settings are no mapping (key: value)")
    if value.flow_style:
        entry.rest = [f"{_INDENT}{text}" for text in re.findall(r"[ \t](#.*)", lines[-1])]
    else:
        entry.head_line = lines[0]
    pairs = [(str(k.value), k, v) for k, v in value.value]
    for at, (name, node, setting) in enumerate(pairs):
        if name in entry.settings:
            raise ConfigError(f"{path}:{node.start_mark.line + 1} {key.value}: {name} is given twice")
        plain = _plain(setting)
        if value.flow_style:
            entry.set(name, plain)
            continue
        begin = node.start_mark.line - first
        end = pairs[at + 1][1].start_mark.line - first if at + 1 < len(pairs) else len(lines)
        own = lines[begin:end]
        while len(own) > 1 and (not own[-1].strip() or own[-1].lstrip().startswith("#")):
            own.pop()
        entry.settings[name] = _Setting([], own, plain)
        _comments(entry, name, lines, begin, pairs, at, first)
    if not value.flow_style and pairs:
        last = pairs[-1][0]
        begin = pairs[-1][1].start_mark.line - first + len(entry.settings[last].lines)
        entry.rest = _foreign(lines[begin:])
    return entry


def _comments(
    entry: Entry, name: str, lines: list[str], begin: int, pairs: list[tuple[str, Any, Any]], at: int, first: int
) -> None:
    """What stands between the setting before and this one."""
    after = 1
    if at:
        before = pairs[at - 1]
        after = before[1].start_mark.line - first + len(entry.settings[before[0]].lines)
    entry.settings[name].comments = _foreign(lines[after:begin])


def _plain(node: yaml.Node) -> Any:
    return yaml.safe_load(yaml.serialize(node, Dumper=yaml.SafeDumper))


_PLAIN = re.compile(r"[A-Za-z_][\w$]*(?:\.[A-Za-z_][\w$]*)?", re.ASCII)
_NOT_TEXT = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def _scalar(value: Any) -> str:
    """As YAML. Text is in quotes where it could be taken for something else."""
    if isinstance(value, str):
        is_plain = _PLAIN.fullmatch(value) is not None and value.lower() not in _NOT_TEXT
        return value if is_plain else orjson.dumps(value).decode()
    return orjson.dumps(value).decode()  # JSON is YAML


def table_pattern(database: str, table: str) -> str:
    """`db.table` as the configuration takes an exact name: wildcards escaped, and dots of the database."""
    escaped = re.sub(r"([\\*?.])", r"\\\1", database)
    return f"{escaped}." + re.sub(r"([\\*?])", r"\\\1", table)


# ---------------------------------------------------------------- putting a new analysis into the file


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run would write of a table: its notes, and its settings."""

    notes: tuple[str, ...]
    settings: Mapping[str, Any]


def merged(
    text: TablesText,
    wanted: Mapping[str, Wanted],
    before: Mapping[str, Mapping[str, Any]],
    *,
    force: bool,
) -> list[str]:
    """Put what is wanted into the file; what somebody's hand has kept otherwise, a sentence each.

    A setting that is as the run before wrote it (`before`) becomes what is wanted now. One that is not, or that was
    taken out since, was edited: it stays so, unless `force`. The same goes for whole tables. What a run never writes
    is not touched at all.
    """
    kept: list[str] = []
    for name, want in wanted.items():
        entry = text.entries.get(name)
        if entry is None:
            if name in before and not force:
                kept.append(f"{name}: was taken out of the file by hand")
                continue
            entry = text.entries[name] = Entry(name)
        entry.notes = list(want.notes)
        kept += _merge_settings(entry, want.settings, before.get(name, {}), force=force)
    for name in sorted(set(text.entries) - set(wanted)):
        entry = text.entries[name]
        entry.notes = ["is not at the source, or not captured"]
        if name in before and entry.values() == before[name] and not (entry.comments or entry.rest):
            del text.entries[name]
        else:
            kept.append(f"{name}: is not at the source, or not captured, and has settings of somebody's hand")
    return kept


def _merge_settings(
    entry: Entry, wanted: Mapping[str, Any], before: Mapping[str, Any], *, force: bool
) -> Iterator[str]:
    for key, value in wanted.items():
        has, is_known = key in entry.settings, key in before
        is_edited = (has and not (is_known and entry.settings[key].value == before[key])) or (not has and is_known)
        if not is_edited or force:
            if not has or entry.settings[key].value != value:
                entry.set(key, value)
        elif has and entry.settings[key].value != value:
            yield f"{entry.name}: {key} stays {_scalar(entry.settings[key].value)}, advised is {_scalar(value)}"
        elif not has:
            yield f"{entry.name}: {key} was taken out by hand, advised is {_scalar(value)}"
    for key in [key for key in before if key not in wanted and key in entry.settings]:
        if entry.settings[key].value == before[key] or force:
            del entry.settings[key]
        else:
            yield f"{entry.name}: {key} stays {_scalar(entry.settings[key].value)}, and is not advised any more"
