"""What the kernels must give, in plain NumPy: every filter from its definition, without the kernels' own tables.

test_references.py holds these to OpenCV, Pillow and the worker's CPU path, so that a GPU host needs none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels import SUMS, Placement, Plan

UInt8Array = npt.NDArray[np.uint8]

_TURN: dict[int, Callable[[UInt8Array], UInt8Array]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored[::-1].transpose(1, 0, 2),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: stored[:, ::-1].transpose(1, 0, 2),
}


def upright(stored: UInt8Array, orientation: int) -> UInt8Array:
    """(H, W, 3) turned as EXIF's orientation says."""
    return _TURN[orientation](stored)


def grid(plan: Plan, stored: UInt8Array, placement: Placement) -> UInt8Array:
    """(height, width, 3) uint8 in the plan's colour order: the model's input before normalisation."""
    x, y, width, height = placement.source
    cut = upright(stored, placement.orientation)[y : y + height, x : x + width]
    left, top, wide, high = placement.destination
    made = np.full((plan.height, plan.width, 3), plan.pad_value, np.uint8)
    made[top : top + high, left : left + wide] = resized(plan.filter, cut, wide, high)
    return made if plan.colour == "rgb" else made[:, :, ::-1]


def rows(
    plan: Plan, images: Sequence[UInt8Array], placements: Sequence[Placement]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint64]]:
    """The slot's rows and their sums, (n, ...) and (n, SUMS)."""
    grids = [grid(plan, image, placement) for image, placement in zip(images, placements, strict=True)]
    slot = np.stack(grids)
    if plan.dtype != "uint8":
        slot = ((slot.astype(np.float64) - plan.mean) / plan.std).astype(plan.wire)
    if plan.layout == "nchw":
        slot = np.ascontiguousarray(slot.transpose(0, 3, 1, 2))
    return slot, np.stack([sums(each, plan.colour) for each in grids])


def sums(made: UInt8Array, colour: str) -> npt.NDArray[np.uint64]:
    """(SUMS,) of one grid."""
    wide = made.astype(np.int64)
    red, green, blue = np.moveaxis(wide if colour == "rgb" else wide[:, :, ::-1], 2, 0)
    luma = (red * 9798 + green * 19235 + blue * 3735 + (1 << 14)) >> 15
    edge = np.pad(luma, 1, "reflect") if min(luma.shape) > 1 else _reflected(luma)
    laplacian = edge[:-2, 1:-1] + edge[2:, 1:-1] + edge[1:-1, :-2] + edge[1:-1, 2:] - 4 * luma
    moments = [laplacian.sum(), (laplacian**2).sum(), *wide.sum((0, 1)), *(wide**2).sum((0, 1))]
    made_sums = np.array([*moments, *np.bincount(luma.ravel(), minlength=256)], np.int64).view(np.uint64)
    assert made_sums.shape == (SUMS,)
    return made_sums


def _reflected(luma: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """As np.pad's reflect, for an axis of one pixel too, which is its own neighbour."""
    for axis, length in enumerate(luma.shape):
        width = [(1, 1) if axis == padded else (0, 0) for padded in range(2)]
        luma = np.pad(luma, width, "edge" if length == 1 else "reflect")
    return luma


def resized(name: str, source: UInt8Array, width: int, height: int) -> UInt8Array:
    """(height, width, 3) of (H, W, 3) by the filter."""
    if name == "bilinear_antialias":
        across = _triangle(source.shape[1], width)
        down = _triangle(source.shape[0], height)
        half = 1 << 21
        columns = np.clip((np.einsum("xs,ysc->yxc", across, source.astype(np.int64)) + half) >> 22, 0, 255)
        return _grey((np.einsum("ys,sxc->yxc", down, columns) + half) >> 22)
    if name == "area":
        source = _means(source, min(width, source.shape[1]), min(height, source.shape[0]))
    return _linear(source, width, height)


def _grey(values: npt.NDArray[Any]) -> UInt8Array:
    levels: UInt8Array = np.clip(values, 0, 255).astype(np.uint8)
    return levels


def _linear(source: UInt8Array, width: int, height: int) -> UInt8Array:
    left, right, from_left, from_right = _pair(source.shape[1], width, whole_at_edges=True)
    top, bottom, from_top, from_bottom = _pair(source.shape[0], height, whole_at_edges=False)
    wide = source.astype(np.int64)
    across = (wide[:, left] * from_left[:, None] + wide[:, right] * from_right[:, None]) >> 4
    down = (from_top[:, None, None] * across[top] >> 16) + (from_bottom[:, None, None] * across[bottom] >> 16)
    return _grey((down + 2) >> 2)


def _pair(source: int, target: int, *, whole_at_edges: bool) -> tuple[npt.NDArray[np.int64], ...]:
    """Both neighbours of each target pixel's centre and their weights in 1/2048."""
    centre = ((np.arange(target) + 0.5) * (1.0 / (target / source)) - 0.5).astype(np.float32)
    floor = np.floor(centre)
    share = centre - floor
    at = floor.astype(np.int64)
    if whole_at_edges:
        share[(at < 0) | (at >= source - 1)] = 0
    near, far = np.rint((1 - share) * np.float32(2048)), np.rint(share * np.float32(2048))
    return at.clip(0, source - 1), (at + 1).clip(0, source - 1), near.astype(np.int64), far.astype(np.int64)


def _means(source: UInt8Array, width: int, height: int) -> UInt8Array:
    """Neither axis may grow."""
    high, wide = source.shape[0] // height, source.shape[1] // width
    if (high * height, wide * width) == source.shape[:2] and all(
        1.0 / (target / whole) == ratio
        for target, whole, ratio in ((width, source.shape[1], wide), (height, source.shape[0], high))
    ):
        total = source.reshape(height, high, width, wide, 3).sum((1, 3), dtype=np.int64)
        if (high, wide) == (2, 2):
            return _grey((total + 2) >> 2)
        return _grey(np.rint(total.astype(np.float32) * (np.float32(1) / np.float32(high * wide))))
    across = _added(source.astype(np.float32).transpose(1, 0, 2), _shares(source.shape[1], width))
    down = _added(across.transpose(1, 0, 2), _shares(source.shape[0], height))
    return _grey(np.rint(down))


def _shares(source: int, target: int) -> list[list[tuple[int, np.float32]]]:
    """Of each target pixel: which source pixels, and how much of each."""
    scale = 1.0 / (target / source)
    taps: list[list[tuple[int, np.float32]]] = []
    for pixel in range(target):
        begin, end = pixel * scale, pixel * scale + scale
        cell = min(scale, source - begin)
        last = min(int(np.floor(end)), source - 1)
        first = min(int(np.ceil(begin)), last)
        parts = [(at, 1.0) for at in range(first, last)]
        if first - begin > 1e-3:
            parts.insert(0, (first - 1, first - begin))
        if end - last > 1e-3:
            parts.append((last, min(end - last, 1.0, cell)))
        taps.append([(at, np.float32(part / cell)) for at, part in parts])
    return taps


def _added(lines: npt.NDArray[np.float32], taps: list[list[tuple[int, np.float32]]]) -> npt.NDArray[np.float32]:
    """Weighted sums of `lines` (source, ...) in float32, tap by tap in their order: (target, ...)."""
    made = np.zeros((len(taps), *lines.shape[1:]), np.float32)
    for row, parts in zip(made, taps, strict=True):
        for at, share in parts:
            row += share * lines[at]
    return made


def _triangle(source: int, target: int) -> npt.NDArray[np.int64]:
    """(target, source) weights in 1/2**22."""
    scale = source / target
    support = max(scale, 1.0)
    weights = np.zeros((target, source), np.int64)
    for pixel in range(target):
        centre = (pixel + 0.5) * scale
        first = max(0, int(centre - support + 0.5))
        last = min(source, int(centre + support + 0.5))
        taps = [max(0.0, 1.0 - abs((at - centre + 0.5) * (1.0 / support))) for at in range(first, last)]
        total = 0.0
        for tap in taps:  # in this order: Python's `sum` compensates for rounding
            total += tap
        weights[pixel, first:last] = [int(0.5 + tap / total * (1 << 22)) for tap in taps]
    return weights
