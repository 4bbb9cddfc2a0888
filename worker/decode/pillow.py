"""GIF and TIFF through Pillow, which is the stricter and the safer one for these two.

OpenCV returns a picture for TIFFs whose LZW or deflate data is broken, and refuses sound old GIFs. Bytes and header facts go in, RGB
pixels come out: as stored for GIF, upright for TIFF, whose orientation Pillow always applies.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image as Pillow

from worker.decode.opencv import decode_16_bit
from worker.decode.refusals import corrupt, truncated, unsupported
from worker.decode.structure import check_structure
from worker.decode.tags import pixel_tags_only
from worker.frames import AnyArray, ImageFacts, Rejected, UInt8Array

# A damaged frame is its sender's affair and gets a dead letter; Pillow would warn of its metadata on stderr as well.
warnings.filterwarnings("ignore", module=r"PIL\.")

_WHITE_IS_ZERO = 0
_DEFLATE = (8, 32946)
_COMPRESSION, _PHOTOMETRIC = 259, 262
_OFFSETS_AND_COUNTS = ((273, 279), (324, 325))  # of strips, of tiles
# Tiles may reach beyond the picture; the header check refuses those that reach further than this.
_MOST_TILED, _LEAST_TILED_PIXELS = 2, 4 << 20
_INFLATED_AT_ONCE = 1 << 20


def decode_gif(value: bytes, facts: ImageFacts) -> UInt8Array:
    """(H, W, 3) uint8 RGB of the first frame on its screen. Raises Rejected (truncated or corrupt).

    LZW carries no checksum: damage that still fills the frame goes unseen, as in every reader.
    """
    return _rgb(_load(check_structure(value, facts), facts, len(value)))


def decode_tiff(value: bytes, facts: ImageFacts) -> UInt8Array:
    """(H, W, 3) uint8 RGB of the first page, upright. Raises Rejected (truncated, corrupt or unsupported_format)."""
    end = len(value)
    value = pixel_tags_only(value)
    picture = _load(value, facts, end)
    if facts.bit_depth != 16:
        return _rgb(picture)
    if facts.channels >= 3:  # Pillow keeps only the high byte of 16-bit colour
        del picture  # both at once would be 4 bytes a pixel more
        return decode_16_bit(value)
    if not picture.mode.startswith("I;16"):
        raise unsupported(f"The TIFF has {facts.channels} channels of 16 bits; save it with one, three or four.")
    grey: AnyArray = np.asarray(picture)
    grey = (grey.astype(np.uint32) + 128) // 257
    if _tags(picture).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    return np.repeat(grey.astype(np.uint8)[:, :, np.newaxis], 3, axis=2)


def _load(value: bytes, facts: ImageFacts, end: int) -> Pillow.Image:
    """The picture in `value`, whose data as it was sent ended before offset `end`."""
    try:
        picture = Pillow.open(io.BytesIO(value), formats=(facts.format.upper(),))
        if facts.format == "tiff":
            _check_strips(value, picture, facts, end)
        picture.load()
    except Rejected:
        raise
    except Exception as error:  # on hostile bytes Pillow lets almost any exception through
        if "truncated" in str(error).lower():
            raise truncated(
                f"The {facts.format.upper()} ends before its picture is complete ({error}); send the whole file."
            ) from error
        raise corrupt(f"The {facts.format.upper()}'s picture data is damaged ({error}); send it again.") from error
    return picture


def _rgb(picture: Pillow.Image) -> UInt8Array:
    try:
        return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except ValueError as error:
        raise unsupported(
            f"The picture's kind of pixels ({picture.mode}) is not decoded here; save it as RGB."
        ) from error


def _check_strips(value: bytes, picture: Pillow.Image, facts: ImageFacts, end: int) -> None:
    """Every strip or tile must lie before `end`; a deflated one must be whole by its own checksum.

    libtiff stops reading a deflate stream once the strip is full, before the checksum. Thousands of strips may point to
    the same megabytes, so their sum has a bound.
    """
    tags, view = _tags(picture), memoryview(value)
    is_deflated = tags.get(_COMPRESSION) in _DEFLATE
    left = (
        _MOST_TILED * max(_LEAST_TILED_PIXELS, facts.width * facts.height) * facts.channels * -(-facts.bit_depth // 8)
    )
    for offsets_tag, counts_tag in _OFFSETS_AND_COUNTS:
        for offset, count in zip(_numbers(tags.get(offsets_tag)), _numbers(tags.get(counts_tag)), strict=False):
            if offset + count > end:
                raise truncated(
                    f"The TIFF ends after {end:,} bytes, before its picture is complete; send the whole file."
                )
            left -= max(count, _inflated_bytes(view[offset : offset + count], left) if is_deflated else 0)
            if left < 0:
                raise corrupt(
                    f"The TIFF's strips or tiles hold more data than its {facts.width} x {facts.height} pixels can have."
                )


def _inflated_bytes(deflated: memoryview, limit: int) -> int:
    """Size of a whole zlib stream once inflated; raises Rejected (corrupt) if it is damaged or larger than `limit`."""
    inflater, total = zlib.decompressobj(), 0
    rest: bytes | memoryview = deflated
    try:
        while not inflater.eof and rest and total <= limit:
            total += len(inflater.decompress(rest, _INFLATED_AT_ONCE))
            rest = inflater.unconsumed_tail
        # All input may be taken while output is still held back.
        while not inflater.eof and total <= limit and (held := inflater.decompress(b"", _INFLATED_AT_ONCE)):
            total += len(held)
    except zlib.error as error:
        raise corrupt(f"The TIFF's deflated data is damaged ({error}); send it again from the source.") from error
    if not inflater.eof:
        raise corrupt("The TIFF's deflated data does not end where its picture does; send it again from the source.")
    return total


def _tags(picture: Pillow.Image) -> Mapping[int, Any]:
    tags: Mapping[int, Any] = picture.tag_v2  # type: ignore[attr-defined]  # only its TIFF subclass has it
    return tags


def _numbers(tag: Any) -> tuple[int, ...]:
    """The values of a tag that Pillow gives as a tuple, or bare where there is one."""
    if tag is None:
        return ()
    return tag if isinstance(tag, tuple) else (tag,)
