"""The producers: idempotent, acks=all, their exceptions mapped. After a failure one is made anew, never used again.

What has been sent is only known by its future; nothing is sent again singly, because a record that failed after its
successors were written would change the order. The transactional one also commits offsets, and guards what its client does
not: docs/delivery.md has the list.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import kafka.errors
import msgspec
from kafka import KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from worker import admission, security
from worker.errors import ConfigurationError, DependencyError, Fenced, NotAllowed, PublishFailed
from worker.frames import SourcePartition
from worker.publish.messages import Message
from worker.publish.producer import default_transactional_id, fenced, in_group, known_partitions
from worker.settings import DeliverySettings, KafkaSettings, PublishSettings

log = logging.getLogger(__name__)

LEAST_REQUEST_MS = 1000
CLOSE_S = 2.0  # for a sender thread that was told to give up
ABORT_S = 1.0  # a broker that answers takes milliseconds; without it readers wait for the transaction's timeout
# The broker refuses the first record of a transaction while it still writes the end of the last one, some milliseconds. At
# the client's default of 100 ms every transaction began with that pause.
RETRY_BACKOFF_MS = 5
# Between tries to reach a broker that takes connections and drops them, as a load balancer does that has nobody behind it.
NOT_READY_S = 0.1
BUMP_S = 1.0
BUMP_CHECK_S = 0.005
_FENCED = (kafka.errors.ProducerFencedError, kafka.errors.InvalidProducerEpochError)


class Producer:
    """Sends records and hands out their futures. Raises DependencyError where the broker can't be reached at start."""

    transactional_id = ""

    def __init__(
        self, kafka_settings: KafkaSettings, settings: PublishSettings, max_batch_bytes: int, **more: Any
    ) -> None:
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
                kafka_settings.request_timeout_ms,
                max(LEAST_REQUEST_MS, settings.delivery_timeout_ms - LEAST_REQUEST_MS),
            ),
            "max_block_ms": settings.delivery_timeout_ms,
            "reconnect_backoff_max_ms": 1000,
            "metrics_enabled": False,
            **more,
        }
        self._kafka_settings = kafka_settings
        self._client = self._make()

    def _make(self) -> Any:
        try:
            client = KafkaProducer(**security.kafka_arguments(self._kafka_settings), **self._configuration)
        except kafka.errors.KafkaError as error:
            raise admission.unreachable(self._kafka_settings, error) from error
        _pause_between_tries(client)
        return client

    def send(self, message: Message) -> Any:
        """The future of one record. Raises PublishFailed when the client refuses it at once."""
        try:
            return self._client.send(
                message.topic, message.value, message.key, message.headers, partition=message.partition
            )
        except (kafka.errors.KafkaError, ValueError) as error:
            raise PublishFailed(f"a record for {message.topic} was refused: {error}") from error

    def partitions(self, topic: str) -> int:
        """How many the client knows, which sends to no other. Raises DependencyError."""
        try:
            known = self._client.partitions_for(topic)
        except kafka.errors.KafkaError as error:
            raise admission.unreachable(self._kafka_settings, error) from error
        return known_partitions(topic, known)

    def refusal(self, error: BaseException) -> NotAllowed | None:
        """Whether a record failed, as its future tells or `send` raised, because we may not write it: no retry mends that."""
        return admission.denied(error, "Write", self._kafka_settings.group_id, self.transactional_id)

    def renew(self) -> None:
        """Drop the client with all it has not delivered, and start a new one. Raises DependencyError, then call again."""
        # Stopped before the next one starts: what it still held must not be written behind the records sent anew.
        _abandon(self._client)
        try:
            self._client = self._make()
        except ConfigurationError as error:  # a certificate or password that was right at the start is being replaced
            raise DependencyError(str(error)) from error

    def close(self) -> None:
        """Close the client; whatever matters has been awaited before."""
        _abandon(self._client)


class TransactionalProducer(Producer):
    """What is sent between `begin` and `commit` counts all at once, with the offsets, or never.

    Where one is made or renewed the broker first ends whatever was left open under the same transactional id, and shuts
    out another producer that still uses it.
    """

    def __init__(
        self,
        kafka_settings: KafkaSettings,
        settings: PublishSettings,
        delivery: DeliverySettings,
        max_batch_bytes: int,
        topics: Collection[str],
    ) -> None:
        self._topics = topics
        self.transactional_id = delivery.transactional_id or default_transactional_id(kafka_settings)
        self._timeout_ms = delivery.transaction_timeout_ms
        self._open = False
        self._futures: list[Any] = []  # of this transaction's records
        self._touched: set[TopicPartition] = set()  # by the last transaction; the next one most likely writes there too
        self._calling_since: float | None = None
        # A record can't count any more once the broker has ended its transaction.
        delivery_timeout_ms = min(settings.delivery_timeout_ms, delivery.transaction_timeout_ms)
        # Nobody reads a record before the commit, which flushes: as one request they cost half of what they cost as several.
        linger_ms = max(settings.linger_ms, min(delivery.transaction_length_ms, delivery_timeout_ms - LEAST_REQUEST_MS))
        super().__init__(
            kafka_settings,
            msgspec.structs.replace(settings, delivery_timeout_ms=delivery_timeout_ms, linger_ms=linger_ms),
            max_batch_bytes,
            transactional_id=self.transactional_id,
            transaction_timeout_ms=delivery.transaction_timeout_ms,
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )

    def _make(self) -> Any:
        client = super()._make()
        try:
            client.init_transactions()
            for topic in self._topics:  # now, so that the first transaction does not wait for it
                client.partitions_for(topic)
        except kafka.errors.KafkaError as error:
            _abandon(client)
            if refusal := self.refusal(error):
                raise refusal from error
            raise admission.unreachable(self._kafka_settings, error) from error
        self._open = False
        self._touched = set()  # a topic that is gone fails every transaction that names it
        return client

    def begin(self) -> None:
        """Before the first record of a transaction. Asks nothing of the broker. Raises PublishFailed, Fenced."""
        try:
            self._client.begin_transaction()
            for tp in self._touched:  # all in one question, while it is open, not one more before the commit
                self._client._transaction_manager.maybe_add_partition_to_transaction(tp)
        except kafka.errors.KafkaError as error:
            raise self._mapped("a transaction can't begin", error) from error
        self._open = True
        self._futures.clear()

    def send(self, message: Message) -> Any:
        """The future of one record. Raises PublishFailed, Fenced."""
        try:
            future = super().send(message)
        except PublishFailed as error:
            raise self._mapped(str(error), error) from error
        self._futures.append(future)
        return future

    def commit(self, offsets: Mapping[SourcePartition, int], membership: Callable[[], Any]) -> None:
        """Wait until every record is acknowledged, then send the offsets, then end the transaction. Blocks.

        The client itself commits without a record that timed out. `membership` is asked when all are acknowledged; it gives
        the consumer's group metadata, or raises if the partitions are not ours any more.
        Raises PublishFailed, Fenced; whether the transaction counts is then for the broker to say.
        """
        try:
            with contextlib.suppress(kafka.errors.UnknownError):  # says so of a batch that was split
                self._client.flush(self._timeout_ms / 1000)
            self._touched = {future.get(self._timeout_ms / 1000).topic_partition for future in self._futures}
            member = in_group(membership())
            self._calling_since = time.monotonic()
            self._client.send_offsets_to_transaction(
                {TopicPartition(*source): OffsetAndMetadata(offset, "", -1) for source, offset in offsets.items()},
                member,
            )
            self._client.commit_transaction()
        except (kafka.errors.KafkaError, RuntimeError, ValueError) as error:
            raise self._mapped("the transaction failed", error) from error
        finally:
            self._calling_since = None
        self._open = False

    @property
    def waited_s(self) -> float:
        """Seconds that the call which ends a transaction has gone without an answer; the client waits without a limit."""
        since = self._calling_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Close the client; what is open is aborted, so that readers do not wait for its timeout."""
        if self._open:
            aborting = threading.Thread(target=self._abort, name="headrace-abort", daemon=True)
            aborting.start()
            aborting.join(ABORT_S)
        super().close()

    def _abort(self) -> None:
        try:
            self._client.abort_transaction()
        except (kafka.errors.KafkaError, RuntimeError) as error:
            log.debug("aborting the last transaction: %s", error)

    def _mapped(self, what: str, error: Exception) -> PublishFailed | Fenced | NotAllowed:
        for told in (error, *(future.exception for future in self._futures if future.is_done)):
            if told is not None and (refusal := self.refusal(told)):
                return refusal
        if _is_fenced(error) or self._shut_out():
            return fenced(self.transactional_id)
        return PublishFailed(f"{what} ({type(error).__name__}: {error})")

    def _shut_out(self) -> bool:
        """Whether the broker has refused our epoch, whatever the client says: it gets itself a new one and goes on."""
        manager = self._client._transaction_manager
        give_up = time.monotonic() + BUMP_S
        while True:
            bumping = manager.is_bumping_epoch()
            told = [manager.last_error, *(future.exception for future in self._futures if future.is_done)]
            if any(map(_is_fenced, told)):
                return True
            # The refused record's future fails a moment after the client begins to ask for the epoch.
            if not bumping or time.monotonic() > give_up:
                return False
            time.sleep(BUMP_CHECK_S)


def _is_fenced(error: BaseException | None) -> bool:
    while error is not None:
        # The client wraps what it met before, as a cause or as an argument.
        if any(isinstance(each, _FENCED) for each in (error, *error.args)):
            return True
        error = error.__cause__
    return False


def _pause_between_tries(client: Any) -> None:
    # The sender's thread says that it backs off, and does not.
    network = client._sender._client
    reached = network.await_ready

    def await_ready(*arguments: Any, **options: Any) -> Any:
        try:
            return reached(*arguments, **options)
        except kafka.errors.KafkaConnectionError:
            time.sleep(NOT_READY_S)
            raise

    network.await_ready = await_ready


def _abandon(client: Any) -> None:
    # close() flushes first, and raises with the sender still alive when that takes too long; so the sender is told to
    # give up before. The client has no public way to do it.
    client._sender.force_close()
    try:
        client.close(timeout=CLOSE_S)
    except (kafka.errors.KafkaError, AssertionError, RuntimeError) as error:
        log.debug("closing the producer: %s", error)
