"""How much memory a picture takes while it is decoded: header facts in, bytes out.

The figures are peaks of resident memory in bytes a pixel, measured (tests/unit/test_decode_memory.py does it anew) and
rounded up: the decoder's own picture, its copies on the way to RGB, and the RGB itself. Not counted are the value, one
copy of it without metadata, and at most OVERHEAD_BYTES of tables, rows and tiles.
"""

from __future__ import annotations

from worker.decode.png import KEPT_BYTES
from worker.frames import ImageFacts

# Coefficients of a 1 x 65,500 JPEG whose blocks are 32 wide, or a TIFF's tile of a megapixel, the largest for small pictures.
OVERHEAD_BYTES = 9 << 20

_RGB = 3
# By channels. libjpeg-turbo gives CMYK as it is, and simplejpeg turns it into RGB beside it.
_JPEG = {1: _RGB, 3: _RGB, 4: 7}
# All coefficients, 2 bytes each, lie in memory until the last scan: at full size even if chroma may be sampled lower.
_JPEG_BUFFERED = {1: 5, 3: 9, 4: 12}
_TURNED = 2 * _RGB
# OpenCV's own picture, and the copy of it that Python gets; of a PNG the inflated rows as well, where they are kept.
_BMP = 2 * _RGB
_PNG = {channels: 2 * _RGB + channels for channels in (1, 2, 3, 4)}
_PNG_16_BIT = {1: 8, 2: 20, 3: 18, 4: 24}
_WEBP, _WEBP_ANIMATED = 8, 11
# Pillow's indices, then its RGB in 4 bytes, then bytes, then the array.
_GIF = 11
_TIFF = {1: 11, 2: 14, 3: 10, 4: 14}
# OpenCV's picture, and a tile that may be twice as large.
_TIFF_16_BIT = {1: 12, 2: 12, 3: 18, 4: 24}


def decode_bytes(facts: ImageFacts) -> int:
    """Upper estimate of the bytes that `worker.decode.decode` holds at once for this picture, at any scale."""
    return facts.width * facts.height * _bytes_a_pixel(facts)


def _bytes_a_pixel(facts: ImageFacts) -> int:
    is_deep = facts.bit_depth == 16
    match facts.format:
        case "jpeg":
            decoded = (_JPEG_BUFFERED if facts.is_buffered else _JPEG)[facts.channels]
            return decoded if facts.orientation == 1 else max(decoded, _TURNED)
        case "png":
            if not is_deep and facts.width * facts.height * facts.channels > KEPT_BYTES:
                return 2 * _RGB
            return (_PNG_16_BIT if is_deep else _PNG)[facts.channels]
        case "webp":
            return _WEBP_ANIMATED if facts.is_buffered else _WEBP
        case "tiff":
            return (_TIFF_16_BIT if is_deep else _TIFF)[facts.channels]
        case "gif":
            return _GIF
        case _:
            return _BMP
