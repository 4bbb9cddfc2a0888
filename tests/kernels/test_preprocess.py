"""The kernels against the NumPy reference, bit for bit: on the CPU in CI, on a device with `make test-gpu-kernels`."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from kernels import Placement, Rect, features, summaries
from kernels.plan import Colour, Filter, Layout, Wire
from tests.kernels import cases, reference
from tests.kernels.cupy_on_cpu import FORWARD, REVERSE
from tests.kernels.devices import UNWRITTEN, Device

FILTERS = get_args(Filter)
SEEDS = range(24)


def check(device: Device, case: cases.Case, *, order: int = FORWARD) -> None:
    slot, sums = device(case.plan, case.images, case.placements, order=order)
    expected, expected_sums = reference.rows(case.plan, case.images, case.placements)
    np.testing.assert_array_equal(slot.view(np.uint8), expected.view(np.uint8))
    np.testing.assert_array_equal(sums, expected_sums)


@pytest.mark.parametrize("filter_name", FILTERS)
@pytest.mark.parametrize("seed", SEEDS)
def test_any_batch_equals_the_reference_bit_for_bit(device: Device, filter_name: Filter, seed: int) -> None:
    check(device, cases.mixed(seed, filter_name), order=seed)


@pytest.mark.parametrize("filter_name", FILTERS)
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((1, 1), (1, 1)),
        ((1, 1), (33, 17)),
        ((1, 200), (7, 5)),
        ((200, 1), (5, 40)),
        ((33, 17), (33, 17)),
        ((66, 34), (33, 17)),
        ((96, 51), (32, 17)),
        ((192, 96), (32, 16)),
        ((40, 30), (80, 15)),
        ((31, 64), (16, 65)),
        ((640, 3), (1, 1)),
        ((2, 2), (3, 3)),
    ],
)
def test_edge_sizes_equal_the_reference(
    device: Device, filter_name: Filter, source: tuple[int, int], target: tuple[int, int]
) -> None:
    plan = cases.plan(*target, filter_name)
    image = cases.image(np.random.default_rng(5), *source)
    check(device, cases.Case(plan, [image], [cases.whole(image, plan)]))


@pytest.mark.parametrize("filter_name", FILTERS)
def test_a_camera_frame_onto_a_models_input_equals_the_reference(device: Device, filter_name: Filter) -> None:
    plan = cases.plan(112, 112, filter_name, dtype="float16", layout="nchw")
    image = cases.image(np.random.default_rng(7), 768, 576, pitch=256)
    placements = [Placement(Rect(96, 0, 576, 576), Rect(0, 0, 112, 112))]
    check(device, cases.Case(plan, [image], placements))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("planar", [False, True])
def test_an_image_stands_upright_whatever_its_orientation_and_layout(
    device: Device, orientation: int, planar: bool
) -> None:
    image = cases.image(np.random.default_rng(1), 23, 14, pitch=9, planar=planar)
    size = (23, 14) if orientation < 5 else (14, 23)
    plan = cases.plan(*size, "bilinear")
    slot, _ = device(plan, [image], [cases.whole(image, plan, orientation)])
    np.testing.assert_array_equal(slot[0], reference.upright(image, orientation))


@pytest.mark.parametrize("wire", get_args(Wire))
@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("colour", get_args(Colour))
def test_every_grey_level_gets_the_bits_of_its_value_rounded_once(
    device: Device, wire: Wire, layout: Layout, colour: Colour
) -> None:
    plan = cases.plan(16, 16, "bilinear", dtype=wire, layout=layout, colour=colour)
    image = np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16) + np.uint8(c) for c in (0, 60, 120)], axis=2)
    slot, _ = device(plan, [image], [cases.whole(image, plan)])
    ordered = image if colour == "rgb" else image[:, :, ::-1]
    values = ordered.astype(np.float64) if wire == "uint8" else (ordered - np.array(cases.MEAN)) / np.array(cases.STD)
    expected = values.astype(wire) if layout == "nhwc" else values.astype(wire).transpose(2, 0, 1)
    assert slot[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("filter_name", FILTERS)
def test_the_order_of_threads_changes_nothing(device: Device, filter_name: Filter) -> None:
    case = cases.mixed(3, filter_name)
    for order in (FORWARD, REVERSE, 2):
        check(device, case, order=order)


@pytest.mark.parametrize("filter_name", FILTERS)
def test_without_statistics_the_rows_are_the_same(device: Device, filter_name: Filter) -> None:
    case = cases.mixed(11, filter_name)
    slot, sums = device(case.plan, case.images, case.placements, summed=False, order=REVERSE)
    assert sums is None
    assert slot.tobytes() == reference.rows(case.plan, case.images, case.placements)[0].tobytes()


@pytest.mark.parametrize("filter_name", FILTERS)
def test_what_lies_around_the_source_rectangle_does_not_show(device: Device, filter_name: Filter) -> None:
    plan = cases.plan(20, 20, filter_name)
    image = np.full((60, 60, 3), 255, np.uint8)
    image[20:40, 10:50] = 9
    slot, _ = device(plan, [image], [Placement(Rect(10, 20, 40, 20), Rect(0, 0, 20, 20))])
    assert (slot == 9).all()


def test_the_statistics_are_those_of_the_grid_with_its_padding(device: Device) -> None:
    plan = cases.plan(60, 44, "area", pad_value=114)
    image = cases.image(np.random.default_rng(2), 150, 60)
    placement = Placement(Rect(0, 0, 150, 60), Rect(0, 10, 60, 24))
    slot, sums = device(plan, [image], [placement])
    assert sums is not None
    of = summaries(sums, 60 * 44)
    grid = slot[0].astype(np.float64)
    luma = (slot[0].astype(np.int64) @ [9798, 19235, 3735] + (1 << 14)) >> 15
    np.testing.assert_allclose(of.brightness, luma.mean(), rtol=1e-12)
    np.testing.assert_allclose(of.contrast, luma.std(), rtol=1e-9)
    np.testing.assert_allclose(of.channel_mean[0], grid.mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(of.channel_deviation[0], grid.std((0, 1)), rtol=1e-9)
    np.testing.assert_array_equal(of.histogram[0], np.bincount(luma.ravel(), minlength=256))
    np.testing.assert_allclose(
        features(sums, 60 * 44)[0], [of.brightness[0], of.contrast[0], of.sharpness[0]], rtol=1e-6
    )


def test_every_element_of_a_row_is_written(device: Device) -> None:
    plan = cases.plan(70, 35, "bilinear", pad_value=UNWRITTEN ^ 0xFF)
    image = np.zeros((5, 5, 3), np.uint8)
    slot, _ = device(plan, [image], [Placement(Rect(0, 0, 5, 5), Rect(40, 20, 5, 5))])
    assert not (slot == UNWRITTEN).any()
