"""Batches to try the kernels on: images of many sizes and memory layouts, placed as contracts place them. Seeded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from kernels import Placement, Plan, Rect
from kernels.plan import Colour, Filter, Layout, Wire

UInt8Array = npt.NDArray[np.uint8]

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Case:
    """One call: a plan and what goes in."""

    plan: Plan
    images: list[UInt8Array]
    placements: list[Placement]


def plan(width: int, height: int, filter_name: Filter, **changes: Any) -> Plan:
    """Of the default wire, uint8 nhwc rgb, unless changed."""
    keys: dict[str, Any] = {"colour": "rgb", "layout": "nhwc", "dtype": "uint8", "mean": MEAN, "std": STD}
    return Plan(width=width, height=height, filter=filter_name, **{**keys, **changes})


def image(random: np.random.Generator, width: int, height: int, pitch: int = 0, planar: bool = False) -> UInt8Array:
    """(height, width, 3), noise or a soft picture, at the end of exactly as many bytes as it needs.

    `pitch`: bytes from row to row beyond the pixels; `planar`: three planes instead of interleaved colours.
    """
    if random.random() < 0.3:
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    else:
        y, x, c = np.ogrid[:height, :width, :3]
        phase = random.random(3) * 6
        pixels = (127.5 + 127.5 * np.sin(x / (3 + 20 * phase[0]) + y / (3 + 9 * phase[1]) + c * phase[2])).astype(
            np.uint8
        )
    strides = (width * 3 + pitch, 3, 1)
    if planar:
        strides = (width + pitch, 1, (width + pitch) * height)
    reach = sum((length - 1) * stride for length, stride in zip(pixels.shape, strides, strict=True))
    view = np.lib.stride_tricks.as_strided(np.full(reach + 1, 0xEE, np.uint8), pixels.shape, strides)
    view[...] = pixels
    return view


def whole(stored: UInt8Array, target: Plan, orientation: int = 1) -> Placement:
    """Stretched: all of the image onto all of the input."""
    height, width = stored.shape[:2] if orientation < 5 else stored.shape[1::-1]
    return Placement(Rect(0, 0, width, height), Rect(0, 0, target.width, target.height), orientation)


def mixed(seed: int, filter_name: Filter) -> Case:
    """A batch of one to four images that differ in everything, in a plan drawn with them."""
    random = np.random.default_rng(seed)
    target = plan(
        int(random.integers(1, 90)),
        int(random.integers(1, 50)),
        filter_name,
        colour=_one_of(random, get_args(Colour)),
        layout=_one_of(random, get_args(Layout)),
        dtype=_one_of(random, get_args(Wire)),
        pad_value=int(random.integers(0, 256)),
    )
    images, placements = [], []
    for _ in range(int(random.integers(1, 5))):
        width, height = (int(side) for side in np.exp(random.uniform(0, 5.3, 2)).astype(int))
        images.append(image(random, width, height, int(random.integers(0, 40)), bool(random.random() < 0.2)))
        orientation = int(random.integers(1, 9))
        upright = (width, height) if orientation < 5 else (height, width)
        source = part(random, upright) if random.random() < 0.4 else Rect(0, 0, *upright)
        size = (target.width, target.height)
        destination = part(random, size) if random.random() < 0.4 else Rect(0, 0, *size)
        placements.append(Placement(source, destination, orientation))
    return Case(target, images, placements)


def part(random: np.random.Generator, size: tuple[int, int]) -> Rect:
    """Any rectangle inside."""
    width, height = (int(random.integers(1, side + 1)) for side in size)
    x, y = int(random.integers(0, size[0] - width + 1)), int(random.integers(0, size[1] - height + 1))
    return Rect(x, y, width, height)


def _one_of(random: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(random.integers(len(names)))]
