"""A TIFF less everything that makes no pixels, as `worker.decode.structure` does for PNG and GIF.

Bytes in, bytes out. Pillow reads all tags before it decodes, follows some to further directories, and takes the last of
a repeated tag where libtiff takes the first; it gets one directory of tags that matter, each once.
"""

from __future__ import annotations

import struct

from worker.decode.refusals import corrupt

# Size, samples and their format, compression and predictor, colours, orientation, strips and tiles.
_KEPT = frozenset(
    (254, 256, 257, 258, 259, 262, 266, 274, 277, 278, 284, 317, 320, 322, 323, 332, 338, 339, 529, 530, 531, 532)
)
_STRIPS_AND_TILES = frozenset((273, 279, 324, 325))
# libtiff's default strip is 8 KiB: 16,384 of them are 16 megapixels of two bytes and four channels. Pillow takes some
# 10 us for each, and 9 s for the million that fit into 8 MiB.
MAX_STRIPS = 32_768
_MAX_VALUES = 3 << 16  # a colour map for 16-bit indices


def pixel_tags_only(value: bytes) -> bytes:
    """`value`, whose first directory was read by validate, with a new directory at its end as the only one.

    Raises Rejected (corrupt) for a tag with more values than it can have a use for.
    """
    order = "<" if value[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(order + "I", value, 4)
    (count,) = struct.unpack_from(order + "H", value, directory)
    kept: dict[int, bytes] = {}
    for at in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, _, values = struct.unpack_from(order + "HHI", value, at)
        is_strips = tag in _STRIPS_AND_TILES
        if (is_strips or tag in _KEPT) and tag not in kept:
            if values > (MAX_STRIPS if is_strips else _MAX_VALUES):
                what = f"{values:,} strips or tiles; at most {MAX_STRIPS:,} are decoded"
                raise corrupt(f"The TIFF has {what if is_strips else f'{values:,} values in its tag {tag}'}.")
            kept[tag] = value[at : at + 12]
    odd = len(value) & 1  # a directory begins at an even byte
    start = struct.pack(order + "I", len(value) + odd)
    entries = struct.pack(order + "H", len(kept)), *kept.values()
    return b"".join((value[:4], start, value[8:], bytes(odd), *entries, bytes(4)))
