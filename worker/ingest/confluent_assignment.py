"""Which partitions are ours on librdkafka, and where each stands: given out, paused, stopped, handed over.

A partition is in the client's assignment only once `place` has said from which offset; the group has given it to us before.
The rebalance callbacks arrive inside a poll, on the thread that polls, and the group waits for them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker.frames import SourcePartition
from worker.ingest.partitions import Rebalance, Unreadable

log = logging.getLogger(__name__)

# How often the drain on revocation looks again; short beside any rebalance.
REVOKE_CHECK_S = 0.01


class Assignment:
    """`drain_bound_s` bounds a hand-over, in seconds. Changed by `Consumer` and by the callbacks, on one thread."""

    def __init__(self, client: Any, rebalance: Rebalance, drain_bound_s: float) -> None:
        self._client = client
        self._rebalance = rebalance
        self._drain_bound_s = drain_bound_s
        self._paused: set[SourcePartition] = set()
        self.owned: set[SourcePartition] = set()
        self.positions: dict[SourcePartition, int] = {}  # of those placed: the offset after what was given out last
        self.stopped: dict[SourcePartition, Unreadable] = {}

    def place(self, source: SourcePartition, offset: int) -> None:
        """Fetch from `offset` on. Raises KafkaException."""
        at = TopicPartition(*source, offset)
        if source not in self.positions:
            self._client.incremental_assign([at])
        else:
            try:
                self._client.seek(at)
            except KafkaException:  # it stands still after an offset that was out of range, and then takes no seek
                self._client.incremental_unassign([at])
                self._client.incremental_assign([at])  # a pause outlives this
        self.positions[source] = offset

    def gives_out(self, source: SourcePartition, offset: int) -> bool:
        """Whether a record that the client hands over is the next of its partition.

        Not, where the partition went away inside this very poll, stands at a record that can't be read, or had been handed
        over up to there before a pause.
        """
        position = self.positions.get(source)
        return position is not None and offset >= position and source not in self.stopped

    def moved(self, source: SourcePartition, offset: int) -> None:
        """The partition has nothing below `offset` any more: markers, compacted records."""
        if self.gives_out(source, offset):
            self.positions[source] = offset

    def pause(self, sources: Iterable[SourcePartition]) -> None:
        """Stop fetching, and drop what is fetched and not given out."""
        flowing = [source for source in sources if source in self.positions and source not in self._paused]
        self._paused.update(flowing)
        if flowing:
            self._client.pause([TopicPartition(*source) for source in flowing])

    def resume(self, sources: Iterable[SourcePartition]) -> None:
        """Fetch again, but for stopped ones."""
        # Each only once: every call of the client's throws away what is fetched.
        paused = [source for source in sources if source in self._paused and source not in self.stopped]
        self._paused.difference_update(paused)
        if paused:
            self._client.resume([TopicPartition(*source) for source in paused])

    def stop(self, source: SourcePartition, offset: int, detail: str) -> Unreadable:
        """The record at `offset` can't be read. The client would step over it: what it hands over behind it is not given out."""
        self.stopped[source] = stopped = Unreadable(source, offset, detail)
        self.positions[source] = offset
        self.pause([source])
        return stopped

    def on_assigned(self, _: Any, partitions: list[TopicPartition]) -> None:
        sources = sources_of(partitions)
        self.owned.update(sources)
        self._client.incremental_assign([])  # else the client would start them by itself
        self._rebalance.assigned(sources)

    def on_revoked(self, _: Any, partitions: list[TopicPartition]) -> None:
        # Heartbeats go on meanwhile, on the client's own thread.
        sources = sources_of(partitions)
        self._rebalance.revoking(sources)
        give_up = time.monotonic() + self._drain_bound_s
        while (offsets := self._rebalance.drained(sources)) is None and time.monotonic() < give_up:
            time.sleep(REVOKE_CHECK_S)
        if offsets:
            for error in commit(self._client, offsets):
                log.warning("commit on revocation failed, the next owner repeats these frames: %s", error.str())
        self._rebalance.revoked(sources)
        self._give_up(sources)

    def on_lost(self, _: Any, partitions: list[TopicPartition]) -> None:
        sources = sources_of(partitions)
        log.warning("partitions lost to another owner, their frames are dropped uncommitted: %s", sorted(sources))
        self._rebalance.lost(sources)
        self._give_up(sources)

    def _give_up(self, sources: list[SourcePartition]) -> None:
        for source in sources:
            self.stopped.pop(source, None)
        self.resume(sources)  # else the pause would outlive the assignment, and hold the partition when it comes back
        placed = [source for source in sources if self.positions.pop(source, None) is not None]
        self.owned.difference_update(sources)
        self._client.incremental_unassign([TopicPartition(*source) for source in placed])


def commit(client: Any, offsets: dict[SourcePartition, int]) -> list[KafkaError]:
    """Commit and wait; what failed, at most one error of each partition."""
    try:
        answers = client.commit(offsets=partitions_of(offsets), asynchronous=False)
    except KafkaException as error:
        return [error.args[0]]
    return [answer.error for answer in answers if answer.error is not None]


def sources_of(partitions: Iterable[TopicPartition]) -> list[SourcePartition]:
    """Ours for the client's."""
    return [SourcePartition(partition.topic, partition.partition) for partition in partitions]


def partitions_of(offsets: dict[SourcePartition, int]) -> list[TopicPartition]:
    """The client's for ours."""
    return [TopicPartition(*source, offset) for source, offset in offsets.items()]
