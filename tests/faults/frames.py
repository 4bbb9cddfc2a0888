"""Faults that come as frames: one the model can't stand, a camera that sends nothing else."""

from __future__ import annotations

import numpy as np

from tests.acceptance.corpus import Frame, small
from tests.faults.run import Run
from tests.faults.workers import BACKLOG
from tests.rig.images import encode

BATCH = 32
POISON = 60
# The faults' model refuses it; its bytes are an image like any other.
WHITE = encode(np.full((48, 64, 3), 255, np.uint8), "png")


def one_bad_frame_in_a_batch(run: Run) -> None:
    frames: list[Frame] = list(small(10 * BATCH, 31))
    at = [number * BATCH + run.rng.randrange(BATCH) for number in range(0, 10, 3)]
    for number in at:
        frames[number] = (frames[number][0], WHITE)
    sent = run.send(iter(frames))
    bad = [sent[number] for number in at]
    worker = run.worker(batching={"max_batch_size": BATCH})
    run.until_predicting(worker, len(sent) - len(bad))
    run.expect(worker.metric("batch_size_sum") / worker.metric("batch_size_count") > BATCH / 2, "batches were not full")
    run.finish(sent, dead=bad)


def a_key_of_poison(run: Run) -> None:
    """By seed: a camera whose bytes are no image, or whose pictures the model refuses, all through the run."""
    value = WHITE if run.seed % 2 else b"no image"
    sent = run.send(BACKLOG)
    with run.feed() as feed:
        worker = run.worker()
        run.until_predicting(worker)
        bad = []
        for _ in range(POISON // 10):
            bad += run.send((b"poison", value) for _ in range(10))
            run.sleep(0.0, 0.5)
        sent += feed.end()
    run.finish(sent + bad, dead=bad)
