"""The bare client loop on librdkafka: confluent-kafka polls every frame and sends a 300-byte record for each. Nothing else.

What a worker on this client can't do without. Group, fetch and send settings are the worker's own.
"""

from __future__ import annotations

from confluent_kafka import Consumer, Producer

from benchmarks.sides.child import specification
from benchmarks.sides.client import RECORD, ClientSpec
from worker.ingest.confluent_client import FETCH_BACKOFF_MS, PIECES
from worker.malloc import keep_big_buffers
from worker.settings import Settings


def main() -> None:
    """Runs until it is killed; the harness counts its records."""
    spec, settings = specification(ClientSpec), Settings()
    if spec.tuned:
        keep_big_buffers()
    piece = spec.fetch_bytes // PIECES
    consumer = Consumer(
        {
            "bootstrap.servers": spec.bootstrap_servers,
            "group.id": spec.group,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "check.crcs": True,
            "auto.commit.interval.ms": settings.delivery.commit_interval_ms,
            "fetch.wait.max.ms": settings.kafka.fetch_max_wait_ms,
            "fetch.message.max.bytes": piece,
            "fetch.max.bytes": piece,
            "message.max.bytes": piece,
            "queued.max.messages.kbytes": piece // 1024,
            "fetch.queue.backoff.ms": FETCH_BACKOFF_MS,
        }
    )
    consumer.subscribe([spec.frames_topic])
    producer = Producer(
        {
            "bootstrap.servers": spec.bootstrap_servers,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": settings.publish.linger_ms,
            "batch.size": settings.publish.batch_bytes,
        }
    )
    while True:
        for message in consumer.consume(settings.ingest.poll_chunk_frames, 0.1):
            if message.error() is None:
                # As the other loop does: the value is taken, and nothing is done with it.
                message.value()
                producer.produce(spec.predictions_topic, RECORD, key=message.key())
        producer.poll(0)


if __name__ == "__main__":
    main()
