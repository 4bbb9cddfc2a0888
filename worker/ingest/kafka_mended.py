"""What kafka-python 3.0.12 gets wrong in the middle of its consumer, mended on the one instance. `docs/delivery.md` has the list."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from kafka import KafkaConsumer, TopicPartition

# Of a poll that waits for a broker which does not answer. Heartbeats have a task of their own and need no poll.
LEAST_WAIT_S = 0.05
OVERDUE_MS = 30_000  # news of the brokers, beyond the age at which it is asked for


def mend(client: KafkaConsumer) -> Callable[[Exception], bool]:
    """Before it subscribes. Returns what tells whether an error that the last poll raised was met in a record."""
    _tell_every_loss(client)
    _wait_while_a_heartbeat_is_overdue(client)
    _fetch_although_one_has_no_position(client)
    _ask_the_bootstrap_servers(client)
    _bring_back_what_was_parked(client)
    return _errors_of_records(client)


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


def _fetch_although_one_has_no_position(client: KafkaConsumer) -> None:
    """A partition that can't begin, having no leader and no committed offset, ended every poll before anything was fetched.

    With `auto_offset_reset="none"` that is all this step does; where a partition begins is for `Consumer.begin`.
    """
    client._subscription.reset_missing_positions = lambda: None


def _ask_the_bootstrap_servers(client: KafkaConsumer) -> None:
    """A client whose brokers have all moved, or that last heard of one which is gone for good, asked only those for ever."""
    manager, cluster = client._manager, client._cluster
    known = manager.least_loaded_node
    turn = itertools.count()
    overdue_ms = cluster.config["metadata_max_age_ms"] + OVERDUE_MS

    def node() -> Any:
        found = known()
        overdue = 1000 * time.monotonic() - cluster._last_successful_refresh_ms > overdue_ms
        if found is not None and not overdue:
            return found
        servers = [
            broker.node_id for broker in cluster.bootstrap_brokers() if not manager.connection_delay(broker.node_id)
        ]
        asked = servers + [found] * (found is not None)
        return asked[next(turn) % len(asked)] if asked else None

    manager.least_loaded_node = node


def _bring_back_what_was_parked(client: KafkaConsumer) -> None:
    """Records at hand of a partition that is paused are parked, and it is not fetched while they are.

    Once it is resumed they came back only when no others were at hand, the empty rest of another partition being others
    too: the partition stood still until some other was paused at the right moment. Here those at hand are parked for
    them, and take turns.
    """
    fetcher, subscription = client._fetcher, client._subscription
    parked = fetcher._paused_partition_records
    records = fetcher.fetched_records

    def fetched(*arguments: Any, **options: Any) -> Any:
        at_hand = fetcher._next_partition_records
        if not at_hand:
            fetcher._next_partition_records = None
        elif any(not subscription.is_paused(tp) for tp in parked):
            parked[at_hand.topic_partition] = at_hand
            fetcher._next_partition_records = None
        return records(*arguments, **options)

    fetcher.fetched_records = fetched


def _errors_of_records(client: KafkaConsumer) -> Callable[[Exception], bool]:
    """A poll also joins, asks and connects: an error met there is no record's fault, whatever its kind."""
    fetcher = client._fetcher
    records = fetcher.fetched_records
    met: list[Exception] = []

    def fetched(*arguments: Any, **options: Any) -> Any:
        met.clear()
        try:
            return records(*arguments, **options)
        except Exception as error:
            met.append(error)
            raise

    fetcher.fetched_records = fetched
    return lambda error: any(error is each for each in met)


def take_held_error(client: KafkaConsumer) -> Exception | None:
    """The error met behind the records of this poll, which the client keeps for the next one.

    If the partition is paused by then it forgets the error, and once the partition is resumed its poll never returns
    (3.0.12 takes from a generator that has ended). So it is taken from the client here.
    """
    held = client._fetcher._next_in_line_exception_metadata
    if held is None:
        return None
    client._fetcher._next_in_line_exception_metadata = None
    error: Exception = held.exception
    return error


def forget_records(client: KafkaConsumer, tp: TopicPartition) -> None:
    """Before a partition begins anew, on the poll thread.

    What it left behind, parked or at hand, may be of a generator that has ended, behind which the poll never returns; a
    partition that was lost and given back would find it again.
    """
    fetcher = client._fetcher
    fetcher._paused_partition_records.pop(tp, None)
    at_hand = fetcher._next_partition_records
    if at_hand and at_hand.topic_partition == tp:
        fetcher._next_partition_records = None
