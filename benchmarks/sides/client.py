"""The bare client loop: kafka-python polls every frame and sends a 300-byte record for each. Nothing else is done.

What a worker on this client can't do without. Group, fetch and send settings are the worker's own.
"""

from __future__ import annotations

import msgspec
from kafka import KafkaConsumer, KafkaProducer

from benchmarks.sides.child import JOIN_MS, specification
from worker.kafka_network import mend_network
from worker.malloc import keep_big_buffers
from worker.settings import Settings

RECORD = b"x" * 300


class ClientSpec(msgspec.Struct, frozen=True):
    """What the side is told. `tuned`: malloc and socket reads as the worker sets them, else as they come."""

    bootstrap_servers: str
    frames_topic: str
    predictions_topic: str
    group: str
    fetch_bytes: int
    tuned: bool


def main() -> None:
    """Runs until it is killed; the harness counts its records."""
    spec, settings = specification(ClientSpec), Settings()
    if spec.tuned:
        keep_big_buffers()
        mend_network()
    servers = spec.bootstrap_servers.split(",")
    consumer = KafkaConsumer(
        spec.frames_topic,
        bootstrap_servers=servers,
        group_id=spec.group,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=settings.kafka.fetch_max_wait_ms,
        fetch_max_bytes=spec.fetch_bytes,
        max_partition_fetch_bytes=spec.fetch_bytes,
        auto_commit_interval_ms=settings.delivery.commit_interval_ms,
        metrics_enabled=False,
    )
    producer = KafkaProducer(
        bootstrap_servers=servers,
        enable_idempotence=True,
        acks="all",
        linger_ms=settings.publish.linger_ms,
        batch_size=settings.publish.batch_bytes,
        metrics_enabled=False,
    )
    while True:
        patience_ms = 100 if consumer.assignment() else JOIN_MS
        for records in consumer.poll(patience_ms, settings.ingest.poll_chunk_frames).values():
            for record in records:
                producer.send(spec.predictions_topic, RECORD, key=record.key)


if __name__ == "__main__":
    main()
