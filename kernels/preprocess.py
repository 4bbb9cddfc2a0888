"""The one thing that touches a device: launches the kernels through CuPy on a stream of the caller's.

Decoded images in device memory go in; rows of a batch slot, and the sums that statistics are made of, come out. All of it
is put on the stream, none of it waited for.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kernels import launch, modules
from kernels.plan import Placement, Plan, upright
from kernels.statistics import SUMS

# Tables of an axis, 20 KB each for 1080p onto 224 and 600 KB at most: cameras have few sizes, photos have many.
MAX_TABLES = 128

# Calls whose jobs may be on their way at once: a caller further ahead than this waits for the device.
STAGED = 4


class DeviceArray(Protocol):
    """CuPy's arrays, nvImageCodec's images: anything in device memory that says where and how it lies."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


class Preprocess:
    """Carries a plan out on the current device. One thread and one stream at a time; an object a stream.

    `cubins` is the folder of compiled kernels (modules.compiled), `max_batch` the most images a call may have. Raises
    what CuPy raises if there is no device or no memory.
    """

    def __init__(self, plan: Plan, cubins: Path, max_batch: int) -> None:
        import cupy

        self._cupy = cupy
        self._plan = plan
        self._max_batch = max_batch
        self._kernel = modules.load(cubins, cupy.cuda.Device()).get_function(launch.kernel_name(plan))
        job_bytes = max_batch * launch.JOB.itemsize
        self._jobs = cupy.empty(job_bytes, np.uint8)
        # Pinned, since a copy from pageable memory may wait for all of the stream.
        self._staging = itertools.cycle(
            [
                (
                    np.frombuffer(cupy.cuda.alloc_pinned_memory(job_bytes), launch.JOB, max_batch),
                    cupy.cuda.Event(disable_timing=True),
                )
                for _ in range(STAGED)
            ]
        )
        self._levels = cupy.asarray(plan.levels().view(np.uint8))
        self._tables: OrderedDict[launch.TableKey, Any] = OrderedDict()
        cupy.cuda.get_current_stream().synchronize()  # the levels are there for every stream

    def __call__(
        self,
        images: Sequence[DeviceArray],
        placements: Sequence[Placement],
        out: DeviceArray,
        sums: DeviceArray | None,
        stream: Any,
    ) -> None:
        """Put the work for n images on `stream` (cupy.cuda.Stream): image i becomes row i of `out`.

        `images`: (H, W, 3) uint8 RGB each, as stored, of any pitch. `out`: contiguous, at least n rows of the plan's shape
        and dtype. `sums`: contiguous (at least n, SUMS) uint64, overwritten, or None for no statistics. The caller keeps
        all of them until the stream has passed this call. Raises ValueError for arrays or placements that don't fit.
        """
        count = len(images)
        if not 1 <= count <= self._max_batch:
            raise ValueError(f"{count} images in a call; this object takes 1..{self._max_batch}")
        plan, runtime = self._plan, self._cupy.cuda.runtime
        slot = _rows("out", out, plan.wire, (count, *plan.row_shape))
        totals = 0 if sums is None else _rows("sums", sums, np.dtype(np.uint64), (count, SUMS))
        views = [_view(image, placement) for image, placement in zip(images, placements, strict=True)]
        with stream:
            used: dict[launch.TableKey, Any] = {}
            jobs = launch.jobs(plan, views, placements, lambda key: self._table(key, used, stream))
            staged, copied = next(self._staging)
            copied.synchronize()
            staged[:count] = jobs
            self._upload(self._jobs.data.ptr, staged[:count], stream)
            copied.record(stream)
            if totals:
                runtime.memsetAsync(totals, 0, count * SUMS * 8, stream.ptr)
            addresses = (self._jobs.data.ptr, self._levels.data.ptr, slot, totals)
            self._kernel(
                launch.grid(plan, count),
                (launch.THREADS, 1, 1),
                (*(np.uint64(address) for address in addresses), *launch.scalars(plan)),
            )

    def _table(self, key: launch.TableKey, used: dict[launch.TableKey, Any], stream: Any) -> int:
        """Where the table lies, made now if it must be. `used` keeps this call's alive: the cache may drop them before the
        launch. After it CuPy's pool hands a stream's memory on only in the stream's order.
        """
        pair = used.get(key)
        if pair is None:
            pair = self._tables.pop(key, None)
            if pair is None:
                table = key.build()
                # Both are kept: where a GPU reads pageable memory by itself, it may do so after the call.
                pair = (self._cupy.empty(table.shape, table.dtype), table)
                self._upload(pair[0].data.ptr, table, stream)
            self._tables[key] = used[key] = pair
            if len(self._tables) > MAX_TABLES:
                self._tables.popitem(last=False)
        return int(pair[0].data.ptr)

    def _upload(self, address: int, array: Any, stream: Any) -> None:
        runtime = self._cupy.cuda.runtime
        runtime.memcpyAsync(address, array.ctypes.data, array.nbytes, runtime.memcpyHostToDevice, stream.ptr)


def _view(image: DeviceArray, placement: Placement) -> Any:
    about = image.__cuda_array_interface__
    if about["typestr"] != "|u1":
        raise ValueError(f"an image holds uint8, not {about['typestr']}")
    shape = tuple(about["shape"])
    strides = about.get("strides") or (shape[1] * 3, 3, 1)
    return upright(about["data"][0], shape, tuple(strides), placement.orientation)


def _rows(name: str, array: DeviceArray, dtype: np.dtype[Any], wanted: tuple[int, ...]) -> int:
    """Address of `array`, contiguous and with at least the rows of `wanted`."""
    about = array.__cuda_array_interface__
    shape = tuple(about["shape"])
    fits = len(shape) == len(wanted) and shape[0] >= wanted[0] and shape[1:] == wanted[1:]
    if not fits or np.dtype(about["typestr"]) != dtype or about.get("strides") is not None:
        raise ValueError(f"`{name}` is {about['typestr']} {shape}; needed is contiguous {dtype} {wanted}, or more rows")
    return int(about["data"][0])
