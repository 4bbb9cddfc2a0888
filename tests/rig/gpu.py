"""NumPy in place of a GPU: the worker's GPU path runs on it where there is none. It stands in for hardware, and proves none.

Copies and kernels are put off until somebody waits, as the driver may put them off, and new memory holds rubbish: code
that reuses memory too early, reads too soon or forgets to wait gives other pixels than the CPU path. The kernels are made
of the CPU path's own filters, on the cut and placement they were given; the real ones have tests of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import simplejpeg

from kernels import SUMS, Placement, Plan
from worker.cuda import Launch
from worker.decode.upright import turn_upright
from worker.device import Gpu
from worker.errors import GpuMemoryFull
from worker.frames import AnyArray, UInt8Array
from worker.preprocess.cpu import scaling

RUBBISH = 0xA5


class StandInStream:
    """Does everything at `wait`, in the order it was put here."""

    address = 4711

    def __init__(self) -> None:
        self.todo: list[Callable[[], None]] = []
        self.native = self
        self.waits = 0

    def upload(self, source: AnyArray, target: AnyArray) -> None:
        assert source.nbytes == target.nbytes
        self.todo.append(lambda: np.copyto(target, source))

    def download(self, source: AnyArray, target: AnyArray) -> None:
        assert source.nbytes == target.nbytes
        self.todo.append(lambda: np.copyto(target, source))

    def wait(self) -> None:
        self.waits += 1
        todo, self.todo = self.todo, []
        for action in todo:
            action()


class StandInCuda:
    """A `worker.cuda.Cuda`. `most_images` is how many a launch has memory for."""

    triton_ordinal = 0

    def __init__(self, most_images: int = 1000) -> None:
        self.gpu = Gpu(0, "GPU-00000000-0000-0000-0000-000000000000", "stand-in")
        self.most_images = most_images
        self.streams: list[StandInStream] = []
        self.launches: list[int] = []

    def enter(self) -> None: ...

    def stream(self) -> StandInStream:
        self.streams.append(StandInStream())
        return self.streams[-1]

    def page_locked(self, byte_size: int) -> UInt8Array:
        return np.full(byte_size, RUBBISH, np.uint8)

    def memory(self, shape: tuple[int, ...], dtype: Any) -> AnyArray:
        rubbish: AnyArray = np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize, RUBBISH, np.uint8).view(dtype)
        return rubbish.reshape(shape)

    def handle(self, array: AnyArray) -> bytes:
        return array.ctypes.data.to_bytes(64, "little")

    def read(self, array: AnyArray) -> AnyArray:
        return array.copy()

    def write(self, array: AnyArray, values: AnyArray) -> None:
        array[: len(values)] = values

    def kernels(self, plan: Plan, most_images: int) -> Launch:
        def launch(
            images: Sequence[Any], placements: Sequence[Placement], out: AnyArray, sums: AnyArray, stream: Any
        ) -> None:
            assert 1 <= len(images) <= most_images
            assert len(out) == len(sums) == len(images) == len(placements)
            if len(images) > self.most_images:
                raise GpuMemoryFull(f"{len(images)} images are too many")
            self.launches.append(len(images))
            for image, placement, row, total in zip(images, placements, out, sums, strict=True):
                # Not the image itself: whoever launched has to keep it.
                pixels = image.pixels if isinstance(image, StandInImage) else image
                stream.todo.append(partial(_run, plan, pixels, placement, row, total))

        return launch


def _run(plan: Plan, stored: UInt8Array, placement: Placement, row: AnyArray, sums: AnyArray) -> None:
    pixels = turn_upright(np.ascontiguousarray(stored), placement.orientation)
    x, y, width, height = placement.source
    assert x >= 0
    assert y >= 0
    cut = pixels[y : y + height, x : x + width]
    assert cut.shape[:2] == (height, width)
    grid = np.full((plan.height, plan.width, 3), plan.pad_value, np.uint8)
    x, y, width, height = placement.destination
    scaling(plan.filter)(cut, grid[y : y + height, x : x + width])
    if plan.colour == "bgr":
        grid = np.ascontiguousarray(grid[:, :, ::-1])
    levels = plan.levels()
    planes = [levels[channel][grid[:, :, channel]] for channel in range(3)]
    row[...] = np.stack(planes, axis=-1 if plan.layout == "nhwc" else 0)
    luma = cv2.cvtColor(grid, cv2.COLOR_RGB2GRAY if plan.colour == "rgb" else cv2.COLOR_BGR2GRAY)
    laplacian = cv2.Laplacian(luma, cv2.CV_16S, ksize=1).astype(np.int64)
    wide = grid.astype(np.int64)
    moments = [laplacian.sum(), (laplacian**2).sum(), *wide.sum((0, 1)), *(wide**2).sum((0, 1))]
    sums[...] = np.array([*moments, *np.bincount(luma.ravel(), minlength=256)], np.int64).view(np.uint64)
    assert sums.shape == (SUMS,)


class StandInImage:
    """A picture of nvImageCodec's. Once nobody has it, its memory is somebody else's."""

    def __init__(self, pixels: UInt8Array) -> None:
        self.pixels = pixels
        self.__cuda_array_interface__ = {"shape": pixels.shape, "typestr": "|u1", "data": (1, False), "version": 3}

    def __del__(self) -> None:
        self.pixels[...] = RUBBISH


class StandInCodec:
    """nvidia.nvimgcodec as far as the worker calls it: `decode` gives None for what libjpeg complains of.

    `most` values at once have memory; `mend` may change what a call gives, as versions and faults do.
    """

    def __init__(self, most: int = 1000, mend: Callable[[list[Any]], list[Any]] = list) -> None:
        self.calls: list[int] = []
        self.arguments: dict[str, Any] = {}
        self._most = most
        self._mend = mend
        self.BackendKind = SimpleNamespace(HYBRID_CPU_GPU="hybrid")
        self.SampleFormat = SimpleNamespace(I_RGB="interleaved RGB")

    def Backend(self, kind: str) -> str:
        return kind

    def DecodeParams(self, **arguments: Any) -> dict[str, Any]:
        return arguments

    def Decoder(self, **arguments: Any) -> StandInCodec:
        self.arguments |= arguments
        return self

    def decode(self, values: list[bytes], params: dict[str, Any], cuda_stream: int) -> list[Any]:
        self.arguments |= params | {"cuda_stream": cuda_stream}
        if len(values) > self._most:
            raise RuntimeError("CUDA Runtime API error: out of memory")
        self.calls.append(len(values))
        return self._mend([_decoded(value) for value in values])


def _decoded(value: bytes) -> StandInImage | None:
    try:
        return StandInImage(simplejpeg.decode_jpeg(value, "RGB"))
    except ValueError:
        return None
