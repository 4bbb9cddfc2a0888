"""What the kernels are asked to do: the model's input (`Plan`), and where one image goes in it (`Placement`). Pure.

Geometry comes from the caller as a source and a destination rectangle, so stretching, letterboxing and cropping are one
thing here. Orientation and pitch are strides: the kernels only ever see an upright rectangle of pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

Filter = Literal["bilinear", "area", "bilinear_antialias"]
Colour = Literal["rgb", "bgr"]
Layout = Literal["nhwc", "nchw"]
Wire = Literal["uint8", "float32", "float16"]

# A batch slot of one such image in float32 is 768 MiB; the sums of squares of one stay far below 64 bits.
MAX_SIDE = 8192
# The greatest side of JPEG, and of any decoder here. Weights of an axis fit 32 bits up to it.
MAX_SOURCE_SIDE = 65535
# Strides are 32 bits wide in the kernels.
MAX_PITCH = 2**31 - 1


class Rect(NamedTuple):
    """Whole pixels: left top corner, width and height."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One model's input. `mean` and `std` are in grey levels and in the order of `colour`: (x - mean) / std.

    With dtype uint8 nothing is normalised. `pad_value` is the grey level outside an image's destination. Raises
    ValueError for what can't be.
    """

    width: int
    height: int
    filter: Filter
    colour: Colour
    layout: Layout
    dtype: Wire
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pad_value: int = 0

    def __post_init__(self) -> None:
        if not (1 <= self.width <= MAX_SIDE and 1 <= self.height <= MAX_SIDE):
            raise ValueError(f"the model's input is {self.width}x{self.height}; each side must be 1..{MAX_SIDE}")
        for value, known in (
            (self.filter, get_args(Filter)),
            (self.colour, get_args(Colour)),
            (self.layout, get_args(Layout)),
            (self.dtype, get_args(Wire)),
        ):
            if value not in known:
                raise ValueError(f"{value!r} is not one of {', '.join(known)}")
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} must be finite, and std above 0")
        if not 0 <= self.pad_value <= 255:
            raise ValueError(f"pad_value {self.pad_value} is no grey level 0..255")

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """Of one image in the slot."""
        return (self.height, self.width, 3) if self.layout == "nhwc" else (3, self.height, self.width)

    @property
    def wire(self) -> np.dtype[Any]:
        """Of the slot."""
        return np.dtype(self.dtype)

    def levels(self) -> npt.NDArray[Any]:
        """(3, 256) of the slot's dtype: what each grey level becomes, rounded once from float64.

        The kernels copy its elements as bits and do no arithmetic in the slot's dtype.
        """
        levels = np.arange(256, dtype=np.float64)
        if self.dtype == "uint8":
            return np.tile(levels.astype(np.uint8), (3, 1))
        mean, std = np.array(self.mean)[:, None], np.array(self.std)[:, None]
        table: npt.NDArray[Any] = ((levels - mean) / std).astype(self.wire)
        return table


@dataclass(frozen=True, slots=True)
class Placement:
    """`source` (pixels of the upright image) is scaled onto `destination` (pixels of the model's input).

    `orientation` is EXIF's, 1..8: how the stored image has to be turned to stand upright. Nothing outside `source` is
    read. Raises ValueError for an empty rectangle or an unknown orientation.
    """

    source: Rect
    destination: Rect
    orientation: int = 1

    def __post_init__(self) -> None:
        if min(self.source.width, self.source.height, self.destination.width, self.destination.height) < 1:
            raise ValueError(f"{self} has a rectangle without pixels")
        if not 1 <= self.orientation <= 8:
            raise ValueError(f"orientation {self.orientation} is not EXIF's 1..8")


class View(NamedTuple):
    """An upright image as an affine map of addresses: pixel (x, y), channel c is at
    `address + x * across + y * down + c * channel` bytes. `width` and `height` are upright.
    """

    address: int
    across: int
    down: int
    channel: int
    width: int
    height: int


def upright(address: int, shape: tuple[int, ...], strides: tuple[int, ...], orientation: int) -> View:
    """The stored (H, W, 3) uint8 image at `address` with `strides` in bytes, seen upright by EXIF `orientation`.

    Raises ValueError if it isn't such an image, or its pitch is beyond MAX_PITCH.
    """
    if len(shape) != 3 or shape[2] != 3 or min(shape) < 1 or max(shape[:2]) > MAX_SOURCE_SIDE:
        raise ValueError(f"an image is (height, width, 3) of 1..{MAX_SOURCE_SIDE} pixels a side, not {shape}")
    height, width, _ = shape
    down, across, channel = strides
    if max(abs(down), abs(across)) > MAX_PITCH:
        raise ValueError(f"an image's pixels lie up to {MAX_PITCH} bytes apart, not {strides}")
    # As stored rows and columns are walked: 2 3 7 8 from the right, 3 4 6 7 from the bottom, 5 to 8 exchange the axes.
    if orientation in (2, 3, 7, 8):
        address, across = address + (width - 1) * across, -across
    if orientation in (3, 4, 6, 7):
        address, down = address + (height - 1) * down, -down
    if orientation >= 5:
        return View(address, down, across, channel, height, width)
    return View(address, across, down, channel, width, height)
