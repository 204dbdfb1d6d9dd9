"""The command line: parses arguments, calls the library, prints, and turns errors into exit codes.

    0  done      1  failed, or different      2  configuration has to be changed

Errors go to stderr: one line of cause, one of hint. No traceback for errors that an operator can act on.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import orjson
import typer
import typer.core

import cdc
from cdc.clock import SystemClock
from cdc.commands.errors import say_error
from cdc.config import Config, config_schema, load_config, load_source_config, redacted
from cdc.errors import CdcError, ConfigError
from cdc.log import configure_logging, scrub

__all__ = ["main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Change data capture from MySQL and MariaDB to PostgreSQL, MySQL and MariaDB.",
)
checkpoint_app = typer.Typer(no_args_is_help=True, help="Show, set back or forget where the pipelines are.")
config_app = typer.Typer(no_args_is_help=True, help="Show the configuration as it is understood, or its schema.")
app.add_typer(checkpoint_app, name="checkpoint")
app.add_typer(config_app, name="config")
ddl_app = typer.Typer(no_args_is_help=True, help="Statements that wait for your decision (docs/ddl.md).")
app.add_typer(ddl_app, name="ddl")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Configuration file (default: config.yaml, if there is one).")
]
EnvFileOption = Annotated[
    Path | None, typer.Option("--env-file", help="File of KEY=VALUE lines; the environment wins.")
]
SinkOption = Annotated[list[str] | None, typer.Option("--sink", help="Only this sink (may be given several times).")]
SchemaOption = Annotated[
    Path | None,
    typer.Option(
        "--schema", metavar="FILE", help="Definitions of that time: CREATE TABLE statements, or a history as JSON."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TablesArgument = Annotated[list[str] | None, typer.Argument(metavar="[TABLE]...", help="As database.table.")]


def _configuration(config: Path | None, env_file: Path | None) -> Path | None:
    """The file to read; None where the environment alone says it all."""
    default = Path("config.yaml")
    if config is None and default.exists():
        config = default
    if config is None and env_file is None and not any(name.startswith("CDC__") for name in os.environ):
        raise ConfigError(
            f"there is no configuration: no {default} in {Path.cwd()}, and no CDC__… in the environment",
            hint="name the file with -c, or begin with a copy of the project's config.yaml",
        )
    return config


def _load(config: Path | None, env_file: Path | None) -> Config:
    return load_config(_configuration(config, env_file), environ=os.environ, env_file=env_file)


def _print_json(document: Any) -> None:
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")


def main() -> None:
    """Entry point of the console script `cdc`. Exits with the documented codes."""
    try:
        # Without standalone mode click returns the code of `typer.Exit` instead of raising it.
        sys.exit(app(standalone_mode=False) or 0)
    except CdcError as error:
        say_error(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ImportError as error:
        if not re.match(r"cdc\.\w+\.kernel\b", error.name or ""):
            raise
        say_error(ConfigError(f"the compiled part of cdc is not built: {error}", hint="run `make kernel` in the clone"))
        sys.exit(ConfigError.exit_code)
    except Exception as error:
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()  # a usage error of the command line itself
        sys.exit(getattr(error, "exit_code", 2))


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"cdc {cdc.__version__}")
        raise typer.Exit(0)


@app.callback()
def _root(
    context: typer.Context,
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version
    given: dict[str, Any] = {"config": config, "env_file": env_file}
    given = {name: str(value) for name, value in given.items() if value is not None}
    # Options given before the command are the defaults of every command's own.
    context.default_map = {
        **dict.fromkeys(("run", "snapshot", "status", "check", "analyze", "skip", "tail", "verify"), given),
        "checkpoint": {"show": given, "history": given, "set": given, "reset": given},
        "config": {"show": given},
        "ddl": {"pending": given, "apply": given, "skip": given},
    }


# ---------------------------------------------------------------- run


@app.command()
def run(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    until_caught_up: Annotated[
        bool,
        typer.Option(
            "--until-caught-up",
            help="Exit 0 once every sink is at the position that the source had at the start.",
        ),
    ] = False,
) -> None:
    """Load the tables that are new, then follow the binlog until stopped."""
    from cdc.app import Application
    from cdc.commands.bars import LoadBars

    settings = _load(config, env_file)
    log = configure_logging(settings.log.level, settings.log.format)
    has_bars = sys.stderr.isatty() and settings.log.format != "json"
    service = Application(settings, log=log, environ=dict(os.environ), logs_progress=not has_bars)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        log.info("signal_received", signal=signal.Signals(number).name)
        service.request_stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    service.start(until_caught_up=until_caught_up)
    if has_bars:
        with LoadBars() as bars:
            service.wait(on_poll=lambda: bars.show(service.loads()))
    else:
        service.wait()
    service.stop()
    exit_code = 0
    for name, error in service.failures():
        if isinstance(error, CdcError):
            say_error(error, f"sink {name}: ")
            exit_code = max(exit_code, error.exit_code)
        else:
            sys.stderr.write(f"cdc: sink {name}: {type(error).__name__}: {scrub(str(error))}\n")
            exit_code = max(exit_code, 1)
    if until_caught_up:
        for where, error_fields in service.parked():
            sys.stderr.write(f"cdc: sink {where} is parked: {scrub(str(error_fields.get('message', '')))}\n")
            if error_fields.get("hint"):
                sys.stderr.write(f"  hint: {scrub(str(error_fields['hint']))}\n")
            exit_code = max(exit_code, 1)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that still hang in a driver's call must not keep the process: their transactions roll back.
    os._exit(exit_code)


# ---------------------------------------------------------------- snapshot


@app.command()
def snapshot(
    tables: TablesArgument = None,
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    sink: SinkOption = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            help="Only the rows of one table that meet this condition, in the source's SQL: they are written over "
            "those of their keys. Rows that are gone at the source stay (`cdc verify` finds them).",
        ),
    ] = None,
) -> None:
    """Load tables, or load them again (default: try parked ones again, finish loads); also beside a running service."""
    from cdc.commands.snapshot import snapshot_part, snapshot_tables

    if where is not None:
        raise typer.Exit(snapshot_part(_load(config, env_file), tables or [], where, only_sinks=sink or []))
    raise typer.Exit(snapshot_tables(_load(config, env_file), tables or [], only_sinks=sink or []))


# ---------------------------------------------------------------- status


@app.command()
def status(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh every two seconds until interrupted.")] = False,
) -> None:
    """Per sink: state, position, lag. Per table: state, rows, last change, error. Works with the service stopped."""
    from cdc.app import read_status
    from cdc.commands.status_text import print_status

    settings = _load(config, env_file)
    while True:
        document = read_status(settings)
        if as_json:
            _print_json(document)
        else:
            if watch:
                sys.stdout.write("\x1b[2J\x1b[H")
            print_status(document)
        if not watch:
            break
        time.sleep(2)
    failed = any(s["state"] == "failed" for s in document["sinks"])
    raise typer.Exit(1 if failed else 0)


# ---------------------------------------------------------------- check, verify


@app.command()
def check(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
    grants: Annotated[bool, typer.Option("--grants", help="Print the least privileges needed, as SQL.")] = False,
    drift: Annotated[bool, typer.Option("--drift", help="Compare the sinks' tables with the source's.")] = False,
) -> None:
    """Reach every server and check what the service needs; each finding says what it breaks and what mends it."""
    from cdc.check import run_check_command

    if drift:
        from cdc.commands.drift import run_drift_command

        raise typer.Exit(run_drift_command(_load(config, env_file), as_json=as_json))
    raise typer.Exit(run_check_command(_load(config, env_file), as_json=as_json, grants=grants))


@app.command()
def verify(
    tables: TablesArgument = None,
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    sink: SinkOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare source and sinks, whole tables by count and checksum, while nothing writes. 0 equal, 1 different."""
    from cdc.verify import run_verify_command

    raise typer.Exit(run_verify_command(_load(config, env_file), tables or [], only_sinks=sink or [], as_json=as_json))


# ---------------------------------------------------------------- analyze


@app.command()
def analyze(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Default: `tables.file` if that is YAML, else tables.yml."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Put advised settings in place of edited ones.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at the source's tables, and write what is advised for each to a file that the service reads."""
    from cdc.commands import analyze as command

    settings = load_source_config(_configuration(config, env_file), environ=os.environ, env_file=env_file)
    options = command.AnalyzeOptions(output=output, force=force, as_json=as_json, dry_run=dry_run)
    raise typer.Exit(command.analyze(settings, options, clock=SystemClock()))


# ---------------------------------------------------------------- tail


class TailCommand(typer.core.TyperCommand):
    """`--binlog` takes every word up to the next option, so that `--binlog binlog.0*` does what it looks like."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words: list[str] = []
        is_file = False
        for word in args:
            if word.startswith("-") and word != "-":
                is_file = word == "--binlog"
                if not is_file:
                    words.append(word)
            else:
                words += ["--binlog", word] if is_file else [word]
        return list(super().parse_args(ctx, words))


@app.command(cls=TailCommand)
def tail(
    tables: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TABLE]...", help="As database.table, or patterns: 'shop.*'. Default: the configuration's."
        ),
    ] = None,
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    binlog: Annotated[
        list[str] | None,
        typer.Option(
            "--binlog", metavar="FILE...", help="Read these binlog files, - for standard input; no server is asked."
        ),
    ] = None,
    form: Annotated[str, typer.Option("--format", metavar="cdc|debezium", help="The form of the lines.")] = "cdc",
    from_start: Annotated[
        bool, typer.Option("--from-start", help="From the oldest binlog file of the server.")
    ] = False,
    from_position: Annotated[
        str | None, typer.Option("--from", metavar="POSITION", help="From behind a GTID set, or from FILE:POS.")
    ] = None,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End where the log ended at the start.")
    ] = False,
    until: Annotated[
        str | None, typer.Option("--until", metavar="POSITION", help="End at FILE:POS, or behind a GTID set.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="End after N lines.")] = None,
    operation: Annotated[
        str | None, typer.Option("--operation", metavar="LIST", help="Of insert,update,delete,ddl.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="COLUMN=VALUE", help="Only changes of rows with this value (repeatable)."),
    ] = None,
    columns: Annotated[str | None, typer.Option("--columns", metavar="LIST", help="Print these columns alone.")] = None,
    gtid: Annotated[str | None, typer.Option("--gtid", metavar="GTIDS", help="Only these transactions.")] = None,
    schema: SchemaOption = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Pass over tables that cannot be decoded; they are named on stderr.")
    ] = False,
    name: Annotated[
        str | None, typer.Option("--name", help="With debezium: the logical name (default: the deployment's).")
    ] = None,
    tombstones: Annotated[
        bool, typer.Option("--tombstones", help="With debezium: a line null after each delete.")
    ] = False,
) -> None:
    """Print changes as lines of JSON, as they are committed, or out of binlog files. Needs no sink."""
    from cdc.commands import tail as command

    if form not in ("cdc", "debezium"):
        raise ConfigError(f"--format: there is no {form!r}", hint="cdc or debezium")
    options = command.TailOptions(
        tables=tables or (),
        files=binlog or (),
        form="debezium" if form == "debezium" else "cdc",
        name=name,
        tombstones=tombstones,
        from_start=from_start,
        from_position=from_position,
        until_caught_up=until_caught_up,
        until=until,
        limit=limit,
        operations=operation,
        where=where or (),
        columns=columns,
        gtid=gtid,
        schema=schema,
        skip_bad=skip_bad,
    )
    # Files need no configuration; one that is named is asked for what they do not say.
    settings = None
    if not binlog or config is not None:
        settings = load_source_config(_configuration(config, env_file), environ=os.environ, env_file=env_file)
    raise typer.Exit(command.tail(options, settings))


# ---------------------------------------------------------------- checkpoint


@checkpoint_app.command("show")
def checkpoint_show(config: ConfigOption = None, env_file: EnvFileOption = None, as_json: JsonOption = False) -> None:
    """Print the checkpoint of every sink."""
    from cdc.commands.checkpoint import show

    raise typer.Exit(show(_load(config, env_file), as_json=as_json))


@checkpoint_app.command("history")
def checkpoint_history(
    tables: Annotated[list[str] | None, typer.Argument(metavar="[TABLE]...", help="As database.table.")] = None,
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    sink: SinkOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print which definition each table had from which position on; with --json as `--schema` reads it."""
    from cdc.commands.schema_history import show_history

    settings = _load(config, env_file)
    raise typer.Exit(show_history(settings, tables or (), only_sinks=sink or [], as_json=as_json))


@checkpoint_app.command("set")
def checkpoint_set(
    position: Annotated[str, typer.Argument(metavar="POSITION", help="A GTID set or list, or FILE:POS.")],
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    sink: SinkOption = None,
    schema: SchemaOption = None,
    restored: Annotated[
        bool, typer.Option("--restored", help="The targets are as they were there, tables without a key too.")
    ] = False,
    reload: Annotated[
        bool, typer.Option("--reload", help="Load the tables again whose definitions there are not known.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Set the checkpoint back to an older position, with the tables' definitions of that time."""
    from cdc.commands.set_checkpoint import set_checkpoint

    settings = _load(config, env_file)
    raise typer.Exit(
        set_checkpoint(
            settings,
            position,
            only_sinks=sink or [],
            schema=schema,
            is_restored=restored,
            reloads=reload,
            is_confirmed=yes,
        )
    )


@checkpoint_app.command("reset")
def checkpoint_reset(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    sink: SinkOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget the checkpoint: the next run loads every table again (the target tables stay until then)."""
    from cdc.commands.checkpoint import reset

    raise typer.Exit(reset(_load(config, env_file), only_sinks=sink or [], is_confirmed=yes))


# ---------------------------------------------------------------- ddl


@ddl_app.command("pending")
def ddl_pending(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    sink: SinkOption = None,
    as_json: JsonOption = False,
    settled: Annotated[bool, typer.Option("--settled", help="What was decided so far, by whom and when.")] = False,
) -> None:
    """Print the statements that tables wait at, and why."""
    from cdc.commands.ddl import show_pending

    loaded = _load(config, env_file)
    raise typer.Exit(show_pending(loaded, only_sinks=sink or [], as_json=as_json, is_settled=settled))


@ddl_app.command("apply")
def ddl_apply(
    tables: Annotated[list[str], typer.Argument(metavar="TABLE...", help="As database.table.")],
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    sink: SinkOption = None,
) -> None:
    """Have the targets follow the statements, by a load where they have to; also beside a running service."""
    from cdc.commands.ddl import decide

    raise typer.Exit(decide(_load(config, env_file), "apply", tables, only_sinks=sink or []))


@ddl_app.command("skip")
def ddl_skip(
    tables: Annotated[list[str], typer.Argument(metavar="TABLE...", help="As database.table.")],
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    sink: SinkOption = None,
) -> None:
    """Leave the targets' definitions as they are; what both sides have goes on."""
    from cdc.commands.ddl import decide

    raise typer.Exit(decide(_load(config, env_file), "skip", tables, only_sinks=sink or []))


# ---------------------------------------------------------------- skip


@app.command()
def skip(
    place: Annotated[str, typer.Argument(metavar="FILE:POS", help="Of an event, as errors and `cdc status` name it.")],
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    sink: SinkOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Step over one transaction that a sink cannot be brought past; its tables are loaded again by the next run."""
    from cdc.commands import skip as command

    raise typer.Exit(command.skip(_load(config, env_file), place, only_sinks=sink or [], is_confirmed=yes))


# ---------------------------------------------------------------- config


@config_app.command("show")
def config_show(config: ConfigOption = None, env_file: EnvFileOption = None) -> None:
    """Print the configuration with everything filled in; passwords are ***."""
    _print_json(redacted(_load(config, env_file)))


@config_app.command("schema")
def config_schema_command() -> None:
    """Print the configuration's JSON schema."""
    _print_json(config_schema())


# ---------------------------------------------------------------- demo


@app.command()
def demo(
    seconds: Annotated[float, typer.Option("--seconds", min=15, help="How long the writer runs.")] = 60,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running at the end.")] = False,
) -> None:
    """Private servers, a live writer, the service killed in the middle, and the proof that nothing was lost."""
    from cdc.demo.demo import run_demo

    raise typer.Exit(run_demo(seconds=seconds, keep=keep))
