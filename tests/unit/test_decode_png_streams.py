"""zlib-ng in the standard library's place: for PNGs the same rows of the sound, the same verdict on the damaged."""

from __future__ import annotations

import gzip
import random
import struct
import zlib

import numpy as np
import pytest

from tests.rig import images
from worker.decode import png
from worker.frames import Rejected

zlib_ng = pytest.importorskip("zlib_ng.zlib_ng", reason="zlib-ng has no wheel for this machine")

_SIGNATURE_AND_HEADER = 33
PIXELS = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
ROWS = b"".join(b"\0" + row.tobytes() for row in PIXELS)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def streams() -> list[bytes]:
    sound = [zlib.compress(ROWS, level) for level in (0, 1, 6, 9)]
    bare, with_dictionary = zlib.compressobj(9, zlib.DEFLATED, -15), zlib.compressobj(zdict=b"abc")
    odd = [
        bare.compress(ROWS) + bare.flush(),
        with_dictionary.compress(ROWS) + with_dictionary.flush(),
        gzip.compress(ROWS),
        zlib.compress(ROWS + b"x"),
        zlib.compress(ROWS[:-1]),
        zlib.compress(ROWS * 50),
        zlib.compress(b""),
        b"x",
        sound[2] + b"more",
        sound[2][:-4],  # its checksum is missing
        sound[2][:-4] + b"\0\0\0\0",
    ]
    chance = random.Random(1)
    damaged = []
    for _ in range(400):
        value = bytearray(chance.choice(sound))
        for _ in range(chance.choice((1, 1, 2, 8))):
            at = chance.randrange(len(value))
            match chance.randrange(3):
                case 0:
                    value[at] ^= 1 << chance.randrange(8)
                case 1:
                    del value[at : at + chance.randrange(1, 9)]
                case _:
                    value[at:at] = chance.randbytes(chance.randrange(1, 9))
        damaged.append(bytes(value))
    return [*sound, *odd, *damaged]


def verdict(inflater: object, value: bytes) -> tuple[object, ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(png, "zlib", inflater)
        try:
            return png.stored_png(value)
        except Rejected as rejected:
            return (rejected.rejection.reason,)


def test_zlib_ng_reads_every_stream_as_the_standard_library_does() -> None:
    header = images.encode(PIXELS, "png")[:_SIGNATURE_AND_HEADER]
    for number, stream in enumerate(streams()):
        value = header + chunk(b"IDAT", stream) + chunk(b"IEND", b"")
        assert verdict(zlib_ng, value) == verdict(zlib, value), f"stream {number}"
    sound = header + chunk(b"IDAT", zlib.compress(ROWS)) + chunk(b"IEND", b"")
    assert len(verdict(zlib_ng, sound)) == 2
