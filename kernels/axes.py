"""Tables of one axis of a resize: which source pixels make a target pixel, with which weights. Pure.

All arithmetic that is not the same for every pixel (float64 centres, supports, weights, their rounding to what OpenCV and
Pillow use) is done here once for a pair of lengths; a kernel only adds products. A table is one int32 array, so that it
is one upload: first source pixel (n,), number of source pixels (n,), then weights (taps, n), which for `area` are
float32 bits. `bilinear` has both of its source pixels instead of first and number.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.int32]
Direction = Literal["columns", "rows"]

# OpenCV's INTER_RESIZE_COEF_BITS and Pillow's PRECISION_BITS (32 - 8 - 2): the fixed points of their 8-bit resizes.
BILINEAR_ONE = 1 << 11
ANTIALIAS_ONE = 1 << 22

# OpenCV drops a sliver of a source pixel below this share.
_SLIVER = 1e-3


def bilinear(source: int, target: int, direction: Direction) -> Table:
    """OpenCV's INTER_LINEAR: (4 n,) as left (n,), right (n,), weight of each (n,), weights in 1/2048.

    Beyond the edge OpenCV repeats the last column with its whole weight but the last row with two weights, whose products
    are cut separately: the tables differ by direction in those places.
    """
    centre = ((np.arange(target) + 0.5) * _scale(source, target) - 0.5).astype(np.float32)
    left = np.floor(centre)
    share = centre - left
    first = left.astype(np.int32)
    if direction == "columns":
        outside = (first < 0) | (first >= source - 1)
        share[outside] = 0
    weights = [np.rint(weight * np.float32(BILINEAR_ONE)) for weight in (np.float32(1) - share, share)]
    last = source - 1
    return np.concatenate([np.clip(first, 0, last), np.clip(first + 1, 0, last), *weights]).astype(np.int32)


def area(source: int, target: int) -> Table:
    """OpenCV's INTER_AREA for an axis that doesn't grow (target <= source): shares of the footprint, float32 bits."""
    scale = _scale(source, target)
    begin = np.arange(target) * scale
    end = begin + scale
    cell = np.minimum(scale, source - begin)
    to = np.minimum(np.floor(end).astype(np.int64), source - 1)
    inner = np.minimum(np.ceil(begin).astype(np.int64), to)
    head, tail = inner - begin > _SLIVER, end - to > _SLIVER
    first = inner - head
    count = to + tail - first
    tap = np.arange(count.max())[:, None]
    weights = np.broadcast_to(1.0 / cell, (len(tap), target)).copy()
    weights[0, head] = ((inner - begin) / cell)[head]
    weights[(count - 1)[tail], np.flatnonzero(tail)] = (np.minimum(np.minimum(end - to, 1.0), cell) / cell)[tail]
    weights[tap >= count] = 0
    return _packed(first, count, weights.astype(np.float32).view(np.int32))


def whole(source: int, target: int) -> Table:
    """As `area` for a whole ratio, unscaled: every weight is 1.0, and the sum is divided at the end (`area_ratio`)."""
    ratio = source // target
    ones = np.ones((ratio, target), np.float32).view(np.int32)
    return _packed(np.arange(target) * ratio, np.full(target, ratio), ones)


def area_ratio(source: tuple[int, int], target: tuple[int, int]) -> tuple[float, float] | None:
    """(gain, offset) with which OpenCV turns the sum of a footprint into its mean where both ratios are whole, or None.

    Twice in both directions it rounds halves up, which the offset does; elsewhere to even.
    """
    scales = [_scale(*pair) for pair in zip(source, target, strict=True)]
    if any(abs(scale - round(scale)) >= np.finfo(np.float64).eps for scale in scales):
        return None
    pixels = math.prod(round(scale) for scale in scales)
    return float(np.float32(1) / np.float32(pixels)), 0.125 if [round(scale) for scale in scales] == [2, 2] else 0.0


def antialias(source: int, target: int) -> Table:
    """Pillow's BILINEAR: a triangle two footprints wide, at least two source pixels; weights in 1/2**22."""
    scale = source / target
    support = max(scale, 1.0)
    centre = (np.arange(target) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + support + 0.5).astype(np.int64), source) - first
    tap = np.arange(count.max())[:, None]
    weights = np.maximum(1.0 - np.abs((tap + first - centre + 0.5) * (1.0 / support)), 0.0)
    weights[tap >= count] = 0
    # Summed tap by tap, as Pillow does: another order can move a weight by one.
    total = np.zeros(target)
    for row in weights:
        total += row
    return _packed(first, count, (0.5 + weights / total * ANTIALIAS_ONE).astype(np.int64))


def _scale(source: int, target: int) -> float:
    """OpenCV's: the inverse of its inverse, which isn't always source / target."""
    return 1.0 / (target / source)


def _packed(first: npt.NDArray[np.int64], count: npt.NDArray[np.int64], weights: npt.NDArray[Any]) -> Table:
    return np.concatenate([first, count, weights.ravel()]).astype(np.int32)
