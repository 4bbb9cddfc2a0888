"""The filter `bilinear_antialias`: a triangle whose width grows with the scale, as Pillow and torchvision train with.

Two engines of one definition: fast_image_resize (SIMD; cykooz.resizer) where its wheel exists, else Pillow, within one
grey level of each other. Both release the GIL while they compute.
"""

from __future__ import annotations

import threading

import numpy as np
from PIL import Image

from worker.frames import UInt8Array

try:
    import cykooz_resizer as fir
except ImportError:  # no wheel for Linux on ARM: Pillow gives the same picture for seven times the CPU
    fir = None


class FastTriangle:
    """fast_image_resize. Its objects can't be used from two threads at once, so each thread has its own."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __call__(self, source: UInt8Array, destination: UInt8Array) -> None:
        """Scale (H, W, 3) uint8 `source` into all of (h, w, 3) uint8 `destination`; either may be a strided view."""
        local = self._local
        if not hasattr(local, "resizer"):
            local.resizer = fir.Resizer()
            local.options = fir.ResizeOptions(resize_alg=fir.ResizeAlg.convolution(fir.FilterType.bilinear))
            local.target = None
        height, width = destination.shape[:2]
        if local.target is None or (local.target.width, local.target.height) != (width, height):
            local.target = fir.ImageData(width, height, fir.PixelType.U8x3)
        # It takes and gives bytes only: two copies in, two out, a fifth of its time, and still 6 times Pillow's speed.
        image = fir.ImageData(source.shape[1], source.shape[0], fir.PixelType.U8x3, source.tobytes())
        local.resizer.resize(image, local.target, local.options)
        destination[...] = np.frombuffer(local.target.get_buffer(), np.uint8).reshape(height, width, 3)


class PillowTriangle:
    """Pillow: for machines without a wheel of fast_image_resize."""

    def __call__(self, source: UInt8Array, destination: UInt8Array) -> None:
        """As FastTriangle."""
        height, width = destination.shape[:2]
        destination[...] = np.asarray(Image.fromarray(source).resize((width, height), Image.Resampling.BILINEAR))


def triangle() -> FastTriangle | PillowTriangle:
    """The faster engine this machine has."""
    return PillowTriangle() if fir is None else FastTriangle()
