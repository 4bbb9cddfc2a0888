"""The streaming worker: Kafka in, Kafka out. Builds the stages, runs them until told to stop, takes them down in order."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack

import cv2

from worker.batching import BatchRule, FrameQueue
from worker.buffers import SlotPool, remove_regions_of_dead_workers
from worker.errors import DependencyError
from worker.ingest.budget import Budget, PixelGate, Shares
from worker.ingest.kafka import Consumer
from worker.ingest.validate import ImageLimits
from worker.malloc import keep_big_buffers
from worker.observe.health import Health
from worker.observe.metrics import Metrics
from worker.pipeline.books import Books
from worker.pipeline.filling import Filler
from worker.pipeline.inferring import Inferring
from worker.pipeline.intake import Intake
from worker.pipeline.model import ServedModel, cores, open_model
from worker.pipeline.outcomes import Outcomes
from worker.pipeline.publishing import Publishing
from worker.publish.kafka import Producer
from worker.publish.messages import RECORD_OVERHEAD_BYTES, Composer, Target
from worker.settings import Settings
from worker.topics import Cluster, describe, missing_sentence

log = logging.getLogger(__name__)

# Above this the liveness probe restarts the process. The publisher may wait this long for a broker that is away.
MAX_SILENCE_S = 120.0
MAX_DECODE_THREADS = 8


class Failure:
    """The first error of any thread; the poll loop raises it."""

    def __init__(self) -> None:
        self._error: BaseException | None = None

    def report(self, error: BaseException) -> None:
        """From any thread; only the first counts."""
        if self._error is None:
            self._error = error

    def __call__(self) -> BaseException | None:
        return self._error


def run_stream(settings: Settings, metrics: Metrics, health: Health, stop: threading.Event) -> None:
    """Run until `stop` is set and what was under way is drained.

    Raises HeadraceError: configuration and model misfits at start, a dependency that is missing or out of reach.
    """
    keep_big_buffers()
    cv2.setNumThreads(1)  # the decode threads are the parallelism; OpenCV's own pool would fight them for the cores
    topics = settings.topics
    names = [topics.frames, topics.predictions, topics.dead_letters, topics.statistics]
    cluster = describe(settings.kafka.bootstrap_servers, names)
    if sentence := missing_sentence(cluster, names, settings.kafka.bootstrap_servers):
        raise DependencyError(sentence)
    removed = remove_regions_of_dead_workers()
    if removed:
        log.info("removed %d shared-memory regions of dead workers", len(removed))
    for role in ("poll", "publish"):
        health.watch(role, MAX_SILENCE_S)
    model = open_model(settings)
    with ExitStack() as stack:
        stack.callback(model.engine.close)
        _run(settings, metrics, health, stop, cluster, model, stack)


def _run(
    settings: Settings,
    metrics: Metrics,
    health: Health,
    stop: threading.Event,
    cluster: Cluster,
    model: ServedModel,
    stack: ExitStack,
) -> None:
    """Stages are made from the publisher up to the consumer, and taken down the other way round."""
    shares = Shares.of(settings.ingest.max_in_flight_bytes)
    failure = Failure()
    books = Books(Budget(shares.frame_bytes))
    queue = FrameQueue(
        BatchRule(settings.batching.max_batch_size, settings.batching.linger_ms / 1000), clock=time.monotonic
    )
    threads = settings.decode.threads or min(cores(), MAX_DECODE_THREADS)
    pool = SlotPool(
        settings.batching.max_in_flight + threads,
        settings.batching.max_batch_size,
        model.contract.tensor_shape,
        model.contract.dtype,
        shared=settings.infer.backend == "triton" and settings.infer.shared_memory != "off",
    )
    stack.callback(pool.close)
    model.engine.attach(pool)
    metrics.model(model.engine.identity)

    def compose() -> Composer:
        now = describe(settings.kafka.bootstrap_servers, cluster.topics)
        return _composer(settings, now, model)

    producer = Producer(settings.kafka, settings.publish, min(t.max_message_bytes for t in cluster.topics.values()))
    outcomes = Outcomes(compose, model.head, model.contract.digest, metrics)
    publishing = Publishing(producer, outcomes, books, metrics, health, failure.report)
    inferring = Inferring(
        model.engine, settings.infer.deadline_ms / 1000, metrics, health, publishing.answered, failure.report
    )
    filler = Filler(
        queue,
        pool,
        model.contract,
        ImageLimits(settings.ingest.max_frame_bytes, settings.ingest.max_pixels, frozenset(settings.ingest.formats)),
        PixelGate(shares.pixel_bytes),
        metrics,
        lambda prepared, slot: inferring.submit(prepared, slot) if slot else publishing.answered(prepared, None),
        failure.report,
    )
    intake = Intake(settings, queue, books, publishing, metrics, health)
    publishing.start()
    stack.callback(publishing.close)
    stack.callback(inferring.close)
    filler.start(threads)
    stack.callback(filler.close)
    stack.callback(queue.close)
    consumer = Consumer(settings.kafka, settings.topics.frames, intake, shares.fetch_bytes)
    stack.callback(consumer.close)
    log.info(
        "serving %s %s from %s (group %s) with %d decode threads, batches of %d",
        model.engine.identity.name,
        model.engine.identity.version,
        settings.topics.frames,
        settings.kafka.group_id,
        threads,
        settings.batching.max_batch_size,
    )
    intake.run(consumer, stop, failure)


def _composer(settings: Settings, cluster: Cluster, model: ServedModel) -> Composer:
    topics = settings.topics
    frames = cluster.topics[topics.frames]

    def target(name: str) -> Target:
        facts = cluster.topics[name]
        limit = min(facts.max_message_bytes, settings.publish.max_record_bytes) - RECORD_OVERHEAD_BYTES
        return Target(name, facts.partitions, limit)

    return Composer(
        target(topics.predictions),
        target(topics.dead_letters),
        target(topics.statistics),
        # A topic deleted and made again has the same offsets: its id tells them apart.
        f"kafka://{cluster.cluster_id}/{topics.frames}/{frames.topic_id}",
        model.contract.digest,
        settings.model.task,
    )
