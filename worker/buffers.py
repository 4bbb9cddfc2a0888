"""Batch slots: the memory that decode threads fill and an engine reads, and who may use it when.

A `SlotPool` makes all its slots at start: in private memory, in POSIX shared memory that a Triton on the same host
maps, or in a GPU's memory that a Triton on the same GPU maps. A decode thread acquires a slot, fills rows, and hands it
on; whoever still needs it holds it, and it is free again when the last hold is let go. Each region's file is locked as
long as its worker lives, so the next worker that starts knows the files of dead ones and removes them by exact name.

Regions are made with open and mmap on /dev/shm and not with `multiprocessing.shared_memory` (which tritonclient uses
too): before Python 3.13 that starts a resource tracker, which unlinks regions of other processes that are still in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import mmap
import os
import re
import secrets
import shutil
import sys
import threading
import time
import weakref
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worker.cuda import Cuda, DeviceArray
from worker.frames import AnyArray

log = logging.getLogger(__name__)

SHARED_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps what shm_open names
REGION_NAME = re.compile(r"headrace-(?P<host>[0-9a-f]{12})-\d+-[0-9a-f]{16}-\d+")


@dataclass(frozen=True, slots=True)
class SharedRegion:
    """A named region of system shared memory; all of it is one slot. `byte_size` in bytes, from offset 0."""

    name: str
    byte_size: int

    @property
    def key(self) -> str:
        """What shm_open takes."""
        return f"/{self.name}"


@dataclass(frozen=True, slots=True)
class CudaRegion:
    """A named region of a GPU's memory; all of it is one slot. `handle` opens it (CUDA IPC), on Triton's GPU `ordinal`."""

    name: str
    byte_size: int
    handle: bytes
    ordinal: int


class Slot:
    """Memory of one batch: `array` is (rows, *shape), row i belongs to the i-th accepted frame.
    `array` is NumPy's, or CuPy's where the memory is a GPU's; `read` and `write` are for whoever has host memory.

    Counted by holds: acquiring gives one, and each further user takes its own before the giver lets go. An engine's
    hold lasts until its request has really ended, because a request past our deadline still executes.
    """

    __slots__ = ("_holds", "_late", "_pool", "array", "index", "region")

    def __init__(
        self, pool: SlotPool, index: int, array: AnyArray | DeviceArray, region: SharedRegion | CudaRegion | None
    ) -> None:
        self.index = index
        self.array = array
        self.region = region
        self._pool = pool
        self._holds = 0
        self._late = False

    def read(self, rows: int) -> AnyArray:
        """The first `rows` rows in host memory: the slot's own, or a copy of the GPU's."""
        cuda, filled = self._pool.cuda, self.array[:rows]
        return filled if cuda is None else cuda.read(filled)

    def write(self, batch: AnyArray) -> None:
        """`batch` into the first rows; whoever maps the slot sees it when this returns."""
        cuda = self._pool.cuda
        if cuda is None:
            self.array[: len(batch)] = batch
        else:
            cuda.write(self.array, batch)

    def hold(self) -> None:
        """Take one more hold. Raises RuntimeError on a free slot: only a holder may share it."""
        self._pool._hold(self)

    def let_go(self) -> None:
        """Give one hold back; the last one frees the slot. Raises RuntimeError if there is none."""
        self._pool._let_go(self)

    def quarantine(self) -> None:
        """Count the slot as quarantined until it is free: a request past its deadline may still read it."""
        self._pool._quarantine(self)


class SlotPool:
    """`count` slots of (rows, *shape) `dtype`, all made and touched at once, so that nothing is paged in later.

    With `shared` each slot is a region of system shared memory; where the machine has none, or not enough of it, the
    slots are private, `shared` is False, and a warning says so. With `cuda` each is memory of that GPU, an allocation of
    its own; a region of one byte beside it has its name and says that the worker lives. Thread-safe. `close()` removes
    the regions' names; the memory itself goes with the last array that uses it.
    """

    def __init__(
        self,
        count: int,
        rows: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        shared: bool,
        cuda: Cuda | None = None,
    ) -> None:
        self.cuda = cuda
        self.rows = rows
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.slot_bytes = rows * int(np.prod(shape)) * self.dtype.itemsize
        self._changed = threading.Condition()
        self._closed = False
        files = _make_regions(count, self.slot_bytes if cuda is None else 1) if shared else None
        self.shared = files is not None
        self._remove = weakref.finalize(self, _remove_own, os.getpid(), files or [])  # also at a normal exit
        self.slots = tuple(self._slot(i, files[i] if files else None) for i in range(count))
        self._free = list(self.slots)

    def acquire(self, timeout_s: float, among: Collection[Slot] | None = None) -> Slot | None:
        """A free slot with one hold on it, of those in `among` if given; None after `timeout_s`, or once closed."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self._closed:
                # The one freed last, which the caches may still know.
                for i in range(len(self._free) - 1, -1, -1):
                    if among is None or self._free[i] in among:
                        slot = self._free.pop(i)
                        slot._holds = 1
                        return slot
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self._changed.wait(remaining):
                    return None
        return None

    @property
    def in_use(self) -> int:
        """Slots with at least one hold."""
        return len(self.slots) - len(self._free)

    @property
    def quarantined(self) -> int:
        """Slots in use that a request past its deadline may still read."""
        return sum(slot._late for slot in self.slots)

    def close(self) -> None:
        """Remove the regions' names and wake whoever waits for a slot. May be called again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._remove()

    def _slot(self, index: int, file: _RegionFile | None) -> Slot:
        shape, cuda = (self.rows, *self.shape), self.cuda
        if cuda is not None:
            memory = cuda.memory(shape, self.dtype)
            if file is None:
                return Slot(self, index, memory, None)
            region = CudaRegion(file.region.name, memory.nbytes, cuda.handle(memory), cuda.triton_ordinal)
            return Slot(self, index, memory, region)
        array: AnyArray = np.frombuffer(file.memory, self.dtype).reshape(shape) if file else np.empty(shape, self.dtype)
        array.fill(0)
        return Slot(self, index, array, file.region if file else None)

    def _hold(self, slot: Slot) -> None:
        with self._changed:
            if slot._holds == 0:
                raise RuntimeError(f"slot {slot.index} is free: acquire it before holding it")
            slot._holds += 1

    def _let_go(self, slot: Slot) -> None:
        with self._changed:
            if slot._holds == 0:
                raise RuntimeError(f"slot {slot.index} was let go more often than held")
            slot._holds -= 1
            if slot._holds == 0:
                slot._late = False
                self._free.append(slot)
                self._changed.notify_all()  # not one: the woken may wait for another slot

    def _quarantine(self, slot: Slot) -> None:
        with self._changed:
            if slot._holds:
                slot._late = True


@dataclass(frozen=True, slots=True)
class _RegionFile:
    region: SharedRegion
    memory: mmap.mmap
    lock: int  # open file descriptor that carries the lock


def _make_regions(count: int, byte_size: int) -> list[_RegionFile] | None:
    """All regions, or None and a warning where they can't be had."""
    if sys.platform != "linux" or not SHARED_MEMORY_FOLDER.is_dir():
        log.warning("There is no %s here: batches go to the model server as tensors.", SHARED_MEMORY_FOLDER)
        return None
    files: list[_RegionFile] = []
    try:
        start = f"headrace-{_host()}-{os.getpid()}-{secrets.token_hex(8)}"
        for i in range(count):
            files.append(_make_region(f"{start}-{i}", byte_size))  # noqa: PERF401 - those before a failure are removed
    except OSError as error:
        _remove_own(os.getpid(), files)
        log.warning(
            "%d x %d bytes of shared memory can't be had (%s; %d bytes are free in %s): batches go to the model server "
            "as tensors, which costs more CPU. In a container raise --shm-size, or mount a larger memory volume there.",
            *(count, byte_size, error, shutil.disk_usage(SHARED_MEMORY_FOLDER).free, SHARED_MEMORY_FOLDER),
        )
        return None
    return files


def _make_region(name: str, byte_size: int) -> _RegionFile:
    """A region that gets its name only once it is locked: no other worker's start can take it for a dead one's."""
    descriptor = os.open(SHARED_MEMORY_FOLDER, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)  # frames may show people
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Reserves the pages: writing to a file with holes on a full /dev/shm is SIGBUS, this is ENOSPC.
        os.posix_fallocate(descriptor, 0, byte_size)
        memory = mmap.mmap(descriptor, byte_size)
        # Python follows the link to the open file only if it is given a folder, even one that is not used.
        path = SHARED_MEMORY_FOLDER / name
        os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
    except BaseException:
        os.close(descriptor)
        raise
    return _RegionFile(SharedRegion(name, byte_size), memory, descriptor)


def _remove_own(owner: int, files: list[_RegionFile]) -> None:
    if os.getpid() != owner:  # a forked child ends: the regions are still its parent's
        return
    for file in files:
        (SHARED_MEMORY_FOLDER / file.region.name).unlink(missing_ok=True)
        os.close(file.lock)
    files.clear()


def remove_regions_of_dead_workers() -> list[str]:
    """Remove the region files whose worker is gone, and return their names.

    Dead is whose lock can be taken: that holds across pid namespaces and for reused pids, where a look at the pid in
    the name would not. Files of other users, which can't be opened, are left.
    """
    removed: list[str] = []
    if not SHARED_MEMORY_FOLDER.is_dir():
        return removed
    for path in sorted(SHARED_MEMORY_FOLDER.iterdir()):
        if not REGION_NAME.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it lives
                path.unlink()
                removed.append(path.name)
            finally:
                os.close(descriptor)
    return removed


def is_region_of_a_dead_worker(name: str) -> bool:
    """True of a name that a worker with this very /dev/shm once gave, and whose file is gone.

    A server that still has it registered keeps its memory for nobody.
    """
    match = REGION_NAME.fullmatch(name)
    return match is not None and match["host"] == _host() and not (SHARED_MEMORY_FOLDER / name).exists()


def _host() -> str:
    """Twelve hex digits that two processes share exactly if they see the same /dev/shm of the same boot."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    return hashlib.sha256(f"{boot}{SHARED_MEMORY_FOLDER.stat().st_dev}".encode()).hexdigest()[:12]
