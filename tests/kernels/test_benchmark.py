"""The benchmark of the kernels on a machine without a GPU."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from benchmarks.__main__ import main


def test_without_a_gpu_the_benchmark_is_skipped_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "cupy", without)
    assert main(["kernels", "--quick", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["skipped"] == "CuPy finds no CUDA device"
    assert "bandwidth_ratio" not in result


def test_without_cupy_the_benchmark_is_skipped_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["kernels", "--quick", "--json"]) == 0
    assert "extra `gpu`" in json.loads(capsys.readouterr().out.splitlines()[-1])["skipped"]
