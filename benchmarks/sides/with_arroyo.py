"""Sentry's Arroyo: batches gathered, answered in threads, taken apart, produced, committed. One process of it.

The strategies are its own, chained as its documentation has them.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from arroyo import Topic
from arroyo.backends.kafka import (
    KafkaConsumer,
    KafkaPayload,
    KafkaProducer,
    build_kafka_configuration,
    build_kafka_consumer_configuration,
)
from arroyo.commit import ONCE_PER_SECOND
from arroyo.processing import StreamProcessor
from arroyo.processing.strategies import (
    BatchStep,
    CommitOffsets,
    ProcessingStrategyFactory,
    Produce,
    RunTaskInThreads,
    UnbatchStep,
)
from arroyo.types import Value

from benchmarks.sides.child import specification
from benchmarks.sides.peer import LIBRDKAFKA, PeerSpec, Task, infer

GATHER_S = 0.1
PENDING = 6  # batches under way, the worker's own number


def main() -> None:
    """Runs until it is killed; the harness counts its predictions."""
    spec = specification(PeerSpec)
    task = Task(spec.model_folder)
    servers = spec.bootstrap_servers.split(",")
    client = triton.InferenceServerClient(spec.triton_url)
    producer = KafkaProducer(build_kafka_configuration({}, bootstrap_servers=servers))

    def answer(message: Any) -> list[Any]:
        frames = message.payload
        images = np.stack([task.prepared(frame.payload.value) for frame in frames])
        return [
            Value(
                KafkaPayload(
                    frame.payload.key,
                    task.encoded(frame.partition.topic.name, frame.partition.index, frame.offset, logits),
                    [],
                ),
                frame.committable,
            )
            for frame, logits in zip(frames, infer(triton, client, spec.model, images), strict=True)
        ]

    class Steps(ProcessingStrategyFactory):  # type: ignore[misc]  # the framework has no types here
        """The chain for an assignment of partitions."""

        def create_with_partitions(self, commit: Any, partitions: Any) -> Any:  # noqa: ARG002  the framework's signature
            produce = Produce(producer, Topic(spec.predictions_topic), CommitOffsets(commit))
            threads = RunTaskInThreads(answer, len(os.sched_getaffinity(0)), PENDING, UnbatchStep(produce))
            return BatchStep(spec.batch, GATHER_S, threads)

    consumer = KafkaConsumer(
        build_kafka_consumer_configuration(
            LIBRDKAFKA, bootstrap_servers=servers, group_id=spec.group, auto_offset_reset="earliest"
        )
    )
    StreamProcessor(consumer, Topic(spec.frames_topic), Steps(), ONCE_PER_SECOND).run()


if __name__ == "__main__":
    main()
