"""`headrace dlq replay`: sends dead letters back to the frames topic after a repair.

`worker.publish.replay` decides which letters are meant and what goes back; here they are read, sent and reported. The
topic is read twice, once to decide, once to send, so that no frame is kept in memory meanwhile. How far a replay came is
kept by the broker, under a group's name of its own: the next one takes what came since.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from kafka import TopicPartition

from worker.cli.broker import Bookmark, Reader, Sender, existing
from worker.cli.dlq import Limit, Reasons, Since, Streams, as_letter, by_reason, count, selected
from worker.cli.options import ConfigFile, Json, Sets, load
from worker.cli.output import end_with, progress, result, say
from worker.errors import ConfigurationError, FramesLost
from worker.publish.messages import Message
from worker.publish.replay import DeadLetter, Decision, Plan, sent_back
from worker.settings import Settings
from worker.topics import TopicFacts

GROUP_SUFFIX = "-dlq-replay"
_REFUSALS_SHOWN = 20  # a thousand sentences of one kind help nobody; the counts are complete


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
    selection, sources = selected(reason, stream, since), frozenset(source or ())
    frames = existing(settings, [names.frames]).topics[names.frames]
    sent = 0
    with (
        Reader(settings, [names.dead_letters], from_beginning=True) as reader,
        Bookmark(settings, settings.kafka.group_id + GROUP_SUFFIX) as bookmark,
    ):
        ends = reader.ends()
        # One behind the end is of a topic that has been made anew since.
        kept = {place: offset for place, offset in bookmark.read(ends).items() if offset <= ends[place]}
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
        if yes:
            for letters in _sent(settings, frames, reader, decision, hidden=as_json):
                sent += len(letters)
                if not sources:
                    bookmark.keep(_further(kept, letters))
            if not sources and not decision.left:
                bookmark.keep({place: end for place, end in ends.items() if end > kept.get(place, 0)})
    _report(settings, decision, sent, yes, time.monotonic() - started, as_json)
    if yes and sent < len(decision.chosen):
        end_with(FramesLost(f"{count(len(decision.chosen) - sent)} went from the topic before they could be sent back"))
    if yes and decision.refused:
        end_with(FramesLost(f"{count(len(decision.refused))} not sent back, for the reasons above"))


def _sent(
    settings: Settings, frames: TopicFacts, reader: Reader, decision: Decision, hidden: bool
) -> Iterator[list[DeadLetter]]:
    """Send the chosen letters, a poll at a time; each comes out once the broker has acknowledged it."""
    with progress(hidden) as bar:
        task = bar.add_task(f"to {frames.name}", total=len(decision.chosen))
        with Sender(settings, frames.max_message_bytes, lambda: bar.advance(task)) as sender:
            for letters in _chosen(reader, decision, settings.topics.dead_letters):
                for letter in letters:
                    message = sent_back(letter, frames)
                    assert isinstance(message, Message)
                    sender.send(message)
                sender.drain()
                yield letters


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
    say(f"{count(len(decision.chosen))} {did} to {settings.topics.frames}{by_reason(decision.reasons)}")
    if decision.left:
        say(f"left for the next replay, because of --limit: {count(decision.left)}")
    if decision.passed:
        say(f"before the end of the last replay, taken only with --all: {count(decision.passed)}")
    if not yes and decision.chosen:
        say("nothing is sent without --yes")
