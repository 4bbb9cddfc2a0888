"""JPEG headers: the marker segments from SOI to the first scan, by ITU-T T.81 annex B.

Walks from segment to segment without touching the coded data, so that it costs microseconds whatever the size of the
picture. A read past the end of the value raises IndexError, which `worker.ingest.validate.inspect` turns into
"truncated".
"""

from __future__ import annotations

import re

from worker.frames import ImageFacts
from worker.ingest.headers_tiff import exif_orientation
from worker.ingest.refusals import corrupt, unsupported

# ICC profiles and extended XMP come in segments of 64 KiB, so an 8 MiB frame made of nothing else has 128; a header of
# more segments than this is an attempt to keep us busy.
MAX_SEGMENTS = 1000
_FILL = re.compile(rb"\xff+")
_EXIF = b"Exif\0\0"
_SOI, _EOI, _SOS, _APP1 = 0xD8, 0xD9, 0xDA, 0xE1
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # TEM and RSTn carry no length
_PROGRESSIVE = 0xC2
_DECODABLE = frozenset(
    (0xC0, 0xC1, _PROGRESSIVE)
)  # baseline, extended sequential, progressive; all with Huffman coding
_FRAME_KINDS = {
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical progressive",
    0xC7: "hierarchical lossless",
    0xC9: "arithmetic-coded",
    0xCA: "arithmetic-coded progressive",
    0xCB: "arithmetic-coded lossless",
    0xCD: "arithmetic-coded hierarchical",
    0xCE: "arithmetic-coded hierarchical progressive",
    0xCF: "arithmetic-coded hierarchical lossless",
    0xF7: "JPEG-LS",
}


def read_jpeg(value: bytes) -> ImageFacts:
    """Facts of a JPEG whose first two bytes are SOI; the first EXIF segment gives the orientation.

    Raises Rejected (corrupt, unsupported_format), or IndexError where the value ends before the first scan.
    """
    position, orientation, frame, is_progressive = 2, 0, (0, 0, 0), False
    for _ in range(MAX_SEGMENTS):
        marker = value[position + 1]
        if value[position] != 0xFF or marker == 0x00:
            raise corrupt(f"Byte {position} of the JPEG is {value[position]:#04x} where a marker was expected.")
        if marker == 0xFF:  # fill bytes may precede any marker
            fill = _FILL.match(value, position)
            position = fill.end() - 1 if fill else position
            marker = value[position + 1]
        if marker in _STANDALONE:
            position += 2
            continue
        if marker in (_SOI, _EOI):
            raise corrupt(f"The JPEG has a {'start' if marker == _SOI else 'end'}-of-image marker inside its header.")
        length = value[position + 2] << 8 | value[position + 3]
        if length < 2:
            raise corrupt(f"A segment of the JPEG (marker ff{marker:02x}) says that it is {length} bytes long.")
        if marker in _DECODABLE:
            if frame[2]:
                raise corrupt("The JPEG has two frame headers.")
            frame, is_progressive = _read_frame(value, position, length), marker == _PROGRESSIVE
        elif marker in _FRAME_KINDS:
            raise unsupported(f"This JPEG is {_FRAME_KINDS[marker]}; send a baseline or progressive one.")
        elif marker == _APP1 and not orientation and value.startswith(_EXIF, position + 4):
            orientation = exif_orientation(value[position + 10 : position + 2 + length])
        elif marker == _SOS:
            if not frame[2]:
                raise corrupt("The JPEG's picture data comes before its frame header.")
            _ = value[position + 2 + length]  # at least one byte of picture data, else IndexError
            is_buffered = (
                is_progressive or value[position + 4] < frame[2]
            )  # fewer components than the frame has: more scans
            return ImageFacts("jpeg", *frame, 8, orientation or 1, is_buffered)
        position += 2 + length
    raise corrupt(f"The JPEG has more than {MAX_SEGMENTS} segments before its picture.")


def _read_frame(value: bytes, position: int, length: int) -> tuple[int, int, int]:
    """(width, height, components) of the frame header at `position`."""
    precision, components = value[position + 4], value[position + 9]
    height = value[position + 5] << 8 | value[position + 6]
    width = value[position + 7] << 8 | value[position + 8]
    if precision != 8:
        raise unsupported(f"This JPEG has {precision} bits a sample; expected 8.")
    if components not in (1, 3, 4):
        raise unsupported(f"This JPEG has {components} components; expected 1 (grey), 3 (colour) or 4 (CMYK).")
    if length != 8 + 3 * components:
        raise corrupt(f"The JPEG's frame header is {length} bytes long; expected {8 + 3 * components}.")
    return width, height, components
