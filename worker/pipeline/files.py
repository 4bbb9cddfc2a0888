"""Batch mode: the same stages between files and an output file. Feeds the queue, writes outcomes in source order."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from worker.frames import Answer, Frame, ImageFacts, Prepared, Reason, Rejection
from worker.ingest.budget import Budget, Shares
from worker.observe.health import Health
from worker.observe.metrics import Metrics
from worker.pipeline.books import weight
from worker.pipeline.core import Core, Failure
from worker.pipeline.limits import InferenceLimits
from worker.pipeline.model import ServedModels, open_models
from worker.pipeline.verdicts import timings, verdicts
from worker.publish.files import FilesSink
from worker.publish.messages import Composer, Message, Target, captured_at, model_record, rfc3339
from worker.publish.order import Reorder
from worker.settings import Settings

# A file takes any record.
NO_LIMIT_BYTES = 2**62
WAIT_S = 0.005
LOOK_S = 1.0  # whether a decoder hangs

# Hears of a predicted frame: its header's facts and its prediction's own fields.
See = Callable[[Frame, ImageFacts, Mapping[str, Any]], None]


@dataclass(slots=True)
class RunSummary:
    """What a run did; `finished` is False when it was told to stop."""

    predictions: int = 0
    dead_letters: Counter[Reason] = field(default_factory=Counter)
    seconds: float = 0.0
    finished: bool = False


def run_files(
    settings: Settings,
    frames: Iterator[Frame],
    sink: FilesSink,
    metrics: Metrics,
    progress: Callable[[int], None],
    stop: threading.Event,
    see: See | None = None,
) -> RunSummary:
    """Every frame's outcome goes to `sink`, in source order; `progress` hears how many after each batch, `see` of each
    predicted frame before.

    Set `stop` to end early: what was read gets its outcome, the rest is left for the next run. Raises HeadraceError.
    """
    started = time.monotonic()
    health = Health()
    models = open_models(settings, metrics, health)
    failure = Failure()
    answers: queue.SimpleQueue[tuple[Prepared, Answer | None]] = queue.SimpleQueue()
    with ExitStack() as stack:
        try:
            core = Core(settings, models, metrics, health, failure, lambda *answered: answers.put(answered))
        except BaseException:
            models.close()
            raise
        stack.callback(core.close)
        core.start()
        run = _Run(settings, models, sink, metrics, progress, see)
        run.feed(core, frames, answers, failure, stop)
    run.summary.seconds = time.monotonic() - started
    return run.summary


class _Run:
    def __init__(
        self,
        settings: Settings,
        models: ServedModels,
        sink: FilesSink,
        metrics: Metrics,
        progress: Callable[[int], None],
        see: See | None,
    ) -> None:
        self.summary = RunSummary()
        self._settings = settings
        self._models = models
        self._sink = sink
        self._metrics = metrics
        self._progress = progress
        self._see = see
        self._limits = InferenceLimits(settings.limits)
        self._budget = Budget(Shares.of(settings.ingest.max_in_flight_bytes).frame_bytes)
        self._order: Reorder[tuple[Prepared, Answer | None]] = Reorder()
        target = Target("file", 1, NO_LIMIT_BYTES)
        self._composer = Composer(target, target, target, "file", models.primary.head.task)

    def feed(
        self,
        core: Core,
        frames: Iterator[Frame],
        answers: queue.SimpleQueue[tuple[Prepared, Answer | None]],
        failure: Failure,
        stop: threading.Event,
    ) -> None:
        """Read ahead as far as the budget goes, write what is answered, until both have nothing left."""
        under_way = 0
        reading = True
        next_look = 0.0
        while reading or under_way:
            failure.check()
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + LOOK_S
                core.observe()
            if reading and stop.is_set():
                reading = False
                core.queue.flush()
            if reading and not self._budget.exhausted:
                # One frame a turn: a video frame takes as long to read as to predict, and answers must not wait for it.
                chunk = tuple(itertools.islice(frames, 1))
                if chunk:
                    self._budget.add(sum(map(weight, chunk)))
                    self._metrics.frames_received(len(chunk))
                    core.queue.offer(chunk)
                    under_way += len(chunk)
                else:
                    reading = False
                    self.summary.finished = True
                    core.queue.flush()
            try:
                prepared, answer = answers.get(timeout=0 if reading and not self._budget.exhausted else WAIT_S)
            except queue.Empty:
                continue
            for batch in self._order.push(prepared.number, (prepared, answer)):
                under_way -= self._write(*batch)

    def _write(self, prepared: Prepared, answer: Answer | None) -> int:
        now = rfc3339(time.time_ns() // 1_000_000)
        reading = None if answer is None else self._models.of(answer.served_by).read(answer, prepared)
        values: list[bytes] = []
        dead: list[tuple[Frame, Rejection]] = []
        found = list(verdicts(prepared, answer, reading))
        if answer is not None:
            self._limits.add((rejection for _, _, rejection in found), answer.model.name)
        for frame, row, rejection in found:
            if rejection is not None:
                dead.append((frame, rejection))
                continue
            assert answer is not None
            assert reading is not None
            fields = reading.fields(row)
            made = self._composer.prediction(
                frame,
                prepared.rows[row],
                model_record(answer.model, answer.served_by),
                self._models.of(answer.served_by).contract.digest,
                fields,
                timings(prepared, prepared.rows[row], frame, answer),
                (captured_at(frame)[0], "file"),  # when the file was last written
                now,
                None,
            )
            assert isinstance(made, Message)
            values.append(made.value or b"")
            if self._see is not None:
                self._see(frame, prepared.rows[row].facts, fields)
        self._sink.write(values, dead)
        reasons = Counter(rejection.reason for _, rejection in dead)
        self._metrics.predicted(len(values), answer.served_by if answer else "primary")
        self._metrics.dead_lettered(reasons)
        self.summary.predictions += len(values)
        self.summary.dead_letters += reasons
        self._budget.release(sum(map(weight, prepared.frames)))
        self._progress(len(prepared.frames))
        return len(prepared.frames)
