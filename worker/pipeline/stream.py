"""The streaming worker: Kafka in, Kafka out. Builds the stages, runs them until told to stop, takes them down in order."""

from __future__ import annotations

import gc
import logging
import threading
from contextlib import ExitStack

from worker import librdkafka
from worker.buffers import remove_regions_of_dead_workers
from worker.errors import DependencyError
from worker.ingest.budget import Budget, Shares
from worker.observe.health import Health
from worker.observe.metrics import Metrics
from worker.pipeline import clients
from worker.pipeline.books import Books
from worker.pipeline.core import Core, Failure
from worker.pipeline.handover import Grace, HandOver
from worker.pipeline.intake import Intake
from worker.pipeline.limits import InferenceLimits
from worker.pipeline.model import ServedModels, open_models
from worker.pipeline.outcomes import Outcomes
from worker.pipeline.publishing import Publishing
from worker.pipeline.transacting import Transacting
from worker.publish.messages import RECORD_OVERHEAD_BYTES, Composer, Target
from worker.publish.producer import Producer
from worker.settings import Settings
from worker.topics import Cluster, describe, missing_sentence

log = logging.getLogger(__name__)

# Above this the liveness probe restarts the process. The publisher may wait this long for a broker that is away.
MAX_SILENCE_S = 120.0


def run_stream(settings: Settings, metrics: Metrics, health: Health, stop: threading.Event) -> None:
    """Run until `stop` is set and what was under way is drained.

    Raises HeadraceError: configuration and model misfits at start, a dependency that is missing or out of reach.
    """
    librdkafka.require(settings.kafka)
    topics = settings.topics
    names = [topics.frames, topics.predictions, topics.dead_letters, topics.statistics]
    cluster = describe(settings.kafka, names)
    if sentence := missing_sentence(cluster, names, settings.kafka.bootstrap_servers):
        raise DependencyError(sentence)
    removed = remove_regions_of_dead_workers()
    if removed:
        log.info("removed %d shared-memory regions of dead workers", len(removed))
    models = open_models(settings, metrics, health)
    for role in ("poll", "publish"):
        health.watch(role, MAX_SILENCE_S)
    with ExitStack() as stack:
        stack.callback(models.close)
        _run(settings, metrics, health, stop, cluster, models, stack)


def _run(
    settings: Settings,
    metrics: Metrics,
    health: Health,
    stop: threading.Event,
    cluster: Cluster,
    models: ServedModels,
    stack: ExitStack,
) -> None:
    """Stages are made from the publisher up to the consumer, and taken down the other way round."""
    shares = Shares.of(settings.ingest.max_in_flight_bytes)
    failure = Failure()
    books = Books(Budget(shares.frame_bytes))

    batch_bytes = min(t.max_message_bytes for t in cluster.topics.values())
    transactional = (
        clients.transactional_producer(settings, batch_bytes, shares, list(cluster.topics))
        if settings.delivery.mode == "exactly_once"
        else None
    )
    producer: Producer = transactional or clients.producer(settings, batch_bytes, shares)

    def compose() -> Composer:
        names = list(cluster.topics)
        now = describe(settings.kafka, names)
        if sentence := missing_sentence(now, names, settings.kafka.bootstrap_servers):
            raise DependencyError(sentence)
        return _composer(settings, now, producer)

    common = (
        Outcomes(compose, models, InferenceLimits(settings.limits), metrics),
        books,
        metrics,
        health,
        failure.report,
    )
    publishing = (
        Transacting(transactional, settings.delivery, *common) if transactional else Publishing(producer, *common)
    )
    stack.callback(publishing.close)
    core = Core(settings, models, metrics, health, failure, publishing.answered, journal_of=settings.kafka.group_id)
    publishing.start()
    core.start()
    stack.callback(core.close)
    grace = Grace(stop, failure, settings.delivery.drain_grace_ms)
    handover = HandOver(core.queue, books, publishing, metrics, grace)
    intake = Intake(settings, core, books, handover, publishing, metrics, health, grace)
    consumer = clients.consumer(settings, handover, shares)
    stack.callback(consumer.close)
    books.membership = consumer.membership
    gc.collect()
    gc.freeze()  # what is there now stays: looking through it took 16 ms, with all threads waiting
    log.info(
        "serving %s %s from %s (group %s) with %d decode threads, batches of %d",
        models.primary.engine.identity.name,
        models.primary.engine.identity.version,
        settings.topics.frames,
        settings.kafka.group_id,
        core.threads,
        settings.batching.max_batch_size,
    )
    intake.run(consumer, stop, failure)


def _composer(settings: Settings, cluster: Cluster, producer: Producer) -> Composer:
    topics = settings.topics
    frames = cluster.topics[topics.frames]

    def target(name: str) -> Target:
        facts = cluster.topics[name]
        limit = min(facts.max_message_bytes, settings.publish.max_record_bytes) - RECORD_OVERHEAD_BYTES
        # One that was added since is not for this producer yet: it would refuse the record.
        return Target(name, min(facts.partitions, producer.partitions(name)), limit)

    return Composer(
        target(topics.predictions),
        target(topics.dead_letters),
        target(topics.statistics),
        # A topic deleted and made again has the same offsets: its id tells them apart.
        f"kafka://{cluster.cluster_id}/{topics.frames}/{frames.topic_id}",
        settings.model.task,
    )
