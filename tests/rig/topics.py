"""Fresh sets of the worker's topics for tests and benchmarks, made and deleted from outside the worker."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kafka import KafkaAdminClient

from tests.rig.kafka_server import FRAMES_MAX_BYTES


@dataclass(frozen=True, slots=True)
class Topics:
    """One worker's topics, fresh and empty, and a consumer group name nobody has used."""

    bootstrap_servers: str
    frames: str
    predictions: str
    dlq: str
    stats: str
    group: str
    partitions: int

    @property
    def settings(self) -> dict[str, dict[str, str]]:
        """The part of a worker's settings that names the broker, the group and these topics."""
        return {
            "kafka": {"bootstrap_servers": self.bootstrap_servers, "group_id": self.group},
            "topics": {
                "frames": self.frames,
                "predictions": self.predictions,
                "dead_letters": self.dlq,
                "statistics": self.stats,
            },
        }


def create_topics(
    bootstrap_servers: str,
    partitions: int,
    configs: Mapping[str, str] | None = None,
    output_partitions: int | None = None,
) -> Topics:
    """Create a uniquely named set of topics; returns when every partition has a leader."""
    tag = uuid.uuid4().hex[:10]
    frames = f"frames-{tag}"
    made = Topics(
        bootstrap_servers=bootstrap_servers,
        frames=frames,
        predictions=f"predictions-{tag}",
        dlq=f"{frames}.dlq",
        stats=f"{frames}.stats",
        group=f"headrace-{tag}",
        partitions=partitions,
    )
    outputs = {"num_partitions": partitions if output_partitions is None else output_partitions}
    frames_configs = {"max.message.bytes": str(FRAMES_MAX_BYTES), **(configs or {})}
    wanted = {
        made.frames: {"num_partitions": partitions, "configs": frames_configs},
        **dict.fromkeys((made.predictions, made.dlq, made.stats), outputs),
    }
    _with_admin(bootstrap_servers, lambda admin: admin.create_topics(wanted, wait_for_metadata=True))
    return made


def add_partitions(made: Topics, partitions: int) -> None:
    """So many in all, of each topic."""
    wanted = dict.fromkeys((made.frames, made.predictions, made.dlq, made.stats), partitions)
    _with_admin(made.bootstrap_servers, lambda admin: admin.create_partitions(wanted))


def delete_topics(made: Topics) -> None:
    names = [made.frames, made.predictions, made.dlq, made.stats]
    _with_admin(made.bootstrap_servers, lambda admin: admin.delete_topics(names, raise_errors=False))


def _with_admin(bootstrap_servers: str, act: Callable[[KafkaAdminClient], object]) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers.split(","))
    try:
        act(admin)
    finally:
        admin.close()
