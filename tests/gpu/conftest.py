"""Tests for a GPU host, run by `make test-gpu` alone: they need a GPU, and a Triton on it that serves a model."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from worker.cuda import Cuda, open_cuda
from worker.device import decide
from worker.settings import BatchingSettings, InferSettings, ModelSettings, Settings

TRITON, MODEL = "HEADRACE_TEST_GPU_TRITON", "HEADRACE_TEST_GPU_MODEL"
collect_ignore_glob = [] if TRITON in os.environ and MODEL in os.environ else ["test_*.py"]


@pytest.fixture(scope="session")
def settings() -> Settings:
    """By which the worker would run here."""
    folder = Path(os.environ[MODEL])
    return Settings(
        device="gpu",
        infer=InferSettings(url=os.environ[TRITON], shared_memory="on"),
        model=ModelSettings(name=folder.name, directory=str(folder)),
        batching=BatchingSettings(max_batch_size=8),
    )


@pytest.fixture(scope="session")
def cuda(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Cuda:
    """The GPU that Triton is on."""
    choice = decide(msgspec.structs.replace(settings, device="gpu"))
    assert choice.gpu is not None
    return open_cuda(choice.gpu, settings.gpu.triton_ordinal, tmp_path_factory.mktemp("kernels"))
