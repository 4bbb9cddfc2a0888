"""Decode threads: each takes a whole batch of frames, with a slot already in hand, and writes every frame's pixels once.

encoded bytes -> header facts -> decoded pixels -> model input, straight in the frame's row of the slot. A frame that
can't go on leaves a rejection and no row. `Filler` owns the threads; `Filling` is what they do on the CPU, and
`worker.pipeline.filling_gpu` what they do with a GPU.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from worker.batching import FrameQueue, Taken
from worker.buffers import Slot, SlotPool
from worker.decode import decode, decode_bytes
from worker.frames import (
    AnyArray,
    Float32Array,
    Frame,
    ImageFacts,
    Prepared,
    Reason,
    Rejected,
    Rejection,
    Row,
    Stage,
    UInt8Array,
)
from worker.ingest.budget import PixelGate
from worker.ingest.validate import ImageLimits, inspect
from worker.malloc import give_back_holes
from worker.observe.metrics import Metrics
from worker.pipeline.journal import CRASHES, CrashJournal
from worker.preprocess.contract import Contract
from worker.preprocess.cpu import CpuTransform
from worker.statistics.features import FEATURES, features

log = logging.getLogger(__name__)

Used = TypeVar("Used")

# How long a thread waits for a slot before it looks whether it should end.
SLOT_WAIT_S = 0.2
CRASHED = Rejection(
    Reason.CRASHED_WORKER,
    f"decoding this value took {CRASHES} workers down; it is kept apart. Please report it with the worker's version",
    Stage.DECODE,
    CRASHES,
)


def decoded(
    frame: Frame,
    facts: ImageFacts,
    target: tuple[int, int] | None,
    gate: PixelGate,
    use: Callable[[UInt8Array], Used],
) -> tuple[Used, str, float]:
    """What `use` makes of the frame's pixels, their decoder, and when they were decoded. Raises Rejected.

    What the decoder holds meanwhile passes the gate; `target` is as in `decode`. A function of its own, so that the
    picture's megabytes are free again when the gate believes so.
    """
    size = decode_bytes(facts)
    gate.enter(size)
    try:
        if gate.exceeded_by(size):
            give_back_holes(size // 8)  # what goes over the budget must not come on top of what is kept for speed
        image = decode(frame.value or b"", facts, target)
        gate.decoded()
        at = time.perf_counter()
        return use(image.pixels), image.decoder, at
    finally:
        gate.leave(size)


class Placing:
    """Frames to one model's input, by its contract. For any thread."""

    def __init__(self, contract: Contract, gate: PixelGate) -> None:
        self.contract = contract
        self._transform = CpuTransform(contract)
        self._gate = gate

    def __call__(self, frame: Frame, facts: ImageFacts, out: AnyArray) -> tuple[UInt8Array, str, float]:
        """Write the frame's model input into `out`: its grid, its decoder, and when it was decoded. Raises Rejected."""
        size = facts.upright_size
        transform = self._transform
        target = self.contract.decode_target(*size)
        return decoded(frame, facts, target, self._gate, lambda pixels: transform(pixels, out, size))


class Admission:
    """Which frames are decoded at all: not what crashed workers before, nor what its header speaks against."""

    def __init__(self, limits: ImageLimits, journal: CrashJournal | None) -> None:
        self._limits = limits
        self._journal = journal
        self._suspects = journal.suspects if journal else frozenset()

    def __call__(self, frame: Frame, thread: int) -> ImageFacts | Rejection:
        """Facts of the header, or the verdict. Decode thread `thread` has entered the frame."""
        if self._suspects and frame.id in self._suspects:
            return CRASHED
        self.enter(frame, thread)
        try:
            return inspect(frame.value, self._limits)
        except Rejected as verdict:
            return verdict.rejection

    def enter(self, frame: Frame, thread: int) -> None:
        """If native code takes the process down now, it was this frame."""
        if self._journal is not None:
            self._journal.enter(thread, frame.id)

    def leave(self, thread: int) -> None:
        """It is none of them."""
        if self._journal is not None:
            self._journal.leave(thread)


@dataclass(slots=True)
class Gathered:
    """What has become of a batch's frames so far, and the seconds that each stage took for those with a row."""

    rows: list[Row] = field(default_factory=list)
    rejections: dict[int, Rejection] = field(default_factory=dict)
    validate_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
    preprocess_s: list[float] = field(default_factory=list)

    def row(
        self, index: int, facts: ImageFacts, decoder: str, validate_s: float, decode_s: float, preprocess_s: float
    ) -> None:
        """Frame `index` has the next row."""
        self.validate_s.append(validate_s)
        self.decode_s.append(decode_s)
        self.preprocess_s.append(preprocess_s)
        self.rows.append(Row(index, facts, decoder, decode_s * 1000))

    def prepared(self, taken: Taken, values: Float32Array, metrics: Metrics) -> Prepared:
        """All frames are gathered; `values` are the features of their rows."""
        metrics.stage(Stage.BATCH, [max(0.0, taken.at - taken.frames[0].received_at)])
        metrics.stage(Stage.VALIDATE, self.validate_s)
        metrics.stage(Stage.DECODE, self.decode_s)
        metrics.stage(Stage.PREPROCESS, self.preprocess_s)
        rows = tuple(self.rows)
        return Prepared(taken.number, taken.frames, rows, self.rejections, values, taken.at, time.monotonic())


class Filling:
    """A batch on the CPU: one frame after the other, from its bytes to its row."""

    def __init__(self, place: Placing, admit: Admission, metrics: Metrics) -> None:
        self._place = place
        self._admit = admit
        self._metrics = metrics

    def __call__(self, taken: Taken, slot: Slot, thread: int) -> Prepared:
        """The batch, its rows in `slot`."""
        gathered = Gathered()
        values = np.empty((len(taken.frames), len(FEATURES)), np.float32)
        for index, frame in enumerate(taken.frames):
            started = time.perf_counter()
            facts = self._admit(frame, thread)
            if isinstance(facts, Rejection):
                gathered.rejections[index] = facts
                continue
            validated = time.perf_counter()
            row = len(gathered.rows)
            try:
                grid, decoder, at = self._place(frame, facts, slot.array[row])
            except Rejected as verdict:
                gathered.rejections[index] = verdict.rejection
                continue
            features(grid, values[row], self._place.contract.colour)
            gathered.row(index, facts, decoder, validated - started, at - validated, time.perf_counter() - at)
        self._admit.leave(thread)
        return gathered.prepared(taken, values[: len(gathered.rows)], self._metrics)


# The batch, its rows in the slot, by decode thread number so and so.
Fill = Callable[[Taken, Slot, int], Prepared]


class Filler:
    """The decode pool. `deliver(prepared, slot)` gets each batch; the slot is None if no frame of it has a row.

    `fill` is Filling or its twin for a GPU. `failed` hears of an exception that no rule foresees; the
    thread ends, and nothing of its batch is committed.
    """

    def __init__(
        self,
        queue: FrameQueue,
        pool: SlotPool,
        fill: Fill,
        deliver: Callable[[Prepared, Slot | None], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._queue = queue
        self._pool = pool
        self._fill = fill
        self._deliver = deliver
        self._failed = failed
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, threads: int) -> None:
        """Start the pool."""
        for number in range(threads):
            thread = threading.Thread(target=self._run, args=(number,), name=f"headrace-decode-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """End the threads once the queue is closed."""
        self._ending.set()
        for thread in self._threads:
            thread.join(timeout=5)

    def _run(self, thread: int) -> None:
        try:
            while not self._ending.is_set():
                slot = self._pool.acquire(SLOT_WAIT_S)
                if slot is None:
                    continue
                taken = self._queue.take()
                if taken is None:
                    slot.let_go()
                    return
                prepared = self._fill(taken, slot, thread)
                if prepared.rows:
                    self._deliver(prepared, slot)
                else:
                    slot.let_go()
                    self._deliver(prepared, None)
        except BaseException as error:
            log.exception("a decode thread failed")
            self._failed(error)
