"""`headrace dlq`: shows the dead letters that lie on their topic now, and sends them back to the frames after a repair.

`worker.publish.replay` decides which letters are meant and what goes back; here they are read, sent and reported. A
replay reads the topic twice: once to decide, once to send, so that no frame has to be kept in memory meanwhile.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from kafka import TopicPartition
from rich.text import Text

from worker.cli.broker import Bookmark, Reader, Record, Sender, existing
from worker.cli.options import ConfigFile, Json, Sets, load
from worker.cli.output import end_with, progress, result, say, stdout_console
from worker.errors import ConfigurationError, FramesLost
from worker.frames import Reason
from worker.ingest.validate import format_name
from worker.publish.messages import Message
from worker.publish.replay import DeadLetter, Decision, Plan, Selection, sent_back
from worker.settings import Settings

REPLAY_GROUP_SUFFIX = "-dlq-replay"
_REFUSALS_SHOWN = 20  # a thousand sentences of one kind help nobody; the counts are complete
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
    selection = _selection(reason, stream, since)
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
                console.print(line(letter), soft_wrap=True)
            if save is not None and letter.value:
                _write(save, letter)
            counts[letter.reason] += 1
    if as_json:
        result({"dead_letters": counts.total(), "reasons": dict(counts.most_common())})
    else:
        say(f"{_count(counts.total())} on {settings.topics.dead_letters}{_by_reason(counts)}")


@app.command()
def replay(
    reason: Reasons = None,
    stream: Streams = None,
    since: Since = "",
    limit: Limit = 0,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="ID", help="Only this frame: topic/partition/offset; may be given again."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also those that lie before the end of the last replay.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Send them. Without it, only say what would be sent.")] = False,
    file: ConfigFile = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Send dead letters back to the frames topic: key, value and headers as they came, with the first id and a count.

    A frame that has been sent back three times is refused. The next replay begins where this one ends.
    """
    settings = load(file, sets).settings
    names, started = settings.topics, time.monotonic()
    selection, sources = _selection(reason, stream, since), frozenset(source or ())
    frames = existing(settings, [names.frames]).topics[names.frames]
    sent = 0
    with (
        Reader(settings, [names.dead_letters], from_beginning=True) as reader,
        Bookmark(settings, settings.kafka.group_id + REPLAY_GROUP_SUFFIX) as bookmark,
    ):
        ends = reader.ends()
        kept = bookmark.read(ends)
        begun = {} if everything or sources else {place.partition: offset for place, offset in kept.items()}
        plan = Plan(frames, selection, begun, sources)
        for records in reader.until(ends):
            for record in records:
                plan.add(as_letter(record))
        decision = plan.decide(limit)
        if decision.unknown:
            raise ConfigurationError(
                f"--source {', '.join(decision.unknown)}: no dead letter of {names.dead_letters} is of that frame; "
                f"`headrace dlq list` shows their sources"
            )
        if yes and decision.chosen:
            with progress(hidden=as_json) as bar:
                task = bar.add_task(f"to {frames.name}", total=len(decision.chosen))
                with Sender(settings, frames.max_message_bytes, lambda: bar.advance(task)) as sender:
                    for letters in _chosen(reader, decision, names.dead_letters):
                        for letter in letters:
                            message = sent_back(letter, frames)
                            assert isinstance(message, Message)
                            sender.send(message)
                        sender.drain()
                        sent += len(letters)
                        if not sources:
                            bookmark.keep(_further(kept, letters))
        if yes and not sources and not decision.left:
            bookmark.keep({place: end for place, end in ends.items() if end > kept.get(place, 0)})
    _report(settings, decision, sent, yes, time.monotonic() - started, as_json)
    if yes and decision.refused:
        end_with(FramesLost(f"{_count(len(decision.refused))} not sent back, for the reasons above"))


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


def _selection(reasons: Sequence[Reason] | None, streams: Sequence[str] | None, since: str) -> Selection:
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


def _chosen(reader: Reader, decision: Decision, topic: str) -> Iterator[list[DeadLetter]]:
    """The letters to be sent, read again, a poll at a time."""
    starts: dict[TopicPartition, int] = {}
    ends: dict[TopicPartition, int] = {}
    for partition, offset in decision.chosen:
        place = TopicPartition(topic, partition)
        starts[place] = min(offset, starts.get(place, offset))
        ends[place] = max(offset + 1, ends.get(place, 0))
    for records in reader.until(ends, starts):
        letters = [as_letter(each) for each in records if (each.partition, each.offset) in decision.chosen]
        if letters:
            yield letters


def _further(kept: dict[TopicPartition, int], sent: Sequence[DeadLetter]) -> dict[TopicPartition, int]:
    """The bookmark's new offsets behind these letters: it never goes back, as with `--all` it would."""
    new: dict[TopicPartition, int] = {}
    for letter in sent:
        place = TopicPartition(letter.topic, letter.partition)
        if letter.offset + 1 > kept.get(place, 0):
            new[place] = max(letter.offset + 1, new.get(place, 0))
    return new


def _report(settings: Settings, decision: Decision, sent: int, yes: bool, seconds: float, as_json: bool) -> None:
    for source, why in decision.refused[:_REFUSALS_SHOWN]:
        say(f"{source} is not sent back: {why}")
    if len(decision.refused) > _REFUSALS_SHOWN:
        say(f"... and {len(decision.refused) - _REFUSALS_SHOWN} more")
    if as_json:
        result(
            {
                "topic": settings.topics.frames,
                "dry_run": not yes,
                "chosen": len(decision.chosen),
                "sent": sent,
                "refused": len(decision.refused),
                "passed": decision.passed,
                "left": decision.left,
                "reasons": dict(decision.reasons.most_common()),
                "seconds": round(seconds, 3),
            }
        )
        return
    did = "sent back" if yes else "would be sent back"
    say(f"{_count(len(decision.chosen))} {did} to {settings.topics.frames}{_by_reason(decision.reasons)}")
    if decision.left:
        say(f"{_count(decision.left)} more are left for the next replay, because of --limit")
    if decision.passed:
        say(f"{_count(decision.passed)} that match lie before the end of the last replay; --all takes them too")
    if not yes and decision.chosen:
        say("nothing is sent without --yes")


def _heading() -> Text:
    return Text("".join(f"{name:{width}}  " for name, width in _COLUMNS) + "detail", style="bold")


def _by_reason(counts: Counter[str]) -> str:
    return f": {', '.join(f'{reason} {count}' for reason, count in counts.most_common())}" if counts else ""


def _count(number: int) -> str:
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
