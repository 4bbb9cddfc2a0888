"""Dead letters read again: what each says of its frame, which of them a replay takes, and the frame it sends back. Pure.

Records of the dead-letter topic go in as `DeadLetter`; `Plan` hears of all of them, from the topic's beginning to its
end, and decides; `sent_back` makes the record for the frames topic. A frame that fails again comes back as a new dead
letter with `replay-of` and `replay-count`: all letters of one frame are a lineage, and only its newest is ever sent.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from worker.publish.messages import REPLAY_COUNT, REPLAY_OF, Message, rfc3339, text
from worker.topics import TopicFacts

# A frame that failed after three repairs needs a person who looks at it, not a fourth try.
MAX_REPLAYS = 3
_ID = re.compile(r"([\w.-]+)/(\d+)/(\d+)")

Place = tuple[int, int]  # partition and offset on the dead-letter topic


@dataclass(frozen=True)
class DeadLetter:
    """A record of the dead-letter topic. What its headers do not tell is None."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    @cached_property
    def _last(self) -> dict[str, str]:
        return {name: text(value) for name, value in self.headers if value is not None}

    @property
    def place(self) -> Place:
        """Where it lies on its topic."""
        return self.partition, self.offset

    @property
    def source(self) -> str | None:
        """`topic/partition/offset` of the frame that failed."""
        source = self._last.get("dlq-source")
        return source if source is not None and _ID.fullmatch(source) else None

    @property
    def replay_of(self) -> str | None:
        """Where the frame first came in, if it is one that was sent back already."""
        return self._last.get(REPLAY_OF)

    @property
    def replays(self) -> int:
        """How often it has been sent back; what is no number was not written by a replay."""
        count = self._last.get(REPLAY_COUNT, "")
        return int(count) if count.isascii() and count.isdigit() and len(count) < 10 else 0

    @property
    def reason(self) -> str:
        """One of `Reason`; `unknown` for a record that is no dead letter."""
        return self._last.get("dlq-reason", "unknown")

    @property
    def stream(self) -> str | None:
        """The key as predictions name it."""
        return None if self.key is None else text(self.key)

    @property
    def nulls(self) -> list[str]:
        """What was null and is empty here."""
        return self._last.get("dlq-nulls", "").split(",")

    @property
    def missing(self) -> str | None:
        """Why there is nothing in it to send back; None if there is."""
        if left_out := self._last.get("dlq-left-out"):
            return f"its value and {left_out.replace(',', ' and ')} were too large for {self.topic} and are not in it"
        if digest := self._last.get("dlq-value-sha256"):
            return f"its value was too large for {self.topic} and is not in it; its source may still have it (sha256 {digest})"
        return None if self.value else "it has no value, and would fail again"

    @cached_property
    def lineage(self) -> tuple[str, str]:
        """The same for all letters of one frame: its first id, and its bytes, since a topic made anew has the same ids."""
        digest = self._last.get("dlq-value-sha256") or hashlib.sha256(self.value or b"").hexdigest()
        return self.replay_of or self.source or f"{self.topic}/{self.partition}/{self.offset}", digest

    def fields(self) -> dict[str, Any]:
        """What the commands show of it with `--json`; the frame itself stays on the topic, only its size is told."""
        attempts = self._last.get("dlq-attempts", "")
        return {
            "id": self.source,
            "at": rfc3339(self.timestamp_ms),
            "stream": self.stream,
            "frame_id": self._last.get("frame-id"),
            "reason": self.reason,
            "detail": self._last.get("dlq-detail"),
            "stage": self._last.get("dlq-stage"),
            "attempts": int(attempts) if attempts.isascii() and attempts.isdigit() else None,
            "bytes": len(self.value or b""),
            "replays": self.replays,
            "replay_of": self.replay_of,
            "record": f"{self.topic}/{self.partition}/{self.offset}",
        }


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant; what is empty or None leaves the choice open."""

    reasons: frozenset[str] = frozenset()
    streams: frozenset[str] = frozenset()
    since_ms: int | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Whether it is one of them."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (not self.streams or letter.stream in self.streams)
            and (self.since_ms is None or letter.timestamp_ms >= self.since_ms)
        )


def sent_back(letter: DeadLetter, frames: TopicFacts) -> Message | str:
    """The frame as it came, for the partition it came from; or a phrase that says why it can't be sent.

    Key, value and headers are the original ones, without `dlq-*`, with `replay-of` and `replay-count`. No client can
    write a null header (see `dlq-nulls`): it is left out, and if it was the last of its name, so are those it hid.
    """
    match = _ID.fullmatch(letter.source or "")
    if match is None:
        return "it names no source record (dlq-source)"
    topic, partition = match[1], int(match[2])
    if topic != frames.name:
        return f"it came from topic {topic}, not from {frames.name}; name that one: --set topics.frames={topic}"
    if letter.replays >= MAX_REPLAYS:
        return f"it has been sent back {letter.replays} times and failed each time; look at the frame itself"
    if letter.missing is not None:
        return letter.missing
    originals = [
        (name, value or b"")
        for name, value in letter.headers
        if not name.startswith("dlq-") and name not in (REPLAY_OF, REPLAY_COUNT)
    ]
    last = dict(originals)
    for name in (null.removeprefix("header:") for null in letter.nulls if null.startswith("header:")):
        originals = [(n, value) for n, value in originals if n != name or (value and last.get(name))]
    headers = [
        *originals,
        (REPLAY_OF, (letter.replay_of or letter.source or "").encode()),
        (REPLAY_COUNT, str(letter.replays + 1).encode()),
    ]
    message = Message(
        frames.name, letter.key, letter.value, headers, partition if partition < frames.partitions else None
    )
    if message.size > frames.max_message_bytes:
        return f"it takes {message.size} bytes and {frames.name} at most {frames.max_message_bytes}; raise max.message.bytes"
    return message


@dataclass(slots=True)
class _Lineage:
    """The newest letter of a frame."""

    place: Place
    replays: int
    reason: str
    source: str
    selected: bool
    obstacle: str | None
    named: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What a replay does: sends the letters at `chosen`. `refused` are (source, why); `passed` were dealt with before."""

    chosen: frozenset[Place]
    reasons: Counter[str]
    refused: list[tuple[str, str]]
    passed: int
    left: int  # would be sent but for the limit
    unknown: list[str]  # asked for by id, and not there


@dataclass(slots=True)
class Plan:
    """Give it every letter, in order; then ask for its decision.

    `position` has for each partition the offset up to which earlier replays came; empty: look at all. `sources`, if
    any, are the ids of the only frames that are meant, the first or a later one of each.
    """

    frames: TopicFacts
    selection: Selection = field(default_factory=Selection)
    position: Mapping[int, int] = field(default_factory=dict)
    sources: Collection[str] = ()
    _lineages: dict[tuple[str, str], _Lineage] = field(default_factory=dict)
    _known: set[str] = field(default_factory=set)

    def add(self, letter: DeadLetter) -> None:
        """Take it in. A repeat (a worker that was killed writes some letters twice) is not sent again."""
        before = self._lineages.get(letter.lineage)
        ids = {letter.source, letter.replay_of} & set(self.sources)
        self._known |= {each for each in ids if each is not None}
        named = bool(ids) or (before is not None and before.named)
        if before is not None and before.replays >= letter.replays:
            before.named = named
            return
        result = sent_back(letter, self.frames)
        # Taken out and put in again: lineages stand in the order of their newest letters.
        self._lineages.pop(letter.lineage, None)
        self._lineages[letter.lineage] = _Lineage(
            letter.place,
            letter.replays,
            letter.reason,
            letter.source or f"{letter.topic}/{letter.partition}/{letter.offset}",
            self.selection.takes(letter),
            result if isinstance(result, str) else None,
            named,
        )

    def decide(self, limit: int = 0) -> Decision:
        """The first `limit` of those that can be sent; 0: all of them."""
        meant = [one for one in self._lineages.values() if one.selected and (one.named or not self.sources)]
        new = [one for one in meant if one.place[1] >= self.position.get(one.place[0], 0)]
        good = [one for one in new if one.obstacle is None]
        taken = good[: limit or None]
        return Decision(
            chosen=frozenset(one.place for one in taken),
            reasons=Counter(one.reason for one in taken),
            refused=[(one.source, one.obstacle) for one in new if one.obstacle is not None],
            passed=len(meant) - len(new),
            left=len(good) - len(taken),
            unknown=sorted(set(self.sources) - self._known),
        )
