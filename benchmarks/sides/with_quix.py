"""Quix Streams: a streaming dataframe that turns each frame into its prediction. One process of it.

Its dataframes work on single records, so the model is called for each. Keys and partitions are kept by the framework.
"""

from __future__ import annotations

import numpy as np
import tritonclient.grpc as triton
from quixstreams import Application, message_context

from benchmarks.sides.child import specification
from benchmarks.sides.peer import LIBRDKAFKA, PeerSpec, Task, infer


def main() -> None:
    """Runs until it is killed; the harness counts its predictions."""
    spec = specification(PeerSpec)
    task = Task(spec.model_folder)
    client = triton.InferenceServerClient(spec.triton_url)
    app = Application(
        broker_address=spec.bootstrap_servers,
        consumer_group=spec.group,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        consumer_extra_config=LIBRDKAFKA,
        loglevel="WARNING",
    )

    def answer(value: bytes) -> bytes:
        (logits,) = infer(triton, client, spec.model, task.prepared(value)[np.newaxis])
        source = message_context()
        return task.encoded(source.topic, source.partition, source.offset, logits)

    frames = app.topic(spec.frames_topic, key_deserializer="bytes", value_deserializer="bytes")
    predictions = app.topic(spec.predictions_topic, key_serializer="bytes", value_serializer="bytes")
    app.dataframe(frames).apply(answer).to_topic(predictions)
    app.run()


if __name__ == "__main__":
    main()
