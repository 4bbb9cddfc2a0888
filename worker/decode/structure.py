"""Structural checks of PNG, WebP, GIF and BMP, by their definitions, before a lenient decoder sees them.

Pure: bytes and facts in, nothing or Rejected out. Chunk and block chains must be whole and PNG's checksums right; what
lies inside the compressed data is left to the decoder.
"""

from __future__ import annotations

import struct

from worker.decode.png import stored_png
from worker.decode.refusals import corrupt, truncated
from worker.decode.tail import refuse_second_picture
from worker.frames import ImageFacts

# Long animations have some thousands of frames; a million empty comments are an attempt to keep us busy.
_MAX_GIF_BLOCKS = 65_536
_GIF_TRAILER, _GIF_EXTENSION, _GIF_FRAME, _GIF_GRAPHIC_CONTROL = 0x3B, 0x21, 0x2C, 0xF9


def check_structure(value: bytes, facts: ImageFacts) -> bytes:
    """What a decoder has to see of a value that is a whole, undamaged container of its format.

    That is the value itself; of a PNG it is the critical chunks, of a GIF the first frame. Raises Rejected (truncated
    or corrupt).
    """
    decodable = value
    try:
        match facts.format:
            case "png":
                decodable, end = stored_png(value)
            case "webp":
                end = _check_webp(value)
            case "gif":
                decodable, end = _check_gif(value, facts)
            case _:
                end = _check_bmp(value, facts)
    except (IndexError, struct.error):
        end = len(value) + 1
    if end > len(value):
        raise truncated(
            f"The {facts.format.upper()} ends after {len(value):,} bytes, before its picture is complete; send the whole file."
        )
    refuse_second_picture(value, end)
    return decodable


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


def _check_gif(value: bytes, facts: ImageFacts) -> tuple[bytes, int]:
    """The GIF of the first frame alone, and where the value's GIF ends, which is at its trailer.

    Pillow looks for a second frame and keeps all comments on the way: 285 MB and 1.7 s for an 8 MB GIF of nothing else.
    The first frame must lie on the screen, else readers enlarge the screen beyond what was checked.
    """
    screen_end = position = 13 + _gif_palette_bytes(value[10])
    control = frame = (0, 0)  # start and end of the last graphic control before the first frame, and of that frame
    for _ in range(_MAX_GIF_BLOCKS):
        start, block = position, value[position]
        if block == _GIF_TRAILER:
            break
        if block == _GIF_EXTENSION:
            position += 2
        elif block == _GIF_FRAME:
            left, top, width, height, flags = struct.unpack_from("<HHHHB", value, start + 1)
            if not frame[1] and (left + width > facts.width or top + height > facts.height or not width or not height):
                raise corrupt(
                    f"The GIF's first frame, {width} x {height} at ({left}, {top}), is not on its screen of "
                    f"{facts.width} x {facts.height}."
                )
            position += 11 + _gif_palette_bytes(flags)
        else:
            raise corrupt(f"Byte {start:,} of the GIF is {block:#04x} where a block or the end was expected.")
        while size := value[position]:
            position += size + 1
        position += 1
        if not frame[1]:
            if block == _GIF_FRAME:
                frame = (start, position)
            elif value[start + 1] == _GIF_GRAPHIC_CONTROL:
                control = (start, position)
    else:
        raise corrupt(f"The GIF has more than {_MAX_GIF_BLOCKS:,} blocks.")
    if not frame[1]:
        raise corrupt("The GIF has no frame.")
    return value[:screen_end] + value[slice(*control)] + value[slice(*frame)] + b";", position + 1


def _gif_palette_bytes(flags: int) -> int:
    return 3 * (2 << (flags & 7)) if flags & 0x80 else 0


def _check_bmp(value: bytes, facts: ImageFacts) -> int:
    offset, header = struct.unpack_from("<II", value, 10)
    (bits,) = struct.unpack_from("<H", value, 24 if header == 12 else 28)
    if offset < 14 + header:
        raise corrupt(f"The BMP's pixels begin at byte {offset}, inside its header of {14 + header} bytes.")
    row_bytes = (facts.width * bits + 31) // 32 * 4  # rows are padded to 32 bits
    return int(offset + row_bytes * facts.height)
