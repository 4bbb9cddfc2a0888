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
