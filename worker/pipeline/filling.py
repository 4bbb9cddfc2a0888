"""Decode threads: each takes a whole batch of frames, with a slot already in hand, and writes every frame's pixels once.

encoded bytes -> header facts -> decoded pixels -> model input, straight in the frame's row of the slot. A frame that
can't go on leaves a rejection and no row.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import numpy as np

from worker.batching import FrameQueue, Taken
from worker.buffers import Slot, SlotPool
from worker.decode import decode, decode_bytes
from worker.frames import AnyArray, Frame, ImageFacts, Prepared, Reason, Rejected, Rejection, Row, Stage, UInt8Array
from worker.ingest.budget import PixelGate
from worker.ingest.validate import ImageLimits, inspect
from worker.malloc import give_back_holes
from worker.observe.metrics import Metrics
from worker.pipeline.journal import CRASHES, CrashJournal
from worker.preprocess.contract import Contract
from worker.preprocess.cpu import CpuTransform
from worker.statistics.features import FEATURES, features

log = logging.getLogger(__name__)

# How long a thread waits for a slot before it looks whether it should end.
SLOT_WAIT_S = 0.2
CRASHED = Rejection(
    Reason.CRASHED_WORKER,
    f"decoding this value took {CRASHES} workers down; it is kept apart. Please report it with the worker's version",
    Stage.DECODE,
    CRASHES,
)


class Placing:
    """Frames to one model's input, by its contract; what the decoders hold meanwhile passes the gate. For any thread."""

    def __init__(self, contract: Contract, gate: PixelGate) -> None:
        self.contract = contract
        self._transform = CpuTransform(contract)
        self._gate = gate

    def __call__(self, frame: Frame, facts: ImageFacts, out: AnyArray) -> tuple[UInt8Array, str, float]:
        """Write the frame's model input into `out`: its grid, its decoder, and when it was decoded. Raises Rejected.

        A function of its own, so that the picture's megabytes are free again when the gate believes so.
        """
        size = decode_bytes(facts)
        self._gate.enter(size)
        try:
            if self._gate.exceeded_by(size):
                give_back_holes(size // 8)  # what goes over the budget must not come on top of what is kept for speed
            image = decode(frame.value or b"", facts, self.contract.decode_target(*facts.upright_size))
            decoded = time.perf_counter()
            return self._transform(image.pixels, out, facts.upright_size), image.decoder, decoded
        finally:
            self._gate.leave(size)


class Filler:
    """The decode pool. `deliver(prepared, slot)` gets each batch; the slot is None if no frame of it has a row.

    `failed` hears of an exception that no rule foresees; the thread ends, and nothing of its batch is committed.
    """

    def __init__(
        self,
        queue: FrameQueue,
        pool: SlotPool,
        place: Placing,
        limits: ImageLimits,
        journal: CrashJournal | None,
        metrics: Metrics,
        deliver: Callable[[Prepared, Slot | None], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._queue = queue
        self._pool = pool
        self._place = place
        self._limits = limits
        self._journal = journal
        self._suspects = journal.suspects if journal else frozenset()
        self._metrics = metrics
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

    def _fill(self, taken: Taken, slot: Slot, thread: int) -> Prepared:
        rows: list[Row] = []
        rejections: dict[int, Rejection] = {}
        values = np.empty((len(taken.frames), len(FEATURES)), np.float32)
        validate_s, decode_s, preprocess_s = [], [], []
        journal = self._journal
        for index, frame in enumerate(taken.frames):
            started = time.perf_counter()
            if journal is not None:
                frame_id = frame.id
                if frame_id in self._suspects:
                    rejections[index] = CRASHED
                    continue
                journal.enter(thread, frame_id)
            try:
                facts = inspect(frame.value, self._limits)
                validated = time.perf_counter()
                row = len(rows)
                grid, decoder, decoded = self._place(frame, facts, slot.array[row])
                features(grid, values[row], self._place.contract.colour)
            except Rejected as verdict:
                rejections[index] = verdict.rejection
                continue
            finished = time.perf_counter()
            validate_s.append(validated - started)
            decode_s.append(decoded - validated)
            preprocess_s.append(finished - decoded)
            rows.append(Row(index, facts, decoder, (decoded - validated) * 1000))
        if journal is not None:
            journal.leave(thread)
        self._metrics.stage(Stage.BATCH, [max(0.0, taken.at - taken.frames[0].received_at)])
        self._metrics.stage(Stage.VALIDATE, validate_s)
        self._metrics.stage(Stage.DECODE, decode_s)
        self._metrics.stage(Stage.PREPROCESS, preprocess_s)
        return Prepared(
            taken.number, taken.frames, tuple(rows), rejections, values[: len(rows)], taken.at, time.monotonic()
        )
