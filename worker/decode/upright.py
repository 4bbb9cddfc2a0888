"""EXIF orientation applied to pixels, and the buffers that decoding reuses.

Each decode thread keeps one buffer for what the JPEG decoder writes and one for turned pixels: a frame-sized block
given back to the kernel after each frame costs more in page faults than turning it costs.
"""

from __future__ import annotations

import threading

import cv2
import numpy as np

from worker.frames import UInt8Array

# One 1080p frame of RGB is 6 MiB. Larger pictures are decoded into memory of their own, so that a single 16-megapixel
# frame does not leave 48 MiB behind in every thread; their page faults are a small part of their decode time.
KEPT_BYTES = 8 << 20

_kept = threading.local()


def scratch(purpose: str, shape: tuple[int, int, int]) -> UInt8Array:
    """Uninitialised uint8 array of `shape`; the next call with this purpose in this thread may return the same memory."""
    size = shape[0] * shape[1] * shape[2]
    if size > KEPT_BYTES:
        return np.empty(shape, np.uint8)
    buffer: UInt8Array | None = getattr(_kept, purpose, None)
    if buffer is None or buffer.size < size:
        buffer = np.empty(size, np.uint8)
        setattr(_kept, purpose, buffer)
    return buffer[:size].reshape(shape)


def turn_upright(pixels: UInt8Array, orientation: int) -> UInt8Array:
    """Pixels (H, W, 3) as stored -> as seen, C-contiguous; orientation is EXIF's 1..8 (CIPA DC-008, tag 0x0112)."""
    if orientation == 1:
        return pixels
    height, width = pixels.shape[:2]
    turned = scratch("turned", (width, height, 3) if orientation >= 5 else (height, width, 3))
    match orientation:
        case 2:
            cv2.flip(pixels, 1, turned)
        case 3:
            cv2.flip(pixels, -1, turned)
        case 4:
            cv2.flip(pixels, 0, turned)
        case 5:
            cv2.transpose(pixels, turned)
        case 6:
            cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE, turned)
        case 7:
            cv2.transpose(pixels, turned)
            cv2.flip(turned, -1, turned)  # in place: a third picture would be more than the gate counts
        case _:
            cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE, turned)
    return turned
