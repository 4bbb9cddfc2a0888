"""Which frames of a refused batch are at fault: it is halved until each of them stands alone, and the others are answered.

An engine's refusal is proven: the endpoint takes a grey image (`worker/infer/fleet.py`). A frame alone is convicted after
several of them. What this asks has a bound of its own and is not paid from the retry budget.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from worker.buffers import Slot, SlotPool
from worker.errors import HeadraceError, InferenceRejected, InferenceUnavailable, NoEndpoint
from worker.frames import Answer, AnyArray, ModelIdentity, Reason, Rejection, Stage
from worker.infer.engine import Engine
from worker.infer.retries import backoff_s

# A frame alone is refused this often before it is a dead letter. Of an endpoint that fails every second request an innocent
# frame is refused, and three grey images in a row are not, by one chance in nine; so often, by one in seven hundred.
ATTEMPTS = 3
TRIES = 3  # of one part while the endpoint does not answer; then the whole batch waits for a better time


@dataclass(slots=True)
class _Findings:
    """Rows that are answered, and those under a verdict."""

    answers: list[tuple[list[int], Answer]] = field(default_factory=list)
    verdicts: dict[int, Rejection] = field(default_factory=dict)

    @property
    def models(self) -> set[ModelIdentity]:
        return {answer.model for _, answer in self.answers}


class Divider:
    """Works on the thread that calls it. Once `ending` is set it gives up with InferenceUnavailable."""

    def __init__(self, deadline_s: float, ending: threading.Event) -> None:
        self._deadline_s = deadline_s
        self._ending = ending

    def divide(self, engine: Engine, slot: Slot, rows: int, served_by: str, since: float) -> Answer | HeadraceError:
        """One answer for the first `rows` rows of a batch that `engine` refused, the guilty under `rejections`.

        Or why there is none now. `since` is when the batch was first sent, monotonic seconds.
        """
        everyone = list(range(rows))
        findings = _Findings()
        halves = len(everyone) // 2
        pixels = slot.read(rows)
        failure = self._search(engine, pixels, [everyone[:halves], everyone[halves:]], findings)
        if failure is None and len(findings.models) > 1:
            # The model was switched meanwhile. A prediction names one version, so the good rows are asked anew, together.
            good = sorted(row for group, _ in findings.answers for row in group)
            findings.answers.clear()
            failure = self._search(engine, pixels, [good], findings)
        if failure is None and len(findings.models) > 1:
            failure = InferenceUnavailable("the model changes faster than a batch can be divided")
        return failure or _merged(rows, findings, engine, served_by, since)

    def _search(
        self, engine: Engine, pixels: AnyArray, groups: list[list[int]], findings: _Findings
    ) -> HeadraceError | None:
        groups = [group for group in groups if group]
        refusals = dict.fromkeys((row for group in groups for row in group), 0)
        while groups:
            group = groups.pop()
            result = self._insist(engine, _apart(pixels[group]), len(group))
            if isinstance(result, Answer):
                findings.answers.append((group, result))
            elif not isinstance(result, InferenceRejected):
                return result
            elif len(group) > 1:
                middle = len(group) // 2
                groups += [group[:middle], group[middle:]]
            else:
                (row,) = group
                refusals[row] += 1
                if refusals[row] < ATTEMPTS:
                    groups.append(group)
                else:
                    findings.verdicts[row] = Rejection(
                        Reason.INFERENCE_REJECTED, str(result), Stage.INFER, refusals[row]
                    )
        return None

    def _insist(self, engine: Engine, slot: Slot, rows: int) -> Answer | HeadraceError:
        for tries in range(1, TRIES + 1):
            heard: Future[Answer | HeadraceError] = Future()
            engine.submit(slot, rows, time.monotonic() + self._deadline_s, heard.set_result)
            result = heard.result()
            if isinstance(result, Answer | InferenceRejected | NoEndpoint) or self._ending.wait(backoff_s(tries)):
                break
        return result


def _apart(rows: AnyArray) -> Slot:
    """These rows in a private slot: they travel as tensors, and a late request that reads the batch's own slot is let be."""
    slot = SlotPool(1, len(rows), rows.shape[1:], rows.dtype, shared=False).acquire(0)
    assert slot is not None
    slot.array[:] = rows
    return slot


def _merged(rows: int, findings: _Findings, engine: Engine, served_by: str, since: float) -> Answer:
    """One answer for the batch; rows under a verdict are zero."""
    outputs: dict[str, AnyArray] = {}
    for group, answer in findings.answers:
        for name, values in answer.outputs.items():
            if name not in outputs:
                outputs[name] = np.zeros((rows, *values.shape[1:]), values.dtype)
            outputs[name][group] = values
    for spec in engine.outputs:
        shape = tuple(max(1, side) for side in spec.shape)
        outputs.setdefault(spec.name, np.zeros((rows, *shape), spec.dtype))
    model = next(iter(findings.models), engine.identity)
    return Answer(outputs, model, served_by, (time.monotonic() - since) * 1000, findings.verdicts)
