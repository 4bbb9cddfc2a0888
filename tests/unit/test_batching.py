"""Batches leave by size or by deadline, in order, and nothing waits longer than its deadline."""

from __future__ import annotations

import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from worker.batching import BatchRule, FrameQueue, Taken
from worker.frames import Frame, SourcePartition

CAM = SourcePartition("frames", 0)
OTHER = SourcePartition("frames", 1)


def frame(offset: int, source: SourcePartition = CAM, at: float | None = None) -> Frame:
    return Frame(source, offset, b"x", received_at=time.monotonic() if at is None else at)


def test_a_full_batch_leaves_at_once() -> None:
    queue = FrameQueue(BatchRule(4, 60.0), time.monotonic)
    queue.offer([frame(i) for i in range(6)])
    taken = queue.take()
    assert taken is not None
    assert [f.offset for f in taken.frames] == [0, 1, 2, 3]
    assert len(queue) == 2


def test_a_lone_frame_leaves_at_its_deadline() -> None:
    queue = FrameQueue(BatchRule(16, 0.05), time.monotonic)
    queue.offer([frame(0)])
    began = time.monotonic()
    taken = queue.take()
    assert taken is not None
    assert len(taken.frames) == 1
    assert 0.04 <= time.monotonic() - began < 5


@given(waiting=st.integers(1, 40), arrived=st.floats(0, 100), waited=st.floats(0, 10))
def test_the_rule_never_lets_the_oldest_frame_pass_its_deadline(waiting: int, arrived: float, waited: float) -> None:
    rule = BatchRule(16, 0.02)
    wait_s = rule.wait_s(waiting, arrived, arrived + waited)
    if waiting >= 16:
        assert wait_s == 0
    else:
        assert arrived + waited + wait_s <= arrived + 0.02 + 1e-9


def test_numbers_follow_the_order_of_frames_whoever_takes_them() -> None:
    queue = FrameQueue(BatchRule(3, 0.0), time.monotonic)
    taken: list[Taken] = []
    lock = threading.Lock()

    def take() -> None:
        while (batch := queue.take()) is not None:
            with lock:
                taken.append(batch)

    takers = [threading.Thread(target=take) for _ in range(4)]
    for taker in takers:
        taker.start()
    for start in range(0, 300, 7):
        queue.offer([frame(i) for i in range(start, min(start + 7, 300))])
    while len(queue):
        time.sleep(0.001)
    queue.close()
    for taker in takers:
        taker.join()
    taken.sort(key=lambda batch: batch.number)
    assert [batch.number for batch in taken] == list(range(len(taken)))
    assert [f.offset for batch in taken for f in batch.frames] == list(range(300))


def test_flushing_lets_what_waits_leave_without_company() -> None:
    queue = FrameQueue(BatchRule(16, 3600.0), time.monotonic)
    queue.offer([frame(0)])
    queue.flush()
    taken = queue.take()
    assert taken is not None
    assert len(taken.frames) == 1


def test_frames_of_a_partition_that_goes_away_are_taken_out_in_order() -> None:
    queue = FrameQueue(BatchRule(16, 0.0), time.monotonic)
    queue.offer([frame(0), frame(5, OTHER), frame(1), frame(6, OTHER)])
    assert [f.offset for f in queue.discard({OTHER})] == [5, 6]
    taken = queue.take()
    assert taken is not None
    assert [f.offset for f in taken.frames] == [0, 1]
