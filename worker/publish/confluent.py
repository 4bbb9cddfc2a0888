"""The producers on librdkafka (extra `fast`): idempotent, acks=all, their errors mapped. After a failure one is made anew.

As with the other client, what has been sent is only known by its delivery, and nothing is sent again singly. librdkafka
tells of deliveries only when it is asked: `Delivered.is_done` asks. Its transaction calls keep a deadline of their own.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import confluent_kafka
import kafka.errors
import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker import admission, librdkafka
from worker.errors import ConfigurationError, Fenced, NotAllowed, PublishFailed
from worker.frames import SourcePartition
from worker.publish.messages import Message
from worker.publish.producer import default_transactional_id, fenced, in_group, known_partitions
from worker.settings import DeliverySettings, KafkaSettings, PublishSettings

log = logging.getLogger(__name__)

ABORT_S = 1.0  # a broker that answers takes milliseconds; without it readers wait for the transaction's timeout
PURGE_S = 2.0
# How long a full queue is waited for in one go: its room comes with deliveries, which come with polls.
ROOM_CHECK_S = 0.05
_FENCED = (kafka.errors.ProducerFencedError, kafka.errors.InvalidProducerEpochError)


class Written:
    """How far each partition is known to be written.

    librdkafka tells of a batch that the broker never wrote as written, if the broker refused it, took the one behind it
    first (it takes any sequence from a producer it does not know there) and so found the second try out of order. Such a
    record comes without an offset, or with one that starts from 0 again.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, int], int] = {}

    def holds(self, message: Any) -> bool:
        """The record of this report has a place behind all those reported before it."""
        place, offset = (message.topic(), message.partition()), message.offset()
        if offset is None or offset <= self._last.get(place, -1):
            return False
        self._last[place] = offset
        return True


class Delivered:
    """What becomes of one record; `exception` in kafka-python's terms."""

    __slots__ = ("_client", "_is_done", "_written", "exception")

    def __init__(self, client: Any, written: Written) -> None:
        self._client = client
        self._written = written
        self._is_done = False
        self.exception: kafka.errors.KafkaError | None = None

    @property
    def is_done(self) -> bool:
        """It is known; asking has the client tell what it has heard."""
        if not self._is_done:
            self._listen(0)
        return self._is_done

    def wait(self, timeout_s: float) -> None:
        """Return once it is acknowledged. Raises kafka-python's KafkaError."""
        give_up = time.monotonic() + timeout_s
        while not self._is_done:
            left_s = give_up - time.monotonic()
            if left_s <= 0:
                raise kafka.errors.KafkaTimeoutError(f"no acknowledgement within {timeout_s:g} s")
            self._listen(left_s)
        if self.exception is not None:
            raise self.exception

    def _listen(self, timeout_s: float) -> None:
        try:
            self._client.poll(timeout_s)
        except KafkaException as error:  # the client is at its end, and so is whatever it has not told of
            self.exception = librdkafka.kafka_error(error.args[0])
            self._is_done = True

    def told(self, error: KafkaError | None, message: Any) -> None:
        """The client's report."""
        if error is not None:
            self.exception = librdkafka.kafka_error(error, message.topic())
        elif not self._written.holds(message):
            self.exception = kafka.errors.OutOfOrderSequenceNumberError("told as written, but without its place")
        self._is_done = True


class Producer:
    """See `worker.publish.producer`. `queue_bytes` bounds what waits in the client, to be sent or to be told of.

    Raises DependencyError where the broker can't be reached at start.
    """

    transactional_id = ""

    def __init__(
        self,
        kafka_settings: KafkaSettings,
        settings: PublishSettings,
        max_batch_bytes: int,
        queue_bytes: int,
        **more: Any,
    ) -> None:
        self._kafka_settings = kafka_settings
        self._patience_s = settings.delivery_timeout_ms / 1000
        request_timeout_ms = min(kafka_settings.request_timeout_ms, max(1000, settings.delivery_timeout_ms - 1000))
        self._configuration: dict[str, Any] = {
            "enable.idempotence": True,
            "acks": "all",
            "partitioner": "murmur2_random",  # the other client's and Java's: a camera keeps its partition
            "linger.ms": settings.linger_ms,
            # A batch larger than a topic takes would be refused whole.
            "batch.size": min(settings.batch_bytes, max_batch_bytes),
            "message.max.bytes": settings.max_record_bytes,
            "delivery.timeout.ms": settings.delivery_timeout_ms,
            "request.timeout.ms": request_timeout_ms,
            "socket.timeout.ms": request_timeout_ms,
            "queue.buffering.max.messages": 0,  # bytes bound it
            "queue.buffering.max.kbytes": max(queue_bytes, 2 * settings.max_record_bytes) // 1024,
            "error_cb": self._hear,
            **more,
        }
        self._client = self._make()

    def _make(self) -> Any:
        arguments = {**librdkafka.arguments(self._kafka_settings), **self._configuration}
        self._written = Written()
        try:
            client = confluent_kafka.Producer(arguments, logger=log)
        except KafkaException as error:
            raise ConfigurationError(f"the Kafka client refuses its settings: {error.args[0].str()}") from error
        try:
            self._meet(client)
        except KafkaException as error:
            _abandon(client)
            mapped = librdkafka.kafka_error(error.args[0])
            if refusal := self.refusal(mapped):
                raise refusal from error
            raise admission.unreachable(self._kafka_settings, mapped) from error
        return client

    def _meet(self, client: Any) -> None:
        """Hear from the broker for the first time. Raises KafkaException."""
        client.cluster_id(self._kafka_settings.request_timeout_ms / 1000)

    def send(self, message: Message) -> Delivered:
        """Raises PublishFailed."""
        delivered = Delivered(self._client, self._written)
        where = {} if message.partition is None else {"partition": message.partition}
        give_up = time.monotonic() + self._patience_s
        while True:
            try:
                self._client.produce(
                    message.topic,
                    message.value,
                    message.key,
                    on_delivery=delivered.told,
                    headers=message.headers,
                    **where,
                )
                return delivered
            except KafkaException as error:
                mapped = librdkafka.kafka_error(error.args[0], message.topic)
                raise PublishFailed(f"a record for {message.topic} was refused: {mapped}") from mapped
            except BufferError as error:  # asked, the client tells of deliveries, and that makes room
                if delivered.is_done or time.monotonic() > give_up:
                    raise PublishFailed(f"no room for a record for {message.topic}: nothing is acknowledged") from error
                time.sleep(ROOM_CHECK_S)

    def partitions(self, topic: str) -> int:
        try:
            about = self._client.list_topics(topic, self._kafka_settings.request_timeout_ms / 1000)
        except KafkaException as error:
            raise admission.unreachable(self._kafka_settings, librdkafka.kafka_error(error.args[0])) from error
        return known_partitions(topic, about.topics[topic].partitions)

    def refusal(self, error: BaseException) -> NotAllowed | None:
        return admission.denied(error, "Write", self._kafka_settings.group_id, self.transactional_id)

    def renew(self) -> None:
        # What the old client still held must not be written behind the records sent anew.
        _abandon(self._client)
        self._client = self._make()

    def close(self) -> None:
        _abandon(self._client)

    def _hear(self, error: KafkaError) -> None:
        log.warning("the Kafka client: %s", error.str())


class TransactionalProducer(Producer):
    """See `worker.publish.producer`.

    Where one is made or renewed the broker first ends whatever was left open under the same transactional id, and shuts
    out another producer that still uses it.
    """

    waited_s = 0.0  # every call here has its deadline

    def __init__(
        self,
        kafka_settings: KafkaSettings,
        settings: PublishSettings,
        delivery: DeliverySettings,
        max_batch_bytes: int,
        queue_bytes: int,
        topics: Collection[str],
    ) -> None:
        self._topics = topics
        self.transactional_id = delivery.transactional_id or default_transactional_id(kafka_settings)
        self._timeout_s = delivery.transaction_timeout_ms / 1000
        self._open = False
        self._deliveries: list[Delivered] = []  # of this transaction's records
        # A record can't count any more once the broker has ended its transaction.
        delivery_timeout_ms = min(settings.delivery_timeout_ms, delivery.transaction_timeout_ms)
        super().__init__(
            kafka_settings,
            msgspec.structs.replace(settings, delivery_timeout_ms=delivery_timeout_ms),
            max_batch_bytes,
            queue_bytes,
            **{
                "transactional.id": self.transactional_id,
                "transaction.timeout.ms": delivery.transaction_timeout_ms,
            },
        )

    def _meet(self, client: Any) -> None:
        timeout_s = self._kafka_settings.request_timeout_ms / 1000
        client.init_transactions(timeout_s)
        for topic in self._topics:  # now, so that the first transaction does not wait for it
            client.list_topics(topic, timeout=timeout_s)
        self._open = False

    def begin(self) -> None:
        try:
            self._client.begin_transaction()
        except KafkaException as error:
            raise self._mapped("a transaction can't begin", librdkafka.kafka_error(error.args[0])) from error
        self._open = True
        self._deliveries.clear()

    def send(self, message: Message) -> Delivered:
        """Raises PublishFailed, Fenced."""
        try:
            delivered = super().send(message)
        except PublishFailed as error:
            raise self._mapped(str(error), error) from error
        self._deliveries.append(delivered)
        return delivered

    def commit(self, offsets: Mapping[SourcePartition, int], membership: Callable[[], Any]) -> None:
        give_up = time.monotonic() + self._timeout_s

        def left_s() -> float:
            return max(0.001, give_up - time.monotonic())

        try:
            for delivered in self._deliveries:
                delivered.wait(left_s())
            member = in_group(membership())
            self._client.send_offsets_to_transaction(
                [TopicPartition(*source, offset) for source, offset in offsets.items()], member.raw, left_s()
            )
            self._client.commit_transaction(left_s())
        except KafkaException as error:
            raise self._mapped("the transaction failed", librdkafka.kafka_error(error.args[0])) from error
        except kafka.errors.KafkaError as error:
            raise self._mapped("the transaction failed", error) from error
        self._open = False

    def close(self) -> None:
        """What is open is aborted, so that readers do not wait for its timeout."""
        if self._open:
            with contextlib.suppress(KafkaException):
                self._client.abort_transaction(ABORT_S)
        super().close()

    def _mapped(self, what: str, error: Exception) -> PublishFailed | Fenced | NotAllowed:
        told: list[BaseException | None] = [error, error.__cause__, *(each.exception for each in self._deliveries)]
        try:
            self._client.poll(0)
        except KafkaException as fatal:  # what brought the client to its end, and is only told here
            told.append(librdkafka.kafka_error(fatal.args[0]))
        for each in told:
            if each is not None and (refusal := self.refusal(each)):
                return refusal
        if any(isinstance(each, _FENCED) for each in told):
            return fenced(self.transactional_id)
        return PublishFailed(f"{what} ({type(error).__name__}: {error})")


def _abandon(client: Any) -> None:
    """Take from the client what it has not sent: it is gone once nobody holds it, and a call may still be under way in it."""
    with contextlib.suppress(KafkaException):
        client.purge(in_queue=True, in_flight=True, blocking=True)
        client.flush(PURGE_S)
