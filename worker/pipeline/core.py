"""The middle of the way, the same for streams and files: frames in the queue, decode threads, the engine, answers out."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial

import cv2

from worker.batching import BatchRule, FrameQueue
from worker.buffers import SlotPool
from worker.errors import HeadraceError
from worker.frames import Answer, Prepared
from worker.ingest.budget import PixelGate, Shares
from worker.ingest.validate import ImageLimits
from worker.malloc import keep_big_buffers
from worker.observe.health import Health
from worker.observe.metrics import Metrics
from worker.pipeline.fallback import Fallback
from worker.pipeline.filling import Admission, Fill, Filler, Filling, Placing
from worker.pipeline.filling_gpu import GpuFilling, open_lanes
from worker.pipeline.hung import Patience, end_in
from worker.pipeline.inferring import Inferring
from worker.pipeline.journal import open_journal
from worker.pipeline.model import ServedModels
from worker.settings import Settings

log = logging.getLogger(__name__)

# Decoding more images at once than this starves what comes before and after it in the same process.
MAX_DECODE_THREADS = 8


class Failure:
    """The first error of any thread; the loop that feeds the queue raises it."""

    def __init__(self) -> None:
        self._error: BaseException | None = None

    def report(self, error: BaseException) -> None:
        """From any thread; only the first counts."""
        if self._error is None:
            self._error = error

    @property
    def happened(self) -> bool:
        """Whether there is one."""
        return self._error is not None

    def check(self) -> None:
        """Raise it, if there is one."""
        if self._error is not None:
            raise self._error


class Core:
    """Frames go into `queue`; `answered(prepared, answer)` hears of every batch once, in any order.

    `journal_of` names whose crashes are remembered over restarts; empty: nobody's.
    """

    def __init__(
        self,
        settings: Settings,
        models: ServedModels,
        metrics: Metrics,
        health: Health,
        failure: Failure,
        answered: Callable[[Prepared, Answer | None], None],
        journal_of: str = "",
    ) -> None:
        model = models.primary
        keep_big_buffers()
        cv2.setNumThreads(1)  # the decode threads are the parallelism; OpenCV's own pool would fight them for the cores
        batching = settings.batching
        self.threads = settings.decode.threads or min(len(os.sched_getaffinity(0)), MAX_DECODE_THREADS)
        self.queue = FrameQueue(BatchRule(batching.max_batch_size, batching.linger_ms / 1000), clock=time.monotonic)
        lanes = open_lanes(settings, model.contract, self.threads)
        slots = partial(
            SlotPool,
            batching.max_in_flight + self.threads,
            batching.max_batch_size,
            model.contract.tensor_shape,
            model.contract.dtype,
            shared=settings.infer.backend == "triton" and settings.infer.shared_memory != "off",
        )
        try:
            self._pool = slots(cuda=lanes.cuda if lanes else None)
        except HeadraceError as error:
            if settings.device == "gpu":
                raise
            log.warning("pixels are prepared on the CPU: %s", error)
            lanes = None
            self._pool = slots()
        try:
            model.engine.attach(self._pool)
        except BaseException:
            self._pool.close()
            raise
        metrics.model(model.engine.identity)
        ingest = settings.ingest
        gate = PixelGate(Shares.of(ingest.max_in_flight_bytes).pixel_bytes)
        self._gate = gate
        self._patience = Patience(settings.decode.deadline_ms / 1000)
        # The repair thread decodes too, where there is a fallback: it has the last place in the journal.
        self._journal = open_journal(settings.decode.crash_folder, journal_of, self.threads + 1) if journal_of else None
        self._fallback = None
        if models.fallback is not None:
            self._fallback = Fallback(
                models.fallback.engine,
                settings.fallback.deadline_ms / 1000,
                Placing(models.fallback.contract, gate),
                batching.max_batch_size,
                self._journal,
                self.threads,
            )
        try:
            models.check_presence()  # now that each has been asked for an answer
        except BaseException:
            self._pool.close()
            if self._fallback is not None:
                self._fallback.close()
            raise
        self._inferring = Inferring(
            model.engine,
            self._fallback,
            settings.infer.deadline_ms / 1000,
            settings.infer.batch_deadline_ms / 1000,
            metrics,
            health,
            answered,
            failure.report,
        )
        limits = ImageLimits(ingest.max_frame_bytes, ingest.max_pixels, frozenset(ingest.formats))
        admit = Admission(limits, self._journal)
        fill: Fill = (
            GpuFilling(lanes, gate, admit, metrics) if lanes else Filling(Placing(model.contract, gate), admit, metrics)
        )
        self._filler = Filler(
            self.queue,
            self._pool,
            fill,
            lambda prepared, slot: self._inferring.submit(prepared, slot) if slot else answered(prepared, None),
            failure.report,
        )
        self._models = models
        self._metrics = metrics
        self._quarantined = 0

    def observe(self) -> None:
        """Tell the metrics what only shows from time to time; look whether a decoder hangs. Once a second or so."""
        if (ident := self._patience.look(self._gate.inside(), time.monotonic())) is not None:
            end_in(ident, self._patience.seconds)
        quarantined = self._pool.quarantined
        self._metrics.slots_quarantined(quarantined, max(0, quarantined - self._quarantined))
        self._quarantined = quarantined

    def start(self) -> None:
        """Start the decode threads."""
        self._filler.start(self.threads)

    def close(self) -> None:
        """Stop; what is under way is given up. The engine first, since it unregisters the slots' memory."""
        self.queue.close()
        self._filler.close()
        self._inferring.close()
        self._models.close()
        self._pool.close()
        if self._fallback is not None:
            self._fallback.close()
        if self._journal is not None:
            self._journal.close()
