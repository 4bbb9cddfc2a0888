"""What the kernels sum up of each model input, and the statistics made of it. Pure.

The sums are integers, so neither the order of additions nor the device changes a bit of them; divisions and roots happen
here in float64. The model input is the uint8 grid before normalisation, padding included.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# Of one image, uint64: luma, luma squared, Laplacian (two's complement), Laplacian squared, the three channels in the
# plan's colour order, the three squared, and how many pixels have each of the 256 lumas.
SUMS = 10 + 256

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
    brightness, contrast = _moments(sums[:, 0].astype(np.float64), sums[:, 1], pixels)
    _, laplacian = _moments(sums[:, 2].view(np.int64).astype(np.float64), sums[:, 3], pixels)
    mean, deviation = _moments(sums[:, 4:7].astype(np.float64), sums[:, 7:10], pixels)
    return Summaries(brightness, contrast, laplacian**2, mean, deviation, sums[:, 10:].astype(np.int64))


def features(sums: Sums, pixels: int) -> npt.NDArray[np.float32]:
    """(n, 3) brightness, contrast, sharpness of each model input, as the worker's statistics define them."""
    brightness, contrast = _moments(sums[:, 0].astype(np.float64), sums[:, 1], pixels)
    centre = sums[:, 2].view(np.int64) / pixels
    sharpness = np.maximum(0.0, sums[:, 3] / pixels - centre * centre)
    return np.stack([brightness, contrast, sharpness], axis=1).astype(np.float32)


def _moments(total: Floats, squares: npt.NDArray[Any], pixels: int) -> tuple[Floats, Floats]:
    mean = total / pixels
    return mean, np.sqrt(np.maximum(0.0, squares / pixels - mean * mean))
