"""Header facts of a frame, or the verdict that it has none: the gate before anything is decoded.

A value comes in, `ImageFacts` go out; what is empty, too large, no picture, of another format or visibly damaged is
`Rejected` with a sentence for its sender. Pure and bounded: nothing is decoded, allocated by the header's word, or
raised but Rejected. Damage inside the picture data is the decode stage's to find.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from worker.errors import ConfigurationError
from worker.frames import ImageFacts, Reason, Rejected, Stage
from worker.ingest.headers_jpeg import read_jpeg
from worker.ingest.headers_plain import read_bmp, read_gif, read_png, read_webp
from worker.ingest.headers_tiff import read_tiff
from worker.ingest.signatures import appearance, known_format
from worker.settings import DEFAULT_MAX_FRAME_BYTES, DEFAULT_MAX_PIXELS

FORMATS = frozenset(("jpeg", "png", "webp", "bmp", "tiff", "gif"))


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What a frame may be: bytes as encoded, pixels (width x height) as decoded, and the formats allowed.

    A pixel of 16 bits a channel counts as two: it costs its decoder twice the memory and time.
    """

    max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES
    max_pixels: int = DEFAULT_MAX_PIXELS
    formats: frozenset[str] = FORMATS

    def __post_init__(self) -> None:
        unknown = sorted(self.formats - FORMATS)
        if unknown:
            raise ConfigurationError(f"Image formats {', '.join(unknown)} are not known; choose from {_list(FORMATS)}.")
        if self.max_frame_bytes < 1 or self.max_pixels < 1:
            raise ConfigurationError(
                f"max_frame_bytes is {self.max_frame_bytes} and max_pixels {self.max_pixels}; both must be at least 1."
            )


def inspect(value: bytes | None, limits: ImageLimits) -> ImageFacts:
    """Facts of an encoded image, from its header alone.

    Raises Rejected: empty, too_large, not_an_image, unsupported_format, zero_dimension, too_many_pixels, truncated
    (the value ends inside its header) or corrupt (the header says what its format does not allow).
    """
    if not value:
        seen = "no value (null)" if value is None else "an empty value"
        raise _rejected(Reason.EMPTY, f"The record has {seen}; expected the bytes of an encoded image.")
    if len(value) > limits.max_frame_bytes:
        raise _rejected(
            Reason.TOO_LARGE,
            f"The frame is {len(value):,} bytes; at most {limits.max_frame_bytes:,} are taken. Send it smaller or more "
            "compressed, or raise max_frame_bytes.",
        )
    name, read = _reader(value)
    if name not in limits.formats:
        raise _rejected(
            Reason.UNSUPPORTED_FORMAT, f"The frame is {name.upper()}; this worker takes {_list(limits.formats)}."
        )
    try:
        facts = read(value)
    except (IndexError, struct.error):
        raise _rejected(
            Reason.TRUNCATED,
            f"The {name.upper()} ends after {len(value):,} bytes, before its header and structure are complete; send the "
            "whole file.",
        ) from None
    if facts.width == 0 or facts.height == 0:
        raise _rejected(
            Reason.ZERO_DIMENSION,
            f"The {name.upper()} says that it is {facts.width} x {facts.height} pixels; both must be > 0.",
        )
    depth_bytes = -(-facts.bit_depth // 8)
    if facts.width * facts.height * depth_bytes > limits.max_pixels:
        raise _rejected(
            Reason.TOO_MANY_PIXELS,
            f"The {name.upper()} is {facts.width} x {facts.height}, {facts.width * facts.height:,} pixels of "
            f"{facts.bit_depth} bits a channel; at most {limits.max_pixels // depth_bytes:,} are taken. Send it smaller, or "
            "raise max_pixels.",
        )
    return facts


def format_name(value: bytes) -> str | None:
    """Name of the format by the first bytes alone, whatever comes behind them; None if it is none that is decoded here."""
    try:
        return _reader(value)[0]
    except Rejected:
        return None


def _reader(value: bytes) -> tuple[str, Callable[[bytes], ImageFacts]]:
    """Name of the format by its signature, and what reads its header."""
    if value[:2] == b"\xff\xd8":
        return "jpeg", read_jpeg
    if value[:8] == b"\x89PNG\r\n\x1a\n":
        return "png", read_png
    if value[:4] == b"RIFF" and value[8:12] == b"WEBP":
        return "webp", read_webp
    if value[:6] in (b"GIF87a", b"GIF89a"):
        return "gif", read_gif
    if value[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff", read_tiff
    # Two letters are a weak signature (text may begin "BM"): the reserved field must be zero, as every writer has it.
    if value[:2] == b"BM" and value[6:10] == b"\0\0\0\0":
        return "bmp", read_bmp
    other = known_format(value)
    if other:
        raise _rejected(
            Reason.UNSUPPORTED_FORMAT, f"The frame is {other}, which is not decoded here; send one of {_list(FORMATS)}."
        )
    raise _rejected(
        Reason.NOT_AN_IMAGE,
        f"The frame's {len(value):,} bytes are no known image format: they look like {appearance(value)}. Expected one of "
        f"{_list(FORMATS)}.",
    )


def _list(formats: frozenset[str]) -> str:
    return ", ".join(sorted(formats))


def _rejected(reason: Reason, detail: str) -> Rejected:
    return Rejected(reason, detail, Stage.VALIDATE)
