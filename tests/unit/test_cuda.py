"""CUDA's errors as ours, and the adapter's calls into CuPy, over a CuPy of memory of this process: no GPU is needed."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kernels import Plan
from worker.cuda import IPC_BLOCK_BYTES, POOL_BYTES, Cuda, gpu_error, mapped_errors, open_cuda
from worker.device import Gpu
from worker.errors import DependencyError, GpuLost, GpuMemoryFull, HeadraceError

GPU = Gpu(2, "GPU-1", "H200")


class CUDARuntimeError(RuntimeError):
    """As CuPy's: it has the code."""

    def __init__(self, status: int) -> None:
        super().__init__(f"cudaError {status}")
        self.status = status


class OutOfMemoryError(MemoryError):
    """As CuPy's pool raises it: without a code."""


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (2, GpuMemoryFull),
        *((code, GpuLost) for code in (214, 700, 719, 714, 710, 810, 999)),
        *((code, DependencyError) for code in (35, 100, 3, 803, 209, 805)),
    ],
)
def test_a_code_of_cuda_says_what_to_do(code: int, kind: type[HeadraceError]) -> None:
    error = gpu_error(code, "the text")
    assert type(error) is kind
    assert "the text" in str(error)
    assert error.exit_code == 3
    assert error.can_retry == (kind is not GpuLost)


@pytest.mark.parametrize("code", [1, 9, 400, 701, 98])
def test_codes_that_no_state_of_the_gpu_explains_stay_what_they_are(code: int) -> None:
    assert gpu_error(code, "") is None
    with pytest.raises(CUDARuntimeError), mapped_errors():
        raise CUDARuntimeError(code)


def test_cupys_exceptions_are_mapped_with_their_cause_and_ours_pass() -> None:
    with pytest.raises(GpuLost) as raised, mapped_errors():
        raise CUDARuntimeError(700)
    assert isinstance(raised.value.__cause__, CUDARuntimeError)
    with pytest.raises(GpuMemoryFull), mapped_errors():
        raise OutOfMemoryError("limit of the pool")
    with pytest.raises(ZeroDivisionError), mapped_errors():
        _ = 1 // 0
    ours = DependencyError("ours")
    with pytest.raises(DependencyError) as passed, mapped_errors():
        raise ours
    assert passed.value is ours


class Memory:
    """cudaMalloc."""

    def __init__(self, size: int, calls: list[Any]) -> None:
        calls.append(("malloc", size))
        self.buffer = np.full(size, 0xCD, np.uint8)
        self.ptr = self.buffer.ctypes.data


class DeviceArray(np.ndarray[Any, Any]):
    """CuPy's array over such memory."""

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)

    def get(self) -> Any:
        return np.array(self)

    def set(self, values: Any) -> None:
        self[...] = values


def fake_cupy(calls: list[Any]) -> SimpleNamespace:
    """The module as the adapter uses it; `calls` hears of what matters."""

    def ndarray(shape: tuple[int, ...], dtype: Any, memptr: Memory) -> Any:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return memptr.buffer[:size].view(dtype).reshape(shape).view(DeviceArray)

    class Event:
        def __init__(self, *, block: bool, disable_timing: bool) -> None:
            assert block
            assert disable_timing

        def record(self, stream: Any) -> None:
            calls.append(("record", stream.ptr))

        def synchronize(self) -> None:
            calls.append("synchronize")

    class Device:
        def __init__(self, ordinal: int) -> None:
            self.ordinal = ordinal

        def use(self) -> None:
            calls.append(("use", self.ordinal))

        def synchronize(self) -> None:
            calls.append("synchronize device")

    def copy(target: int, source: int, size: int, kind: str, stream: int) -> None:
        calls.append((kind, size, stream))
        ctypes.memmove(target, source, size)

    runtime = SimpleNamespace(
        memcpyHostToDevice="up",
        memcpyDeviceToHost="down",
        memcpyAsync=copy,
        memset=lambda address, value, size: ctypes.memset(address, value, size),
        ipcGetMemHandle=lambda address: address.to_bytes(64, "little"),
    )
    cuda = SimpleNamespace(
        Device=Device,
        Event=Event,
        Stream=lambda non_blocking: SimpleNamespace(ptr=77),
        PinnedMemory=bytearray,
        PinnedMemoryPointer=lambda memory, offset: memory,
        Memory=lambda size: Memory(size, calls),
        MemoryPointer=lambda memory, offset: memory,
        runtime=runtime,
    )
    pool = SimpleNamespace(set_limit=lambda size: calls.append(("limit", size)))
    return SimpleNamespace(cuda=cuda, ndarray=ndarray, get_default_memory_pool=lambda: pool)


@pytest.fixture
def calls() -> list[Any]:
    return []


@pytest.fixture
def cuda(calls: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cuda:
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(calls))
    return open_cuda(GPU, 1, tmp_path)


def test_opening_takes_the_gpu_of_that_ordinal_and_bounds_the_pool(cuda: Cuda, calls: list[Any]) -> None:
    assert calls == [("use", 2), ("limit", POOL_BYTES)]
    assert (cuda.gpu, cuda.triton_ordinal) == (GPU, 1)


def test_memory_is_an_allocation_of_its_own_in_whole_blocks_and_cleared(cuda: Cuda, calls: list[Any]) -> None:
    array = cuda.memory((3, 5), np.float32)
    assert calls[-1] == ("malloc", IPC_BLOCK_BYTES)
    assert array.shape == (3, 5)
    assert (array == 0).all()
    cuda.memory((IPC_BLOCK_BYTES + 1,), np.uint8)
    assert calls[-1] == ("malloc", 2 * IPC_BLOCK_BYTES)


def test_reads_and_writes_wait(cuda: Cuda, calls: list[Any]) -> None:
    array = cuda.memory((4, 2), np.uint8)
    cuda.write(array, np.full((3, 2), 7, np.uint8))
    assert calls[-2:] == [("use", 2), "synchronize device"]
    assert cuda.read(array[:3]).tolist() == [[7, 7]] * 3
    assert type(cuda.read(array)) is np.ndarray
    assert (array[3] == 0).all()


def test_copies_go_on_the_stream_and_must_be_of_one_size(cuda: Cuda, calls: list[Any]) -> None:
    stream, host, there = cuda.stream(), cuda.page_locked(12), cuda.memory((3, 4), np.uint8)
    host[:] = np.arange(12)
    stream.upload(host, there)
    assert calls[-1] == ("up", 12, 77)
    assert cuda.read(there).ravel().tolist() == list(range(12))
    back = cuda.page_locked(4)
    stream.download(there[1], back)
    assert calls[-1] == ("down", 4, 77)
    assert back.tolist() == [4, 5, 6, 7]
    for source, target in ((host, there[1]), (host[::3], there[1])):
        with pytest.raises(ValueError, match="contiguous"):
            stream.upload(source, target)
    with pytest.raises(ValueError, match="contiguous"):
        stream.download(there, back)


def test_a_handle_is_of_the_allocations_first_byte(cuda: Cuda) -> None:
    array = cuda.memory((2, 2), np.uint8)
    assert int.from_bytes(cuda.handle(array), "little") == array.ctypes.data


def test_kernels_are_launched_with_their_errors_mapped(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def preprocess(plan: Plan, cubins: Path, most: int) -> Any:
        def launch(images: Any, placements: Any, out: Any, sums: Any, stream: Any) -> None:
            raise CUDARuntimeError(int(images))

        return launch

    monkeypatch.setattr("worker.cuda.Preprocess", preprocess)
    plan = Plan(4, 4, "bilinear", "rgb", "nhwc", "uint8", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    launch: Any = cuda.kernels(plan, 3)
    for code, kind in ((2, GpuMemoryFull), (719, GpuLost), (1, CUDARuntimeError)):
        with pytest.raises(kind):
            launch(code, [], None, None, None)


def test_kernels_that_can_not_be_compiled_or_kept_name_their_folder(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def preprocess(plan: Plan, cubins: Path, most: int) -> Any:
        raise PermissionError("read-only")

    monkeypatch.setattr("worker.cuda.Preprocess", preprocess)
    plan = Plan(4, 4, "bilinear", "rgb", "nhwc", "uint8", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    with pytest.raises(DependencyError, match=r"gpu\.kernel_folder") as raised:
        cuda.kernels(plan, 3)
    assert str(tmp_path) in str(raised.value)


def test_waiting_for_a_stream_is_waiting_for_an_event_at_which_the_thread_sleeps(cuda: Cuda, calls: list[Any]) -> None:
    stream = cuda.stream()
    assert stream.address == 77
    stream.wait()
    assert calls[-2:] == [("record", 77), "synchronize"]


def test_the_names_that_the_adapter_calls_are_cupys() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy has no wheel for this machine")
    names = vars(fake_cupy([]).cuda)
    for name, value in names.items():
        assert hasattr(cupy.cuda, name)
        for inner in vars(value) if isinstance(value, SimpleNamespace) else ():
            assert hasattr(getattr(cupy.cuda, name), inner)
    assert hasattr(cupy, "ndarray")
    assert hasattr(cupy.get_default_memory_pool(), "set_limit")
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    assert cupy.cuda.runtime.CUDARuntimeError(700).status == 700


def test_cupy_without_a_driver_is_a_dependency_that_is_missing(tmp_path: Path) -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy has no wheel for this machine")
    if cupy.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(DependencyError, match="can't be used"):
        open_cuda(Gpu(0, "GPU-1", "none"), 0, tmp_path)


def test_without_cupy_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DependencyError, match=r"headrace\[gpu\]"):
        open_cuda(GPU, 0, tmp_path)
