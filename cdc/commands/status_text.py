"""`cdc status` for people: two tables, and the errors with their hints below them."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from snapshot.progress import progress_text

__all__ = ["print_status"]

_UNFOLDED = 100_000  # columns
_STATE_STYLES = {
    "caught_up": "green",
    "streaming": "green",
    "ready": "green",
    "snapshotting": "yellow",
    "retrying": "yellow",
    "pending": "yellow",
    "failed": "red",
    "parked": "red",
}


def _state(state: str) -> str:
    style = _STATE_STYLES.get(state)
    return f"[{style}]{escape(state)}[/{style}]" if style else escape(state)


def _position(position: dict[str, Any], *, is_cut: bool) -> str:
    parts = []
    if position["gtid"]:
        gtid = position["gtid"]
        parts.append(f"…{gtid[-46:]}" if is_cut and len(gtid) > 48 else gtid)
    if position["file"]:
        parts.append(f"{position['file']}:{position['pos']}")
    return escape("\n".join(parts) or "-")


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "-"
    text = f"{value:,}" if float(value).is_integer() else f"{value:,.1f}"
    return text + unit


def _print_polling(tables: list[dict[str, Any]], console: Console) -> None:
    """The tables that are not followed by the binlog."""
    polled = [table for table in tables if table.get("polling")]
    if not polled:
        return
    shown = Table(box=None, pad_edge=False)
    for title in ("sink", "polled table", "strategy", "last run", "next run", "last value", "rows", "before", "after"):
        shown.add_column(title, overflow="fold")
    for table in polled:
        said = table["polling"]
        name = said["strategy"] if said["strategy"] == said["configured"] else f"{said['strategy']} (auto)"
        about = "about " if said["is_estimate"] else ""
        shown.add_row(
            escape(table["sink"]),
            escape(table["table"]),
            escape(f"{name} by {said['modifier']}" if said["modifier"] else name),
            (said["last_run"] or "-")[:19],
            (said["next_run"] or "-")[:19],
            escape((said["last_value"] or "-")[:26]),
            f"{said['rows_written']:,} written, {said['rows_deleted']:,} deleted",
            about + _number(said["rows_before"]),
            about + _number(said["rows_after"]),
        )
    console.print()
    console.print(shown)
    for table in polled:
        said = table["polling"]
        if said["configured"] == "auto":
            console.print(f"{escape(table['table'])}: {escape(said['reason'])}", highlight=False)
        for problem in said["problems"]:
            console.print(f"{escape(table['table'])}: {escape(problem)}", highlight=False)
        if said["attempts"]:
            message = escape((said["error"] or {}).get("message", ""))
            text = f"{escape(table['table'])}: failed {said['attempts']} times in a row: {message}"
            console.print(f"[yellow]{text}[/yellow]", highlight=False)


def print_status(document: dict[str, Any], console: Console | None = None) -> None:
    """Print the `cdc status --json` object. What is no terminal has no width: nothing is folded or cut there."""
    if console is None:
        console = Console()
    if console.is_terminal:
        _print(document, console)
        return
    text = StringIO()
    _print(document, Console(file=text, width=_UNFOLDED))
    console.file.writelines(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def _hint(hint: str, table: dict[str, Any], document: dict[str, Any]) -> str:
    """The hint, with the sink that it is about where there are several."""
    if len(document["sinks"]) == 1:
        return hint
    command = rf"cdc snapshot {re.escape(table['table'])}(?![\w.$-]| --sink)"
    return re.sub(command, lambda found: f"{found[0]} --sink {table['sink']}", hint)


def _print(document: dict[str, Any], console: Console) -> None:
    is_cut = console.is_terminal
    source = document["source"]
    where = _position(source["position"], is_cut=is_cut).replace("\n", "  ")
    console.print(
        f"[bold]{escape(document['name'])}[/bold]  cdc {escape(document['version'])}  "
        f"source {escape(source['flavor'] or 'not reachable')} {escape(source['server_version'] or '')}  {where}"
    )
    sinks = Table(box=None, pad_edge=False)
    for title in ("sink", "kind", "state", "position", "lag", "last commit"):
        sinks.add_column(title, justify="right" if title == "lag" else "left", overflow="fold")
    for sink in document["sinks"]:
        sinks.add_row(
            escape(sink["name"]),
            sink["kind"] or "-",
            _state(sink["state"]),
            _position(sink["position"], is_cut=is_cut),
            _number(sink["lag_seconds"], " s"),
            (sink["last_commit"] or "-")[:19],
        )
        several = sink.get("lanes") or []
        for lane in several if len(several) > 1 else []:
            sinks.add_row(
                f"  lane {lane['lane']}",
                f"{lane['tables']} tables",
                _state(lane["state"]),
                _position(lane["position"], is_cut=is_cut),
                _number(lane["lag_seconds"], " s"),
                (lane["last_commit"] or "-")[:19],
            )
    console.print(sinks)
    for sink in document["sinks"]:
        prepared = sink.get("prepared") or {"count": 0}
        if prepared["count"]:
            console.print(
                f"{escape(sink['name'])}: {prepared['count']:,} prepared XA transactions wait for their end, "
                f"the oldest since {(prepared['oldest'] or '-')[:19]}"
            )
        retries = sink.get("retries") or {"is_spent": False}
        if retries["is_spent"]:
            why = f"retry.per_hour is {retries['per_hour']:,}"
            if retries["last_hour"] < retries["per_hour"]:
                why = "another replica uses our server_id"  # all that spends it sooner
            console.print(
                f"{escape(sink['name'])}: {retries['last_hour']:,} sessions ended in trouble within the last hour; "
                f"{why}: the pauses are longer now"
            )
        staging = sink.get("staging") or {"chunks": 0}
        if staging["chunks"]:
            console.print(
                f"{escape(sink['name'])}: {staging['chunks']:,} chunks of loads are staged in {staging['bytes']:,} "
                f"bytes, of {staging['bytes_max']:,} at most"
            )
    tables = Table(box=None, pad_edge=False)
    for title in ("sink", "table", "target", "state", "rows", "last change", "changed by policy"):
        tables.add_column(title, justify="right" if title == "rows" else "left", overflow="fold")
    for table in document["tables"]:
        state = _state(table["state"])
        progress = table.get("progress")
        if progress:
            state += f" {escape(progress_text(progress))}"
        # Columns that the target lacks, by a policy on DDL or `cdc ddl skip`; values that a policy has changed.
        policies = [f"{column}: left out" for column in table.get("left_out", ())]
        policies += [
            f"{column}: {policy} {count:,}"
            for column, counts in table["policy_changes"].items()
            for policy, count in counts.items()
        ]
        tables.add_row(
            escape(table["sink"]),
            escape(table["table"]),
            escape(table["target"]) + (f" ({mode})" if (mode := (table.get("options") or {}).get("mode")) else ""),
            state,
            _number(table["rows"]),
            (table["last_change"] or "-")[:19],
            escape(", ".join(policies)),
        )
    if document["tables"]:
        console.print()
        console.print(tables)
    _print_polling(document["tables"], console)
    errors = [("source", source["error"])] if source.get("error") else []
    errors += [(f"sink {s['name']}", s["error"]) for s in document["sinks"] if s["error"]]
    for table in document["tables"]:
        if table["error"]:
            error = table["error"]
            said = error["message"].removeprefix(f"sink {table['sink']}: ").removeprefix(f"{table['table']}: ")
            hint = _hint(error.get("hint") or "", table, document)
            errors.append((f"{table['sink']}: {table['table']}", {**error, "message": said, "hint": hint}))
    for subject, error in errors:
        console.print()
        said = error["message"].removeprefix(f"{subject}: ")
        console.print(f"[red]{escape(subject)}[/red]: {escape(said)}", highlight=False)
        if error.get("position"):
            console.print(f"  at: {escape(error['position'])}", highlight=False)
        if error.get("hint"):
            console.print(f"  hint: {escape(error['hint'])}", highlight=False)
