"""The narrow part of CUDA that the worker uses, and the one place that gets it from CuPy.

`Cuda` is one GPU, `Stream` a thread's own queue of work on it; stages know these two and never CuPy, so that tests run
them on arrays of NumPy. CUDA's error codes become errors of `worker.errors` here only. Imported by everybody, it imports
CuPy only in `open_cuda`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kernels import Placement, Plan, Preprocess
from worker.device import INSTALL, Gpu
from worker.errors import DependencyError, GpuLost, GpuMemoryFull, HeadraceError
from worker.frames import AnyArray, UInt8Array

# A CuPy array: it has shape, dtype and slices as NumPy's do, and its memory is the GPU's.
DeviceArray = Any
# images, placements, rows of a slot, sums, stream: see kernels.Preprocess.
Launch = Callable[[Sequence[DeviceArray], Sequence[Placement], DeviceArray, DeviceArray, Any], None]

# For what CuPy's pool gives the kernels: tables of an axis, 20 KB for a camera's frame, and descriptions of the images.
POOL_BYTES = 256 << 20
# cudaMalloc puts small allocations in blocks of this, and an IPC handle gives away the whole block.
IPC_BLOCK_BYTES = 2 << 20

# cudaError: what leaves the context unusable for good. Addresses, instructions and launches that failed, memory errors of
# the hardware, a device that fell off, and MPS, where another client's fault ends ours too.
_LOST = frozenset((214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 806, 808, 809, 810, 999))
# What stands against using the GPU at all, told at the first call.
_UNUSABLE = frozenset((3, 35, 46, 100, 101, 209, 222, 801, 802, 803, 804, 805, 807))
_OUT_OF_MEMORY = 2


class Stream(Protocol):
    """Work for the GPU, done in the order it is put here; only `wait` waits. For one thread."""

    @property
    def native(self) -> Any:
        """What kernels are launched on."""
        ...

    @property
    def address(self) -> int:
        """The cudaStream_t."""
        ...

    def upload(self, source: AnyArray, target: DeviceArray) -> None:
        """Copy contiguous page-locked memory, which must stay as it is until `wait`, to as many contiguous bytes."""
        ...

    def download(self, source: DeviceArray, target: AnyArray) -> None:
        """The other way; `target` has it after `wait`."""
        ...

    def wait(self) -> None:
        """Until all of it is done; the thread sleeps. Raises GpuLost for whatever failed on the way."""
        ...


class Cuda(Protocol):
    """One GPU, for any thread that has called `enter`. Everything here raises GpuMemoryFull and GpuLost."""

    @property
    def gpu(self) -> Gpu:
        """Which."""
        ...

    @property
    def triton_ordinal(self) -> int:
        """Its number as Triton counts."""
        ...

    def enter(self) -> None:
        """Make it the calling thread's current device."""
        ...

    def stream(self) -> Stream:
        """A new one."""
        ...

    def page_locked(self, byte_size: int) -> UInt8Array:
        """(byte_size,) of host memory that the GPU copies from and to by itself."""
        ...

    def memory(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        """Contiguous, an allocation of its own (cudaMalloc): only such memory can be given to another process."""
        ...

    def handle(self, array: DeviceArray) -> bytes:
        """The IPC handle of an array of `memory`."""
        ...

    def read(self, array: DeviceArray) -> AnyArray:
        """A copy in host memory; waits."""
        ...

    def write(self, array: DeviceArray, values: AnyArray) -> None:
        """`values` into the first rows of `array`; waits, so that another process sees them."""
        ...

    def kernels(self, plan: Plan, most_images: int) -> Launch:
        """The preprocessing of one stream."""
        ...


def gpu_error(code: int, text: str) -> HeadraceError | None:
    """The project's error for a cudaError; None for one that no state of the GPU explains: a bug of ours."""
    if code == _OUT_OF_MEMORY:
        return GpuMemoryFull(f"the GPU's memory is full ({text}); lower gpu.staging_bytes, or what Triton keeps there")
    if code in _LOST:
        return GpuLost(f"the GPU's context is dead ({text}): this process ends and has to be started again")
    if code in _UNUSABLE:
        return DependencyError(f'the GPU can\'t be used ({text}): see headrace doctor, or set device = "cpu"')
    return None


@contextmanager
def mapped_errors() -> Iterator[None]:
    """CuPy's exceptions become ours: those with a code by it, CuPy's own pool at its limit as memory that is full."""
    try:
        yield
    except HeadraceError:
        raise
    except Exception as error:
        code = _OUT_OF_MEMORY if type(error).__name__ == "OutOfMemoryError" else getattr(error, "status", None)
        ours = gpu_error(code, str(error)) if isinstance(code, int) else None
        if ours is None:
            raise
        raise ours from error


def open_cuda(gpu: Gpu, triton_ordinal: int, cubins: Path) -> Cuda:
    """The GPU, through CuPy; `cubins` is where compiled kernels are kept. Raises DependencyError."""
    try:
        import cupy
    except ImportError as error:
        raise DependencyError(f"CuPy can't be imported ({error}): {INSTALL}") from error
    with mapped_errors():
        return _Cupy(cupy, gpu, triton_ordinal, cubins)


class _CupyStream:
    def __init__(self, cupy: Any) -> None:
        self._runtime = cupy.cuda.runtime
        self.native = cupy.cuda.Stream(non_blocking=True)
        self.address: int = self.native.ptr
        # Waiting for a stream spins on a core, which the decode threads need; for such an event the thread sleeps.
        self._done = cupy.cuda.Event(block=True, disable_timing=True)

    def upload(self, source: AnyArray, target: DeviceArray) -> None:
        with mapped_errors():
            _check_sizes(source, target)
            kind = self._runtime.memcpyHostToDevice
            self._runtime.memcpyAsync(target.data.ptr, source.ctypes.data, source.nbytes, kind, self.address)

    def download(self, source: DeviceArray, target: AnyArray) -> None:
        with mapped_errors():
            _check_sizes(target, source)
            kind = self._runtime.memcpyDeviceToHost
            self._runtime.memcpyAsync(target.ctypes.data, source.data.ptr, target.nbytes, kind, self.address)

    def wait(self) -> None:
        with mapped_errors():
            self._done.record(self.native)
            self._done.synchronize()


def _check_sizes(host: AnyArray, device: DeviceArray) -> None:
    if host.nbytes != device.nbytes or not (host.flags.c_contiguous and device.flags.c_contiguous):
        raise ValueError(f"{host.nbytes} and {device.nbytes} bytes, both contiguous, were to be copied")


class _Cupy:
    def __init__(self, cupy: Any, gpu: Gpu, triton_ordinal: int, cubins: Path) -> None:
        self.gpu = gpu
        self.triton_ordinal = triton_ordinal
        self._cupy = cupy
        self._cubins = cubins
        self._device = cupy.cuda.Device(gpu.ordinal)
        self.enter()
        cupy.get_default_memory_pool().set_limit(size=POOL_BYTES)

    def enter(self) -> None:
        with mapped_errors():
            self._device.use()

    def stream(self) -> Stream:
        with mapped_errors():
            return _CupyStream(self._cupy)

    def page_locked(self, byte_size: int) -> UInt8Array:
        with mapped_errors():
            memory = self._cupy.cuda.PinnedMemoryPointer(self._cupy.cuda.PinnedMemory(byte_size), 0)
            return np.frombuffer(memory, np.uint8, byte_size)

    def memory(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        byte_size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        whole = -(-byte_size // IPC_BLOCK_BYTES) * IPC_BLOCK_BYTES
        cuda = self._cupy.cuda
        with mapped_errors():
            # cuda.Memory is cudaMalloc itself; cuda.alloc would be an offset in CuPy's pool.
            array = self._cupy.ndarray(shape, dtype, memptr=cuda.MemoryPointer(cuda.Memory(whole), 0))
            cuda.runtime.memset(array.data.ptr, 0, byte_size)
            return array

    def handle(self, array: DeviceArray) -> bytes:
        with mapped_errors():
            return bytes(self._cupy.cuda.runtime.ipcGetMemHandle(array.data.ptr))

    def read(self, array: DeviceArray) -> AnyArray:
        self.enter()  # whichever thread: the only GPU that this process uses
        with mapped_errors():
            copy: AnyArray = array.get()
            return copy

    def write(self, array: DeviceArray, values: AnyArray) -> None:
        self.enter()
        with mapped_errors():
            array[: len(values)].set(values)
            self._device.synchronize()

    def kernels(self, plan: Plan, most_images: int) -> Launch:
        try:
            with mapped_errors():
                launch = Preprocess(plan, self._cubins, most_images)
        except (OSError, RuntimeError) as error:  # the folder, or the compiler
            raise DependencyError(
                f"the kernels can't be had from gpu.kernel_folder, {self._cubins}: {error}"
            ) from error

        def run(*arguments: Any) -> None:
            with mapped_errors():
                launch(*arguments)

        return run
