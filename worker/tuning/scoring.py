"""A served model as a plain function, outside the pipeline: a batch of inputs in, its logits out.

For questions about the model itself. Nothing here is fast: one batch at a time, copied in and out.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from worker.buffers import SlotPool
from worker.errors import HeadraceError
from worker.frames import Answer, AnyArray
from worker.pipeline.model import ServedModel, open_model
from worker.preprocess.contract import Contract
from worker.settings import Settings

_MOST_ROWS = 16
_SLOT_S = 60.0


@dataclass(frozen=True, slots=True)
class Scorer:
    """`max_batch` is the model's own limit, `rows` what `score` is called with at most."""

    contract: Contract
    max_batch: int
    rows: int
    _model: ServedModel
    _pool: SlotPool
    _deadline_s: float

    def score(self, inputs: AnyArray) -> AnyArray:
        """(n, *tensor shape) -> (n, classes) logits. Raises HeadraceError as the engine does."""
        slot = self._pool.acquire(_SLOT_S)
        assert slot is not None, "the only user of the pool gives each slot back"
        rows = len(inputs)
        slot.array[:rows] = inputs
        done: queue.SimpleQueue[Answer | HeadraceError] = queue.SimpleQueue()
        self._model.engine.submit(slot, rows, time.monotonic() + self._deadline_s, done.put)
        outcome = done.get()
        slot.let_go()
        if isinstance(outcome, HeadraceError):
            raise outcome
        return outcome.outputs["logits"][:rows]


@contextmanager
def opened(settings: Settings) -> Iterator[Scorer]:
    """The model that the settings name, by whom they name. Raises as `open_model` does."""
    replace = msgspec.structs.replace
    # Batches of one, so that no limit of the model is in the way; and private memory, which any server takes.
    settings = replace(
        settings,
        batching=replace(settings.batching, max_batch_size=1),
        infer=replace(settings.infer, shared_memory="off"),
    )
    model = open_model(settings)
    try:
        rows = min(_MOST_ROWS, model.engine.max_batch_size)
        pool = SlotPool(2, rows, model.contract.tensor_shape, model.contract.dtype, shared=False)
        try:
            model.engine.attach(pool)
            deadline_s = settings.infer.deadline_ms / 1000
            yield Scorer(model.contract, model.engine.max_batch_size, rows, model, pool, deadline_s)
        finally:
            pool.close()
    finally:
        model.engine.close()
