"""As much of CuPy as `kernels.Preprocess` touches, over memory of this process; launches run the emulated kernels.

So the wrapper itself is tested without a GPU, to the last call into CUDA. Work is done at once, in the order it is asked
for: what only shows with a device that lags behind needs a device.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from kernels import modules

HERE = Path(__file__).resolve().parent
FORWARD, REVERSE = 0, 1  # orders of a block's threads; any greater number shuffles them by that seed


class Array:
    """Device memory of its own, just as large as it has to be: AddressSanitizer sees the byte after it."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape, self.dtype = array.shape, array.dtype
        self.data = SimpleNamespace(ptr=array.ctypes.data)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """As CuPy's: no strides for a contiguous array."""
        strides = None if self.array.flags.c_contiguous else self.array.strides
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.data.ptr, False),
            "strides": strides,
            "version": 3,
        }

    def get(self) -> Any:
        """A copy for the host."""
        return self.array.copy()


class Stream:
    """Of which the default one is one."""

    ptr = 0

    def __init__(self, *, non_blocking: bool = False) -> None:
        self.non_blocking = non_blocking

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def synchronize(self) -> None:
        """Nothing is ever under way."""


class Event:
    """Always reached."""

    def __init__(self, *, disable_timing: bool = False) -> None:
        self.disable_timing = disable_timing

    def record(self, stream: Stream) -> None:
        """At once."""

    def synchronize(self) -> None:
        """At once."""


class CupyOnCpu:
    """Stands for the module `cupy`. `order` is that of the threads in the launches to come."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self.order = FORWARD
        self.launches = 0
        stride_tricks = SimpleNamespace(
            as_strided=lambda flat, shape, strides: Array(np.lib.stride_tricks.as_strided(flat.array, shape, strides))
        )
        self.lib = SimpleNamespace(stride_tricks=stride_tricks)
        runtime = SimpleNamespace(
            memcpyHostToDevice=1,
            memcpyAsync=lambda to, source, size, _kind, _stream: ctypes.memmove(to, source, size),
            memsetAsync=lambda to, value, size, _stream: ctypes.memset(to, value, size),
        )
        self.cuda = SimpleNamespace(
            Device=lambda: SimpleNamespace(compute_capability="90"),
            Stream=Stream,
            get_current_stream=Stream,
            Event=Event,
            alloc_pinned_memory=bytearray,
            runtime=runtime,
        )

    def empty(self, shape: Any, dtype: Any) -> Array:
        """Memory that nobody has cleared."""
        array = np.empty(shape, dtype)
        array.view(np.uint8)[...] = 0xCD
        return Array(array)

    def asarray(self, array: Any) -> Array:
        """A copy."""
        return Array(np.array(array, order="C"))

    def get_function(self, name: str) -> Any:
        """The kernel, to be called as CuPy's RawKernel. Raises RuntimeError if its threads wait for ever."""
        kernel = ctypes.cast(getattr(self._library, name), ctypes.c_void_p)

        def launch(grid: tuple[int, int, int], block: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
            addresses, scalars = arguments[:4], arguments[4:]
            assert [type(each) for each in arguments] == [np.uint64] * 4 + [np.int32] * 6
            stuck = self._library.launch(
                kernel,
                (ctypes.c_int * 3)(*grid),
                block[0],
                ctypes.c_uint(self.order),
                *(ctypes.c_void_p(int(address)) for address in addresses),
                (ctypes.c_int * 6)(*(int(scalar) for scalar in scalars)),
            )
            self.launches += 1
            if stuck:
                raise RuntimeError("threads of a block wait for each other for ever")

        return launch

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """While it lasts, who imports cupy gets this, and loaded kernels are the emulated ones."""
        with mock.patch.dict(sys.modules, {"cupy": self}), mock.patch.object(modules, "load", return_value=self):
            yield


def build(folder: Path, sources: Path = modules.SOURCES, *, sanitized: bool = False) -> Path:
    """The kernels in `sources` as a library for this CPU in `folder`, built once for the same text. Needs g++."""
    digest = hashlib.sha256(repr(sanitized).encode())
    for file in sorted([*sources.glob("*.cu"), *sources.glob("*.h"), *HERE.glob("cuda_on_cpu.*")]):
        digest.update(file.read_bytes())
    library = folder / f"kernels-{digest.hexdigest()[:12]}.so"
    if not library.exists():
        # No contraction, as on the device. AddressSanitizer can't see into shared memory: its arrays' bounds are watched.
        watch = ["-g", "-fsanitize=address,bounds", "-fno-sanitize-recover=all"] if sanitized else []
        subprocess.run(
            ["g++", "-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC", *watch,
             "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
             "-include", str(HERE / "cuda_on_cpu.h"), "-x", "c++", str(sources / "preprocess.cu"),
             str(HERE / "cuda_on_cpu.cpp"), f"-I{sources}", f"-I{HERE}", "-o", str(library)],
            check=True,
        )  # fmt: skip
    return library
