"""CPU or GPU: every case of the choice, and what is seen of driver and Triton."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from worker.device import (
    Choice,
    Gpu,
    NoGpuError,
    Sight,
    choose,
    decide,
    look,
    printed,
    uuids_of,
    visible_gpus,
)
from worker.errors import ConfigurationError, DependencyError
from worker.settings import GpuSettings, InferSettings, Settings

A = Gpu(0, "GPU-aaaaaaaa-0000-0000-0000-000000000000", "H200")
B = Gpu(1, "GPU-bbbbbbbb-0000-0000-0000-000000000000", "H200")
BOTH = frozenset({A.uuid, B.uuid})
PAGE = f"""# HELP nv_gpu_utilization GPU utilization rate [0.0 - 1.0)
nv_gpu_utilization{{gpu_uuid="{A.uuid}"}} 0.25
nv_gpu_memory_total_bytes{{gpu_uuid="{A.uuid}"}} 1.5e11
nv_inference_count{{model="m",version="1"}} 7
"""


def settings(device: str = "auto", uuid: str = "", backend: str = "triton") -> Settings:
    infer = InferSettings(backend=backend)  # type: ignore[arg-type]
    return Settings(device=device, infer=infer, gpu=GpuSettings(uuid=uuid))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sight", "uuid", "chosen", "why"),
    [
        (Sight((A,), tritons=frozenset({A.uuid})), "", A, "Triton is on it too"),
        (Sight((A, B), tritons=frozenset({B.uuid})), "", B, "Triton is on it too"),
        (Sight((A, B), tritons=BOTH), B.uuid, B, "Triton is on it too"),
        (Sight((A, B), tritons=BOTH), B.uuid.upper().removeprefix("GPU-"), B, "Triton is on it too"),
        (Sight(trouble="there is no NVIDIA driver here"), "", None, "no NVIDIA driver"),
        (Sight((A,), has_package=False), "", None, "cupy is not installed"),
        (Sight((A,), tritons=frozenset({B.uuid})), "", None, f"Triton has {B.uuid}"),
        (Sight((A, B), tritons=BOTH), "", None, "several GPUs"),
        (Sight((A,), tritons=BOTH), B.uuid, None, "is not among"),
        (Sight((A, B), tritons=frozenset({A.uuid})), B.uuid, None, "or not Triton's"),
    ],
)
def test_auto_takes_the_gpu_that_triton_uses_else_the_cpu_with_a_reason_and_gpu_is_an_error_with_a_remedy(
    sight: Sight, uuid: str, chosen: Gpu | None, why: str
) -> None:
    choice = choose(settings(uuid=uuid), sight)
    assert choice.gpu == chosen
    assert why in choice.why
    if chosen is not None:
        assert choose(settings("gpu", uuid), sight) == choice
        return
    with pytest.raises(DependencyError) as raised:
        choose(settings("gpu", uuid), sight)
    assert raised.value.exit_code == 3
    assert choice.why in str(raised.value)
    assert choice.remedy in str(raised.value)
    assert choice.remedy


def test_a_triton_that_tells_no_gpu_is_taken_at_its_word_with_auto_and_tried_with_gpu() -> None:
    auto = choose(settings(), Sight((A,)))
    assert auto.gpu is None
    assert "no Triton of infer.url tells" in auto.why
    assert "gpu.triton_metrics_port" in auto.remedy
    assert choose(settings("gpu"), Sight((A,))).gpu == A
    with pytest.raises(DependencyError, match="several GPUs"):
        choose(settings("gpu"), Sight((A, B)))
    assert choose(settings("gpu", B.uuid), Sight((A, B))).gpu == B


def test_the_cpu_is_taken_without_a_look_where_the_settings_say_so() -> None:
    seen = Sight((A,))
    assert choose(settings("cpu"), seen).gpu is None
    local = choose(settings(backend="local"), seen)
    assert local.gpu is None
    assert "local" in local.why
    with pytest.raises(ConfigurationError, match="needs a Triton"):
        choose(settings("gpu", backend="local"), seen)
    assert look(settings("cpu")) == look(settings(backend="local")) == Sight()


def test_a_choice_reads_as_a_sentence() -> None:
    assert str(Choice(None, "there is none")) == "pixels are prepared on the CPU: there is none"
    assert str(Choice(A, "it is there")) == f"pixels are prepared on H200 ({A.uuid}): it is there"


def test_a_machine_without_a_driver_is_the_cpu_and_cupy_is_not_imported() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        choice = decide(settings())
        assert choice.gpu is None
        assert "no NVIDIA driver" in choice.why
    else:
        pytest.skip("there is a driver here")


class Driver:
    """libcuda for a machine with these GPUs, by the calls that are made; `init` is what cuInit returns."""

    def __init__(self, gpus: list[tuple[bytes, bytes]], init: int = 0) -> None:
        self._gpus = gpus
        self._init = init

    def cuInit(self, flags: int) -> int:
        return self._init

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self._gpus)
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = ordinal
        return 0

    def cuDeviceGetUuid_v2(self, uuid: Any, device: ctypes.c_int) -> int:
        uuid._obj[:] = self._gpus[device.value][0]
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: ctypes.c_int) -> int:
        name.value = self._gpus[device.value][1]
        return 0

    def cuGetErrorName(self, code: int, name: Any) -> int:
        name._obj.value = b"CUDA_ERROR_ODD"
        return 0


def test_the_drivers_gpus_have_its_order_and_nvidia_smis_uuids() -> None:
    raw = bytes(range(16))
    assert visible_gpus(Driver([(raw, b"NVIDIA L4"), (bytes(16), b"NVIDIA H200")])) == (
        Gpu(0, "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f", "NVIDIA L4"),
        Gpu(1, "GPU-00000000-0000-0000-0000-000000000000", "NVIDIA H200"),
    )
    assert visible_gpus(Driver([])) == ()
    assert printed(raw).count("-") == 5


@pytest.mark.parametrize(("code", "words"), [(100, "no GPU"), (803, "different versions"), (999, "CUDA_ERROR_ODD")])
def test_a_driver_that_can_not_start_says_why(code: int, words: str) -> None:
    with pytest.raises(NoGpuError, match=words):
        visible_gpus(Driver([], init=code))


def test_tritons_gpus_are_read_from_its_metrics_page() -> None:
    assert uuids_of(PAGE) == {A.uuid}
    assert uuids_of("nv_inference_count 3") == frozenset()


@contextmanager
def metrics_page(text: str) -> Iterator[int]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *arguments: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()


def sees(monkeypatch: pytest.MonkeyPatch, port: int) -> Sight:
    """With one GPU, from a page at `port` of this host."""
    monkeypatch.setattr("ctypes.CDLL", lambda name: Driver([(bytes(16), b"NVIDIA H200")]))
    infer = InferSettings(url="127.0.0.1:8001, 127.0.0.1:1")
    return look(Settings(infer=infer, gpu=GpuSettings(triton_metrics_port=port)))


def test_a_look_asks_the_driver_and_each_endpoints_metrics_page(monkeypatch: pytest.MonkeyPatch) -> None:
    with metrics_page(PAGE) as port:
        sight = sees(monkeypatch, port)
    assert [gpu.name for gpu in sight.gpus] == ["NVIDIA H200"]
    assert sight.tritons == frozenset({A.uuid})


def test_a_triton_that_does_not_tell_its_gpus_says_nothing_against_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with metrics_page("nv_inference_count 3") as port:
        assert sees(monkeypatch, port).tritons is None
    assert sees(monkeypatch, port).tritons is None
    assert sees(monkeypatch, 0).tritons is None


def test_a_driver_whose_gpus_are_all_hidden_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: Driver([]))
    assert "CUDA_VISIBLE_DEVICES" in choose(settings(), look(settings())).why
