"""The GPU path on hardware: pixels, memory shared with Triton, and the whole worker, each against the CPU path."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.rig import images
from tests.unit.test_filling_gpu import CONTRACTS, Side, assert_within_a_level, contract, gpu_fill, slot_for, values
from worker.buffers import SlotPool
from worker.cuda import Cuda
from worker.errors import HeadraceError
from worker.frames import Answer, AnyArray, UInt8Array
from worker.infer.shared_memory import alike
from worker.pipeline.filling_gpu import Lane
from worker.pipeline.model import open_model
from worker.preprocess.contract import Contract
from worker.preprocess.gpu import GpuTransform
from worker.settings import Settings

SHARE = 64 << 20
FRAMES, ROWS = 200, 8
LONG_S = 120.0


@pytest.mark.parametrize("name", CONTRACTS)
def test_pixels_are_the_cpu_paths_within_a_grey_level(cuda: Cuda, name: str) -> None:
    made, some = contract(name), values()
    fill = gpu_fill(cuda, Lane(GpuTransform(made, cuda, len(some), SHARE), None), SHARE)
    assert_within_a_level(made, some, Side(fill, slot_for(made, len(some), cuda)))


def test_triton_reads_slots_in_the_gpus_memory_and_answers_as_to_tensors(cuda: Cuda, settings: Settings) -> None:
    by_tensors = msgspec.structs.replace(settings, infer=msgspec.structs.replace(settings.infer, shared_memory="off"))
    shape = Contract.load(Path(settings.model.directory) / "preprocess.toml").tensor_shape
    batches = np.random.default_rng(1).integers(0, 256, (20, ROWS, *shape), np.uint8)
    # With shared_memory = "on" the engine raises where a region is not proven.
    there, sent = _answers(settings, batches, cuda), _answers(by_tensors, batches, None)
    assert all(alike(left, right) for left, right in zip(there, sent, strict=True))
    assert not alike(there[0], there[1]), "the model tells batches apart"


def _answers(settings: Settings, batches: UInt8Array, cuda: Cuda | None) -> list[Mapping[str, AnyArray]]:
    served = open_model(settings)
    contract = served.contract
    pool = SlotPool(3, ROWS, contract.tensor_shape, contract.dtype, shared=cuda is not None, cuda=cuda)
    answers = []
    try:
        served.engine.attach(pool)
        for batch in batches:
            slot = pool.acquire(LONG_S)
            assert slot is not None
            slot.write(batch.astype(contract.dtype))
            heard: Future[Answer | HeadraceError] = Future()
            served.engine.submit(slot, ROWS, time.monotonic() + LONG_S, heard.set_result)
            answer = heard.result()
            slot.let_go()
            assert isinstance(answer, Answer), answer
            answers.append(answer.outputs)
    finally:
        served.engine.close()
        pool.close()
    return answers


def test_the_whole_worker_predicts_the_same_on_gpu_and_cpu(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(FRAMES):
        picture = images.photo(640 + number, 480, number)
        (folder / f"{number:04}.jpg").write_bytes(images.with_orientation(picture, 1 + number % 8))
    by_gpu, by_cpu = (_batch(settings, folder, tmp_path / f"{device}.jsonl", device) for device in ("gpu", "cpu"))
    assert by_gpu.keys() == by_cpu.keys()
    assert len(by_gpu) == FRAMES
    same = sum(by_gpu[name]["classes"][0]["index"] == by_cpu[name]["classes"][0]["index"] for name in by_gpu)
    assert same >= 0.99 * FRAMES


def _batch(settings: Settings, folder: Path, out: Path, device: str) -> dict[str, Any]:
    """Predictions of `headrace batch` by id."""
    keys = {
        "device": device,
        "infer.url": settings.infer.url,
        "model.name": settings.model.name,
        "model.directory": settings.model.directory,
    }
    sets = [argument for key, value in keys.items() for argument in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "worker.cli", "batch", str(folder), "--out", str(out), *sets]
    subprocess.run(command, check=True, timeout=600)
    return {each["id"]: each for each in map(json.loads, out.read_text().splitlines())}
