"""Which Kafka client the worker runs on: kafka-python, or librdkafka where `kafka.client` says so (extra `fast`).

The adapter of librdkafka is imported only when it is chosen: its package may be missing.
"""

from __future__ import annotations

from collections.abc import Collection

from worker.ingest.budget import Shares
from worker.ingest.consumer import Consumer
from worker.ingest.partitions import Rebalance
from worker.publish.producer import Producer, TransactionalProducer
from worker.settings import Settings


def consumer(settings: Settings, rebalance: Rebalance, shares: Shares) -> Consumer:
    """The group member. Raises DependencyError."""
    arguments = settings.kafka, settings.topics.frames, rebalance, shares.fetch_bytes
    if settings.kafka.client == "confluent":
        from worker.ingest import confluent

        return confluent.Consumer(*arguments)
    from worker.ingest import kafka

    return kafka.Consumer(*arguments)


def producer(settings: Settings, max_batch_bytes: int, shares: Shares) -> Producer:
    """The producer of at-least-once. Raises DependencyError."""
    if settings.kafka.client == "confluent":
        from worker.publish import confluent

        return confluent.Producer(settings.kafka, settings.publish, max_batch_bytes, shares.frame_bytes)
    from worker.publish import kafka

    return kafka.Producer(settings.kafka, settings.publish, max_batch_bytes)


def transactional_producer(
    settings: Settings, max_batch_bytes: int, shares: Shares, topics: Collection[str]
) -> TransactionalProducer:
    """The producer of exactly-once, that will write to `topics`. Raises DependencyError."""
    if settings.kafka.client == "confluent":
        from worker.publish import confluent

        return confluent.TransactionalProducer(
            settings.kafka, settings.publish, settings.delivery, max_batch_bytes, shares.frame_bytes, topics
        )
    from worker.publish import kafka

    return kafka.TransactionalProducer(settings.kafka, settings.publish, settings.delivery, max_batch_bytes, topics)
