"""The loop people write: poll, cv2.imdecode, resize, a synchronous Triton call, send. One process of it.

Written with the clients' defaults, as it stands in tutorials, but correct: the same preprocessing contract as the
worker's, every frame answered. `batch` 1 calls the model for each frame; more gathers that many first.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from kafka import KafkaConsumer, KafkaProducer

from benchmarks.sides.child import JOIN_MS, specification
from benchmarks.sides.peer import PeerSpec, Task, infer

GATHER_MS = 100


def main() -> None:
    """Runs until it is killed; the harness counts its predictions."""
    spec = specification(PeerSpec)
    servers = spec.bootstrap_servers.split(",")
    task = Task(spec.model_folder)
    consumer = KafkaConsumer(
        spec.frames_topic, bootstrap_servers=servers, group_id=spec.group, auto_offset_reset="earliest"
    )
    producer = KafkaProducer(bootstrap_servers=servers, value_serializer=lambda value: json.dumps(value).encode())
    client = triton.InferenceServerClient(spec.triton_url)
    waiting: list[Any] = []
    while True:
        patience_ms = GATHER_MS if consumer.assignment() else JOIN_MS
        polled = consumer.poll(timeout_ms=patience_ms, max_records=spec.batch - len(waiting))
        waiting += [record for records in polled.values() for record in records]
        if (len(waiting) < spec.batch and polled) or not waiting:
            continue
        images = np.stack([task.prepared(record.value) for record in waiting])
        for record, logits in zip(waiting, infer(triton, client, spec.model, images), strict=True):
            prediction = task.record(record.topic, record.partition, record.offset, logits)
            producer.send(spec.predictions_topic, prediction, key=record.key)
        waiting = []


if __name__ == "__main__":
    main()
