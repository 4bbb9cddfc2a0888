"""TIFF headers, and EXIF, which is a TIFF header inside another format.

Reads one directory of tags out of bytes. A read past the end of the value raises IndexError or struct.error, which
`worker.ingest.validate.inspect` turns into a rejection; nothing here loops over more entries than a directory can hold.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from worker.frames import ImageFacts
from worker.ingest.refusals import corrupt, unsupported

ORIENTATION = 274
_SHORT, _LONG = 3, 4
_TYPE_BYTES = {_SHORT: 2, _LONG: 4}
# Only tags whose values are read here; all are SHORT or LONG in TIFF 6.0 (BYTE never occurs for them).
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES = 254, 256, 257, 258, 259, 277
_TILE_WIDTH, _TILE_HEIGHT, _SAMPLE_FORMAT = 322, 323, 339
# Compressions whose damage a decoder can notice. JPEG, fax and the newer codecs inside TIFF are decoded through
# libtiff, which only warns of their damage: a strict worker cannot answer for them.
_COMPRESSIONS = {1: "none", 5: "LZW", 8: "deflate", 32773: "PackBits", 32946: "deflate"}
# libtiff decodes whole tiles, so tiles that reach far beyond their image are a bomb. Up to 4 million pixels are harmless
# whatever the image's size (four tiles of 1024 x 1024, larger than any writer's default); above that a sound file's
# tiles hold less than twice its pixels.
_HARMLESS_TILE_PIXELS = 4 << 20
# It holds one tile at a time, which may be 1024 x 1024 pixels whatever the image's size.
_HARMLESS_TILE = 1 << 20


def _directory(tiff: bytes, order: str, offset: int) -> Iterator[tuple[int, int]]:
    """Yield (tag, first value) of the SHORT and LONG entries of the directory at `offset`; all must lie in the value."""
    (count,) = struct.unpack_from(order + "H", tiff, offset)
    for entry in range(offset + 2, offset + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(order + "HHI", tiff, entry)
        size = _TYPE_BYTES.get(kind)
        if size is None or values == 0:
            continue
        at = entry + 8
        if size * values > 4:
            (at,) = struct.unpack_from(order + "I", tiff, at)
            if at + size * values > len(tiff):
                raise IndexError(f"the values of tag {tag} go beyond the value's end")
        yield tag, struct.unpack_from(order + ("H" if kind == _SHORT else "I"), tiff, at)[0]


def exif_orientation(tiff: bytes) -> int:
    """Orientation 1..8 from the TIFF structure of an EXIF block; 1 where it is absent or can't be read.

    Broken metadata does not damage the picture, so it never rejects a frame: viewers show such a picture as stored.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(order + "I", tiff, 4)
        for entry in range(offset + 2, offset + 2 + 12 * struct.unpack_from(order + "H", tiff, offset)[0], 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == ORIENTATION:
                return value if kind == _SHORT and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def read_tiff(value: bytes) -> ImageFacts:
    """Facts of the first directory of a TIFF, either byte order.

    Raises Rejected for what the decoder can't vouch for, struct.error where the value ends too early.
    """
    order = "<" if value[:2] == b"II" else ">"
    magic, offset = struct.unpack_from(order + "HI", value, 2)
    if magic == 43:
        raise unsupported("This is a BigTIFF; send a classic TIFF, JPEG or PNG.")
    tags = dict(reversed(list(_directory(value, order, offset))))  # of a repeated tag the first counts, as in libtiff
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise corrupt("The TIFF's first directory has no width or no height.")
    width, height = tags[_WIDTH], tags[_HEIGHT]
    if tags.get(_SUBFILE, 0) & 1:
        raise unsupported("The TIFF's first page is a reduced preview (a camera raw file?); send the picture itself.")
    compression = tags.get(_COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        raise unsupported(
            f"The TIFF's compression is {compression}; expected one of none, LZW, deflate, PackBits, whose damage can be "
            "noticed. Save it with one of these, or as JPEG or PNG."
        )
    bits, samples = tags.get(_BITS, 1), tags.get(_SAMPLES, 1)
    if tags.get(_SAMPLE_FORMAT, 1) != 1 or bits not in (1, 2, 4, 8, 16) or not 1 <= samples <= 4:
        raise unsupported(
            f"The TIFF has {samples} samples of {bits} bits a pixel, sample format {tags.get(_SAMPLE_FORMAT, 1)}; expected "
            "1 to 4 unsigned samples of at most 16 bits."
        )
    tile = tags.get(_TILE_WIDTH, 1), tags.get(_TILE_HEIGHT, 1)
    tiled = _rounded_up(width, tile[0]) * _rounded_up(height, tile[1])
    most = 2 * width * height
    if tiled > max(_HARMLESS_TILE_PIXELS, most) or tile[0] * tile[1] > max(_HARMLESS_TILE, most):
        raise corrupt(
            f"The TIFF's tiles of {tile[0]} x {tile[1]} hold {tiled:,} pixels, its picture only {width} x {height}."
        )
    orientation = tags.get(ORIENTATION, 1)
    return ImageFacts("tiff", width, height, samples, bits, orientation if 1 <= orientation <= 8 else 1)


def _rounded_up(size: int, step: int) -> int:
    """The least multiple of `step` that is at least `size`."""
    return -(-size // step) * step if step else size
