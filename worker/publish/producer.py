"""The producers as the pipeline sees them; `worker.publish.kafka` and `worker.publish.confluent` are the two pairs there are."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sized
from typing import Any, Protocol

from worker.errors import DependencyError, Fenced, NotAllowed, PublishFailed
from worker.frames import SourcePartition
from worker.publish.messages import Message
from worker.settings import KafkaSettings


class Delivery(Protocol):
    """What became of one record that was sent."""

    @property
    def is_done(self) -> bool:
        """It is known."""

    @property
    def exception(self) -> BaseException | None:
        """Why the broker has not acknowledged it; None also while that is not known."""


class Producer(Protocol):
    """Sends records and hands out their deliveries."""

    def send(self, message: Message) -> Delivery:
        """The delivery of one record. Raises PublishFailed when the client refuses it at once."""

    def partitions(self, topic: str) -> int:
        """How many the client knows, which sends to no other. Raises DependencyError."""

    def refusal(self, error: BaseException) -> NotAllowed | None:
        """Whether a record failed, as its delivery tells or `send` raised, because we may not write it: no retry mends that."""

    def renew(self) -> None:
        """Drop the client with all it has not delivered, and start a new one. Raises DependencyError, then call again."""

    def close(self) -> None:
        """Close the client; whatever matters has been awaited before."""


class TransactionalProducer(Producer, Protocol):
    """What is sent between `begin` and `commit` counts all at once, with the offsets, or never."""

    def begin(self) -> None:
        """Before the first record of a transaction. Raises PublishFailed, Fenced."""

    def commit(self, offsets: Mapping[SourcePartition, int], membership: Callable[[], Any]) -> None:
        """Wait until every record is acknowledged, then send the offsets, then end the transaction. Blocks.

        `membership` is asked when all are acknowledged; it gives the consumer's group metadata, or raises if the partitions
        are not ours any more. Raises PublishFailed, Fenced; whether the transaction counts is then for the broker to say.
        """

    @property
    def waited_s(self) -> float:
        """Seconds that a call without a limit of its own has gone without an answer."""


def known_partitions(topic: str, known: Sized | None) -> int:
    """How many there are. Raises DependencyError while the client has not heard of any."""
    if not known:
        raise DependencyError(f"the producer has not heard of {topic} yet: is it being made?")
    return len(known)


def default_transactional_id(settings: KafkaSettings) -> str:
    """The same after a restart on the same host, pod or static member."""
    return f"{settings.group_id}.{settings.group_instance_id or socket.gethostname()}"


def in_group(member: Any) -> Any:
    """The group metadata, if there is a group. Raises PublishFailed."""
    if member.generation_id < 0 or not member.member_id:
        raise PublishFailed("this worker is in no group now; the broker would take its offsets all the same")
    return member


def fenced(transactional_id: str) -> Fenced:
    """The sentence for a transactional id that another has."""
    return Fenced(
        f"another producer uses the transactional id {transactional_id}, and the broker has shut this one out; "
        f"give each replica its own delivery.transactional_id"
    )
