"""From a filled slot to an answer, whatever it takes.

The usual batch goes to the engine and comes back. What becomes of one that does not is decided on the repair thread: it is
tried again inside its deadline and the retry budget; then the fallback answers it, if there is one; else it waits until an
endpoint is well, because a frame is never skipped for a server's sake. A refused batch is divided until the guilty frame
stands alone.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from worker.buffers import Slot
from worker.errors import HeadraceError, InferenceRejected, NoEndpoint
from worker.frames import Answer, Prepared, Stage
from worker.infer.fleet import Fleet
from worker.infer.retries import RetryBudget, Step, after_failure, backoff_s
from worker.observe.health import Health
from worker.observe.metrics import Metrics
from worker.observe.ranges import RANGES
from worker.pipeline.dividing import Divider
from worker.pipeline.fallback import Fallback

log = logging.getLogger(__name__)

WAIT_S = 0.1  # between looks whether an endpoint is well; looking costs nothing

Deliver = Callable[[Prepared, Answer | None], None]


@dataclass(slots=True, eq=False)
class _Batch:
    """A batch without an answer yet. `deadline` bounds all its tries at the primary together, monotonic seconds."""

    prepared: Prepared
    slot: Slot
    submitted_at: float
    deadline: float
    end: Callable[[], None]  # of its stretch on a profiler's timeline
    tries: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Try:
    """One submission for a batch: `prepared` in `slot`, the fallback's own where it is asked; `otherwise` hears of a failure."""

    batch: _Batch
    engine: Fleet
    prepared: Prepared
    slot: Slot
    otherwise: Callable[[HeadraceError], None]


class Inferring:
    """`deliver(prepared, answer)` hears of each batch exactly once, unless the worker ends first.

    A try may take `try_s`, all tries of a batch at the primary `batch_s`.
    """

    def __init__(
        self,
        engine: Fleet,
        fallback: Fallback | None,
        try_s: float,
        batch_s: float,
        metrics: Metrics,
        health: Health,
        deliver: Deliver,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._engine = engine
        self._fallback = fallback
        self._try_s = try_s
        self._batch_s = batch_s
        self._metrics = metrics
        self._health = health
        self._deliver = deliver
        self._failed = failed
        self._budget = RetryBudget()
        self._budget_lock = threading.Lock()
        self._is_waiting = False  # somebody waits for a model, and readiness says so
        self._ending = threading.Event()
        self._divider = Divider(try_s, self._ending)
        # A thread of its own: other batches must not wait while the guilty frame of one is looked for.
        self._dividing = ThreadPoolExecutor(1, thread_name_prefix="headrace-divide")
        self._todo: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()  # ties run in order, and actions are never compared
        self._thread = threading.Thread(target=self._run, name="headrace-repair", daemon=True)
        self._thread.start()

    def submit(self, prepared: Prepared, slot: Slot) -> None:
        """Hand a batch to the engine; its slot is let go when the batch has its answer."""
        now = time.monotonic()
        self._metrics.batch(len(prepared.rows))
        with self._budget_lock:
            self._budget.earn()
        self._try(_Batch(prepared, slot, now, now + self._batch_s, RANGES.begin(Stage.INFER)))

    def close(self) -> None:
        """End the threads; batches still without an answer stay uncommitted."""
        self._ending.set()
        self._todo.put(lambda: None)
        self._thread.join(timeout=5)
        self._dividing.shutdown(wait=False, cancel_futures=True)

    def _try(self, batch: _Batch) -> None:
        otherwise = partial(self._repair, batch)
        self._submit(_Try(batch, self._engine, batch.prepared, batch.slot, otherwise), self._try_s)

    def _submit(self, attempt: _Try, within_s: float) -> None:
        rows = len(attempt.prepared.rows)
        attempt.engine.submit(attempt.slot, rows, time.monotonic() + within_s, partial(self._heard, attempt))

    # No function in here may hold itself or another that holds it: such a circle keeps the batch, with all its frames'
    # bytes, until Python looks for circles, which takes it half a minute.

    def _heard(self, attempt: _Try, result: Answer | HeadraceError) -> None:
        """An answer is delivered, a refusal divided, anything else is for `otherwise`, on the repair thread."""
        if isinstance(result, Answer):
            if attempt.slot is not attempt.batch.slot:
                attempt.slot.let_go()
            self._answered(attempt.batch, attempt.prepared, result)
        elif isinstance(result, InferenceRejected):
            with contextlib.suppress(RuntimeError):  # the worker leaves
                self._dividing.submit(self._divide, attempt, result)
        else:
            self._todo.put(partial(attempt.otherwise, result))

    def _divide(self, attempt: _Try, refusal: InferenceRejected) -> None:
        log.warning("batch %d was refused, looking for the frame at fault: %s", attempt.prepared.number, refusal)
        served_by = "primary" if attempt.engine is self._engine else "fallback"
        rows, since = len(attempt.prepared.rows), attempt.batch.submitted_at
        try:
            self._heard(attempt, self._divider.divide(attempt.engine, attempt.slot, rows, served_by, since))
        except BaseException as error:
            self._fail(error)

    def _answered(self, batch: _Batch, prepared: Prepared, answer: Answer | None) -> None:
        batch.slot.let_go()
        batch.end()
        self._metrics.stage(Stage.INFER, [time.monotonic() - batch.submitted_at])
        if self._is_waiting:
            self._is_waiting = False
            self._health.met("model")
            log.info("inference goes on")
        self._deliver(prepared, answer)

    # What follows runs on the repair thread.

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                wait_s = max(0.0, self._later[0][0] - time.monotonic()) if self._later else None
                try:
                    act = self._todo.get(timeout=wait_s)
                except queue.Empty:
                    act = heapq.heappop(self._later)[2]
                act()
                del act  # it holds a batch, and the next may be long in coming
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._ending.is_set():
            log.error("repairing a batch failed", exc_info=error)
            self._failed(error)

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._later, (when, next(self._numbers), act))

    def _repair(self, batch: _Batch, error: HeadraceError) -> None:
        if not isinstance(error, NoEndpoint):
            batch.tries += 1
        now = time.monotonic()
        pause_s = backoff_s(max(1, batch.tries))
        with self._budget_lock:
            step = after_failure(
                self._budget,
                now,
                primary_is_up=self._engine.available and not isinstance(error, NoEndpoint),
                in_time=now + pause_s + self._try_s <= batch.deadline,
                has_fallback=self._fallback is not None,
            )
        match step:
            case Step.RETRY:
                log.warning("batch %d is tried again: %s", batch.prepared.number, error)
                self._metrics.retried()
                self._at(now + pause_s, partial(self._try, batch))
            case Step.FALL_BACK:
                self._fall_back(batch, error)
            case Step.WAIT:
                self._wait(batch, error)

    def _fall_back(self, batch: _Batch, error: HeadraceError) -> None:
        assert self._fallback is not None
        filled = self._fallback.fill(batch.prepared)
        if filled is None:  # it is busy, which is not away
            self._at(time.monotonic(), partial(self._look_again, batch, error))
            return
        prepared, slot = filled
        if not prepared.rows:
            slot.let_go()
            self._answered(batch, prepared, None)
            return

        def failed(second: HeadraceError) -> None:
            slot.let_go()
            self._wait(batch, error, f"; and the fallback: {second}")

        self._submit(_Try(batch, self._fallback.engine, prepared, slot, failed), self._fallback.deadline_s)

    def _wait(self, batch: _Batch, error: HeadraceError, more: str = "") -> None:
        if not self._is_waiting:
            self._is_waiting = True
            log.warning("no model answers; batches wait until one does: %s%s", error, more)
        self._health.unmet("model", f"{error}{more}")
        self._at(time.monotonic() + WAIT_S, partial(self._look_again, batch, error))

    def _look_again(self, batch: _Batch, error: HeadraceError) -> None:
        now = time.monotonic()
        if self._engine.available and self._may_send(batch, now):
            batch.deadline = now + self._batch_s
            if batch.tries:
                self._metrics.retried()
            self._try(batch)
        elif self._fallback is not None:
            self._fall_back(batch, error)
        else:
            self._wait(batch, error)

    def _may_send(self, batch: _Batch, now: float) -> bool:
        """What was never sent is no retry."""
        if not batch.tries:
            return True
        with self._budget_lock:
            return self._budget.spend(now)
