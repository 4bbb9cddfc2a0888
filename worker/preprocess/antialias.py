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


# The engine takes bytes and copies them again. Larger pictures go through in bands of rows, with the rows that the filter reads
# beyond each: the same within a rounding, without 54 MiB of copies of 12 megapixels, and 4 times as fast for the page faults saved.
BAND_BYTES = 1 << 20


class FastTriangle:
    """fast_image_resize. Its objects can't be used from two threads at once, so each thread has its own."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __call__(self, source: UInt8Array, destination: UInt8Array) -> None:
        """Scale (H, W, 3) uint8 `source` into all of (h, w, 3) uint8 `destination`; either may be a strided view."""
        if not hasattr(self._local, "resizer"):
            self._local.resizer = fir.Resizer()
        source_height, source_width = source.shape[:2]
        height = destination.shape[0]
        scale = source_height / height
        beyond = (
            math.ceil(max(1.0, scale)) + 1
        )  # the triangle reaches one target pixel far, and at least one source pixel
        rows = height
        if source.nbytes > BAND_BYTES:
            rows = max(1, int((BAND_BYTES / (source_width * 3) - 2 * beyond) / scale))
        for first in range(0, height, rows):
            last = min(height, first + rows)
            top, bottom = first * scale, last * scale
            above, below = max(0, math.floor(top) - beyond), min(source_height, math.ceil(bottom) + beyond)
            box = fir.CropBox(0.0, top - above, float(source_width), min(bottom, source_height) - top)
            self._resize(source[above:below], box, destination[first:last])

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

    def __call__(self, source: UInt8Array, destination: UInt8Array) -> None:
        """As FastTriangle."""
        height, width = destination.shape[:2]
        destination[...] = np.asarray(Image.fromarray(source).resize((width, height), Image.Resampling.BILINEAR))


def triangle() -> FastTriangle | PillowTriangle:
    """The faster engine this machine has."""
    return PillowTriangle() if fir is None else FastTriangle()
