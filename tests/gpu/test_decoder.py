"""nvImageCodec against the CPU's decoders: what has to hold before `gpu.decode` may be turned on."""

from __future__ import annotations

import numpy as np
import pytest

from tests.rig import images
from tests.rig.hostile import GROUPS, hostile_values
from tests.unit.test_filling_gpu import LIMITS, Side, contract, cpu, gpu_fill, slot_for
from worker.cuda import Cuda
from worker.decode import decode
from worker.decode.nvimagecodec import NAME, open_nvimagecodec, takes
from worker.ingest.validate import inspect
from worker.pipeline.filling_gpu import Lane
from worker.preprocess.gpu import GpuTransform

SHARE = 64 << 20
MEAN, FAR, FAR_SHARE = 0.5, 3, 0.001  # grey levels, and the share of values that may be farther apart than that


@pytest.mark.parametrize("group", GROUPS)
def test_hostile_values_get_the_verdicts_of_the_cpu(cuda: Cuda, group: str) -> None:
    made = contract()
    transform = GpuTransform(made, cuda, 16, SHARE)
    lane = Lane(transform, open_nvimagecodec(cuda.gpu.ordinal, transform.stream.address))
    side, want = Side(gpu_fill(cuda, lane, SHARE), slot_for(made, 16, cuda)), cpu(made, 16)
    some = list(hostile_values([group]))
    differing = []
    for start in range(0, len(some), 16):
        part = some[start : start + 16]
        got, expected = (each.run([one.value for one in part]) for each in (side, want))
        for index, one in enumerate(part):
            ours, theirs = (prepared.rejections.get(index) for prepared in (got, expected))
            if (ours and ours.reason) != (theirs and theirs.reason):
                differing.append((one.name, ours, theirs))
    assert differing == []


@pytest.mark.parametrize("subsampling", [0, 1, 2])  # Pillow's 4:4:4, 4:2:2, 4:2:0
@pytest.mark.parametrize("quality", [60, 90])
def test_pixels_are_the_cpus_within_the_tolerance(cuda: Cuda, subsampling: int, quality: int) -> None:
    sizes = [(640, 480), (1920, 1080), (333, 251), (17, 9), (1, 1)]
    encoded = [
        images.encode(images.photo(*size, seed), "jpeg", quality=quality, subsampling=subsampling)
        for seed, size in enumerate(sizes)
    ]
    _assert_within_the_tolerance(cuda, encoded)


def test_odd_jpegs_have_the_cpus_pixels_or_are_declined(cuda: Cuda) -> None:
    odd = images.odd_jpegs(images.photo(320, 240, 9)).values()
    _assert_within_the_tolerance(
        cuda, [value for value in odd if takes(value, inspect(value, LIMITS))], may_decline=True
    )


def _assert_within_the_tolerance(cuda: Cuda, encoded: list[bytes], may_decline: bool = False) -> None:
    import cupy

    codec = open_nvimagecodec(cuda.gpu.ordinal, 0)
    facts = [inspect(value, LIMITS) for value in encoded]
    assert all(takes(value, fact) for value, fact in zip(encoded, facts, strict=True))
    pictures = codec.decode(encoded, facts)
    for value, fact, picture in zip(encoded, facts, pictures, strict=True):
        if picture is None and may_decline:
            continue
        assert picture is not None, f"{NAME} declined {fact}"
        there = cupy.asnumpy(cupy.asarray(picture)).astype(np.int16)
        apart = np.abs(there - decode(value, fact).pixels)
        assert apart.mean() < MEAN
        assert (apart > FAR).mean() <= FAR_SHARE
