"""The pages keep up with the code: commands, options, errors, crash points, links. Not their prose."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import cdc.errors
from cdc.cli import app
from cdc.pipeline.hooks import CRASH_POINTS

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
ERROR_CLASSES = [
    name
    for name, value in vars(cdc.errors).items()
    if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == "cdc.errors"
]
# Named in the pages as what later versions bring.
COMMANDS_TO_COME: set[str] = set()
OPTIONS_TO_COME = {"--repair"}
SHELL_WORDS = {"|", "||", "&", "&&", ";", ">", ">>", "2>", "2>&1"}


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its full name, `cdc` itself included."""

    def below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        yield name, command
        for word, child in getattr(command, "commands", {}).items():
            yield from below(f"{name} {word}", child)

    yield from below("cdc", typer.main.get_command(app))


def options() -> list[tuple[str, str]]:
    """Every option of every command, by its long name."""
    return [
        (name, next(text for text in parameter.opts if text.startswith("--")))
        for name, command in commands()
        for parameter in command.params
        if parameter.param_type_name == "option" and parameter.name != "help"
    ]


def command_lines(page: str) -> Iterator[str]:
    """What a reader would type: `cdc ...` at the start of a code span or of an indented or fenced line."""
    is_fenced = False
    for line in page.splitlines():
        if line.startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced or line.startswith("    "):
            text = re.sub(r"^([A-Z_]+=\S+ )*(\$ )?", "", line.strip())
            if text.startswith("cdc "):
                yield text
        else:
            yield from re.findall(r"`(cdc(?: [^`]+)?)`", line)


def arguments(line: str) -> list[str]:
    """The words after `cdc`: without comments, the notation of optional parts, and what belongs to the shell."""
    words = shlex.split(re.sub(r"[\[\]]|\.\.\.|…", " ", line), comments=True)[1:]
    end = next((at for at, word in enumerate(words) if word in SHELL_WORDS), len(words))
    kept = []
    for word in words[:end]:
        first, _, second = word.partition("/")  # --watch/-w
        kept += [first, second] if word.startswith("--") and second.startswith("-") else [word]
    return ["60" if word == "N" else word for word in kept]


def parse(words: list[str]) -> None:
    """Parse a command line as the program would, without running it. Raises a usage error of the CLI's."""
    command: Any = typer.main.get_command(app)
    name = "cdc"
    while getattr(command, "commands", None) and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            raise AssertionError(f"`{name}` has no command {words[0]!r}")
        name, command, words = f"{name} {words[0]}", command.commands[words[0]], words[1:]
    if getattr(command, "commands", None):
        assert all(word in ("--version", "--help") for word in words), f"`{name}` does not take {words}"
        return
    command.make_context(name, words)


def is_to_come(words: list[str]) -> bool:
    return bool(words and words[0] in COMMANDS_TO_COME) or not OPTIONS_TO_COME.isdisjoint(words)


DOCUMENTED_LINES = sorted(
    {
        (str(path.relative_to(ROOT)), line)
        for path in PAGES
        for line in command_lines(path.read_text())
        if not is_to_come(arguments(line))
    }
)
TEXT = "\n".join(path.read_text() for path in PAGES)


def anchors(page: str) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> list[tuple[str, str]]:
    """Every link of a page to something that is not on the web."""
    return [
        (str(path.relative_to(ROOT)), target)
        for path in PAGES
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text())
        if not re.match(r"[a-z]+:", target)
    ]


def tracked_files() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_command_is_documented(name: str) -> None:
    assert re.search(rf"`{name}\b|^ {{4}}{name}\b", TEXT, re.MULTILINE)


@pytest.mark.parametrize("command,option", options())
def test_every_option_is_documented(command: str, option: str) -> None:
    assert re.search(rf"{option}\b", TEXT), f"{option} of {command}"


@pytest.mark.parametrize("page,line", DOCUMENTED_LINES)
def test_every_command_line_parses(page: str, line: str) -> None:
    parse(arguments(line))


def test_the_readme_has_command_lines() -> None:
    assert len([line for page, line in DOCUMENTED_LINES if page == "README.md"]) > 10


@pytest.mark.parametrize("name", ERROR_CLASSES)
def test_every_error_class_is_in_operations(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs/operations.md").read_text()


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_every_crash_point_is_documented(point: str) -> None:
    assert f"| `{point}` |" in (ROOT / "docs/architecture.md").read_text()


@pytest.mark.parametrize("page,target", links())
def test_every_internal_link_leads_somewhere(page: str, target: str) -> None:
    name, _, anchor = target.partition("#")
    path = (ROOT / page).parent / name if name else ROOT / page
    assert path.exists()
    if anchor:
        assert anchor in anchors(path.read_text())


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs/README.md"
    listed = {(index.parent / target).resolve() for page, target in links() if page == "docs/README.md"}
    assert {path for path in PAGES if path != index and path.suffix == ".md"} <= listed | {ROOT / "docs/README.md"}


def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    """Paths of somebody's machine and addresses of package indexes belong to settings outside the repository."""
    home = re.compile(rb"(?<![\w.~-])/(?:work|root|Users|home/(?!\w+/\.\.\.))/[\w.]")
    # brackets: so that these do not find themselves
    registry = re.compile(rb"--(?:extra-)?index[-]url[ =]\S*://|trusted[-]host|/api/[p]ypi/|/repository/[p]ypi")
    found = [
        f"{path.relative_to(ROOT)}: {match.group().decode()}"
        for path in tracked_files()
        for pattern in (home, registry)
        for match in pattern.finditer(path.read_bytes())
    ]
    assert found == []


@pytest.mark.parametrize("line", ["cdc stat", "cdc status --bogus", "cdc snapshot --sink", "cdc checkpoint drop"])
def test_a_command_line_that_does_not_parse_is_found(line: str) -> None:
    with pytest.raises(Exception, match=r"no command|No such|requires an argument"):
        parse(arguments(line))
