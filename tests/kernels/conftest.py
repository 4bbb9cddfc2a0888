"""Gives the tests their device: the CPU, or with HEADRACE_KERNELS=cuda the GPU that CuPy finds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kernels.cupy_on_cpu import CupyOnCpu, build
from tests.kernels.devices import Device


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled kernels lie during a session."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="session")
def device(builds: Path) -> Device:
    """Carries out plans."""
    if os.environ.get("HEADRACE_KERNELS") == "cuda":
        import cupy

        return Device(cupy, builds)
    return Device(CupyOnCpu(build(builds)), builds)
