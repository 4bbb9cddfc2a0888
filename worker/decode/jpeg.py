"""JPEG through simplejpeg (libjpeg-turbo), which raises on damage where OpenCV returns a plausible picture.

Bytes and header facts go in, RGB pixels as stored come out, in a buffer that the thread's next JPEG overwrites.
libjpeg-turbo itself supplies the standard Huffman tables that Motion-JPEG cameras leave out, converts grey, CMYK and
YCCK to RGB (CMYK is taken as inverted with or without an Adobe marker, as browsers, Pillow and OpenCV do), and releases the GIL.
"""

from __future__ import annotations

import re

import numpy as np
import simplejpeg

from worker.decode.refusals import corrupt, truncated, unsupported
from worker.decode.tail import refuse_second_picture
from worker.decode.upright import scratch
from worker.frames import ImageFacts, Reason, Rejected, Stage, UInt8Array

# Every scan of a progressive JPEG passes over the whole picture, at 15 to 20 ms for 16 megapixels, and a few bytes make
# a scan. Encoders write about 10 scans; this allows 25 at 16 megapixels and bounds a frame at some tenths of a second.
MAX_SCAN_PIXELS = 400_000_000
# Scaled decoding is fast only at these: in-between scales (3/8, 5/8 ...) lack SIMD code and cost more than full size.
_DENOMINATORS = (8, 4, 2)
# EXIF orientations that keep the left top corner where it is.
_UNTURNED = (1, 5)
# Fill bytes may precede any marker, by the megabyte.
_FILL = re.compile(rb"\xff+(?=\xff[^\xff])")
# Markers as little-endian 16-bit words.
_SOI, _SOS = 0xD8FF, 0xDAFF
_SOS_CODE = 0xDA


def decode_jpeg(value: bytes, facts: ImageFacts, target: tuple[int, int] | None) -> UInt8Array:
    """(h, w, 3) uint8 RGB as stored, at the smallest of the scales 1, 1/2, 1/4, 1/8 that covers `target`.

    `target` is (min width, min height) in stored pixels. Raises Rejected: truncated, corrupt, unsupported_format, or
    too_many_pixels where the number of scans makes it a bomb.
    """
    survey(value, facts)
    width, height = _scaled_size(facts, target)
    try:
        pixels: UInt8Array = simplejpeg.decode_jpeg(
            value, "RGB", min_width=width, min_height=height, buffer=scratch("jpeg", (height, width, 3))
        )
    except ValueError as error:
        raise _verdict(value, str(error)) from error
    if pixels.shape != (height, width, 3):
        raise corrupt(
            f"The JPEG decodes to {pixels.shape[1]} x {pixels.shape[0]}; its header gives {width} x {height}."
        )
    return pixels


def _scaled_size(facts: ImageFacts, target: tuple[int, int] | None) -> tuple[int, int]:
    if target is not None:
        for denominator in _DENOMINATORS:
            if facts.orientation not in _UNTURNED and (facts.width % denominator or facts.height % denominator):
                continue  # the last column and row are parts of pixels: turned they would come first and shift the rest
            width, height = (
                -(-facts.width // denominator),
                -(-facts.height // denominator),
            )  # rounded up, as libjpeg does
            if width >= target[0] and height >= target[1]:
                return width, height
    return facts.width, facts.height


def survey(value: bytes, facts: ImageFacts) -> None:
    """Refuse scan bombs and second pictures before any decoding.

    In coded data 0xff is always followed by 0x00 or a restart marker, so counting markers needs no parse: numpy
    compares 16-bit words at even and odd offsets, at some 0.3 us a KiB with the GIL released.
    """
    even = np.frombuffer(value, "<u2", len(value) // 2)
    odd = np.frombuffer(value, "<u2", (len(value) - 1) // 2, 1)
    scans = np.count_nonzero(even == _SOS) + np.count_nonzero(odd == _SOS)
    if scans * facts.width * facts.height > MAX_SCAN_PIXELS:
        raise Rejected(
            Reason.TOO_MANY_PIXELS,
            f"The JPEG codes its {facts.width} x {facts.height} pixels in {scans} scans; at most "
            f"{MAX_SCAN_PIXELS:,} pixels times scans are decoded. Save it as a baseline JPEG.",
            Stage.DECODE,
        )
    if (
        np.count_nonzero(even == _SOI) + np.count_nonzero(odd == _SOI) > 1
    ):  # a second picture, or a thumbnail in metadata
        scan = _first_scan(value)
        if b"MPF\0" not in value[:scan]:  # CIPA DC-007: the header announces the further views that follow
            end = value.find(b"\xff\xd9", scan)
            if end >= 0:
                refuse_second_picture(value, end + 2)


def _first_scan(value: bytes) -> int:
    """Offset of the first scan: by segment lengths, since metadata may hold a thumbnail with scans of its own."""
    position = 2
    while position + 4 <= len(value):
        if fill := _FILL.match(value, position):
            position = fill.end()
        marker = value[position + 1]
        if marker == _SOS_CODE:
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            position += 2
        else:
            position += 2 + (value[position + 2] << 8 | value[position + 3])
    return position


def _verdict(value: bytes, complaint: str) -> Rejected:
    """What libjpeg's complaint means for the sender. Warnings count: to libjpeg all survivable damage is a warning."""
    if "Could not determine subsampling" in complaint or "nsupported" in complaint:
        return unsupported(f"The JPEG is of a kind that is not decoded here ({complaint}); save it as 4:2:0 or 4:4:4.")
    if "Premature end of JPEG file" in complaint or value.find(b"\xff\xd9", _first_scan(value)) < 0:
        return truncated(
            f"The JPEG ends after {len(value):,} bytes, before its picture is complete; send the whole file."
        )
    return corrupt(f"The JPEG's picture data is damaged ({complaint}); send it again from the source.")
