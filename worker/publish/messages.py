"""What is written for a frame: its prediction or its dead letter, and the statistics of a range. Pure.

Predictions are CloudEvents 1.0 in binary mode; `ce_id` and `ce_source` are the same each time the same frame is processed,
so that a consumer can deduplicate on the pair. Dead letters carry key and value exactly as they came.
"""

from __future__ import annotations

import codecs
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from worker.frames import Frame, ModelIdentity, Reason, Rejection, Row, Stage
from worker.records import (
    JSON_CONTENT_TYPE,
    PREDICTION_TYPE,
    STATISTICS_TYPE,
    ImageRecord,
    ModelRecord,
    Prediction,
    Source,
    StatisticsRecord,
    StreamStatistics,
    Timings,
    encode,
)

log = logging.getLogger(__name__)

Header = tuple[str, bytes]
# What a record batch adds to one record of it: 61 bytes of batch header, about 20 of varints; a header pair about 10.
RECORD_OVERHEAD_BYTES = 128
HEADER_OVERHEAD_BYTES = 12
# On a frame that was sent back from the dead letters: the id of the record it first came in, and how often it was.
REPLAY_OF = "replay-of"
REPLAY_COUNT = "replay-count"
# Detail is for a reader; a header is no place for a dump.
MAX_DETAIL_CHARS = 1000


@dataclass(frozen=True, slots=True)
class Message:
    """One record to be written. `partition` None: chosen by the key."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[Header]
    partition: int | None = None

    @property
    def size(self) -> int:
        """Upper bound of what the record takes in a batch, in bytes."""
        return (
            len(self.key or b"")
            + len(self.value or b"")
            + sum(len(name) + len(value) + HEADER_OVERHEAD_BYTES for name, value in self.headers)
            + RECORD_OVERHEAD_BYTES
        )


@dataclass(frozen=True, slots=True)
class Target:
    """An output topic: `max_bytes` bounds one record on it."""

    topic: str
    partitions: int
    max_bytes: int


class Composer:
    """Makes the records of one worker: which cluster, topics and task is fixed for its life."""

    def __init__(
        self,
        predictions: Target,
        dead_letters: Target,
        statistics: Target,
        event_source: str,
        task: str,
    ) -> None:
        self._predictions = predictions
        self._dead_letters = dead_letters
        self._statistics = statistics
        self._event_source = event_source.encode()
        self._task = task
        self._event: list[Header] = [
            ("ce_specversion", b"1.0"),
            ("ce_source", self._event_source),
            ("ce_type", PREDICTION_TYPE.encode()),
            ("content-type", JSON_CONTENT_TYPE),
        ]

    def prediction(
        self,
        frame: Frame,
        row: Row,
        model: ModelRecord,
        preprocess: str,
        fields: Mapping[str, Any],
        timings: Timings,
        captured: tuple[int, str],
        predicted_at: str,
        generation: int | None,
    ) -> Message | Rejection:
        """The record of a predicted frame, or the rejection if it is larger than its topic takes.

        `preprocess` is the digest of that model's contract; `fields` are the task's own, as its head gives them.
        """
        headers = last_headers(frame)
        frame_id, replay_of = headers.get("frame-id"), headers.get(REPLAY_OF)
        width, height = row.facts.upright_size
        value = encode(
            Prediction(
                id=frame.id,
                frame_id=None if frame_id is None else text(frame_id),
                replay_of=None if replay_of is None else text(replay_of),
                stream=None if frame.key is None else text(frame.key),
                source=Source(topic=frame.source.topic, partition=frame.source.partition, offset=frame.offset),
                generation=generation,
                captured_at=rfc3339(captured[0]),
                captured_at_source=captured[1],
                predicted_at=predicted_at,
                image=ImageRecord(format=row.facts.format, width=width, height=height, decoder=row.decoder),
                model=model,
                preprocess=preprocess,
                task=self._task,
                timings_ms=timings,
                **fields,
            )
        )
        event = [*self._event, ("ce_id", frame.id.encode()), ("ce_time", predicted_at.encode())]
        if traceparent := headers.get("traceparent"):
            event.append(("traceparent", traceparent))
        message = Message(self._predictions.topic, frame.key, value, event, self._partition(frame, self._predictions))
        if message.size > self._predictions.max_bytes:
            detail = (
                f"the prediction takes {message.size} bytes and topic {self._predictions.topic} at most "
                f"{self._predictions.max_bytes}; shorten key and headers, or raise the topic's max.message.bytes"
            )
            return Rejection(Reason.OUTPUT_TOO_LARGE, detail, Stage.PUBLISH)
        return message

    def dead_letter(self, frame: Frame, rejection: Rejection) -> Message:
        """Key and value as they came, why in headers. What the client can't express is empty and named in `dlq-nulls`."""
        nulls = []
        key, value = frame.key, frame.value
        if key is None and value is None:
            nulls.append("value")
            value = b""
        headers: list[Header] = []
        for name, content in frame.headers:
            if name.startswith("dlq-"):
                continue
            if content is None:
                nulls.append(f"header:{name}")
            headers.append((name, content or b""))
        headers += [
            ("dlq-reason", rejection.reason.value.encode()),
            ("dlq-detail", rejection.detail[:MAX_DETAIL_CHARS].encode()),
            ("dlq-stage", rejection.stage.value.encode()),
            ("dlq-attempts", str(rejection.attempts).encode()),
            ("dlq-source", frame.id.encode()),
        ]
        if nulls:
            headers.append(("dlq-nulls", ",".join(nulls).encode()))
        message = Message(self._dead_letters.topic, key, value, headers, self._partition(frame, self._dead_letters))
        if message.size <= self._dead_letters.max_bytes:
            return message
        headers.append(("dlq-value-sha256", hashlib.sha256(value or b"").hexdigest().encode()))
        message = Message(message.topic, key, b"", headers, message.partition)
        if message.size <= self._dead_letters.max_bytes:
            return message
        # A key or headers near the limit of a topic: who, where and why still get through.
        headers = [header for header in headers if header[0].startswith("dlq-")]
        headers.append(("dlq-left-out", b"key,headers"))
        return Message(message.topic, b"", b"", headers, frame.source.partition % self._dead_letters.partitions)

    def statistics(self, record: StatisticsRecord) -> list[Message]:
        """To a partition fixed by its source, so that replacements follow what they replace.

        Usually one record; streams that do not fit in one are spread over several `parts` of the same range.
        """
        groups = [record.streams]
        while any(
            self._statistics_message(record, group, 0, len(groups)).size > self._statistics.max_bytes
            for group in groups
        ):
            if all(len(group) == 1 for group in groups):
                log.error("statistics of one stream are larger than topic %s takes; left out", self._statistics.topic)
                return []
            halves = [(group[: len(group) // 2], group[len(group) // 2 :]) for group in groups]
            groups = [half for pair in halves for half in pair if half]
        return [self._statistics_message(record, group, part, len(groups)) for part, group in enumerate(groups)]

    def _statistics_message(
        self, record: StatisticsRecord, streams: list[StreamStatistics], part: int, parts: int
    ) -> Message:
        source = record.source
        key = f"{source.topic}/{source.partition}"
        headers: list[Header] = [
            ("ce_specversion", b"1.0"),
            ("ce_id", f"{key}/{source.start}-{source.end}/{record.generation}/{part}".encode()),
            ("ce_source", self._event_source),
            ("ce_type", STATISTICS_TYPE.encode()),
            ("ce_time", record.window_end.encode()),
            ("content-type", JSON_CONTENT_TYPE),
        ]
        value = encode(msgspec.structs.replace(record, streams=streams, part=part, parts=parts))
        return Message(
            self._statistics.topic, key.encode(), value, headers, source.partition % self._statistics.partitions
        )

    @staticmethod
    def _partition(frame: Frame, target: Target) -> int | None:
        return frame.source.partition % target.partitions if frame.key is None else None


def model_record(identity: ModelIdentity, served_by: str) -> ModelRecord:
    """The model as predictions name it."""
    return ModelRecord(
        name=identity.name,
        version=identity.version,
        digest=identity.digest,
        runtime=identity.runtime,
        precision=identity.precision,
        served_by=served_by,
        engine_digest=identity.engine_digest,
    )


def last_headers(frame: Frame) -> Mapping[str, bytes]:
    """Headers by name; of a repeated one the last wins, and if that is null it counts as missing."""
    return {name: value for name, value in dict(frame.headers).items() if value is not None}


def captured_at(frame: Frame) -> tuple[int, str]:
    """Epoch milliseconds and where they are from: the `header` (RFC 3339 or epoch milliseconds), else `broker`."""
    header = last_headers(frame).get("captured-at") if frame.headers else None
    if header is not None:
        content = header.decode("ascii", "replace").strip()
        try:
            if content.lstrip("-").isdigit():
                moment = datetime.fromtimestamp(int(content) / 1000, UTC)
            else:
                moment = datetime.fromisoformat(content)
                if moment.tzinfo is None:  # RFC 3339 has an offset; without one nobody knows which hour is meant
                    return frame.timestamp_ms, "broker"
            return round(moment.timestamp() * 1000), "header"
        except (ValueError, OverflowError, OSError):
            pass
    return frame.timestamp_ms, "broker"


def rfc3339(epoch_ms: int) -> str:
    """UTC with milliseconds and `Z`; years outside 1970..9999 are clamped, since nothing can write them."""
    clamped = min(max(epoch_ms, 0), 253_402_300_799_999)
    return datetime.fromtimestamp(clamped / 1000, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _percent(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(f"%{byte:02X}" for byte in error.object[error.start : error.end]), error.end


codecs.register_error("headrace-percent", _percent)


def text(content: bytes) -> str:
    """UTF-8; other bytes are percent-encoded."""
    return content.decode("utf-8", "headrace-percent")
