"""What the broker says of the topics: existence, partitions, size limits, identity. One admin connection, closed at once."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import kafka.errors
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic

from worker import admission, security
from worker.errors import DependencyError, NotAllowed
from worker.settings import KafkaSettings

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


def describe(settings: KafkaSettings, names: Collection[str], timeout_ms: int = 10_000) -> Cluster:
    """Ask the broker. Topics that do not exist are left out.

    Raises DependencyError when nothing answers, NotAllowed when we are not let in or may not see a topic.
    """
    with closing(_admin(settings, timeout_ms)) as admin:
        try:
            cluster = admin.describe_cluster()
            answers = admin.describe_topics(sorted(names))
            found = {t["name"]: t for t in answers if not t["error_code"]}
            limits = _limits(admin, sorted(found))
        except kafka.errors.KafkaError as error:
            raise DependencyError(
                f"the broker at {settings.bootstrap_servers} does not describe its topics: {error}"
            ) from error
    hidden = [t["name"] for t in answers if t["error_code"] == kafka.errors.TopicAuthorizationFailedError.errno]
    if hidden:
        raise NotAllowed(
            f"the broker at {settings.bootstrap_servers} does not let this client see topic {', '.join(sorted(hidden))}; "
            "grant DESCRIBE on it (docs/security.md lists all rights)"
        )
    facts = {
        name: TopicFacts(
            name, str(t.get("topic_id") or ""), len(t["partitions"]), limits.get(name, DEFAULT_MAX_MESSAGE_BYTES)
        )
        for name, t in found.items()
    }
    return Cluster(str(cluster.get("cluster_id") or ""), facts)


def create(
    settings: KafkaSettings,
    partitions: dict[str, int],
    configs: dict[str, dict[str, str]] | None = None,
    timeout_ms: int = 10_000,
) -> None:
    """Create the topics that are missing, with the broker's default replication; existing ones are left as they are."""
    with closing(_admin(settings, timeout_ms)) as admin:
        for name, count in partitions.items():
            topic = NewTopic(name, num_partitions=count, replication_factor=-1, topic_configs=(configs or {}).get(name))
            try:
                admin.create_topics([topic], timeout_ms=timeout_ms)
            except kafka.errors.TopicAlreadyExistsError:
                continue
            except kafka.errors.AuthorizationError as error:
                raise NotAllowed(f"not authorised to create topic {name}: {error}; grant CREATE on it") from error
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


def _admin(settings: KafkaSettings, timeout_ms: int) -> KafkaAdminClient:
    admission.first_contact(settings)
    try:
        return KafkaAdminClient(
            **security.kafka_arguments(settings),
            client_id="headrace-admin",
            request_timeout_ms=timeout_ms,
            bootstrap_timeout_ms=timeout_ms,
        )
    except kafka.errors.KafkaError as error:
        raise admission.unreachable(settings, error) from error


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
