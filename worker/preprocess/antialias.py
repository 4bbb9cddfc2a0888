"""The filter `bilinear_antialias`: a triangle whose width grows with the scale, as Pillow and torchvision train with.

Two engines of one definition: fast_image_resize (SIMD; cykooz.resizer) where its wheel exists, else Pillow, within one
grey level of each other. Both release the GIL while they compute.
"""

from __future__ import annotations

import math
import threading

import numpy as np
from PIL import Image

from worker.frames import UInt8Array

try:
    import cykooz_resizer as fir
except ImportError:  # no wheel for Linux on ARM: Pillow gives the same picture for seven times the CPU
    fir = None


Box = tuple[float, float, float, float]  # left, top, width, height in pixels of the source, parts of pixels too

# The engine takes bytes and copies them again. Larger pictures go through in bands of rows, with the rows that the filter reads
# beyond each: the same within a rounding, without 54 MiB of copies of 12 megapixels, and 4 times as fast for the page faults saved.
BAND_BYTES = 1 << 20


class FastTriangle:
    """fast_image_resize. Its objects can't be used from two threads at once, so each thread has its own."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __call__(self, source: UInt8Array, destination: UInt8Array, box: Box | None = None) -> None:
        """Scale (H, W, 3) uint8 `source`, or the `box` of it, into all of (h, w, 3) uint8 `destination`.

        Either array may be a strided view. Pixels that lie in the box by a part weigh in as whole ones at its edges.
        """
        if not hasattr(self._local, "resizer"):
            self._local.resizer = fir.Resizer()
        source, (x, y, width, height) = _around(source, box)
        rows = destination.shape[0]
        scale = height / rows
        # The triangle reaches one target pixel far, and at least one source pixel.
        beyond = math.ceil(max(1.0, scale)) + 1
        band = rows
        if source.nbytes > BAND_BYTES:
            band = max(1, int((BAND_BYTES / (source.shape[1] * 3) - 2 * beyond) / scale))
        for first in range(0, rows, band):
            last = min(rows, first + band)
            top, bottom = y + first * scale, min(y + last * scale, y + height)
            above, below = max(0, math.floor(top) - beyond), min(source.shape[0], math.ceil(bottom) + beyond)
            self._resize(source[above:below], fir.CropBox(x, top - above, width, bottom - top), destination[first:last])

    def _resize(self, source: UInt8Array, box: fir.CropBox, destination: UInt8Array) -> None:
        """Scale the box of `source` into `destination`; pixels of `source` outside the box weigh in at its edges."""
        height, width = destination.shape[:2]
        options = fir.ResizeOptions(resize_alg=fir.ResizeAlg.convolution(fir.FilterType.bilinear), crop_box=box)
        image = fir.ImageData(source.shape[1], source.shape[0], fir.PixelType.U8x3, source.tobytes())
        target = fir.ImageData(width, height, fir.PixelType.U8x3)
        self._local.resizer.resize(image, target, options)
        destination[...] = np.frombuffer(target.get_buffer(), np.uint8).reshape(height, width, 3)


class PillowTriangle:
    """Pillow: for machines without a wheel of fast_image_resize."""

    def __call__(self, source: UInt8Array, destination: UInt8Array, box: Box | None = None) -> None:
        """As FastTriangle."""
        source, (x, y, width, height) = _around(source, box)
        size = destination.shape[1::-1]
        picture = Image.fromarray(source)
        destination[...] = np.asarray(picture.resize(size, Image.Resampling.BILINEAR, (x, y, x + width, y + height)))


def triangle() -> FastTriangle | PillowTriangle:
    """The faster engine this machine has."""
    return PillowTriangle() if fir is None else FastTriangle()


def _around(source: UInt8Array, box: Box | None) -> tuple[UInt8Array, Box]:
    """The pixels that the box touches, and the box within them: a filter reads no others."""
    if box is None:
        return source, (0.0, 0.0, float(source.shape[1]), float(source.shape[0]))
    x, y, width, height = box
    left, top = math.floor(x), math.floor(y)
    right, bottom = min(source.shape[1], math.ceil(x + width)), min(source.shape[0], math.ceil(y + height))
    return source[top:bottom, left:right], (x - left, y - top, width, height)
