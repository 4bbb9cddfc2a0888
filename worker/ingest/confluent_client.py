"""How librdkafka's consumer is made, and the form in which it tells who it is in the group."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker import librdkafka
from worker.errors import ConfigurationError, DependencyError
from worker.settings import KafkaSettings

log = logging.getLogger(__name__)

# The share for fetches holds what waits to be polled, an answer of each of several brokers on its way, and what a poll copies
# out. Small pieces, too, because a pause throws away what waits, and it is fetched again.
PIECES = 4
# A record larger than a piece comes alone, whatever its size: this only bounds what an answer may announce.
MAX_ANSWER_BYTES = 1_000_000_000
# How long a full queue waits before its next fetch; the client's 1,000 starves a fast worker.
FETCH_BACKOFF_MS = 2
_MEMBERSHIP_MARK = b"CGMDv2:"


@dataclass(frozen=True, slots=True)
class Membership:
    """Who we are in the group; `raw` is the client's own form of it, for its producer."""

    generation_id: int
    member_id: str
    raw: bytes


def make_client(
    settings: KafkaSettings,
    fetch_bytes: int,
    told: Callable[[KafkaError], None],
    committed: Callable[[KafkaError | None, list[TopicPartition]], None],
) -> Any:
    """The client, not subscribed yet. `fetch_bytes` is the share of the budget that fetches may take four times.

    `told` hears of its errors, `committed` how each commit ended that was not waited for. Raises ConfigurationError.
    """
    piece = max(1000, fetch_bytes // PIECES)
    arguments = librdkafka.arguments(settings) | {
        "group.id": settings.group_id,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "check.crcs": True,
        "enable.partition.eof": True,  # tells when the position has moved over markers
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": settings.session_timeout_ms,
        "heartbeat.interval.ms": min(3000, settings.session_timeout_ms // 3),
        "max.poll.interval.ms": settings.max_poll_interval_ms,
        "topic.metadata.refresh.interval.ms": settings.metadata_max_age_ms,
        "socket.timeout.ms": settings.request_timeout_ms,
        "fetch.wait.max.ms": settings.fetch_max_wait_ms,
        "fetch.message.max.bytes": piece,
        "fetch.max.bytes": piece,
        "message.max.bytes": piece,  # which fetch.max.bytes is raised to
        "receive.message.max.bytes": MAX_ANSWER_BYTES,
        "queued.max.messages.kbytes": max(1, piece // 1024),
        "fetch.queue.backoff.ms": FETCH_BACKOFF_MS,
        "error_cb": told,
        "on_commit": committed,
    }
    if settings.group_instance_id:
        arguments["group.instance.id"] = settings.group_instance_id
    try:
        return confluent_kafka.Consumer(arguments, logger=log)
    except KafkaException as error:
        raise ConfigurationError(f"the Kafka client refuses its settings: {error.args[0].str()}") from error


def read_membership(raw: bytes) -> Membership:
    """The client's own form of the group metadata: a mark, the generation, then group and member, each ended by a zero.

    Raises DependencyError for a form that this was not written for.
    """
    if not raw.startswith(_MEMBERSHIP_MARK):
        raise DependencyError(
            f"confluent-kafka {confluent_kafka.__version__} gives the group's metadata in a form that is not known here "
            f"({raw[:16]!r}); set kafka.client = kafka-python"
        )
    (generation,) = struct.unpack_from("=i", raw, len(_MEMBERSHIP_MARK))
    _, member, _ = raw[len(_MEMBERSHIP_MARK) + 4 :].split(b"\0", 2)
    return Membership(generation, member.decode(), raw)
