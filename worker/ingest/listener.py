"""What the consumer hears of rebalances, on its own I/O thread, and the client's names for partitions and offsets."""

from __future__ import annotations

import logging
import time

import kafka.errors
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import OffsetAndMetadata

from worker.frames import SourcePartition
from worker.ingest.partitions import Rebalance

log = logging.getLogger(__name__)

# How often the drain on revocation looks again; short beside any rebalance.
REVOKE_CHECK_S = 0.01


class Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """Asynchronous, so that heartbeats go on while a hand-over drains. `drain_bound_s` bounds the drain, in seconds."""

    def __init__(
        self, client: KafkaConsumer, assignor: CooperativeStickyAssignor, rebalance: Rebalance, drain_bound_s: float
    ) -> None:
        self._client = client
        self._assignor = assignor
        self._rebalance = rebalance
        self._drain_bound_s = drain_bound_s

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        # Paused at once: nothing is fetched before the poll thread has fixed where to begin.
        self._client.pause(*assigned)
        self._rebalance.assigned([source_of(tp) for tp in assigned])

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        # They have left the client's assignment already, but the group waits for us before giving them away.
        sources = [source_of(tp) for tp in revoked]
        self._rebalance.revoking(sources)
        give_up = time.monotonic() + self._drain_bound_s
        while (offsets := self._rebalance.drained(sources)) is None and time.monotonic() < give_up:
            await self._client._net.sleep(REVOKE_CHECK_S)  # the client offers no public way to wait on its loop
        if offsets:
            try:
                await self._client.commit_async(offsets_of(offsets))
            except kafka.errors.KafkaError as error:
                log.warning("commit on revocation failed, the next owner repeats these frames: %s", error)
        self._rebalance.revoked(sources)
        self._claim_no_more(revoked)

    async def on_partitions_lost(self, lost: set[TopicPartition]) -> None:
        log.warning("partitions lost to another owner, their frames are dropped uncommitted: %s", sorted(lost))
        self._rebalance.lost([source_of(tp) for tp in lost])
        self._claim_no_more(lost)

    def _claim_no_more(self, gone: set[TopicPartition]) -> None:
        """The client's next join would claim what it owned before it fell out of the group.

        The leader believes it, and gives it partitions that their new owner has not been asked to give up.
        """
        claimed = self._assignor.member_assignment or ()
        self._assignor.member_assignment = [tp for tp in claimed if tp not in gone]


def source_of(tp: TopicPartition) -> SourcePartition:
    """Ours for the client's."""
    return SourcePartition(tp.topic, tp.partition)


def partition_of(source: SourcePartition) -> TopicPartition:
    """The client's for ours."""
    return TopicPartition(source.topic, source.partition)


def offsets_of(offsets: dict[SourcePartition, int]) -> dict[TopicPartition, OffsetAndMetadata]:
    """What a commit takes."""
    return {partition_of(source): OffsetAndMetadata(offset, "", -1) for source, offset in offsets.items()}
