"""What only a device can show: work that lags behind the calls, and PTX that its driver compiles."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from kernels import SUMS, Preprocess, modules
from tests.kernels import cases, reference
from tests.kernels.devices import Device

pytestmark = pytest.mark.skipif(os.environ.get("HEADRACE_KERNELS") != "cuda", reason="make test-gpu-kernels, on a GPU")


def test_calls_put_on_a_stream_without_waiting_each_keep_their_own_jobs_and_tables(device: Device) -> None:
    plan = cases.plan(224, 224, "bilinear_antialias", dtype="float16", layout="nchw")
    random = np.random.default_rng(0)
    images = [cases.image(random, int(width), int(height)) for width, height in random.integers(20, 400, (40, 2))]
    there = [device.there(image) for image in images]
    placements = [cases.whole(image, plan) for image in images]
    slots = [device.cupy.zeros((1, *plan.row_shape), plan.wire) for _ in images]
    sums = [device.cupy.zeros((1, SUMS), np.uint64) for _ in images]
    run = device.preprocess(plan)
    device.cupy.cuda.get_current_stream().synchronize()
    for image, placement, slot, total in zip(there, placements, slots, sums, strict=True):
        run([image], [placement], slot, total, device.stream)
    device.stream.synchronize()
    for image, placement, slot, total in zip(images, placements, slots, sums, strict=True):
        expected, expected_sums = reference.rows(plan, [image], [placement])
        assert slot.get().tobytes() == expected.tobytes()
        np.testing.assert_array_equal(total.get(), expected_sums)


def test_the_ptx_for_unlisted_architectures_gives_the_same(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "ARCHITECTURES", ())
    case = cases.mixed(3, "area")
    slot, sums = Device(device.cupy, tmp_path)(case.plan, case.images, case.placements)
    assert [path.suffix for path in tmp_path.iterdir()] == [".ptx"]
    expected, expected_sums = reference.rows(case.plan, case.images, case.placements)
    assert slot.tobytes() == expected.tobytes()
    np.testing.assert_array_equal(sums, expected_sums)


def test_the_cubin_is_the_devices_own(device: Device, tmp_path: Path) -> None:
    capability = device.cupy.cuda.Device().compute_capability
    Preprocess(cases.plan(8, 8, "area"), tmp_path, 1)
    wanted = f"sm_{capability}.cubin" if capability in modules.ARCHITECTURES else f"{modules.PTX}.ptx"
    assert [path.name.endswith(wanted) for path in tmp_path.iterdir()] == [True]
