"""`headrace tail`: predictions or dead letters as they come, one readable line each, or as lines of JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from worker.cli.broker import Reader, Record
from worker.cli.dlq import as_letter
from worker.cli.options import ConfigFile, Json, Sets, load
from worker.cli.output import printable, result, say, stdout_console
from worker.records import Prediction

# A quiet topic is asked this often; it bounds how long Ctrl-C takes, not how fast a record shows.
_POLL_S = 0.5
_ID_CHARS = 32
_STREAM_CHARS = 16
_LABELS = 3


def tail(
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Start with the oldest record, not with the next.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="End after so many records; 0: at Ctrl-C.")] = 0,
    dead_letters: Annotated[
        bool, typer.Option("--dead-letters", help="Read the dead letters instead of the predictions.")
    ] = False,
    file: ConfigFile = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Print predictions as they come."""
    settings = load(file, sets).settings
    topic = settings.topics.dead_letters if dead_letters else settings.topics.predictions
    console = stdout_console()
    with Reader(settings, [topic], from_beginning) as reader:
        say(f"reading {topic} on {settings.kafka.bootstrap_servers}; Ctrl-C ends")
        for record in _first(limit, _endless(reader)):
            if as_json:
                result(as_letter(record).fields() if dead_letters else msgspec.Raw(record.value or b"null"))
            else:
                line = dead_letter_line(record) if dead_letters else prediction_line(record)
                console.print(printable(line), soft_wrap=True)


def prediction_line(record: Record) -> Text:
    """`12:00:00.123  cam-7  frames/3/1042  Egyptian cat 0.83 ...  27 ms`; ages are from captured-at to predicted-at."""
    try:
        prediction = msgspec.json.decode(record.value or b"", type=Prediction)
    except msgspec.DecodeError as error:
        return Text(f"{record.topic}/{record.partition}/{record.offset} is no prediction: {error}", style="red")
    captured, predicted = (
        datetime.fromisoformat(moment) for moment in (prediction.captured_at, prediction.predicted_at)
    )
    if prediction.classes is not msgspec.UNSET:
        answer = Text(", ").join(
            Text(f"{each.label} {each.score:.2f}", style="bold" if place == 0 else "dim")
            for place, each in enumerate(prediction.classes[:_LABELS])
        )
    elif prediction.detections is not msgspec.UNSET:
        counts = Counter(each.label for each in prediction.detections)
        found = ", ".join(f"{count} {label}" for label, count in counts.most_common(_LABELS))
        answer = Text(found or "nothing", style="bold" if found else "dim")
    elif prediction.embedding is not msgspec.UNSET:
        answer = Text(f"embedding of {len(prediction.embedding)}")
    else:
        answer = Text(prediction.task)
    line = _start(predicted, prediction.stream, prediction.id)
    line.append_text(answer)
    line.append(f"  {(predicted - captured).total_seconds() * 1000:.0f} ms", style="cyan")
    if prediction.model.served_by != "primary":
        line.append(f"  {prediction.model.served_by}", style="yellow")
    return line


def dead_letter_line(record: Record) -> Text:
    """`12:00:00.123  cam-7  frames/3/1042  truncated  the file ends ...`."""
    fields = as_letter(record).fields()
    moment = datetime.fromtimestamp(record.timestamp_ms / 1000).astimezone()
    line = _start(moment, fields["stream"], fields["id"] or "")
    line.append(str(fields["reason"]), style="bold red")
    line.append(f"  {fields['detail']}")
    return line


def _start(moment: datetime, stream: str | None, id_: str) -> Text:
    line = Text(f"{moment.astimezone():%H:%M:%S}.{moment.microsecond // 1000:03d}", style="dim")
    line.append(f"  {(stream or '-'):{_STREAM_CHARS}}  ", style="magenta")
    line.append(f"{id_:{_ID_CHARS}}  ", style="default")
    return line


def _endless(reader: Reader) -> Iterator[Record]:
    while True:
        yield from reader.poll(_POLL_S)


def _first(limit: int, records: Iterable[Record]) -> Iterator[Record]:
    """All without a limit; with one it ends right after the last, not at the next that comes."""
    for number, record in enumerate(records, start=1):
        yield record
        if number == limit:
            return
