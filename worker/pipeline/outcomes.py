"""From answers to records: the head's results, the frames' predictions and dead letters, and the statistics kept of them.

Used by the publisher thread alone. `write` makes a batch's messages and what to remember until they are acknowledged;
`acknowledged` moves that into the statistics; `statistics` cuts complete ranges out of them.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from worker.frames import (
    Answer,
    AnyArray,
    Float32Array,
    ModelIdentity,
    Prepared,
    Reason,
    Rejection,
    SourcePartition,
    Stage,
)
from worker.ingest.ledger import Range
from worker.observe.metrics import Metrics
from worker.pipeline.books import weight
from worker.pipeline.limits import InferenceLimits
from worker.pipeline.model import ServedModels
from worker.pipeline.verdicts import timings, verdicts
from worker.publish.messages import Composer, Message, captured_at, model_record, rfc3339, text
from worker.records import ModelRecord, OffsetRange, StatisticsRecord, StreamStatistics
from worker.statistics.collector import Collector


@dataclass(slots=True)
class Part:
    """What one batch did to one source partition; lists run in parallel, in offset order."""

    source: SourcePartition
    epoch: int
    offsets: list[int] = field(default_factory=list)
    predicted: list[int] = field(default_factory=list)
    streams: list[str | None] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    rejected: list[tuple[int, str | None, Reason]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Written:
    """A batch whose records are on their way."""

    parts: tuple[Part, ...]
    weight: int
    features: Float32Array
    top: tuple[AnyArray, Float32Array] | None  # index and score of each row's best class
    served_by: str
    at_s: float  # Unix seconds


class Outcomes:
    """Everything the publisher makes. `compose` gives a composer with the topics' limits as they are now."""

    def __init__(
        self, compose: Callable[[], Composer], models: ServedModels, limits: InferenceLimits, metrics: Metrics
    ) -> None:
        self._compose = compose
        self._composer = compose()
        self._models = models
        self._served = models.primary  # whose contract and head are those of the answer at hand
        self._limits = limits
        self._metrics = metrics
        self._collectors: dict[SourcePartition, Collector] = defaultdict(Collector)
        self._model: ModelRecord | None = None
        self._identity: tuple[ModelIdentity, str] | None = None

    def refresh_limits(self) -> None:
        """Ask the broker again what the topics take. Raises DependencyError."""
        self._composer = self._compose()

    def write(
        self, prepared: Prepared, answer: Answer | None, current: Sequence[bool], generation: int
    ) -> tuple[list[Message], Written]:
        """Messages in source order, one for each frame that is `current`.

        Raises TooManyRefusals where the model has refused so many that the batch must not be written.
        """
        now_ms = time.time_ns() // 1_000_000
        predicted_at = rfc3339(now_ms)
        started = time.perf_counter()
        if answer is not None:
            self._name(answer)
        reading = None if answer is None else self._served.read(answer, prepared)
        self._metrics.stage(Stage.HEAD, [time.perf_counter() - started])
        found = zip(current, verdicts(prepared, answer, reading), strict=True)
        ours = [verdict for is_current, verdict in found if is_current]
        if answer is not None:
            self._limits.add((rejection for _, _, rejection in ours), answer.model.name)
        messages: list[Message] = []
        parts: dict[SourcePartition, Part] = {}
        total = 0
        for frame, row, rejection in ours:
            total += weight(frame)
            part = parts.get(frame.source)
            if part is None:
                part = parts[frame.source] = Part(frame.source, frame.epoch)
            part.offsets.append(frame.offset)
            stream = None if frame.key is None else text(frame.key)
            captured = captured_at(frame)
            made: Message | Rejection
            if rejection is not None:
                made = rejection
            else:
                assert answer is not None
                assert reading is not None
                made = self._composer.prediction(
                    frame,
                    prepared.rows[row],
                    self._record,
                    self._served.contract.digest,
                    reading.fields(row),
                    timings(prepared, prepared.rows[row], frame, answer),
                    captured,
                    predicted_at,
                    generation,
                )
            if isinstance(made, Rejection):
                part.rejected.append((frame.offset, stream, made.reason))
                messages.append(self._composer.dead_letter(frame, made))
            else:
                part.predicted.append(frame.offset)
                part.streams.append(stream)
                part.rows.append(row)
                part.latencies_s.append((now_ms - captured[0]) / 1000)
                messages.append(made)
        top = None if reading is None else reading.top
        served_by = answer.served_by if answer is not None else ""
        return messages, Written(tuple(parts.values()), total, prepared.features, top, served_by, now_ms / 1000)

    def acknowledged(self, written: Written) -> None:
        """The batch's records are with the broker: it counts."""
        predicted = sum(len(part.rows) for part in written.parts)
        if predicted:
            self._metrics.predicted(predicted, written.served_by)
            self._metrics.end_to_end([latency for part in written.parts for latency in part.latencies_s])
        self._metrics.dead_lettered(Counter(reason for part in written.parts for _, _, reason in part.rejected))

    def collect(self, written: Written) -> None:
        """The batch goes into its partitions' statistics, for the ranges that will be cut out of them."""
        for part in written.parts:
            collector = self._collectors[part.source]
            if part.rows:
                collector.add(
                    part.predicted,
                    part.streams,
                    written.features[part.rows],
                    np.asarray(part.latencies_s, np.float32),
                    written.at_s,
                    None if written.top is None else (written.top[0][part.rows], written.top[1][part.rows]),
                )
            for offset, stream, reason in part.rejected:
                collector.reject(offset, stream, reason, written.at_s)

    def statistics(self, ranges: Sequence[Range], generation: int) -> list[Message]:
        """A record for each range that holds frames; the others (markers, compacted records) have nothing to say."""
        messages = []
        for done in ranges:
            cut = self._collectors[done.source].cut(done.start, done.end)
            if cut.window is None:
                continue
            record = StatisticsRecord(
                source=OffsetRange(
                    topic=done.source.topic, partition=done.source.partition, start=done.start, end=done.end
                ),
                generation=generation,
                model=self._model,
                preprocess=self._served.contract.digest,
                window_start=rfc3339(int(cut.window[0] * 1000)),
                window_end=rfc3339(int(cut.window[1] * 1000)),
                streams=[StreamStatistics(stream=stream, summary=summary) for stream, summary in cut.streams.items()],
            )
            messages += self._composer.statistics(record)
        return messages

    def forget(self, sources: Collection[SourcePartition]) -> None:
        """Drop what was collected of partitions that were taken away or went back."""
        for source in sources:
            self._collectors.pop(source, None)

    def _name(self, answer: Answer) -> None:
        """The model's record, made anew only when another model answers."""
        if self._identity != (answer.model, answer.served_by):
            self._identity = (answer.model, answer.served_by)
            self._served = self._models.of(answer.served_by)
            self._model = model_record(answer.model, answer.served_by)
            self._metrics.model(answer.model)

    @property
    def _record(self) -> ModelRecord:
        assert self._model is not None
        return self._model
