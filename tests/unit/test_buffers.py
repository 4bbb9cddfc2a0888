from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from worker.buffers import (
    REGION_NAME,
    SHARED_MEMORY_FOLDER,
    Slot,
    SlotPool,
    is_region_of_a_dead_worker,
    remove_regions_of_dead_workers,
)

U8 = np.dtype(np.uint8)


def files_of(pool: SlotPool) -> list[Path]:
    return [SHARED_MEMORY_FOLDER / slot.region.name for slot in pool.slots if slot.region is not None]


class Holds(RuleBasedStateMachine):
    """Any order of acquire, hold, let go and quarantine, against a plain count for each slot."""

    COUNT = 3

    def __init__(self) -> None:
        super().__init__()
        self.pool = SlotPool(self.COUNT, 1, (2,), U8, shared=False)
        self.holds = dict.fromkeys(range(self.COUNT), 0)
        self.late: set[int] = set()

    def held(self, pick: int) -> Slot:
        used = [i for i, n in self.holds.items() if n]
        return self.pool.slots[used[pick % len(used)]]

    @rule()
    def acquire(self) -> None:
        slot = self.pool.acquire(0)
        if all(self.holds.values()):
            assert slot is None
        else:
            assert slot is not None
            assert self.holds[slot.index] == 0
            self.holds[slot.index] = 1

    @rule(wanted=st.sets(st.integers(0, COUNT - 1)))
    def acquire_among(self, wanted: set[int]) -> None:
        slot = self.pool.acquire(0, among=[self.pool.slots[i] for i in wanted])
        if slot is None:
            assert all(self.holds[i] for i in wanted)
        else:
            assert slot.index in wanted
            assert self.holds[slot.index] == 0
            self.holds[slot.index] = 1

    @precondition(lambda self: any(self.holds.values()))
    @rule(pick=st.integers(0, 9))
    def hold(self, pick: int) -> None:
        slot = self.held(pick)
        slot.hold()
        self.holds[slot.index] += 1

    @precondition(lambda self: any(self.holds.values()))
    @rule(pick=st.integers(0, 9))
    def let_go(self, pick: int) -> None:
        slot = self.held(pick)
        slot.let_go()
        self.holds[slot.index] -= 1
        if not self.holds[slot.index]:
            self.late.discard(slot.index)

    @rule(index=st.integers(0, COUNT - 1))
    def quarantine(self, index: int) -> None:
        self.pool.slots[index].quarantine()
        if self.holds[index]:
            self.late.add(index)

    @rule(index=st.integers(0, COUNT - 1))
    def misuse_of_a_free_slot_raises(self, index: int) -> None:
        if not self.holds[index]:
            with pytest.raises(RuntimeError):
                self.pool.slots[index].hold()
            with pytest.raises(RuntimeError):
                self.pool.slots[index].let_go()

    @invariant()
    def counts_agree(self) -> None:
        assert self.pool.in_use == sum(n > 0 for n in self.holds.values())
        assert self.pool.quarantined == len(self.late)


Holds.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestHolds = Holds.TestCase


def test_a_slot_is_rows_by_shape_of_the_dtype() -> None:
    pool = SlotPool(2, 4, (8, 6, 3), np.dtype(np.float32), shared=False)
    assert [slot.array.shape for slot in pool.slots] == [(4, 8, 6, 3)] * 2
    assert pool.slots[0].array.dtype == np.float32
    assert pool.slot_bytes == 4 * 8 * 6 * 3 * 4
    assert pool.slots[0].region is None


def test_acquire_waits_for_a_slot_that_another_thread_lets_go() -> None:
    pool = SlotPool(1, 1, (1,), U8, shared=False)
    slot = pool.acquire(0)
    assert slot is not None
    threading.Timer(0.05, slot.let_go).start()
    assert pool.acquire(10) is slot


def test_close_wakes_whoever_waits_for_a_slot() -> None:
    pool = SlotPool(1, 1, (1,), U8, shared=False)
    assert pool.acquire(0) is not None
    threading.Timer(0.05, pool.close).start()
    assert pool.acquire(60) is None


def test_shared_slots_lie_in_regions_of_their_own_that_close_removes() -> None:
    pool = SlotPool(3, 2, (5, 7), U8, shared=True)
    assert pool.shared
    files = files_of(pool)
    assert len(set(files)) == 3
    for i, slot in enumerate(pool.slots):
        slot.array[:] = i + 1
    for i, path in enumerate(files):
        assert REGION_NAME.fullmatch(path.name)
        assert path.read_bytes() == bytes([i + 1]) * 70
        assert path.stat().st_mode & 0o777 == 0o600
    pool.close()
    pool.close()
    assert not any(path.exists() for path in files)
    assert pool.slots[2].array[1, 4, 6] == 3  # a late reader of ours still finds its memory


def test_shared_memory_that_cannot_be_had_gives_private_slots_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    ours = f"headrace-*-{os.getpid()}-*"
    before = set(SHARED_MEMORY_FOLDER.glob(ours))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))  # as a full /dev/shm, without filling the machine's
    try:
        pool = SlotPool(2, 1, (1 << 17,), U8, shared=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not pool.shared
    assert all(slot.region is None for slot in pool.slots)
    assert "shared memory can't be had" in caplog.text
    assert set(SHARED_MEMORY_FOLDER.glob(ours)) <= before


WORKER = """
import sys, numpy as np
from worker.buffers import SlotPool
pool = SlotPool(2, 1, (4096,), np.dtype(np.uint8), shared=True)
print(*[slot.region.name for slot in pool.slots], flush=True)
sys.stdin.read()
"""


def start_worker() -> tuple[subprocess.Popen[str], list[str]]:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert worker.stdout is not None
    return worker, worker.stdout.readline().split()


def test_regions_of_a_killed_worker_are_removed_and_those_of_a_living_one_are_not() -> None:
    dead, its_regions = start_worker()
    living, other_regions = start_worker()
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert all((SHARED_MEMORY_FOLDER / name).exists() for name in its_regions)
        removed = remove_regions_of_dead_workers()
        assert set(its_regions) <= set(removed)
        assert not set(other_regions) & set(removed)
        assert all((SHARED_MEMORY_FOLDER / name).exists() for name in other_regions)
        assert all(is_region_of_a_dead_worker(name) for name in its_regions)
        assert not any(is_region_of_a_dead_worker(name) for name in other_regions)
    finally:
        living.communicate()
    assert not any((SHARED_MEMORY_FOLDER / name).exists() for name in other_regions)  # a normal exit leaves nothing


def test_files_that_only_look_like_ours_are_left_alone() -> None:
    path = SHARED_MEMORY_FOLDER / f"headrace-000000000000-1-{'0' * 16}-0.backup"
    path.write_bytes(b"someone's")
    try:
        assert path.name not in remove_regions_of_dead_workers()
        assert path.exists()
        assert not is_region_of_a_dead_worker(f"headrace-{'0' * 12}-1-{'0' * 16}-0")  # another host's
    finally:
        path.unlink()
