"""What a careless or an ill-meaning sender may send, each value with the verdict that the worker must give.

`hostile_values` yields them all, made on the spot: through validate and decode in the unit tests, through the real topic
in the fault tests, and as the first corpus of the fuzzer. They come group by group, since some are as large as a frame may be.
"""

from __future__ import annotations

import base64
import functools
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image

from tests.rig import images
from worker.frames import Reason

PREDICTED: Final = "predicted"
# As many bytes as a frame may have, less what surrounds the filling.
_FULL = (8 << 20) - (64 << 10)
_LARGEST = 4096  # squared, the pixels that a frame may have


class Hostile(NamedTuple):
    """A frame's value and its verdict; None where chance decides whether the damage can be seen."""

    name: str
    value: bytes | None
    expected: Reason | Literal["predicted"] | None


def hostile_values(groups: Iterable[str] | None = None) -> Iterator[Hostile]:
    """All values of these groups (all of GROUPS if None), their names unique."""
    for group in GROUPS if groups is None else groups:
        for hostile in GROUPS[group]():
            yield hostile._replace(name=f"{group}: {hostile.name}")


def _good() -> dict[str, bytes]:
    rgb = images.photo(160, 120, 3)
    good = {kind: images.encode(rgb, kind) for kind in ("jpeg", "png", "webp", "gif", "bmp", "tiff")}
    return good | {
        "progressive jpeg": images.encode(rgb, "jpeg", progressive=True),
        "lossless webp": images.encode(rgb, "webp", lossless=True),
        "lzw tiff": images.encode(rgb, "tiff", compression="tiff_lzw"),
        "deflated tiff": images.encode(rgb, "tiff", compression="tiff_adobe_deflate"),
    }


@functools.cache
def _bomb() -> bytes:
    """A zlib stream of 256 KiB that inflates to 256 MiB of zeros."""
    deflater = zlib.compressobj(9)
    return b"".join(deflater.compress(bytes(1 << 20)) for _ in range(256)) + deflater.flush()


def _no_image() -> Iterator[Hostile]:
    jpeg = _good()["jpeg"]
    yield Hostile("null", None, Reason.EMPTY)
    yield Hostile("no bytes", b"", Reason.EMPTY)
    yield Hostile("one byte too many", jpeg + bytes((8 << 20) + 1 - len(jpeg)), Reason.TOO_LARGE)
    for name, value in {
        "one byte": b"\xff",
        "zeros": bytes(5000),
        "random": np.random.default_rng(5).bytes(20_000),
        "text": b"The quick brown fox jumps over the lazy dog. " * 50,
        "HTML": b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>",
        "base64": base64.b64encode(jpeg),
        "data URL": b"data:image/jpeg;base64," + base64.b64encode(jpeg),
        "ZIP before a JPEG": b"PK\x03\x04" + bytes(26) + jpeg,
    }.items():
        yield Hostile(name, value, Reason.NOT_AN_IMAGE)
    yield Hostile("PDF before a JPEG", b"%PDF-1.7\n" + jpeg, Reason.UNSUPPORTED_FORMAT)
    yield Hostile("HEIC", b"\x00\x00\x00\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(200), Reason.UNSUPPORTED_FORMAT)
    rubbish = np.random.default_rng(6).bytes(5000)
    for name, good in _good().items():
        yield Hostile(f"{name} with another magic", b"\0\1" + good[2:], Reason.NOT_AN_IMAGE)
        magic = good[:4] + b"\x08\0\0\0" if "tiff" in name else good[:12]
        verdict = Reason.TRUNCATED if "tiff" in name else Reason.CORRUPT  # a TIFF's offsets lead beyond its end
        yield Hostile(f"{name}'s magic before rubbish", magic + rubbish, verdict)
        yield Hostile(f"{name}'s magic before zeros", magic + bytes(5000), Reason.CORRUPT)


def _damaged() -> Iterator[Hostile]:
    rng = np.random.default_rng(7)
    # Where a flipped bit is sure to be seen, by a checksum, or sure not to be, since it is another pixel.
    sure: dict[str, tuple[int, int, Reason | Literal["predicted"]]] = {
        "png": (41, -16, Reason.CORRUPT),
        "deflated tiff": (10, -400, Reason.CORRUPT),
        "bmp": (54, 0, PREDICTED),
        "tiff": (200, -200, PREDICTED),
    }
    for name, good in _good().items():
        for eighth in range(1, 8):
            yield Hostile(f"{eighth}/8 of a {name}", good[: len(good) * eighth // 8], Reason.TRUNCATED)
        first, last, verdict = sure.get(name, (0, 0, None))
        for at in rng.integers(first, len(good) + last, 12):
            flipped = images.patched(good, int(at), bytes([good[at] ^ 1 << int(rng.integers(0, 8))]))
            yield Hostile(f"{name} with a bit flipped in byte {at}", flipped, verdict)
        for at in range(0, 64, 3):
            yield Hostile(f"{name} with 0xffff at {at}", images.patched(good, at, b"\xff\xff"), None)
        # Where a TIFF ends cannot be told from its strips and directories.
        yield Hostile(f"{name} twice", good + good, PREDICTED if "tiff" in name else Reason.CORRUPT)


def _jpeg() -> Iterator[Hostile]:
    rgb = images.photo(160, 120, 3)
    jpeg = images.encode(rgb, "jpeg")
    sof, scan = images.frame_header(jpeg), images.segments(jpeg)[-1][1]
    for name, odd in images.odd_jpegs(rgb).items():
        yield Hostile(name, odd, PREDICTED)
    for name, marker in {"arithmetic": b"\xc9", "lossless": b"\xc3", "hierarchical": b"\xc5"}.items():
        yield Hostile(name, images.patched(jpeg, sof + 1, marker), Reason.UNSUPPORTED_FORMAT)
    yield Hostile("12 bits a sample", images.patched(jpeg, sof + 4, b"\x0c"), Reason.UNSUPPORTED_FORMAT)
    yield Hostile("0 x 120", images.with_jpeg_size(jpeg, 0, 120), Reason.ZERO_DIMENSION)
    dnl = images.with_jpeg_size(jpeg, 160, 0)[:-2] + b"\xff\xdc\x00\x04\x00\x78\xff\xd9"
    yield Hostile("height in a DNL marker", dnl, Reason.ZERO_DIMENSION)
    yield Hostile("65,535 squared", images.with_jpeg_size(jpeg, 65_535, 65_535), Reason.TOO_MANY_PIXELS)
    yield Hostile("huge canvas, tiny data", images.with_jpeg_size(jpeg, _LARGEST, _LARGEST), Reason.CORRUPT)
    yield Hostile("nothing but scans", images.scan_bomb(), Reason.TOO_MANY_PIXELS)
    yield Hostile("as many scans as are taken", images.scan_bomb(30), None)
    yield Hostile("megabytes of fill bytes", jpeg[:2] + b"\xff" * _FULL + jpeg[2:], PREDICTED)
    damaged = b"\xff\xe2\x00\x06\xff\xd8\xff\xe0" + jpeg[2 : scan + 300] + jpeg[scan + 500 :]
    yield Hostile("megabytes of fill bytes, then damage", jpeg[:2] + b"\xff" * _FULL + damaged, Reason.CORRUPT)
    yield Hostile("megabytes of 0xff in its data", jpeg[: scan + 300] + b"\xff" * _FULL + jpeg[scan + 300 :], None)
    yield Hostile("megabytes of restart markers", jpeg[:-2] + b"\xff\xd0" * (_FULL // 2) + jpeg[-2:], PREDICTED)
    yield Hostile("a million segments", jpeg[:2] + b"\xff\xe5\0\x02" * 1_000_000 + jpeg[2:], Reason.CORRUPT)
    yield Hostile("script where a marker belongs", jpeg[:2] + b"<script>" + jpeg[2:], Reason.CORRUPT)
    comment = b"/*<script>alert(1)</script>*/ PK\x03\x04 %PDF-1.7"
    polyglot = jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[2:]
    yield Hostile("a script, a ZIP and a PDF in its comment", polyglot, PREDICTED)
    for block in (b"", b"II*\0\xff\xff\xff\xff", images.tiff({274: (3, 99)}), b"MM\0*" + b"\xff" * 60_000):
        exif = b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block
        yield Hostile(f"EXIF of rubbish, {len(block)} bytes", jpeg[:2] + exif + jpeg[2:], PREDICTED)


def _png() -> Iterator[Hostile]:
    rgb = images.photo(160, 120, 3)
    picture, inverted = Image.fromarray(rgb), Image.fromarray(255 - rgb)
    rows = (b"\0" + bytes(24)) * 8
    sound = zlib.compress(rows)
    for name, mode in {"palette": "P", "one bit": "1", "grey and alpha": "LA"}.items():
        yield Hostile(name, images.save(picture.convert(mode), "png"), PREDICTED)
    for name, deep in images.sixteen_bit(rgb).items():
        yield Hostile(f"16 bits, {name}", deep, PREDICTED)
    yield Hostile("animated", images.save(picture, "png", save_all=True, append_images=[inverted]), PREDICTED)
    yield Hostile("largest, interlaced", interlaced_png(_LARGEST), PREDICTED)
    yield Hostile("no palette", images.png(8, 8, zlib.compress(bytes(72)), colour=3), Reason.CORRUPT)
    yield Hostile("0 x 0", images.png(0, 0, zlib.compress(b"")), Reason.ZERO_DIMENSION)
    yield Hostile("60,000 squared", images.png_bomb(), Reason.TOO_MANY_PIXELS)
    tiny = images.png(_LARGEST, _LARGEST, sound)
    yield Hostile("huge canvas, tiny data", tiny, Reason.CORRUPT)
    yield Hostile("256 MiB behind its rows", images.png(8, 8, _bomb()), Reason.CORRUPT)
    for chunk, head in {b"zTXt": b"a\0\0", b"iCCP": b"a\0\0", b"iTXt": b"a\0\1\0\0\0"}.items():
        bomb = images.png_chunk(chunk, head + _bomb())
        yield Hostile(f"{chunk.decode()} of 256 MiB", images.png(8, 8, sound, extra=bomb), PREDICTED)
    yield Hostile(
        "megabytes of text", images.png(8, 8, sound, extra=images.png_chunk(b"tEXt", bytes(_FULL))), PREDICTED
    )
    yield Hostile(
        "PHP in its text",
        images.png(8, 8, sound, extra=images.png_chunk(b"tEXt", b"<?php system($_GET[0]);?>")),
        PREDICTED,
    )
    chunks = images.png_chunk(b"teXt", b"") * 100_000
    yield Hostile("100,000 chunks", images.png(8, 8, sound, extra=chunks), Reason.CORRUPT)
    yield Hostile("a depth of 3", images.png(8, 8, sound, depth=3), Reason.CORRUPT)
    yield Hostile("a wrong checksum", images.patched(images.png(8, 8, sound), 30, b"\0"), Reason.CORRUPT)


def interlaced_png(side: int) -> bytes:
    """A black RGB PNG of side x side in Adam7's seven passes."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b"".join((b"\0" + bytes(3 * -((x - side) // dx))) * -((y - side) // dy) for x, y, dx, dy in passes)
    return images.patched_checksums(images.patched(images.png(side, side, zlib.compress(rows)), 28, b"\1"))


def _webp() -> Iterator[Hostile]:
    rgb = images.photo(160, 120, 3)
    picture, inverted = Image.fromarray(rgb), Image.fromarray(255 - rgb)
    lossy, extended = images.encode(rgb, "webp"), images.encode(np.dstack([rgb, rgb[:, :, 0]]), "webp")
    animated = images.save(picture, "webp", save_all=True, append_images=[inverted])
    yield Hostile("animated", animated, PREDICTED)
    yield Hostile("0 x 120", images.patched(lossy, 26, b"\0\0"), Reason.ZERO_DIMENSION)
    yield Hostile("canvas of 16,777,216 squared", images.patched(extended, 24, b"\xff" * 6), Reason.TOO_MANY_PIXELS)
    for name, value in {"picture": extended, "animation": animated}.items():
        canvas = images.patched(value, 24, b"\xff\x0f\x00\xff\x0f\x00")
        yield Hostile(f"canvas larger than its {name}", canvas, PREDICTED if name == "animation" else Reason.CORRUPT)
    yield Hostile("canvas smaller than its picture", images.patched(extended, 24, b"\x07\0\0\x07"), Reason.CORRUPT)
    yield Hostile("canvas smaller than its animation", images.patched(animated, 24, b"\x07\0\0\x07"), Reason.CORRUPT)
    many = lossy[12:] + b"JUNK\0\0\0\0" * (_FULL // 8)
    yield Hostile("a million chunks", b"RIFF" + struct.pack("<I", len(many) + 4) + b"WEBP" + many, PREDICTED)
    yield Hostile("a chunk beyond its end", images.patched(lossy, 16, struct.pack("<I", len(lossy))), Reason.CORRUPT)


def _gif() -> Iterator[Hostile]:
    picture = Image.fromarray(images.photo(160, 120, 3))
    inverted = Image.fromarray(255 - np.asarray(picture))
    rubbish = np.random.default_rng(8).bytes(255)
    yield Hostile("interlaced", images.save(picture, "gif", interlace=1), PREDICTED)
    yield Hostile("animated", images.save(picture, "gif", save_all=True, append_images=[inverted]), PREDICTED)
    yield Hostile("frame of 65,535 squared on 8 x 8", images.gif_bomb(), Reason.CORRUPT)
    yield Hostile("screen of 0 x 8", images.patched(images.gif_bomb(), 6, b"\0\0"), Reason.ZERO_DIMENSION)
    yield Hostile("screen of 65,535 squared", images.patched(images.gif_bomb(), 6, b"\xff" * 4), Reason.TOO_MANY_PIXELS)
    yield Hostile("largest, of one colour", images.save(Image.new("P", (_LARGEST, _LARGEST)), "gif"), PREDICTED)
    screen = b"GIF89a" + struct.pack("<HHBBB", _LARGEST, _LARGEST, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    one = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    yield Hostile("huge screen, one pixel", screen + one + b";", PREDICTED)
    yield Hostile("60,000 frames", screen + one * 60_000 + b";", PREDICTED)
    yield Hostile("a million frames", screen + one * (_FULL // len(one)) + b";", Reason.CORRUPT)
    yield Hostile("a million comments", screen + b"!\xfe\x01a\0" * (_FULL // 5) + one + b";", Reason.CORRUPT)
    yield Hostile("a comment of megabytes", screen + b"!\xfe" + b"\x01a" * (_FULL // 2) + b"\0" + one + b";", PREDICTED)
    codes = b"\xff" + rubbish
    tiny = b"," + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\x08" + codes * (_FULL // 256) + b"\0;"
    yield Hostile("megabytes of codes for 64 pixels", screen + tiny, None)
    whole = b"," + struct.pack("<HHHHB", 0, 0, _LARGEST, _LARGEST, 0) + b"\x02" + b"\x01\x44" * (_FULL // 2) + b"\0;"
    yield Hostile("blocks of one byte", screen + whole, Reason.TRUNCATED)
    script = b"GIF89a/*\x01" + bytes(4) + b"*/=1;alert(document.cookie);//" + bytes(900)
    yield Hostile("a script that begins like one", script, Reason.CORRUPT)


def _tiff() -> Iterator[Hostile]:
    grey = images.tiff_tags(8, 8)
    yield Hostile(
        "a directory that is its own next", images.tiff(grey, bytes(64))[:-68] + b"\x08\0\0\0" + bytes(64), PREDICTED
    )
    yield Hostile(
        "a directory that is its own EXIF", images.tiff(images.tiff_tags(8, 8, t34665=(4, 8)), bytes(64)), PREDICTED
    )
    yield Hostile("0 x 8", images.tiff(images.tiff_tags(0, 8), bytes(64)), Reason.ZERO_DIMENSION)
    yield Hostile("65,535 squared", images.tiff(images.tiff_tags(65_535, 65_535), bytes(64)), Reason.TOO_MANY_PIXELS)
    yield Hostile(
        "huge canvas, tiny data", images.tiff(images.tiff_tags(_LARGEST, _LARGEST), bytes(64)), Reason.TRUNCATED
    )
    tiles = images.tiff_tags(8, 1000, t322=(4, 65_520), t323=(4, 16))
    yield Hostile("tiles far beyond the picture", images.tiff(tiles), Reason.CORRUPT)
    yield Hostile(
        "a tile of four megapixels", images.tiff(images.tiff_tags(8, 8, t322=(4, 2048), t323=(4, 2048))), Reason.CORRUPT
    )
    bomb = _bomb()
    yield Hostile(
        "a strip that inflates to 256 MiB",
        images.tiff(images.tiff_tags(8, 8, t259=(3, 8)) | {279: (4, len(bomb))}, bomb),
        Reason.CORRUPT,
    )
    yield Hostile("a million strips", _strips(1_000_000, 1, 1), Reason.CORRUPT)
    yield Hostile("a million strips, LZW", _strips(1_000_000, 1, 5), Reason.CORRUPT)
    nothing = b"\x78\x9c" + b"\0\0\0\xff\xff" * (_FULL // 6) + b"\x01\0\0\xff\xff\0\0\0\x01"
    yield Hostile("strips that share megabytes of nothing", _strips(30_000, len(nothing), 8, nothing), Reason.CORRUPT)
    yield Hostile("strips that share megabytes, LZW", _strips(30_000, _FULL // 2, 5, bytes(_FULL // 2)), Reason.CORRUPT)
    yield Hostile("60,000 tags", images.tiff(grey | {1000 + n: (3, 0) for n in range(60_000)}, bytes(64)), PREDICTED)
    big = struct.pack("<HHII", 700, 1, _FULL, 0)
    value = images.tiff(images.tiff_tags(8, 8, t700=(4, 0)), bytes(_FULL))
    yield Hostile("XMP of megabytes", value.replace(struct.pack("<HHII", 700, 4, 1, 0), big, 1), PREDICTED)
    yield Hostile("BigTIFF", b"II+\0\x08\0\0\0" + bytes(40), Reason.UNSUPPORTED_FORMAT)
    deep = np.zeros((2896, 2896, 4), np.uint16)
    _, out = cv2.imencode(".tiff", deep, [cv2.IMWRITE_TIFF_COMPRESSION, 8])
    yield Hostile("largest of 16 bits and four channels", out.tobytes(), PREDICTED)


def _strips(count: int, size: int, compression: int, data: bytes = b"") -> bytes:
    """A grey TIFF, 1 x count, whose strips all lie at the same `size` bytes."""
    tags = images.tiff_tags(1, count, t259=(3, compression), t278=(4, 1))
    at = 8 + 2 + 12 * len(tags) + 4
    value = images.tiff(tags | {273: (4, at), 279: (4, at)}, struct.pack("<I", at + 8 * count) * count)
    for tag, values in ((273, at), (279, at + 4 * count)):
        value = value.replace(struct.pack("<HHII", tag, 4, 1, at), struct.pack("<HHII", tag, 4, count, values), 1)
    return value + struct.pack("<I", size) * count + (data or bytes(size))


def _bmp() -> Iterator[Hostile]:
    rows = [bytes(24)] * 4
    yield Hostile("rows from the top", images.bmp(rows, 8, -4, 24), PREDICTED)
    for name, compression in {"RLE8": 1, "RLE4": 2, "JPEG": 4}.items():
        yield Hostile(name, images.bmp(rows, 8, 4, 8, compression), Reason.UNSUPPORTED_FORMAT)
    yield Hostile("a negative width", images.bmp(rows, -8, 4, 24), Reason.CORRUPT)
    yield Hostile("0 x 4", images.bmp(rows, 0, 4, 24), Reason.ZERO_DIMENSION)
    yield Hostile("the least height", images.bmp(rows, 8, -(1 << 31), 24), Reason.TOO_MANY_PIXELS)
    yield Hostile("65,535 squared", images.bmp(rows, 65_535, 65_535, 24), Reason.TOO_MANY_PIXELS)
    yield Hostile("huge canvas, tiny data", images.bmp(rows, _LARGEST, _LARGEST, 1), Reason.TRUNCATED)
    yield Hostile("pixels inside its header", images.patched(images.bmp(rows, 8, 4, 24), 10, b"\x20"), Reason.CORRUPT)
    palette = images.bmp([bytes(8)] * 4, 8, 4, 8, extra=bytes(1024))
    yield Hostile("four thousand million colours", images.patched(palette, 46, b"\xff" * 4), None)


GROUPS: dict[str, Callable[[], Iterator[Hostile]]] = {
    "no image": _no_image, "damaged": _damaged, "jpeg": _jpeg, "png": _png, "webp": _webp, "gif": _gif, "tiff": _tiff, "bmp": _bmp,
}  # fmt: skip
