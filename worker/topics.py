"""What the broker says of the topics: existence, partitions, size limits, identity. One admin connection, closed at once."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import kafka.errors
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic

from worker.errors import DependencyError

# Kafka's own default, for brokers that do not tell.
DEFAULT_MAX_MESSAGE_BYTES = 1_048_588


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """`max_message_bytes` bounds a record batch as the broker stores it; `topic_id` changes when a topic is made anew."""

    name: str
    topic_id: str
    partitions: int
    max_message_bytes: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """A broker's cluster and the topics of it that were asked for and exist."""

    cluster_id: str
    topics: dict[str, TopicFacts]


def describe(bootstrap_servers: str, names: Collection[str], timeout_ms: int = 10_000) -> Cluster:
    """Ask the broker. Topics that do not exist are left out. Raises DependencyError when nothing answers."""
    with closing(_admin(bootstrap_servers, timeout_ms)) as admin:
        try:
            cluster = admin.describe_cluster()
            found = {t["name"]: t for t in admin.describe_topics(sorted(names)) if not t["error_code"]}
            limits = _limits(admin, sorted(found))
        except kafka.errors.KafkaError as error:
            raise DependencyError(f"the broker at {bootstrap_servers} does not describe its topics: {error}") from error
    facts = {
        name: TopicFacts(
            name, str(t.get("topic_id") or ""), len(t["partitions"]), limits.get(name, DEFAULT_MAX_MESSAGE_BYTES)
        )
        for name, t in found.items()
    }
    return Cluster(str(cluster.get("cluster_id") or ""), facts)


def create(
    bootstrap_servers: str,
    partitions: dict[str, int],
    configs: dict[str, dict[str, str]] | None = None,
    timeout_ms: int = 10_000,
) -> None:
    """Create the topics that are missing, with the broker's default replication; existing ones are left as they are."""
    with closing(_admin(bootstrap_servers, timeout_ms)) as admin:
        for name, count in partitions.items():
            topic = NewTopic(name, num_partitions=count, replication_factor=-1, topic_configs=(configs or {}).get(name))
            try:
                admin.create_topics([topic], timeout_ms=timeout_ms)
            except kafka.errors.TopicAlreadyExistsError:
                continue
            except kafka.errors.KafkaError as error:
                raise DependencyError(f"topic {name} can't be created: {error}") from error
        admin.wait_for_topics(list(partitions), timeout_ms=timeout_ms)


def missing_sentence(cluster: Cluster, names: Collection[str], bootstrap_servers: str) -> str | None:
    """What `run` says when topics are missing; None when all are there."""
    missing = [name for name in names if name not in cluster.topics]
    if not missing:
        return None
    plural = "s" if len(missing) > 1 else ""
    return (
        f"topic{plural} {', '.join(missing)} missing on {bootstrap_servers}; no topic is created by accident: "
        f"create {'them' if plural else 'it'} (`headrace produce --create` makes all four) or correct the names under [topics]"
    )


def _admin(bootstrap_servers: str, timeout_ms: int) -> KafkaAdminClient:
    try:
        return KafkaAdminClient(
            bootstrap_servers=bootstrap_servers.split(","),
            client_id="headrace-admin",
            request_timeout_ms=timeout_ms,
            bootstrap_timeout_ms=timeout_ms,
        )
    except kafka.errors.KafkaError as error:
        raise DependencyError(
            f"no Kafka broker answers at {bootstrap_servers} ({type(error).__name__}); start it or set kafka.bootstrap_servers"
        ) from error


def _limits(admin: Any, names: list[str]) -> dict[str, int]:
    """max.message.bytes of each topic; empty where the broker does not tell (no DescribeConfigs, or no right to it)."""
    if not names:
        return {}
    try:
        described = admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name) for name in names], config_filter="all"
        )
    except (kafka.errors.KafkaError, KeyError, AttributeError):
        return {}
    return {
        name: int(config["max.message.bytes"]["value"])
        for name, config in described.get("topic", {}).items()
        if "max.message.bytes" in config
    }
