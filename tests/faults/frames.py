"""Faults that come as frames: one the model can't stand, a camera that sends nothing else, bytes made to do harm."""

from __future__ import annotations

import functools

import numpy as np

from tests.acceptance.corpus import Frame, small
from tests.faults.run import Run
from tests.faults.workers import BACKLOG
from tests.rig.audit import TopicReader, header
from tests.rig.hostile import PREDICTED, Hostile, hostile_values
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


@functools.cache
def _hostile() -> tuple[Hostile, ...]:
    return tuple(hostile_values())


def hostile_bytes(run: Run) -> None:
    """The whole list in an order of the seed's choice, each value from a sender of its own, among good frames."""
    values = run.rng.sample(_hostile(), len(_hostile()))
    with run.feed(per_s=20) as feed:
        worker = run.worker()
        run.until_predicting(worker)
        sent = run.send((f"sender-{number}".encode(), hostile.value) for number, hostile in enumerate(values))
        good = feed.end()
    verdicts = dict(zip(sent, values, strict=True))
    dead = [frame for frame, hostile in verdicts.items() if hostile.expected not in (None, PREDICTED)]
    either = [frame for frame, hostile in verdicts.items() if hostile.expected is None]
    run.finish([*good, *sent], dead=dead, either=either)
    told = _reasons(run)
    for frame in dead:
        reason = told.get(f"{run.topics.frames}/{frame.partition}/{frame.offset}")
        wanted = verdicts[frame].expected
        run.expect(reason == wanted, f"{verdicts[frame].name} is told as {reason}, not as {wanted}")


def _reasons(run: Run) -> dict[str, str]:
    """Id of each dead frame -> why."""
    with TopicReader(run.topics.bootstrap_servers, [run.topics.dlq]) as reader:
        return {header(m, "dlq-source").decode(): header(m, "dlq-reason").decode() for m in reader.read_on()}
