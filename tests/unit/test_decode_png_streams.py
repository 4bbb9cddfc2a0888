"""PNG rows by zlib-ng or the standard library, kept or inflated twice: the same of the sound, the same verdict on the damaged."""

from __future__ import annotations

import gzip
import random
import struct
import zlib

import cv2
import numpy as np
import pytest

from tests.rig import images
from worker.decode import png
from worker.frames import Rejected

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
    zlib_ng = pytest.importorskip("zlib_ng.zlib_ng", reason="zlib-ng has no wheel for this machine")
    header = images.encode(PIXELS, "png")[:_SIGNATURE_AND_HEADER]
    for number, stream in enumerate(streams()):
        value = header + chunk(b"IDAT", stream) + chunk(b"IEND", b"")
        assert verdict(zlib_ng, value) == verdict(zlib, value), f"stream {number}"
    sound = header + chunk(b"IDAT", zlib.compress(ROWS)) + chunk(b"IEND", b"")
    assert len(verdict(zlib_ng, sound)) == 2


def test_rows_that_are_not_kept_are_judged_as_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    header = images.encode(PIXELS, "png")[:_SIGNATURE_AND_HEADER]
    monkeypatch.setattr(png, "_BITE", 1000)
    monkeypatch.setattr(png, "_PIECE", 700)
    sound = 0
    for number, stream in enumerate(streams()):
        value = header + chunk(b"IDAT", stream[:300]) + chunk(b"IDAT", stream[300:]) + chunk(b"IEND", b"")
        kept = verdict(png.zlib, value)
        with monkeypatch.context() as patch:
            patch.setattr(png, "KEPT_BYTES", 0)
            checked = verdict(png.zlib, value)
        assert len(checked) == len(kept), f"stream {number}"
        if len(kept) == 1:
            assert checked == kept, f"stream {number}"
            continue
        sound += 1
        assert checked[1] == kept[1]
        for passed_on in (checked[0], kept[0]):
            assert isinstance(passed_on, bytes)
            pixels = cv2.imdecode(np.frombuffer(passed_on, np.uint8), cv2.IMREAD_COLOR_RGB)
            np.testing.assert_array_equal(pixels, PIXELS)
    assert sound >= 4
