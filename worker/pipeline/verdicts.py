"""What becomes of each frame of an answered batch: a row of the answer, or a rejection. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from worker.frames import Answer, Frame, Prepared, Reason, Rejection, Row, Stage
from worker.heads import Reading
from worker.records import Timings


def verdicts(
    prepared: Prepared, answer: Answer | None, reading: Reading | None
) -> Iterator[tuple[Frame, int, Rejection | None]]:
    """Each frame in source order, with its row in the answer (-1: none) and, if it gets no prediction, why.

    `answer` and `reading` (the head's, of that answer) are None only for a batch without rows.
    """
    row_of = {row.index: number for number, row in enumerate(prepared.rows)}
    for index, frame in enumerate(prepared.frames):
        row = row_of.get(index, -1)
        if row < 0:
            yield frame, row, prepared.rejections[index]
        elif answer is None or reading is None:
            raise AssertionError(f"batch {prepared.number} has rows and no answer")
        elif row in answer.rejections:
            yield frame, row, answer.rejections[row]
        elif reading.failed[row]:
            detail = f"{answer.model.name} answered with numbers that are not finite; check the frame, then the model"
            yield frame, row, Rejection(Reason.INFERENCE_FAILED, detail, Stage.HEAD)
        else:
            yield frame, row, None


def timings(prepared: Prepared, row: Row, frame: Frame, answer: Answer) -> Timings:
    """Where a frame's milliseconds went."""
    return Timings(
        queued=round(max(0.0, prepared.taken_at - frame.received_at) * 1000, 3),
        decode=round(row.decode_ms, 3),
        batch=round((prepared.prepared_at - prepared.taken_at) * 1000, 3),
        infer=round(answer.infer_ms, 3),
    )
