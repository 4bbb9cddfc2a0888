"""The format of every topic's records, version 1. The JSON Schemas users rely on are made from these types.

Within v1, changes only add fields. Encoding is msgspec's: the one JSON codec of the project.
"""

from __future__ import annotations

from typing import Any

import msgspec

from worker.summaries import StreamSummary

PREDICTION_TYPE = "headrace.prediction.v1"
STATISTICS_TYPE = "headrace.statistics.v1"
JSON_CONTENT_TYPE = b"application/json"


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """A JSON object on a topic."""


class Source(Record, frozen=True):
    """The record a frame came in, or its file in batch mode (topic = path, offset = frame number)."""

    topic: str
    partition: int
    offset: int


class ImageRecord(Record, frozen=True):
    """The source image; width and height in pixels once its EXIF orientation is applied, as are all boxes."""

    format: str
    width: int
    height: int
    decoder: str


class ModelRecord(Record, frozen=True, omit_defaults=True):
    """What made the prediction."""

    name: str
    version: str
    digest: str
    runtime: str
    precision: str
    served_by: str
    engine_digest: str | None = None


class ClassScore(Record, frozen=True):
    """One class of the top k; `score` is a probability, 0..1."""

    index: int
    label: str
    score: float


class Detection(Record, frozen=True):
    """One object; `box` is x0, y0, x1, y1 in pixels of the upright source image, `score` 0..1."""

    index: int
    label: str
    score: float
    box: tuple[float, float, float, float]


class Timings(Record, frozen=True):
    """Milliseconds: poll to decode, decode, waiting and filling the batch, inference."""

    queued: float
    decode: float
    batch: float
    infer: float


class Prediction(Record, frozen=True):
    """Value of a record on `predictions`; see docs/records.md."""

    id: str
    frame_id: str | None
    stream: str | None
    source: Source
    generation: int | None
    captured_at: str
    captured_at_source: str
    predicted_at: str
    image: ImageRecord
    model: ModelRecord
    preprocess: str
    task: str
    timings_ms: Timings
    replay_of: str | None = None
    classes: list[ClassScore] | msgspec.UnsetType = msgspec.UNSET
    detections: list[Detection] | msgspec.UnsetType = msgspec.UNSET
    embedding: list[float] | msgspec.UnsetType = msgspec.UNSET


class OffsetRange(Record, frozen=True):
    """Half-open range [start, end) of offsets of one source partition."""

    topic: str
    partition: int
    start: int
    end: int


class StreamStatistics(Record, frozen=True):
    """What one stream (key; null for frames without one) did in the range."""

    stream: str | None
    summary: StreamSummary


class StatisticsRecord(Record, frozen=True):
    """Value of a record on `frames.stats`: one range of one source partition, from one commit to the next.

    In the order (generation, offset on the statistics topic) a later record replaces every earlier one that its range
    overlaps; the `parts` of one range, numbered from 0 by `part`, stand beside each other.
    """

    source: OffsetRange
    generation: int | None
    model: ModelRecord | None
    preprocess: str
    window_start: str
    window_end: str
    streams: list[StreamStatistics]
    part: int = 0
    parts: int = 1


SCHEMAS: dict[str, type[Record]] = {"prediction": Prediction, "statistics": StatisticsRecord}

_encoder = msgspec.json.Encoder()


def encode(record: Any) -> bytes:
    """JSON, UTF-8, no spaces."""
    return _encoder.encode(record)


def json_schema(name: str) -> dict[str, Any]:
    """The published JSON Schema of a record type; `name` is a key of SCHEMAS."""
    return msgspec.json.schema(SCHEMAS[name])
