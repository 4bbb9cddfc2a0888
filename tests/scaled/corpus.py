"""Frames for the gate: photos and videos as JPEGs of cameras' sizes, up to 12 megapixels.

The photos at hand are smaller than that. Enlarging alone would leave nothing for a filter to remove, so the sensor's noise
is put on the enlarged picture before it is encoded: detail at every pixel, as a camera's own frame has.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from worker.frames import UInt8Array

QUALITY = 90
NOISE_GREY_LEVELS = 4.0  # of a small sensor indoors
# Scaled, these leave the shipped models' inputs 1.05 to 1.8 pixels for each.
SIZES = ((768, 576), (1024, 768), (1280, 720), (1440, 1080), (1920, 1080))
TWELVE_MEGAPIXELS = (4000, 3000)


def photos(paths: Iterable[Path]) -> list[UInt8Array]:
    """(H, W, 3) BGR. Raises ValueError for what OpenCV can't read."""
    found = []
    for path in paths:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ValueError(f"OpenCV can't read {path}")
        found.append(np.asarray(pixels))
    return found


def video(path: Path, every: int) -> Iterator[UInt8Array]:
    """Each so manieth frame, (H, W, 3) BGR."""
    capture = cv2.VideoCapture(str(path))
    number = 0
    while capture.grab():
        if number % every == 0:
            yield np.asarray(capture.retrieve()[1])
        number += 1
    capture.release()


def at_size(pictures: Iterable[UInt8Array], size: tuple[int, int]) -> Iterator[bytes]:
    """JPEGs of that (width, height): the picture's centre, scaled to fill it, with noise where it was enlarged."""
    for pixels in pictures:
        yield _jpeg(_filled(pixels, size))


def mirrored(pictures: Iterable[UInt8Array]) -> list[UInt8Array]:
    """Each picture and its mirror image, which is another picture to a model and to JPEG's blocks."""
    return [each for pixels in pictures for each in (pixels, np.ascontiguousarray(pixels[:, ::-1]))]


def _filled(pixels: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    width, height = size
    scale = max(width / pixels.shape[1], height / pixels.shape[0])
    if scale != 1:
        filling = (max(width, round(scale * pixels.shape[1])), max(height, round(scale * pixels.shape[0])))
        how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
        pixels = np.asarray(cv2.resize(pixels, filling, interpolation=how))
    x, y = (pixels.shape[1] - width) // 2, (pixels.shape[0] - height) // 2
    cut = np.ascontiguousarray(pixels[y : y + height, x : x + width])
    if scale <= 1:
        return cut
    # OpenCV's own generator: 12 megapixels of numpy's normal noise take half a second.
    cv2.setRNGSeed(zlib.crc32(cut[:64].tobytes()) & 0x7FFFFFFF)
    noise = cv2.randn(np.empty(cut.shape, np.int16), 0, NOISE_GREY_LEVELS)
    return np.asarray(cv2.add(cut, noise, dtype=cv2.CV_8U))


def _jpeg(pixels: UInt8Array) -> bytes:
    encoded, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert encoded
    return np.asarray(jpeg).tobytes()
