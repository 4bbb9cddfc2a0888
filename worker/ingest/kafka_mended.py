"""What kafka-python 3.0.12 gets wrong in the middle of its consumer, mended on the one instance. `docs/delivery.md` has the list."""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer

# Of a poll that waits for a broker which does not answer. Heartbeats have a task of their own and need no poll.
LEAST_WAIT_S = 0.05


def mend(client: KafkaConsumer) -> None:
    """Before it subscribes."""
    _tell_every_loss(client)
    _wait_while_a_heartbeat_is_overdue(client)
    _bring_back_what_was_parked(client)


def _tell_every_loss(client: KafkaConsumer) -> None:
    """Have `on_partitions_lost` called also where a member finds in the middle of a join that the group has thrown it out.

    The client prepares a join once, and its retry under a new member id keeps the partitions without a word: the member
    would go on where it stood, although another has had them.
    """
    coordinator = client._coordinator
    reset = coordinator.reset_generation

    def fell_out(*arguments: Any, **options: Any) -> None:
        reset(*arguments, **options)
        coordinator.rejoining = False  # the join is prepared again, and its preparation tells of the loss

    coordinator.reset_generation = fell_out


def _wait_while_a_heartbeat_is_overdue(client: KafkaConsumer) -> None:
    """A heartbeat that a hung broker does not answer is due at every moment, and a poll waits until the next is due.

    So it does not wait at all: a core was busy for the time of the outage, and 7 MiB of callbacks a second came together at
    the fetch under way.
    """
    coordinator = client._coordinator
    due_s = coordinator.time_to_next_poll
    coordinator.time_to_next_poll = lambda: max(due_s(), LEAST_WAIT_S)


def _bring_back_what_was_parked(client: KafkaConsumer) -> None:
    """Records at hand of a partition that is paused are parked, and it is not fetched while they are.

    Once it is resumed they come back only when nothing is at hand, and for the client the empty rest of another partition
    is something: the partition stood still until some other was paused at the right moment.
    """
    fetcher = client._fetcher
    records = fetcher.fetched_records

    def fetched(*arguments: Any, **options: Any) -> Any:
        if not fetcher._next_partition_records:
            fetcher._next_partition_records = None
        return records(*arguments, **options)

    fetcher.fetched_records = fetched
