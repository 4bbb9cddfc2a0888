"""PNG on its way to OpenCV: its container checked, its picture data inflated here, and only what makes pixels passed on.

Bytes in, bytes out: a PNG of header, palette and rows that are stored instead of deflated, of a large picture as they came.
OpenCV 5.0's code for animated PNG crashes the process on some damaged ones, text and profiles are work for nothing, and
libpng goes on inflating when the picture is complete, a gigabyte for each megabyte of a bomb. zlib-ng inflates so much
faster than OpenCV's zlib that the whole, checks and all, takes 5 % less CPU than OpenCV alone; with the standard
library's zlib it took 30 % more.
"""

from __future__ import annotations

import importlib
import importlib.util
import struct
from collections.abc import Iterator
from typing import Any

from worker.decode.refusals import corrupt
from worker.frames import Rejected

# Where there is no wheel of zlib-ng the standard library gives the same for a third more CPU.
zlib: Any = importlib.import_module("zlib_ng.zlib_ng" if importlib.util.find_spec("zlib_ng") else "zlib")

_CRITICAL = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND"))
_ANCILLARY_BIT = 0x20  # of a chunk name's first letter
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by colour type
# Of Adam7's seven passes: first column, first row, and the steps to the next ones.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_STORED_BYTES = 65_535  # of a deflate block
# More rows than this are not kept for OpenCV, which inflates them once more: 36 MiB less for 12 megapixels, for a third more CPU.
KEPT_BYTES = 8 << 20
_BITE, _PIECE = 1 << 16, 1 << 20  # of data in, and of rows out
_IEND = b"\0\0\0\0IEND\xaeB`\x82"


def stored_png(value: bytes) -> tuple[bytes, int]:
    """The same picture as a PNG of critical chunks and proven rows, and where the value's PNG ends.

    An end beyond the value means that it is truncated. Raises Rejected (corrupt), or struct.error where the value ends
    inside a chunk's header.
    """
    head, data, end = _critical_chunks(value)
    if end > len(value):
        return value, end
    expected = _row_bytes(value)
    if expected > KEPT_BYTES:
        _check_rows(data, expected)
        pieces: list[bytes | memoryview] = [b"IDAT", *data]
    else:
        rows = _inflated(data, expected)
        pieces = [b"IDAT", b"\x78\x01", *_stored(rows), struct.pack(">I", zlib.adler32(rows))]
    checksum = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    length = struct.pack(">I", sum(map(len, pieces)) - 4)
    return b"".join((*head, length, *pieces, struct.pack(">I", checksum), _IEND)), end


def _critical_chunks(value: bytes) -> tuple[list[memoryview], list[memoryview], int]:
    """Signature and chunks before the picture's, the data of the picture's chunks, and the end. Checksums are right."""
    view = memoryview(value)
    position, name, previous = 8, b"", b""
    seen: set[bytes] = set()
    head = [view[:8]]
    data: list[memoryview] = []
    while name != b"IEND":
        previous = name
        length, name = struct.unpack_from(">I4s", value, position)
        end = position + 12 + length
        if end > len(value):
            return head, data, end
        if zlib.crc32(view[position + 4 : end - 4]) != struct.unpack_from(">I", value, end - 4)[0]:
            raise corrupt(
                f"The PNG's chunk {name!r} at byte {position:,} fails its checksum; send it again from the source."
            )
        if name in _CRITICAL:
            if name in seen and (name != b"IDAT" or previous != b"IDAT"):
                raise corrupt(f"The PNG has a second chunk {name!r} at byte {position:,}, apart from the first.")
            if name == b"PLTE" and data:
                raise corrupt(f"The PNG has its palette at byte {position:,}, after its picture.")
            seen.add(name)
            if name == b"IDAT":
                data.append(view[position + 8 : end - 4])
            elif name != b"IEND":
                head.append(view[position:end])
        elif not name.isalpha() or not name[0] & _ANCILLARY_BIT:
            raise corrupt(f"The PNG has a chunk {name!r} at byte {position:,}, which the format does not have.")
        position = end
    if not data:
        raise corrupt("The PNG has no picture data (IDAT).")
    return head, data, position


def _row_bytes(value: bytes) -> int:
    """Bytes of all rows, each with its filter's byte, of all passes, by the header."""
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", value, 16)
    bits = _SAMPLES[colour] * depth
    total = 0
    for x, y, x_step, y_step in _ADAM7 if interlace else ((0, 0, 1, 1),):
        columns, rows = -((x - width) // x_step), -((y - height) // y_step)
        if columns > 0 and rows > 0:  # a pass without columns has no rows
            total += rows * (1 + (columns * bits + 7) // 8)
    return int(total)


def _check_rows(data: list[memoryview], expected: int) -> None:
    """As `_inflated`, a piece at a time, and nothing is kept."""
    inflater, seen = zlib.decompressobj(), 0
    bites = (part[start : start + _BITE] for part in data for start in range(0, len(part), _BITE))
    waiting: Any = b""
    try:
        while not inflater.eof and seen <= expected:
            waiting = waiting or next(bites, b"")
            # One byte more than there should be tells that there is more; the end and its checksum take none.
            rows = inflater.decompress(waiting, min(_PIECE, max(1, expected - seen)))
            if not rows and not waiting:
                break
            waiting, seen = inflater.unconsumed_tail, seen + len(rows)
    except zlib.error as error:
        raise _damaged(error) from error
    if seen != expected or not inflater.eof:
        raise _misfit(expected, "more" if seen > expected else f"{seen:,}" if inflater.eof else "an unfinished stream")


def _inflated(data: list[memoryview], expected: int) -> bytes:
    """The rows: exactly `expected` bytes and a right checksum behind them, else Rejected (corrupt)."""
    inflater = zlib.decompressobj()
    try:
        rows: bytes = inflater.decompress(b"".join(data), expected)
        # At the limit the stream's end and checksum are still unread; any more output is more than the rows.
        rest = b"" if inflater.eof else inflater.decompress(inflater.unconsumed_tail, 1)
    except zlib.error as error:
        raise _damaged(error) from error
    if len(rows) != expected or rest or not inflater.eof:
        raise _misfit(expected, "more" if rest else f"{len(rows):,}" if inflater.eof else "an unfinished stream")
    return rows


def _damaged(error: Exception) -> Rejected:
    return corrupt(f"The PNG's picture data is damaged ({error}); send it again from the source.")


def _misfit(expected: int, held: str) -> Rejected:
    return corrupt(f"The PNG's picture data should inflate to {expected:,} bytes; it holds {held}. Send it again.")


def _stored(rows: bytes) -> Iterator[memoryview | bytes]:
    """Deflate's stored blocks, RFC 1951 section 3.2.4."""
    view = memoryview(rows)
    for start in range(0, len(rows), _STORED_BYTES):
        block = view[start : start + _STORED_BYTES]
        is_last = start + _STORED_BYTES >= len(rows)
        yield struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF)
        yield block
