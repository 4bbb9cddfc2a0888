"""What a decoder holds at its peak is what the pixel gate counts for it: no less, and not much more."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.rig import images
from tests.rig.decoding import DecodingProcess
from tests.rig.hostile import PREDICTED, interlaced_png
from worker.decode.memory import OVERHEAD_BYTES, decode_bytes
from worker.frames import ImageFacts
from worker.ingest.validate import ImageLimits, inspect

WIDTH, HEIGHT = 1600, 1200  # with 4 bytes a pixel just below the largest frame
SMALL_BYTES = 1 << 20  # rows, tables, what Python itself takes meanwhile

RGB = cv2.resize(images.photo(600, 400), (WIDTH, HEIGHT)).astype(np.uint8)
PICTURE = Image.fromarray(RGB)
LARGE = PICTURE.resize((2400, 1600))  # beyond what decode threads keep between two JPEGs
RGBA = np.dstack([RGB, RGB[:, :, 0]])


def pillow(kind: str, mode: str = "RGB", **params: object) -> Callable[[], bytes]:
    return lambda: images.save((LARGE if kind == "jpeg" else PICTURE).convert(mode), kind, **params)


def deep(extension: str, channels: int) -> Callable[[], bytes]:
    wide = RGBA.astype(np.uint16)[:, :, :channels] * 257
    return lambda: bytes(cv2.imencode(extension, np.ascontiguousarray(wide))[1].tobytes())


def animated_webp() -> bytes:
    turned = [PICTURE.rotate(180)]
    return images.save(PICTURE, "webp", save_all=True, append_images=turned, method=0, quality=50)


def one_tile() -> bytes:
    """A deflated RGB TIFF in one tile that is nearly twice the picture."""
    data = zlib.compress(bytes(3 * 2048 * 2048), 1)
    tags = images.tiff_tags(
        2048, 1100, t258=(3, 8), t259=(3, 8), t262=(3, 2), t277=(3, 3), t322=(4, 2048), t323=(4, 2048)
    )
    tags = {tag: number for tag, number in tags.items() if tag not in (273, 278, 279)}
    at = 8 + 2 + 12 * (len(tags) + 2) + 4
    value = images.tiff(tags | {324: (4, at + 6), 325: (4, len(data))}, struct.pack("<HHH", 8, 8, 8) + data)
    return value.replace(struct.pack("<HHIHH", 258, 3, 1, 8, 0), struct.pack("<HHII", 258, 3, 3, at), 1)


KINDS: dict[str, Callable[[], bytes]] = {
    "JPEG": pillow("jpeg"),
    "JPEG, grey": pillow("jpeg", "L"),
    "JPEG, turned": pillow("jpeg", exif=images.exif(6)),
    "JPEG, turned and mirrored": pillow("jpeg", exif=images.exif(7)),
    "JPEG, CMYK": pillow("jpeg", "CMYK"),
    "JPEG, progressive": pillow("jpeg", progressive=True, subsampling=0),
    "JPEG, progressive, grey": pillow("jpeg", "L", progressive=True),
    "JPEG, progressive, CMYK": pillow("jpeg", "CMYK", progressive=True),
    "JPEG, a scan for each colour": lambda: images.scan_by_scan(np.asarray(LARGE)),
    "PNG": pillow("png", compress_level=1),
    "PNG, turned": pillow("png", compress_level=1, exif=images.exif(6)),
    "PNG, alpha": pillow("png", "RGBA", compress_level=1),
    "PNG, palette": pillow("png", "P", compress_level=1),
    "PNG, grey": pillow("png", "L", compress_level=1),
    "PNG, interlaced": lambda: interlaced_png(2048),
    "PNG, 16 bits, grey": deep(".png", 1),
    "PNG, 16 bits": deep(".png", 3),
    "PNG, 16 bits, alpha": deep(".png", 4),
    "WebP": pillow("webp", method=0),
    "WebP, alpha": lambda: images.encode(RGBA, "webp", method=0),
    "WebP, lossless": pillow("webp", lossless=True, method=0, quality=0),
    "WebP, lossless, alpha": lambda: images.encode(RGBA, "webp", lossless=True, method=0, quality=0),
    "WebP, animated": animated_webp,
    "BMP": pillow("bmp"),
    "BMP, 32 bits": lambda: images.encode(RGBA, "bmp"),
    "BMP, palette": pillow("bmp", "P"),
    "GIF": pillow("gif", "P"),
    "TIFF": pillow("tiff"),
    "TIFF, turned": pillow("tiff", tiffinfo={274: 6}),
    "TIFF, LZW": pillow("tiff", compression="tiff_lzw"),
    "TIFF, deflated": pillow("tiff", compression="tiff_adobe_deflate"),
    "TIFF, grey": pillow("tiff", "L"),
    "TIFF, palette": pillow("tiff", "P"),
    "TIFF, CMYK": pillow("tiff", "CMYK"),
    "TIFF, a tile larger than it": one_tile,
    "TIFF, 16 bits, grey": lambda: images.save(Image.fromarray(RGB[:, :, 0].astype(np.uint16) * 257), "tiff"),
    "TIFF, 16 bits": deep(".tiff", 3),
    "TIFF, 16 bits, alpha": deep(".tiff", 4),
}


@pytest.fixture(scope="module")
def process() -> Iterator[DecodingProcess]:
    with DecodingProcess(alarm_s=30) as process:
        process.decode(images.encode(images.photo(64, 64), "jpeg"))
        process.decode(images.encode(images.photo(64, 64), "tiff"))
        yield process


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_holds_no_more_than_is_counted_and_half_of_it_at_least(process: DecodingProcess, kind: str) -> None:
    value = KINDS[kind]()
    counted = decode_bytes(inspect(value, ImageLimits(max_frame_bytes=1 << 30)))
    decoded = process.decode(value)
    assert decoded.verdict == PREDICTED, decoded
    assert counted / 2 < decoded.peak_bytes <= counted + len(value) + SMALL_BYTES, decoded.peak_bytes / counted


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0", "4:1:1"])
def test_a_picture_much_smaller_than_its_blocks_stays_inside_the_overhead(
    process: DecodingProcess, subsampling: str
) -> None:
    narrow = Image.new("RGB", (1, 65_500))
    value = images.save(narrow, "jpeg", progressive=True, subsampling=subsampling)
    assert process.decode(value).peak_bytes < OVERHEAD_BYTES


def test_the_estimate_grows_with_the_picture_whatever_its_target() -> None:
    small, large = (decode_bytes(ImageFacts("jpeg", side, side, 3)) for side in (100, 200))
    assert large == 4 * small == 4 * 100 * 100 * 3
