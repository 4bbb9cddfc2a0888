"""The contract carried out on the GPU: pictures in, rows of a slot in the GPU's memory and their features out.

A picture decoded on the CPU is cut to what is read of it, copied into page-locked memory and put on the stream at once,
so that it travels while the next one is being decoded. One launch makes all rows; one wait ends the batch. Pictures that
a GPU decoder made are read where they lie. All memory is made at start, so its size is a setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kernels import SUMS, Placement, features
from worker.cuda import Cuda, DeviceArray
from worker.frames import Float32Array, UInt8Array
from worker.preprocess.contract import Contract
from worker.preprocess.gpu_plan import PIXEL_BYTES, aligned, by_halves, cut_placement, placement, plan_of


@dataclass(frozen=True, slots=True)
class _Picture:
    """Decoded, and on its way into the GPU's memory or there."""

    pixels: DeviceArray
    placement: Placement


class GpuTransform:
    """For one thread: `begin`, `add` for each row in order, `finish`; everything raises GpuMemoryFull and GpuLost.

    `rows` is the most of a batch; `staging_bytes` holds at least one of the largest pictures.
    """

    def __init__(self, contract: Contract, cuda: Cuda, rows: int, staging_bytes: int) -> None:
        self.stream = cuda.stream()
        self._contract = contract
        self._launch = cuda.kernels(plan_of(contract), rows)
        self._staging = cuda.page_locked(staging_bytes)
        self._pictures = cuda.memory((staging_bytes,), np.uint8)
        self._sums = cuda.memory((rows, SUMS), np.uint64)
        self._told = cuda.page_locked(rows * SUMS * 8).view(np.uint64).reshape(rows, SUMS)
        self._slot: DeviceArray = None
        self._waiting: list[_Picture] = []  # added, and not launched yet
        self._launched: list[_Picture] = []  # being read by the GPU, so nobody may have their memory
        self._used = 0  # bytes of staging
        self._rows = 0  # launched

    def begin(self, slot: DeviceArray) -> None:
        """The next pictures become rows of `slot`, (rows, *shape), from its first on. Whatever was begun is given up."""
        self._wait()  # a copy given up may still be reading the staging memory
        self._slot = slot
        self._waiting = []
        self._rows = 0

    def add(self, pixels: UInt8Array) -> None:
        """(H, W, 3) uint8 RGB, upright, in host memory, which is the caller's again when this returns."""
        source, place = cut_placement(self._contract, pixels.shape[1], pixels.shape[0])
        byte_size = source.width * source.height * PIXEL_BYTES
        if self._used + byte_size > len(self._staging):
            self.flush()
        where = slice(self._used, self._used + byte_size)
        shape = (source.height, source.width, 3)
        cut = pixels[source.y : source.y + source.height, source.x : source.x + source.width]
        np.copyto(self._staging[where].reshape(shape), cut)
        self.stream.upload(self._staging[where], self._pictures[where])
        self._waiting.append(_Picture(self._pictures[where].reshape(shape), place))
        self._used += aligned(byte_size)

    def add_there(self, image: DeviceArray, upright_size: tuple[int, int], orientation: int) -> None:
        """A picture (H, W, 3) uint8 RGB in the GPU's memory, as stored; `orientation` is EXIF's."""
        self._waiting.append(_Picture(image, placement(self._contract, *upright_size, orientation)))

    def flush(self) -> None:
        """The rows of all pictures so far are in the slot, and nobody reads the pictures any more."""
        self._launch_all()
        self._wait()

    def finish(self) -> Float32Array:
        """(rows, 3) features. Afterwards all rows are in the slot, for every reader: the stream has been waited for."""
        self._launch_all()
        count = self._rows
        if count:
            self.stream.download(self._sums[:count], self._told[:count])
        self._wait()
        return features(self._told[:count], self._contract.width * self._contract.height)

    def _launch_all(self) -> None:
        by_halves(self._launch_rows, self._waiting)
        self._launched += self._waiting
        self._waiting = []

    def _wait(self) -> None:
        self.stream.wait()
        self._launched = []
        self._used = 0

    def _launch_rows(self, pictures: Sequence[_Picture]) -> list[None]:
        if pictures:
            rows = slice(self._rows, self._rows + len(pictures))
            self._launch(
                [picture.pixels for picture in pictures],
                [picture.placement for picture in pictures],
                self._slot[rows],
                self._sums[rows],
                self.stream.native,
            )
            self._rows = rows.stop
        return []
