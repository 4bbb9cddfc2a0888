"""`headrace produce`: images, folders and videos onto the frames topic.

Paced if asked for, with a bound on what waits for the broker. Images travel as they are, video frames as JPEG.
"""

from __future__ import annotations

import itertools
import mimetypes
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from worker.cli.broker import Sender, create_topics, existing
from worker.cli.options import ConfigFile, Json, Sets, load
from worker.cli.output import end_with, progress, result, say
from worker.errors import FramesLost
from worker.frames import Frame
from worker.ingest.files import VIDEO_SUFFIXES, Item, as_jpeg, find, frames, total
from worker.publish.messages import Message, rfc3339
from worker.topics import TopicFacts

PER_FOLDER = "per-folder"


@dataclass(slots=True)
class Tally:
    """What came of it so far."""

    sent: int = 0
    acknowledged: int = 0
    bytes: int = 0
    refused: int = 0


def produce(
    sources: Annotated[list[str], typer.Argument(metavar="SRC...", help="Images, videos, folders, globs.")],
    topic: Annotated[str, typer.Option(help="Default: topics.frames of the settings.")] = "",
    rate: Annotated[float, typer.Option(min=0, help="Frames a second; 0: as fast as the broker takes them.")] = 0.0,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end, until --limit or Ctrl-C.")] = False,
    key: Annotated[
        str, typer.Option(help=f"Stream id of all frames, or {PER_FOLDER}: the folder's, for a video its own name.")
    ] = "",
    create: Annotated[bool, typer.Option("--create", help="Create those of the four topics that are missing.")] = False,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of the topics that --create makes.")] = 4,
    limit: Annotated[int, typer.Option(min=0, help="Stop after so many frames; 0: all.")] = 0,
    file: ConfigFile = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Send images as they are, and the frames of videos as JPEG, to the frames topic."""
    settings = load(file, [*(sets or ()), *([f"topics.frames={topic}"] if topic else ())]).settings
    items = find(sources)
    if create:
        create_topics(settings, partitions)
    facts = existing(settings, [settings.topics.frames]).topics[settings.topics.frames]
    tally, started = Tally(), time.monotonic()
    with progress(hidden=as_json) as bar:
        task = bar.add_task(f"to {facts.name}", total=_expected(items, loop, limit))

        def acknowledged() -> None:
            tally.acknowledged += 1
            bar.advance(task)

        with Sender(settings, facts.max_message_bytes, acknowledged) as sender:
            try:
                _send(sender, messages(items, facts, key, loop, tally), rate, limit, tally)
            finally:
                sender.drain()  # after Ctrl-C too: what was sent shall arrive
                _report(tally, facts, time.monotonic() - started, as_json)
    if tally.refused:
        end_with(FramesLost(f"{tally.refused} frames were not sent, for the reasons above"))


def messages(items: Sequence[Item], facts: TopicFacts, key: str, loop: bool, tally: Tally) -> Iterator[Message]:
    """One message a frame; what can't be sent is named on stderr and counted as refused."""
    for round_ in itertools.count() if loop else (0,):
        found = False
        for frame in frames(items, encode=as_jpeg):
            message = _message(frame, facts.name, key, round_)
            why = _refusal(message, facts)
            if why is None:
                found = True
                yield message
            elif round_ == 0:
                tally.refused += 1
                say(f"{frame.id} is not sent: {why}")
        if not found:  # or a loop over nothing would never end
            return


def _send(sender: Sender, outgoing: Iterator[Message], rate: float, limit: int, tally: Tally) -> None:
    started = time.monotonic()
    for message in itertools.islice(outgoing, limit or None):
        if rate > 0:
            time.sleep(max(0.0, started + tally.sent / rate - time.monotonic()))
        message.headers.append(("captured-at", rfc3339(time.time_ns() // 1_000_000).encode()))
        sender.send(message)
        tally.sent += 1
        tally.bytes += len(message.value or b"")


def _message(frame: Frame, topic: str, key: str, round_: int) -> Message:
    path = Path(frame.source.topic)
    is_video = path.suffix.lower() in VIDEO_SUFFIXES
    content_type, _ = mimetypes.guess_type(path.name)
    if is_video:
        content_type = "image/jpeg"
    stream = (path.name if is_video else path.parent.name) if key == PER_FOLDER else key
    frame_id = frame.id if round_ == 0 else f"{frame.id}#{round_}"
    headers = [("frame-id", frame_id.encode())]
    if content_type is not None:
        headers.append(("content-type", content_type.encode()))
    return Message(topic, stream.encode() if stream else None, frame.value, headers)


def _refusal(message: Message, facts: TopicFacts) -> str | None:
    if message.value is None:
        return "its file can't be read"
    if message.size > facts.max_message_bytes:
        return (
            f"it takes {message.size} bytes and {facts.name} at most {facts.max_message_bytes}; raise max.message.bytes"
        )
    return None


def _expected(items: Sequence[Item], loop: bool, limit: int) -> int | None:
    count = total(items)
    if loop:
        return limit or None
    return min(count, limit) if limit and count is not None else (limit or count)


def _report(tally: Tally, facts: TopicFacts, seconds: float, as_json: bool) -> None:
    if as_json:
        result(
            {
                "topic": facts.name,
                "partitions": facts.partitions,
                "sent": tally.acknowledged,
                "bytes": tally.bytes,
                "refused": tally.refused,
                "seconds": round(seconds, 3),
                "frames_per_second": round(tally.acknowledged / max(seconds, 1e-9), 1),
            }
        )
    else:
        say(f"{tally.acknowledged} frames ({tally.bytes / 1e6:.1f} MB) sent to {facts.name} in {seconds:.1f} s")
