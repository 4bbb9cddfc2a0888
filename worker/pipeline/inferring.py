"""From a filled slot to an answer, whatever it takes.

The usual batch goes to the engine and comes back. One that does not is taken to the repair thread: while the endpoint is
down its batch is tried again, without end, because a frame is never skipped for a server's sake; a batch the model
refuses is divided until the guilty frame stands alone, and only an endpoint that has just proved itself well convicts it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from worker.buffers import Slot, SlotPool
from worker.errors import HeadraceError, InferenceRejected, InferenceUnavailable
from worker.frames import Answer, AnyArray, Prepared, Reason, Rejection, Stage
from worker.infer.engine import Engine
from worker.observe.health import Health
from worker.observe.metrics import Metrics, RequestOutcome

log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.1
LAST_BACKOFF_S = 2.0  # an endpoint that is back waits no longer than this for its first batch
# A frame alone is refused this often, with a well endpoint in between, before it is a dead letter.
ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class _Repair:
    prepared: Prepared
    slot: Slot
    error: HeadraceError
    submitted_at: float


class Inferring:
    """`deliver(prepared, answer)` hears of each batch exactly once, unless the worker ends first."""

    def __init__(
        self,
        engine: Engine,
        deadline_s: float,
        endpoint: str,
        metrics: Metrics,
        health: Health,
        deliver: Callable[[Prepared, Answer], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._engine = engine
        self._deadline_s = deadline_s
        self._endpoint = endpoint
        self._metrics = metrics
        self._health = health
        self._deliver = deliver
        self._failed = failed
        self._ending = threading.Event()
        self._repairs: queue.SimpleQueue[_Repair | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="headrace-repair", daemon=True)
        self._thread.start()

    def submit(self, prepared: Prepared, slot: Slot) -> None:
        """Hand a batch to the engine; its slot is let go when the batch has its answer."""
        started = time.monotonic()
        self._metrics.batch(len(prepared.rows))

        def done(result: Answer | HeadraceError) -> None:
            self._count(result)
            if isinstance(result, Answer):
                slot.let_go()
                self._metrics.stage(Stage.INFER, [time.monotonic() - started])
                self._deliver(prepared, result)
            else:
                self._repairs.put(_Repair(prepared, slot, result, started))

        self._engine.submit(slot, len(prepared.rows), started + self._deadline_s, done)

    def _count(self, result: Answer | HeadraceError) -> None:
        match result:
            case Answer():
                outcome = RequestOutcome.OK
            case InferenceRejected():
                outcome = RequestOutcome.REJECTED
            case InferenceUnavailable():
                outcome = RequestOutcome.UNAVAILABLE
            case _:
                outcome = RequestOutcome.FAILED
        self._metrics.infer_request(self._endpoint, outcome)

    def close(self) -> None:
        """End the repair thread; batches still without an answer stay uncommitted."""
        self._ending.set()
        self._repairs.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        try:
            while (repair := self._repairs.get()) is not None and not self._ending.is_set():
                answer = self._repair(repair)
                if answer is None:
                    return
                repair.slot.let_go()
                self._metrics.stage(Stage.INFER, [time.monotonic() - repair.submitted_at])
                self._deliver(repair.prepared, answer)
        except BaseException as error:
            log.exception("the repair thread failed")
            self._failed(error)

    def _repair(self, repair: _Repair) -> Answer | None:
        """The batch's answer; None when the worker ends first."""
        rows = list(range(len(repair.prepared.rows)))
        result: Answer | HeadraceError | None = repair.error
        if not isinstance(result, InferenceRejected):
            # The pixels are still in the slot: a request past its deadline only reads them.
            result = self._insist(repair.slot, len(rows), result)
        if isinstance(result, InferenceRejected):
            log.warning("batch %d was refused, looking for the frame at fault: %s", repair.prepared.number, result)
            return self._divide(repair.slot, rows, result, repair.submitted_at)
        return result

    def _insist(self, slot: Slot, rows: int, first: Answer | HeadraceError | None) -> Answer | InferenceRejected | None:
        """Try until the endpoint answers, yes or no. None when the worker ends first."""
        backoff_s = FIRST_BACKOFF_S
        result = first
        while not self._ending.is_set():
            if isinstance(result, Answer | InferenceRejected):
                self._health.met("model")
                return result
            if result is not None:
                self._health.unmet("model", str(result))
                self._metrics.retried()
                log.warning("inference is unavailable, trying again in %.1f s: %s", backoff_s, result)
                self._ending.wait(backoff_s)
                backoff_s = min(backoff_s * 2, LAST_BACKOFF_S)
            result = self._ask(slot, rows)
        return None

    def _ask(self, slot: Slot, rows: int) -> Answer | HeadraceError | None:
        answered = threading.Event()
        results: list[Answer | HeadraceError] = []

        def done(result: Answer | HeadraceError) -> None:
            self._count(result)
            results.append(result)
            answered.set()

        self._engine.submit(slot, rows, time.monotonic() + self._deadline_s, done)
        while not answered.wait(0.2):
            if self._ending.is_set():
                return None
        return results[0]

    def _divide(self, slot: Slot, rows: list[int], error: InferenceRejected, since: float) -> Answer | None:
        """Halve the batch until each refused frame stands alone; the others are answered."""
        pixels = slot.array
        answers: list[tuple[list[int], Answer]] = []
        verdicts: dict[int, Rejection] = {}
        groups = [rows]
        refusal: InferenceRejected = error
        attempts = dict.fromkeys(rows, 1)
        while groups:
            group = groups.pop()
            middle = len(group) // 2
            for half in [group[:middle], group[middle:]] if middle else [group]:
                apart = _apart(pixels[half])
                result = self._insist(apart, len(half), None)
                if result is None:
                    return None
                if isinstance(result, Answer):
                    answers.append((half, result))
                    continue
                refusal = result
                if len(half) > 1:
                    groups.append(half)
                    continue
                row = half[0]
                attempts[row] += 1
                if attempts[row] <= ATTEMPTS or not self._endpoint_is_well(pixels[:1], bool(answers)):
                    self._ending.wait(FIRST_BACKOFF_S)
                    groups.append(half)
                    continue
                verdicts[row] = Rejection(Reason.INFERENCE_REJECTED, str(refusal), Stage.INFER, attempts[row])
        return _merged(len(rows), answers, verdicts, self._engine, since)

    def _endpoint_is_well(self, like: AnyArray, others_answered: bool) -> bool:
        """Another frame was answered meanwhile, or a plain grey image is: then the refusal is about the frame."""
        if others_answered:
            return True
        grey = np.full_like(like, 128 if like.dtype == np.uint8 else 0)
        result = self._ask(_apart(grey), 1)
        if isinstance(result, Answer):
            return True
        self._health.unmet("model", f"it refuses everything, even a plain grey image: {result}")
        log.error("the model refuses even a plain grey image, so no frame is at fault; check the model: %s", result)
        self._ending.wait(LAST_BACKOFF_S)
        return False


def _apart(rows: AnyArray) -> Slot:
    """These rows in a private slot: they travel as tensors, and a late request that reads the batch's own slot is let be."""
    slot = SlotPool(1, len(rows), rows.shape[1:], rows.dtype, shared=False).acquire(0)
    assert slot is not None
    slot.array[:] = rows
    return slot


def _merged(
    rows: int, answers: list[tuple[list[int], Answer]], verdicts: dict[int, Rejection], engine: Engine, since: float
) -> Answer:
    """One answer for the batch; rows under a verdict are zero."""
    outputs: dict[str, AnyArray] = {}
    for group, answer in answers:
        for name, values in answer.outputs.items():
            if name not in outputs:
                outputs[name] = np.zeros((rows, *values.shape[1:]), values.dtype)
            outputs[name][group] = values
    for spec in engine.outputs:
        shape = tuple(max(1, side) for side in spec.shape)
        outputs.setdefault(spec.name, np.zeros((rows, *shape), spec.dtype))
    model = answers[-1][1].model if answers else engine.identity
    served_by = answers[-1][1].served_by if answers else "primary"
    return Answer(outputs, model, served_by, (time.monotonic() - since) * 1000, verdicts)
