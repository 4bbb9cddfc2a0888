"""The contract carried out on the CPU: decoded pixels in, one row of a batch slot out.

With the default wire (uint8, nhwc, rgb) the scaled image is written once, into the slot. The other wires scale into a
scratch grid of the thread and convert it into the slot. Either way the grid the model sees, before normalisation, is
handed back for the statistics.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import cv2
import numpy as np

from worker.frames import AnyArray, UInt8Array
from worker.preprocess.antialias import triangle
from worker.preprocess.contract import Contract, Filter, denominator_of

Scale = Callable[[UInt8Array, UInt8Array], None]


class CpuTransform:
    """Callable from any number of threads."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._triangle = triangle()
        self._scale: Scale = self._triangle if contract.filter == "bilinear_antialias" else scaling(contract.filter)
        self._grid_shape = (contract.height, contract.width, 3)
        self._shape, self._dtype = contract.tensor_shape, contract.dtype
        self._in_place = contract.wire_dtype == "uint8" and contract.layout == "nhwc"
        self._table = None if contract.wire_dtype == "uint8" else normalisation(contract)
        self._pad = np.uint8(contract.pad_value or 0)
        self._local = threading.local()

    def __call__(self, pixels: UInt8Array, out: AnyArray, full: tuple[int, int] | None = None) -> UInt8Array:
        """Write the model's input for `pixels` ((H, W, 3) uint8 RGB, upright) into `out`, one row of a slot.

        `full` is the (width, height) of the image the pixels were decoded from, of which they may be 1/2, 1/4 or 1/8
        rounded up (`Contract.decode_target`); None: they are all of it.

        Returns the grid: (height, width, 3) uint8 in the contract's colour order, before normalisation. It is `out`
        itself or this thread's scratch: read it before the thread's next call. Raises ValueError if `out` isn't the
        contract's.
        """
        if out.shape != self._shape or out.dtype != self._dtype or not out.flags.c_contiguous:
            # OpenCV would silently write into a new array instead.
            raise ValueError(
                f"slot row is {out.dtype} {out.shape}; the contract needs contiguous {self._dtype} {self._shape}"
            )
        grid = out if self._in_place else self._scratch("grid", self._grid_shape)
        if self._contract.colour == "rgb":
            self._fill(pixels, grid, full)
        else:
            # Swapped after scaling: the grid is smaller than the image.
            upright = self._scratch("rgb", self._grid_shape)
            self._fill(pixels, upright, full)
            cv2.cvtColor(upright, cv2.COLOR_RGB2BGR, dst=grid)
        if self._table is not None:
            self._normalise(grid, out, self._table)
        elif not self._in_place:
            np.copyto(out, grid.transpose(2, 0, 1))
        return grid

    def _fill(self, pixels: UInt8Array, grid: UInt8Array, full: tuple[int, int] | None) -> None:
        decoded = (pixels.shape[1], pixels.shape[0])
        window = self._contract.window(*(full or decoded))
        source, target = window.source, window.destination
        if (target.width, target.height) != (self._contract.width, self._contract.height):
            grid[...] = self._pad
            grid = grid[target.y : target.y + target.height, target.x : target.x + target.width]
        denominator = denominator_of(decoded, full or decoded)
        if denominator > 1:
            # The whole image's window, in parts of pixels: rounded to scaled ones it would lie beside it by up to a half,
            # and that changes more than the scaling does.
            x, y = source.x / denominator, source.y / denominator
            self._triangle(pixels, grid, (x, y, source.width / denominator, source.height / denominator))
            return
        # Cut first: nothing outside the window is read, and no filter tap reaches beyond it.
        self._scale(pixels[source.y : source.y + source.height, source.x : source.x + source.width], grid)

    def _normalise(self, grid: UInt8Array, out: AnyArray, table: AnyArray) -> None:
        if self._contract.wire_dtype == "float16":
            # OpenCV 4 looks up no halves; as 16-bit integers the same bits travel.
            out, table = out.view(np.uint16), table.view(np.uint16)
        if self._contract.layout == "nhwc":
            cv2.LUT(grid, np.ascontiguousarray(table.T)[None], dst=out)
            return
        plane = self._scratch("plane", self._grid_shape[:2])
        for channel in range(3):
            cv2.extractChannel(grid, channel, dst=plane)
            cv2.LUT(plane, table[channel][None], dst=out[channel])

    def _scratch(self, name: str, shape: tuple[int, ...]) -> UInt8Array:
        array: UInt8Array | None = getattr(self._local, name, None)
        if array is None:
            array = np.empty(shape, np.uint8)
            setattr(self._local, name, array)
        return array


def scaling(name: Filter) -> Scale:
    """The filter `name`: scales (H, W, 3) uint8 into all of (h, w, 3) uint8, which may be a strided view.

    `bilinear` samples two pixels an axis whatever the scale (it aliases when shrinking). `area` is the mean over each
    target pixel's footprint along an axis that shrinks, `bilinear` along one that grows. `bilinear_antialias` is a
    triangle as wide as two footprints. Centres of pixels are at half coordinates; at the edges pixels repeat
    (`bilinear`) or weights are renormalised (`bilinear_antialias`).
    """
    if name == "bilinear":
        return _bilinear
    if name == "area":
        return _area
    return triangle()


def normalisation(contract: Contract) -> AnyArray:
    """(3, 256) of the wire's dtype: the normalised value of each grey level, rounded once from float64."""
    levels = np.arange(256, dtype=np.float64)
    mean, std = np.array(contract.mean)[:, None], np.array(contract.std)[:, None]
    table: AnyArray = ((levels - mean) / std).astype(contract.dtype)
    return table


def _bilinear(source: UInt8Array, destination: UInt8Array) -> None:
    cv2.resize(source, destination.shape[1::-1], dst=destination, interpolation=cv2.INTER_LINEAR)


def _area(source: UInt8Array, destination: UInt8Array) -> None:
    height, width = destination.shape[:2]
    shrunk = (min(width, source.shape[1]), min(height, source.shape[0]))
    if shrunk == (width, height):
        cv2.resize(source, shrunk, dst=destination, interpolation=cv2.INTER_AREA)
        return
    # OpenCV's area filter, once an axis grows, takes two pixels on the other axis too, and at some edges the wrong one.
    if shrunk != (source.shape[1], source.shape[0]):
        source = cv2.resize(source, shrunk, interpolation=cv2.INTER_AREA)
    _bilinear(source, destination)
