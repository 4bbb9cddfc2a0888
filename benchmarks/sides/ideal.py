"""The ideal: encoded bytes in memory -> decode -> preprocess -> onnxruntime in the same process. No broker, no server.

What the machine's cores can do at best with this model, in the arrangement (processes, threads, threads inside an
operator, batch) that a calibration found fastest. Same decoder, same preprocessing, same graph as the worker's.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime

from benchmarks.corpus import read_frames
from benchmarks.sides.child import specification, write_result
from benchmarks.sides.preparing import Preparing
from worker.malloc import keep_big_buffers

WARM_UP_BATCHES = 2


class Arrangement(msgspec.Struct, frozen=True):
    """How the cores are used: `processes` x `threads`, each with a session of `intra_op` threads of its own."""

    processes: int
    threads: int
    intra_op: int
    batch: int

    def __str__(self) -> str:
        return (
            f"{self.processes} process(es) x {self.threads} thread(s), "
            f"{self.intra_op} thread(s) inside an operator, batch {self.batch}"
        )


class IdealSpec(msgspec.Struct, frozen=True):
    """What the side is told."""

    arrangement: Arrangement
    frames_file: str
    onnx_file: str
    model_folder: str
    frames: int
    result: str


class IdealResult(msgspec.Struct, frozen=True):
    """`completions`: seconds since the epoch, one for each frame. `top1`: frame number -> class index."""

    completions: list[float]
    top1: dict[int, int]


class _Share(msgspec.Struct, frozen=True):
    batches: list[tuple[float, int, list[int]]]  # completed at, first frame, top-1 of each frame from there


def main() -> None:
    """Run the arrangement over the frames and write when each was complete."""
    spec = specification(IdealSpec)
    context = multiprocessing.get_context("spawn")
    cursor = context.Value("q", 0)
    ready = context.Barrier(spec.arrangement.processes)
    pipes, processes = [], []
    for _ in range(spec.arrangement.processes):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_process, args=(spec, cursor, ready, there), daemon=True)
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    batches = [batch for pipe in pipes for batch in msgspec.msgpack.decode(pipe.recv_bytes(), type=_Share).batches]
    completions = [at for at, _, classes in batches for _ in classes]
    top1 = {first + row: index for _, first, classes in batches for row, index in enumerate(classes)}
    write_result(spec.result, IdealResult(completions, top1))
    for process in processes:
        process.join()


def _process(spec: IdealSpec, cursor: Any, ready: Any, pipe: Connection) -> None:
    keep_big_buffers()
    frames = read_frames(Path(spec.frames_file))
    batches: list[tuple[float, int, list[int]]] = []
    together = threading.Barrier(spec.arrangement.threads, action=ready.wait)
    # Made here one by one: msgspec 0.22 crashes where threads are the first to meet a type at the same time.
    preparing = [Preparing(spec.model_folder, spec.arrangement.batch) for _ in range(spec.arrangement.threads)]
    threads = [
        threading.Thread(target=_thread, args=(spec, own, frames, cursor, together, batches)) for own in preparing
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send_bytes(msgspec.msgpack.encode(_Share(batches)))


def _thread(
    spec: IdealSpec,
    preparing: Preparing,
    frames: tuple[bytes, ...],
    cursor: Any,
    together: threading.Barrier,
    batches: list[tuple[float, int, list[int]]],
) -> None:
    """Take the next batch off the common cursor until all frames are taken: no core waits for another's share."""
    batch = spec.arrangement.batch
    session = _session(spec)
    for _ in range(WARM_UP_BATCHES):
        session.run(["logits"], {"image": preparing.slot})
    together.wait()
    while True:
        with cursor.get_lock():
            first = cursor.value
            cursor.value = first + batch
        rows = min(batch, spec.frames - first)
        if rows <= 0:
            return
        for row in range(rows):
            preparing.prepare(frames[(first + row) % len(frames)], row)
        (logits,) = session.run(["logits"], {"image": preparing.slot[:rows]})
        batches.append((time.time(), first, np.argmax(logits, axis=1).tolist()))


def _session(spec: IdealSpec) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec.arrangement.intra_op
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(spec.onnx_file, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
