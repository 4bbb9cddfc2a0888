"""Structural checks of PNG, WebP, GIF and BMP, by their definitions, before a lenient decoder sees them.

Pure: bytes and facts in, nothing or Rejected out. Chunk and block chains must be whole and PNG's checksums right; what
lies inside the compressed data is left to the decoder.
"""

from __future__ import annotations

import struct
import zlib

from worker.decode.refusals import corrupt, truncated
from worker.decode.tail import refuse_second_picture
from worker.frames import ImageFacts


def check_structure(value: bytes, facts: ImageFacts) -> None:
    """Raise Rejected (truncated or corrupt) unless the value is a whole, undamaged container of its format."""
    try:
        match facts.format:
            case "png":
                end = _check_png(value)
            case "webp":
                end = _check_webp(value)
            case "gif":
                end = _check_gif(value, facts)
            case _:
                end = _check_bmp(value, facts)
    except (IndexError, struct.error):
        end = len(value) + 1
    if end > len(value):
        raise truncated(
            f"The {facts.format.upper()} ends after {len(value):,} bytes, before its picture is complete; send the whole file."
        )
    refuse_second_picture(value, end)


def _check_png(value: bytes) -> int:
    view = memoryview(value)
    position, name, has_pixels = 8, b"", False
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", value, position)
        end: int = position + 12 + length
        if end > len(value):
            return end
        stored = struct.unpack_from(">I", value, end - 4)[0]
        if zlib.crc32(view[position + 4 : end - 4]) != stored:
            raise corrupt(
                f"The PNG's chunk {name!r} at byte {position:,} fails its checksum; send it again from the source."
            )
        has_pixels = has_pixels or name == b"IDAT"
        position = end
    if not has_pixels:
        raise corrupt("The PNG has no picture data (IDAT).")
    return position


def _check_webp(value: bytes) -> int:
    riff_end: int = 8 + struct.unpack_from("<I", value, 4)[0]
    if riff_end > len(value):
        return riff_end
    position = 12
    while position < riff_end:
        name, length = struct.unpack_from("<4sI", value, position)
        position += 8 + length + (length & 1)
        # Some writers leave out the padding byte of the last chunk, and every reader takes it.
        if position > riff_end + (length & 1):
            raise corrupt(f"The WebP's chunk {name!r} goes beyond the end that its header gives, byte {riff_end:,}.")
    return riff_end


def _check_gif(value: bytes, facts: ImageFacts) -> int:
    """The first frame must lie on the screen (else readers enlarge it beyond what was checked); blocks end in a trailer."""
    flags = value[10]
    position = 13 + (3 * (2 << (flags & 7)) if flags & 0x80 else 0)
    has_frame = False
    while (block := value[position]) != 0x3B:
        if block == 0x21:
            position += 2
        elif block == 0x2C:
            left, top, width, height, flags = struct.unpack_from("<HHHHB", value, position + 1)
            if not has_frame and (left + width > facts.width or top + height > facts.height or not width or not height):
                raise corrupt(
                    f"The GIF's first frame, {width} x {height} at ({left}, {top}), is not on its screen of "
                    f"{facts.width} x {facts.height}."
                )
            has_frame = True
            position += 11 + (3 * (2 << (flags & 7)) if flags & 0x80 else 0)
        else:
            raise corrupt(f"Byte {position:,} of the GIF is {block:#04x} where a block or the end was expected.")
        while size := value[position]:
            position += size + 1
        position += 1
    if not has_frame:
        raise corrupt("The GIF has no frame.")
    return position + 1


def _check_bmp(value: bytes, facts: ImageFacts) -> int:
    offset, header = struct.unpack_from("<II", value, 10)
    (bits,) = struct.unpack_from("<H", value, 24 if header == 12 else 28)
    if offset < 14 + header:
        raise corrupt(f"The BMP's pixels begin at byte {offset}, inside its header of {14 + header} bytes.")
    row_bytes = (facts.width * bits + 31) // 32 * 4  # rows are padded to 32 bits
    return int(offset + row_bytes * facts.height)
