"""Headers of PNG, WebP, GIF and BMP: fixed fields near the start, and a walk over chunks where EXIF may hide.

Reads out of bytes without decoding. A read past the end of the value raises IndexError or struct.error, which
`worker.ingest.validate.inspect` turns into "truncated".
"""

from __future__ import annotations

import struct

from worker.frames import ImageFacts
from worker.ingest.headers_tiff import exif_orientation
from worker.ingest.refusals import corrupt, unsupported

# A PNG written with one chunk a row has some thousands; more than this is an attempt to keep us busy.
MAX_CHUNKS = 65_536

_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_VP8X_ANIMATION, _VP8X_EXIF = 0x02, 0x08
# Sizes of the DIB headers that were ever in use, BITMAPCOREHEADER to BITMAPV5HEADER.
_BMP_HEADERS = frozenset((12, 40, 52, 56, 64, 108, 124))
_BMP_COMPRESSIONS = {1: "RLE8", 2: "RLE4", 4: "JPEG", 5: "PNG"}


def read_png(value: bytes) -> ImageFacts:
    """Facts from IHDR, orientation from eXIf wherever it stands."""
    length, name = struct.unpack_from(">I4s", value, 8)
    if name != b"IHDR" or length != 13:
        raise corrupt(f"The PNG begins with a chunk {name!r} of {length} bytes; expected IHDR of 13.")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack_from(">IIBBBBB", value, 16)
    if depth not in _PNG_DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise corrupt(
            f"The PNG's header says colour type {colour}, depth {depth}, compression {compression}, filter {filtering}, "
            f"interlace {interlace}, which the format does not have."
        )
    position, orientation = 33, 1
    for _ in range(MAX_CHUNKS):
        length, name = struct.unpack_from(">I4s", value, position)
        if name == b"IEND":
            return ImageFacts("png", width, height, _PNG_CHANNELS[colour], depth, orientation)
        if name == b"eXIf":
            orientation = exif_orientation(value[position + 8 : position + 8 + length])
        position += 12 + length
    raise corrupt(f"The PNG has more than {MAX_CHUNKS:,} chunks.")


def read_webp(value: bytes) -> ImageFacts:
    """Facts from the first chunk: VP8 (lossy), VP8L (lossless) or VP8X (canvas, alpha, EXIF, animation)."""
    kind = value[12:16]
    if kind == b"VP8 ":
        if value[23:26] != b"\x9d\x01\x2a" and len(value) >= 26:
            raise corrupt("The WebP's picture lacks the start code of a VP8 key frame.")
        width, height = struct.unpack_from("<HH", value, 26)
        return ImageFacts("webp", width & 0x3FFF, height & 0x3FFF, 3)
    if kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", value, 20)
        if signature != 0x2F:
            raise corrupt("The WebP's picture lacks the signature of lossless WebP.")
        return ImageFacts("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 4 if bits >> 28 & 1 else 3)
    if kind == b"VP8X":
        flags, _, width_low, width_high, height_low, height_high = struct.unpack_from("<B3sHBHB", value, 20)
        return ImageFacts(
            "webp",
            (width_low | width_high << 16) + 1,
            (height_low | height_high << 16) + 1,
            4 if flags & 0x10 else 3,
            8,
            _webp_orientation(value) if flags & _VP8X_EXIF else 1,
            bool(flags & _VP8X_ANIMATION),
        )
    if len(value) < 16:
        raise IndexError("the value ends inside the WebP's first chunk")
    raise corrupt(f"The WebP begins with a chunk {kind!r}; expected VP8, VP8L or VP8X.")


def _webp_orientation(value: bytes) -> int:
    position = 12
    for _ in range(MAX_CHUNKS):
        name, length = struct.unpack_from("<4sI", value, position)
        if name == b"EXIF":
            exif = value[position + 8 : position + 8 + length]
            return exif_orientation(exif.removeprefix(b"Exif\0\0"))  # some writers keep JPEG's prefix
        position += 8 + length + (length & 1)
    raise corrupt(f"The WebP has more than {MAX_CHUNKS:,} chunks.")


def read_gif(value: bytes) -> ImageFacts:
    """Facts from the logical screen, onto which the first frame is drawn."""
    width, height, _ = struct.unpack_from("<HHB", value, 6)
    return ImageFacts("gif", width, height, 3)


def read_bmp(value: bytes) -> ImageFacts:
    """Facts from the DIB header; uncompressed pixels only, with or without bit masks."""
    (header,) = struct.unpack_from("<I", value, 14)
    if header not in _BMP_HEADERS:
        raise corrupt(f"The BMP's header says that it is {header} bytes long, which the format does not have.")
    compression = 0
    if header == 12:
        width, height, planes, bits = struct.unpack_from("<HHHH", value, 18)
    else:
        width, height, planes, bits, compression = struct.unpack_from("<iiHHI", value, 18)
        height = abs(height)  # negative: rows from the top
    if compression in _BMP_COMPRESSIONS:
        raise unsupported(f"The BMP is compressed ({_BMP_COMPRESSIONS[compression]}); send it uncompressed, or as PNG.")
    if width < 0 or planes != 1 or bits not in (1, 4, 8, 16, 24, 32) or compression not in (0, 3, 6):
        raise corrupt(
            f"The BMP's header says width {width}, {planes} planes, {bits} bits a pixel, compression {compression}, which "
            "the format does not have."
        )
    return ImageFacts("bmp", width, height, 4 if bits == 32 else 3)
