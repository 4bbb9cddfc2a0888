"""One way of bringing frames to Triton: bytes in memory -> whatever travels -> logits. Threads, each with a call at a time.

`encoded` sends the JPEGs as they are to an ensemble that decodes and resizes on the server; the other ways prepare frames
here and send tensors, through gRPC or through a shared memory region of the thread's own.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import shared_memory

from benchmarks.corpus import read_frames
from benchmarks.sides.child import specification, write_result
from benchmarks.sides.preparing import Preparing
from worker.frames import AnyArray
from worker.malloc import keep_big_buffers

WIRES = {"uint8": "UINT8", "float32": "FP32"}

Fill = Callable[[list[bytes]], Any]


class TransportingSpec(msgspec.Struct, frozen=True):
    """What the side is told; `how` is `tensor`, `shared_memory` or `encoded`."""

    how: str
    model: str
    model_folder: str
    triton_url: str
    frames_file: str
    batch: int
    batches: int
    threads: int
    result: str


class TransportingResult(msgspec.Struct, frozen=True):
    """`completions`: seconds since the epoch, one for each frame."""

    completions: list[float]


def main() -> None:
    """Carry all batches and write when each was answered."""
    spec = specification(TransportingSpec)
    keep_big_buffers()
    frames = itertools.cycle(read_frames(Path(spec.frames_file)))
    batches = iter([[next(frames) for _ in range(spec.batch)] for _ in range(spec.batches)])
    completions: list[float] = []
    lock = threading.Lock()
    # Made here one by one: msgspec 0.22 crashes where threads are the first to meet a type at the same time.
    preparing = [Preparing(spec.model_folder, spec.batch) for _ in range(spec.threads)]
    threads = [threading.Thread(target=_carry, args=(spec, own, batches, lock, completions)) for own in preparing]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    write_result(spec.result, TransportingResult(completions))


def _carry(
    spec: TransportingSpec,
    preparing: Preparing,
    batches: Iterator[list[bytes]],
    lock: threading.Lock,
    completions: list[float],
) -> None:
    client = triton.InferenceServerClient(spec.triton_url)
    outputs = [triton.InferRequestedOutput("logits")]
    with _filling(spec, preparing, client) as fill:
        while True:
            with lock:
                batch = next(batches, None)
            if batch is None:
                return
            answer = client.infer(spec.model, [fill(batch)], outputs=outputs)
            if len(answer.as_numpy("logits")) != len(batch):
                raise RuntimeError("the answer has another number of frames than the request")
            completions += [time.time()] * len(batch)


@contextmanager
def _filling(spec: TransportingSpec, preparing: Preparing, client: Any) -> Iterator[Fill]:
    """Yields what turns a batch of frames into the call's input."""
    if spec.how == "encoded":
        yield _encoded
        return
    slot: AnyArray = preparing.slot
    tensor = triton.InferInput("image", list(slot.shape), WIRES[slot.dtype.name])
    if spec.how == "tensor":

        def by_value(batch: list[bytes]) -> Any:
            _prepare(preparing, batch)
            tensor.set_data_from_numpy(slot)
            return tensor

        yield by_value
        return
    name = f"headrace-benchmark-{os.getpid()}-{threading.get_ident()}"
    region = shared_memory.create_shared_memory_region(name, f"/{name}", slot.nbytes)
    try:
        client.register_system_shared_memory(name, f"/{name}", slot.nbytes)
        preparing.slot = shared_memory.get_contents_as_numpy(region, slot.dtype, list(slot.shape))
        tensor.set_shared_memory(name, slot.nbytes)

        def by_reference(batch: list[bytes]) -> Any:
            _prepare(preparing, batch)
            return tensor

        yield by_reference
        client.unregister_system_shared_memory(name)
    finally:
        shared_memory.destroy_shared_memory_region(region)


def _prepare(preparing: Preparing, batch: list[bytes]) -> None:
    for row, frame in enumerate(batch):
        preparing.prepare(frame, row)


def _encoded(batch: list[bytes]) -> Any:
    tensor = triton.InferInput("jpeg", [len(batch), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(batch, np.object_).reshape(-1, 1))
    return tensor


if __name__ == "__main__":
    main()
