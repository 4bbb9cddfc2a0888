"""The bare sum's other half: decode and preprocess in one thread, and beside it what the statistics of a frame cost.

CPU time of this process, taken around blocks of frames that lie decoded and encoded in memory.
"""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import msgspec
import numpy as np

from benchmarks.corpus import read_frames
from benchmarks.sides.child import specification, write_result
from benchmarks.sides.preparing import Preparing
from worker.malloc import keep_big_buffers
from worker.statistics.features import FEATURES, features

BLOCK = 16  # rows of a slot, as the worker fills it
WARM_UP_BLOCKS = 4


class BareSpec(msgspec.Struct, frozen=True):
    """What the side is told."""

    frames_file: str
    model_folder: str
    frames: int
    result: str


class BareResult(msgspec.Struct, frozen=True):
    """CPU seconds for `frames` frames."""

    frames: int
    prepare_cpu_s: float
    features_cpu_s: float


def main() -> None:
    """Prepare blocks of frames into the slot, then take the statistics of the block."""
    spec = specification(BareSpec)
    keep_big_buffers()
    frames = read_frames(Path(spec.frames_file))
    preparing = Preparing(spec.model_folder, BLOCK)
    out = np.empty((BLOCK, len(FEATURES)), np.float32)
    cv2.setNumThreads(1)
    prepare_s = features_s = 0.0
    done = 0
    for block in range(-WARM_UP_BLOCKS, -(-spec.frames // BLOCK)):
        start = time.process_time()
        for row in range(BLOCK):
            preparing.prepare(frames[(block * BLOCK + row) % len(frames)], row)
        prepared = time.process_time()
        for row in range(BLOCK):
            features(preparing.slot[row], out[row])
        ended = time.process_time()
        if block >= 0:
            prepare_s += prepared - start
            features_s += ended - prepared
            done += BLOCK
    write_result(spec.result, BareResult(done, prepare_s, features_s))


if __name__ == "__main__":
    main()
