"""The producer: idempotent, acks=all, its exceptions mapped. After a failed send it is made anew, never used again.

What has been sent is only known by its future; nothing is sent again singly, because a record that failed after its
successors were written would change the order.
"""

from __future__ import annotations

import logging
from typing import Any

import kafka.errors
from kafka import KafkaProducer

from worker import security
from worker.errors import PublishFailed
from worker.publish.messages import Message
from worker.settings import KafkaSettings, PublishSettings

log = logging.getLogger(__name__)

CLOSE_S = 2.0  # for a sender thread that was told to give up


class Producer:
    """Sends records and hands out their futures. Raises DependencyError where the broker can't be reached at start."""

    def __init__(self, kafka_settings: KafkaSettings, settings: PublishSettings, max_batch_bytes: int) -> None:
        self._configuration: dict[str, Any] = {
            "client_id": "headrace",
            "enable_idempotence": True,
            "acks": "all",
            "allow_auto_create_topics": False,
            "linger_ms": settings.linger_ms,
            # A batch larger than a topic takes would be refused whole.
            "batch_size": min(settings.batch_bytes, max_batch_bytes),
            "max_request_size": settings.max_record_bytes,
            "delivery_timeout_ms": settings.delivery_timeout_ms,
            "request_timeout_ms": min(
                kafka_settings.request_timeout_ms, max(1000, settings.delivery_timeout_ms - 1000)
            ),
            "max_block_ms": settings.delivery_timeout_ms,
            "reconnect_backoff_max_ms": 1000,
            "metrics_enabled": False,
        }
        self._kafka_settings = kafka_settings
        self._client = self._make()

    def _make(self) -> Any:
        try:
            return KafkaProducer(**security.kafka_arguments(self._kafka_settings), **self._configuration)
        except kafka.errors.KafkaError as error:
            raise security.unreachable(self._kafka_settings, error) from error

    def send(self, message: Message) -> Any:
        """The future of one record. Raises PublishFailed when the client refuses it at once."""
        try:
            return self._client.send(
                message.topic, message.value, message.key, message.headers, partition=message.partition
            )
        except (kafka.errors.KafkaError, ValueError) as error:
            raise PublishFailed(f"a record for {message.topic} was refused: {error}") from error

    def renew(self) -> None:
        """Drop the client with all it has not delivered, and start a new one. Raises DependencyError, then call again."""
        # Stopped before the next one starts: what it still held must not be written behind the records sent anew.
        _abandon(self._client)
        self._client = self._make()

    def close(self) -> None:
        """Close the client; whatever matters has been awaited before."""
        _abandon(self._client)


def _abandon(client: Any) -> None:
    # close() flushes first, and raises with the sender still alive when that takes too long; so the sender is told to
    # give up before. The client has no public way to do it.
    client._sender.force_close()
    try:
        client.close(timeout=CLOSE_S)
    except (kafka.errors.KafkaError, AssertionError, RuntimeError) as error:
        log.debug("closing the producer: %s", error)
