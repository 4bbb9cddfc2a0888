"""The decode threads' path with the real kernels, run on the CPU from their source: pixels within a grey level of the CPU path's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kernels import Placement, Plan, Preprocess
from tests.kernels.cupy_on_cpu import Array, CupyOnCpu, Stream, build
from tests.rig.gpu import StandInCuda, StandInImage
from tests.unit.test_filling_gpu import CONTRACTS, assert_within_a_level, contract, gpu, values
from worker.cuda import Launch
from worker.frames import AnyArray


class EmulatedCuda(StandInCuda):
    """Late like its base, with `kernels.Preprocess` itself over emulated kernels."""

    def __init__(self, library: Path) -> None:
        super().__init__()
        self._cupy = CupyOnCpu(library)

    def kernels(self, plan: Plan, most_images: int) -> Launch:
        with self._cupy.installed():
            preprocess = Preprocess(plan, Path(), most_images)

        def launch(
            images: Sequence[Any], placements: Sequence[Placement], out: AnyArray, sums: AnyArray, stream: Any
        ) -> None:
            there = [Array(image.pixels if isinstance(image, StandInImage) else image) for image in images]
            stream.todo.append(partial(preprocess, there, placements, Array(out), Array(sums), Stream()))

        return launch


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("kernels"))


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_batch_through_the_real_kernels_is_the_cpu_paths_within_a_grey_level(name: str, library: Path) -> None:
    made, some = contract(name), values()[::3]
    assert_within_a_level(made, some, gpu(made, len(some), cuda=EmulatedCuda(library)))
