"""The benchmark `gpu` as far as it goes without a GPU: why it is skipped, and how the tools' figures are read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.options import Options
from worker.errors import DependencyError


def test_without_a_triton_on_a_gpu_it_is_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(gpu.TRITON, raising=False)
    assert gpu.TRITON in gpu.measure(Options())["skipped"]
    monkeypatch.setenv(gpu.TRITON, "127.0.0.1:1")
    monkeypatch.setenv(gpu.MODEL, str(tmp_path))
    monkeypatch.setattr("ctypes.CDLL", no_driver)
    assert "no NVIDIA driver" in gpu.measure(Options())["skipped"]


def no_driver(name: str) -> None:
    raise OSError(name)


PERF_ANALYZER = """
Request concurrency: 6
  Client:
    Request count: 31250
    Throughput: 27774.4 infer/sec
    Avg latency: 3456 usec (standard deviation 120 usec)
"""
TRTEXEC = "[I] === Performance summary ===\n[I] Throughput: 1800.25 qps\n[I] Latency: min = 0.5 ms\n"


def test_the_tools_figures_are_frames_a_second(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for text, pattern, each, wanted in (
        (PERF_ANALYZER, gpu._PERF_ANALYZER, 1, 27774.4),
        (TRTEXEC, gpu._TRTEXEC, 16, 1800.25 * 16),
    ):
        assert gpu._run_tool([sys.executable, "-c", f"print({text!r})"], pattern, each) == pytest.approx(wanted)
    with pytest.raises(DependencyError, match="printed no throughput"):
        gpu._run_tool([sys.executable, "-c", "print('hm')"], gpu._TRTEXEC, 16)
    with pytest.raises(DependencyError, match="failed"):
        gpu._run_tool([sys.executable, "-c", "raise SystemExit(3)"], gpu._TRTEXEC, 16)


def test_the_rate_leaves_the_warm_up_out() -> None:
    answered = [(0.0, 0), (100.0, 10), (101.0, 20), (102.0, 40), (105.0, 100)]
    assert gpu.rate(answered) == pytest.approx(80 / 4)
