"""FastStream with tritonclient's asyncio client: a batch at a time, or many frames at once. One process of it.

With `batch` above 1 its batch subscriber hands over that many frames, which are prepared in threads, answered by one call
and published; with `batch` 1 its workers carry single frames side by side.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from faststream import FastStream
from faststream.kafka import KafkaBroker

from benchmarks.sides.child import specification
from benchmarks.sides.peer import PeerSpec, Task, request

GATHER_MS = 100
WORKERS = 16  # frames under way at once: as many as a batch holds
LINGER_MS = 5


def main() -> None:
    """Runs until it is killed; the harness counts its predictions."""
    spec = specification(PeerSpec)
    task = Task(spec.model_folder)
    warnings = logging.getLogger(__name__)  # by default it writes two lines for each call
    broker = KafkaBroker(
        spec.bootstrap_servers.split(","), apply_types=False, logger=warnings, linger_ms=LINGER_MS, decoder=_as_it_came
    )
    app = FastStream(broker, logger=warnings)
    clients: list[Any] = []  # made inside the event loop

    async def connect() -> None:
        clients.append(triton.InferenceServerClient(spec.triton_url))

    async def infer(images: Any) -> Any:
        answer = await clients[0].infer(spec.model, **request(triton, images))
        return answer.as_numpy("logits")

    async def publish(record: Any, logits: Any) -> None:
        value = task.encoded(record.topic, record.partition, record.offset, logits)
        await broker.publish(value, spec.predictions_topic, key=record.key, no_confirm=True)

    async def on_batch(records: tuple[Any, ...]) -> None:
        images = await asyncio.gather(*(asyncio.to_thread(task.prepared, record.value) for record in records))
        for record, logits in zip(records, await infer(np.stack(images)), strict=True):
            await publish(record, logits)

    async def on_frame(record: Any) -> None:
        image = await asyncio.to_thread(task.prepared, record.value)
        await publish(record, (await infer(image[np.newaxis]))[0])

    if spec.batch > 1:
        broker.subscriber(
            spec.frames_topic,
            group_id=spec.group,
            auto_offset_reset="earliest",
            batch=True,
            max_records=spec.batch,
            batch_timeout_ms=GATHER_MS,
        )(on_batch)
    else:
        broker.subscriber(spec.frames_topic, group_id=spec.group, auto_offset_reset="earliest", max_workers=WORKERS)(
            on_frame
        )
    app.on_startup(connect)
    asyncio.run(app.run())


async def _as_it_came(message: Any) -> Any:
    """The records themselves: a frame is no JSON, and its place is wanted too."""
    return message.raw_message


if __name__ == "__main__":
    main()
