"""The simpler model that answers while the primary can't: batches are filled anew, for its own contract, and sent to it.

A batch's frames still carry their encoded bytes; they are decoded and preprocessed as the decode threads do it, into a slot
of the fallback's own. The answer speaks of the batch that `fill` returns.
"""

from __future__ import annotations

from dataclasses import replace

from worker.buffers import Slot, SlotPool
from worker.frames import Prepared, Rejected, Rejection, Row
from worker.infer.fleet import Fleet
from worker.pipeline.filling import Placing
from worker.pipeline.journal import CrashJournal

SLOTS = 3  # one is being filled, two are on their way
# For a slot. Longer than a local batch takes; then the repair thread looks whether the primary is back.
FILL_WAIT_S = 0.5


class Fallback:
    """A try has `deadline_s`; `rows` is the largest batch. `fill` is for one thread, which is number `thread` in the crash journal.

    Raises ModelError if the model does not take such batches, DependencyError if it can't be reached.
    """

    def __init__(
        self, engine: Fleet, deadline_s: float, place: Placing, rows: int, journal: CrashJournal | None, thread: int
    ) -> None:
        self.engine = engine
        self.deadline_s = deadline_s
        self._place = place
        self._journal = journal
        self._thread = thread
        # Private memory: a request past its deadline has been copied, so a server that hangs quarantines no slot.
        self._pool = SlotPool(SLOTS, rows, place.contract.tensor_shape, place.contract.dtype, shared=False)
        engine.attach(self._pool)

    def fill(self, prepared: Prepared) -> tuple[Prepared, Slot] | None:
        """The batch as the fallback takes it, and its slot with one hold; None while all slots are in use."""
        slot = self._pool.acquire(FILL_WAIT_S)
        if slot is None:
            return None
        rows: list[Row] = []
        kept: list[int] = []
        rejections: dict[int, Rejection] = dict(prepared.rejections)
        for number, row in enumerate(prepared.rows):
            frame = prepared.frames[row.index]
            if self._journal is not None:
                self._journal.enter(self._thread, frame.id)
            try:
                _, decoder, _ = self._place(frame, row.facts, slot.array[len(rows)])
            except Rejected as verdict:  # damage that the primary's contract did not get to see: it decodes less
                rejections[row.index] = verdict.rejection
                continue
            rows.append(replace(row, decoder=decoder))
            kept.append(number)
        if self._journal is not None:
            self._journal.leave(self._thread)
        # The features stay those of the primary's input, so that statistics of images don't shift with the model.
        return replace(prepared, rows=tuple(rows), rejections=rejections, features=prepared.features[kept]), slot

    def close(self) -> None:
        """Once the engine is closed."""
        self._pool.close()
