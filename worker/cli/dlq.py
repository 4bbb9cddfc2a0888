"""`headrace dlq list`: the dead letters that lie on their topic now, a line each, and what `dlq replay` shares with it.

The topic is read from its beginning to where it ends at the start of the command, without a group.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from worker.cli.broker import Reader, Record
from worker.cli.options import ConfigFile, Json, Sets, load
from worker.cli.output import printable, result, say, stdout_console
from worker.errors import ConfigurationError
from worker.frames import Reason
from worker.ingest.validate import format_name
from worker.publish.replay import DeadLetter, Selection

_COLUMNS = (("when", 19), ("stream", 16), ("source", 28), ("reason", 18), ("stage", 8), ("tries", 5), ("bytes", 9))
_SPAN = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

app = typer.Typer(help="Dead letters: list them, send them back after a repair.", no_args_is_help=True)

Reasons = Annotated[
    list[Reason] | None, typer.Option("--reason", metavar="REASON", help="Only with this reason; may be given again.")
]
Streams = Annotated[
    list[str] | None, typer.Option("--stream", metavar="ID", help="Only of this stream; may be given again.")
]
Since = Annotated[
    str, typer.Option("--since", metavar="TIME", help="Only from then on: 90s, 30m, 2h, 7d ago, or RFC 3339.")
]
Limit = Annotated[int, typer.Option("--limit", min=0, help="At most so many, the first on each partition; 0: all.")]


@app.command("list")
def list_(
    reason: Reasons = None,
    stream: Streams = None,
    since: Since = "",
    limit: Limit = 0,
    save: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the frames into this folder, a file each, to look at them."),
    ] = None,
    file: ConfigFile = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Print the dead letters that are there now, one line each, and how many of each reason."""
    settings = load(file, sets).settings
    selection = selected(reason, stream, since)
    if save is not None:
        _make(save)
    console = stdout_console()
    counts: Counter[str] = Counter()
    with Reader(settings, [settings.topics.dead_letters], from_beginning=True) as reader:
        for letter in _letters(reader, selection, limit):
            if as_json:
                result(letter.fields())
            else:
                if not counts:
                    console.print(_heading(), soft_wrap=True)
                console.print(printable(line(letter)), soft_wrap=True)
            if save is not None and letter.value:
                _write(save, letter)
            counts[letter.reason] += 1
    if as_json:
        result({"dead_letters": counts.total(), "reasons": dict(counts.most_common())})
    else:
        say(f"{count(counts.total())} on {settings.topics.dead_letters}{by_reason(counts)}")


def as_letter(record: Record) -> DeadLetter:
    """A record of the dead-letter topic as what it is."""
    return DeadLetter(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp_ms,
        record.key,
        record.value,
        record.all_headers,
    )


def line(letter: DeadLetter) -> Text:
    """When, stream, source, reason, stage, tries, bytes, and the detail; a sender's control characters show as `?`."""
    fields = letter.fields()
    when = datetime.fromtimestamp(letter.timestamp_ms / 1000).astimezone()
    source = fields["id"] or fields["record"]
    told = [f"{when:%Y-%m-%d %H:%M:%S}", fields["stream"], source, letter.reason]
    told += [fields["stage"], fields["attempts"], f"{fields['bytes']:,}"]
    styles = ("dim", "magenta", "", "bold red", "", "", "")
    text = Text()
    for value, (_, width), style in zip(told, _COLUMNS, styles, strict=True):
        text.append(f"{_printable('-' if value is None else str(value)):{width}}  ", style=style)
    if letter.replays:
        text.append(f"sent back {_times(letter.replays)}, first {_printable(str(letter.replay_of))}; ", style="yellow")
    text.append(_printable(fields["detail"] or ""))
    return text


def since_ms(text: str, now: datetime) -> int | None:
    """Epoch milliseconds of `90s`, `30m`, `2h`, `7d` before `now`, or of a date and time; without an offset, local time.

    None for an empty text. Raises ConfigurationError.
    """
    if not text:
        return None
    try:
        if span := _SPAN.fullmatch(text):
            moment = now - timedelta(**{_UNITS[span[2]]: int(span[1])})
        else:
            moment = datetime.fromisoformat(text).astimezone()
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigurationError(
            f"--since {text}: neither a span like 30m, 2h or 7d nor a time like 2026-11-23T06:00:00Z"
        ) from error


def selected(reasons: Sequence[Reason] | None, streams: Sequence[str] | None, since: str) -> Selection:
    return Selection(frozenset(reasons or ()), frozenset(streams or ()), since_ms(since, datetime.now().astimezone()))


def _letters(reader: Reader, selection: Selection, limit: int) -> Iterator[DeadLetter]:
    number = 0
    for records in reader.until(reader.ends()):
        for letter in map(as_letter, records):
            if selection.takes(letter):
                yield letter
                number += 1
                if number == limit:
                    return


def _heading() -> Text:
    return Text("".join(f"{name:{width}}  " for name, width in _COLUMNS) + "detail", style="bold")


def by_reason(counts: Counter[str]) -> str:
    return f": {', '.join(f'{reason} {count}' for reason, count in counts.most_common())}" if counts else ""


def count(number: int) -> str:
    return f"{number} dead letter{'' if number == 1 else 's'}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _printable(text: str) -> str:
    """What comes from senders shall not steer the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--save {folder}: {error.strerror}; name a folder that can be written") from error


def _write(folder: Path, letter: DeadLetter) -> None:
    """`frames-3-1042.jpeg`, by the bytes' own format; `.bin` where it is none that is decoded here."""
    name = (letter.source or f"{letter.topic}/{letter.partition}/{letter.offset}").replace("/", "-")
    value = letter.value or b""
    try:
        (folder / f"{name}.{format_name(value) or 'bin'}").write_bytes(value)
    except OSError as error:
        raise ConfigurationError(f"--save {folder}: {error.strerror}; name a folder that can be written") from error
