"""How many frames a model may refuse before the fault is the model's, or ours, and the worker stops. Pure.

Verdicts go in, batch by batch, in the order they are about to be written and before any of the batch is: a batch that
goes past a limit is neither dead-lettered nor committed. Only `inference_*` verdicts count, out of the frames the model
was asked about. What a sender did wrong (a damaged or oversized image) is no part of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from worker.errors import TooManyRefusals
from worker.frames import Reason, Rejection
from worker.settings import LimitSettings

_DETAIL_CHARS = 300  # a server may tell its whole stack
COUNTED = frozenset({Reason.INFERENCE_REJECTED, Reason.INFERENCE_FAILED})


class InferenceLimits:
    """Remembers the last verdicts of one worker, of all its partitions together.

    Frames that come again after a rewind count again: a stop too many is repaired by a start, a stop too few is not.
    """

    def __init__(self, settings: LimitSettings) -> None:
        self._consecutive = settings.inference_consecutive
        self._most = settings.inference_ratio * settings.inference_window_frames
        self._window: deque[bool] = deque(maxlen=settings.inference_window_frames)  # True: refused
        self._refused = 0  # how many of the window
        self._run = 0  # how many in a row until now

    def add(self, verdicts: Iterable[Rejection | None], model: str) -> None:
        """Take in a batch's verdicts in source order; None: the model answered. `model` names it in the sentence.

        Raises TooManyRefusals at the frame that goes past a limit.
        """
        for verdict in verdicts:
            refused = verdict is not None and verdict.reason in COUNTED
            if verdict is not None and not refused:
                continue
            if len(self._window) == self._window.maxlen:
                self._refused -= self._window[0]
            self._window.append(refused)
            self._refused += refused
            self._run = self._run + 1 if refused else 0
            if verdict is not None and (self._run == self._consecutive or self._refused > self._most):
                raise TooManyRefusals(self._sentence(model, verdict))

    def _sentence(self, model: str, last: Rejection) -> str:
        detail = " ".join(last.detail.split())[:_DETAIL_CHARS]
        return (
            f"model {model} gave no answer to {self._refused} of the last {len(self._window)} frames it was asked, "
            f"{self._run} in a row, the last with: {last.reason}: {detail}. So many are not the frames' fault: "
            f"this batch is neither committed nor dead-lettered, and comes again. Check the model and its contract, start "
            f"anew, and send back what was dead-lettered before: headrace dlq replay --reason {last.reason} "
            f"(the limits are [limits] in the settings)"
        )
