"""The nouns of the way: what travels from the source to the outcome.

A `Frame` comes in; a decode thread turns a run of frames into a `Prepared` batch; an engine adds an `Answer`; the
publisher makes exactly one outcome of each frame, a prediction or a `Rejection`. All frozen and slotted: a stage
makes the next noun, it does not change the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]
AnyArray = npt.NDArray[Any]


class Reason(StrEnum):
    """Why a frame became a dead letter; the values are part of the published contract."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TOO_MANY_PIXELS = "too_many_pixels"
    ZERO_DIMENSION = "zero_dimension"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    INFERENCE_REJECTED = "inference_rejected"
    INFERENCE_FAILED = "inference_failed"
    OUTPUT_TOO_LARGE = "output_too_large"
    CRASHED_WORKER = "crashed_worker"


class Stage(StrEnum):
    """Where on the way something happened: label of `stage_duration_seconds` and `dlq-stage`."""

    VALIDATE = "validate"
    DECODE = "decode"
    PREPROCESS = "preprocess"
    BATCH = "batch"
    INFER = "infer"
    HEAD = "head"
    PUBLISH = "publish"


class SourcePartition(NamedTuple):
    """One ordered run of frames: a Kafka partition, or a file or video in batch mode."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One encoded image as it came from its source.

    `epoch` numbers the assignment of its partition: an outcome whose epoch is not the partition's current one is
    discarded. `timestamp_ms` is the record's (Unix epoch); `received_at` is monotonic seconds.
    """

    source: SourcePartition
    offset: int
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp_ms: int = 0
    epoch: int = 0
    received_at: float = 0.0

    @property
    def id(self) -> str:
        """`topic/partition/offset`: the same frame always has the same id."""
        return f"{self.source.topic}/{self.source.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a frame gets no prediction. `detail` is a sentence for the sender."""

    reason: Reason
    detail: str
    stage: Stage
    attempts: int = 1


class Rejected(Exception):
    """Raised inside a stage for one frame; the pipeline makes its dead letter. Not an error of the worker's."""

    def __init__(self, reason: Reason, detail: str, stage: Stage) -> None:
        super().__init__(f"{reason}: {detail}")
        self.rejection = Rejection(reason, detail, stage)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the header says, read without decoding. Width and height in pixels as stored, before EXIF orientation.

    `channels` as stored (1 grey, 2 grey+alpha, 3 colour or palette, 4 colour+alpha or CMYK); `bit_depth` per channel;
    `orientation` is EXIF's 1..8. `is_buffered`: the decoder keeps a second form of the whole picture, the coefficients of
    a JPEG in several scans or the canvas of an animated WebP.
    """

    format: str
    width: int
    height: int
    channels: int
    bit_depth: int = 8
    orientation: int = 1
    is_buffered: bool = False

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) in pixels once the orientation is applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


@dataclass(frozen=True, slots=True)
class Image:
    """A decoded image: `pixels` is (H, W, 3) uint8 RGB, upright, C-contiguous; `decoder` names what decoded it."""

    pixels: UInt8Array
    facts: ImageFacts
    decoder: str


@dataclass(frozen=True, slots=True)
class Row:
    """What is remembered of a frame whose pixels now lie in row `row` of the batch's slot."""

    index: int  # position in Prepared.frames
    facts: ImageFacts
    decoder: str
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch ready for the model: frames in source order; those in `rejections` have no row in the slot.

    `features` is (rows, F) float32: the statistics of the model-input grid, in the order of
    `worker.statistics.FEATURES`. Times are monotonic seconds.
    """

    number: int
    frames: tuple[Frame, ...]
    rows: tuple[Row, ...]
    rejections: Mapping[int, Rejection]
    features: Float32Array
    taken_at: float
    prepared_at: float


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What made a prediction. `digest` is `sha256:…` of the weights as they are run."""

    name: str
    version: str
    digest: str
    runtime: str
    precision: str
    engine_digest: str | None = None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's name, numpy dtype and shape without the batch dimension (-1 where free)."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine made of a batch: each output is (rows, ...); `infer_ms` from submission to answer."""

    outputs: Mapping[str, AnyArray] = field(repr=False)
    model: ModelIdentity
    served_by: str
    infer_ms: float
    rejections: Mapping[int, Rejection] = field(default_factory=dict)  # row -> verdict of the model
