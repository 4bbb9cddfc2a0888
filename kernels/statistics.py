"""What the kernels sum up of each model input, and the statistics made of it. Pure.

The sums are integers, so neither the order of additions nor the device changes a bit of them; divisions and roots happen
here in float64. The model input is the uint8 grid before normalisation, padding included.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Of one image, uint64: Laplacian of luma (two's complement), its square, the three channels in the plan's colour order,
# the three squared, and how many pixels have each of the 256 lumas.
SUMS = 8 + 256

Sums = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]


class Summaries(NamedTuple):
    """Of n model inputs. Means and deviations (population) in grey levels; sharpness is the Laplacian's variance."""

    brightness: Floats  # (n,) mean luma
    contrast: Floats  # (n,) deviation of luma
    sharpness: Floats  # (n,)
    channel_mean: Floats  # (n, 3) in the plan's colour order
    channel_deviation: Floats  # (n, 3)
    histogram: npt.NDArray[np.int64]  # (n, 256) pixels of each luma


def summaries(sums: Sums, pixels: int) -> Summaries:
    """Of (n, SUMS) `sums` over model inputs of `pixels` pixels each.

    Luma is ITU-R BT.601 rounded to grey levels, as OpenCV rounds it; the Laplacian has four neighbours and mirrored edges.
    """
    brightness, contrast, sharpness = _luma(sums, pixels)
    mean, deviation = _moments(sums[:, 2:5], sums[:, 5:8], pixels)
    return Summaries(brightness, contrast, sharpness, mean, deviation, sums[:, 8:].astype(np.int64))


def features(sums: Sums, pixels: int) -> npt.NDArray[np.float32]:
    """(n, 3) brightness, contrast, sharpness of each model input, as the worker's statistics define them."""
    return np.stack(_luma(sums, pixels), axis=1).astype(np.float32)


def _luma(sums: Sums, pixels: int) -> tuple[Floats, Floats, Floats]:
    levels = np.arange(256, dtype=np.uint64)
    brightness, contrast = _moments(sums[:, 8:] @ levels, sums[:, 8:] @ levels**2, pixels)
    centre = sums[:, 0].view(np.int64) / pixels
    return brightness, contrast, np.maximum(0.0, sums[:, 1] / pixels - centre * centre)


def _moments(total: Sums, squares: Sums, pixels: int) -> tuple[Floats, Floats]:
    mean = total / pixels
    return mean, np.sqrt(np.maximum(0.0, squares / pixels - mean * mean))
