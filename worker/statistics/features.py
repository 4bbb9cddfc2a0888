"""Three numbers that say what a model-input grid looks like, taken where it still lies in the cache.

They drift when a camera is dirty, dark, defocused or replaced, whatever the model says. One luma conversion and one
Laplacian in OpenCV, with the GIL released; called once a frame by the decode threads.
"""

from __future__ import annotations

import threading
from typing import Literal

import cv2
import numpy as np

from worker.frames import AnyArray, Float32Array, UInt8Array

FEATURES = ("brightness", "contrast", "sharpness")

_TO_LUMA = {"rgb": cv2.COLOR_RGB2GRAY, "bgr": cv2.COLOR_BGR2GRAY}
_local = threading.local()


def features(grid: UInt8Array, out: Float32Array, colour: Literal["rgb", "bgr"] = "rgb") -> None:
    """Write FEATURES of `grid`, (h, w, 3) uint8 in order `colour`, into `out`, (3,) float32. Padding counts as image.

    brightness: mean luma (ITU-R BT.601, rounded to grey levels), 0..255; contrast: its population standard deviation,
    0..127.5; sharpness: variance of its Laplacian, 0..1,040,400 (Pech-Pacheco et al., "Diatom autofocusing in
    brightfield microscopy: a comparative study", ICPR 2000), with the 4-neighbour kernel and mirrored edges.
    """
    luma, laplacian = _scratch(grid.shape[0], grid.shape[1])
    cv2.cvtColor(grid, _TO_LUMA[colour], dst=luma)
    mean, deviation = cv2.meanStdDev(luma)
    # 16-bit: the Laplacian of uint8 lies in -1020..1020.
    cv2.Laplacian(luma, cv2.CV_16S, dst=laplacian, ksize=1)
    # For 16-bit input meanStdDev takes 12 times as long as these two, whose sums are exact.
    centre = cv2.sumElems(laplacian)[0] / laplacian.size
    power = cv2.norm(laplacian, cv2.NORM_L2SQR) / laplacian.size
    out[0] = mean[0, 0]
    out[1] = deviation[0, 0]
    out[2] = max(0.0, power - centre * centre)


def _scratch(height: int, width: int) -> tuple[AnyArray, AnyArray]:
    pair: tuple[AnyArray, AnyArray] | None = getattr(_local, "pair", None)
    if pair is None or pair[0].shape != (height, width):
        pair = (np.empty((height, width), np.uint8), np.empty((height, width), np.int16))
        _local.pair = pair
    return pair
