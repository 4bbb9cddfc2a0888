"""Where a command writes: data and results to stdout, messages, tables of a human run and progress bars to stderr."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from worker.errors import HeadraceError

_PICTURES = {code: 0x2400 + code for code in range(32)} | {127: 0x2421} | dict.fromkeys(range(128, 160), 0xFFFD)


def say(message: str) -> None:
    """A sentence for the user, on stderr."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def result(fields: Any) -> None:
    """One JSON object as a line of stdout, at once."""
    sys.stdout.write(msgspec.json.encode(fields).decode() + "\n")
    sys.stdout.flush()


def end_with(error: HeadraceError) -> NoReturn:
    """End the command by this error, once its result is out already: a sentence, no second JSON object."""
    say(f"headrace: {error}")
    raise typer.Exit(error.exit_code)


def stderr_console() -> Console:
    """Made when needed, so that it writes to whatever stderr is now."""
    return Console(stderr=True, highlight=False)


def stdout_console() -> Console:
    """For tables that are the command's data."""
    return Console(highlight=False)


class _Rate(ProgressColumn):
    """Frames a second, averaged by rich over the last half minute."""

    def render(self, task: Task) -> Text:
        """`123 frames/s`, nothing before the second frame."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} frames/s" if speed else "", style="progress.data.speed")


def printable(line: Text) -> Text:
    """With a picture of each control character for the character: what a sender writes must not steer a terminal."""
    line.plain = line.plain.translate(_PICTURES)
    return line


def progress(hidden: bool = False) -> Progress:
    """A bar for frames on stderr; it shows itself only on a terminal."""
    console = stderr_console()
    return Progress(
        SpinnerColumn(),
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=hidden or not console.is_terminal,
    )
