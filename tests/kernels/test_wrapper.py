"""`kernels.Preprocess` itself: what it refuses, what it keeps, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernels import SUMS, Placement, Plan, Rect, features, preprocess
from tests.kernels import cases, reference
from tests.kernels.devices import UNWRITTEN, Device, unwritten


def arrays(device: Device, plan: Plan, rows: int) -> tuple[Any, Any]:
    slot = device.cupy.asarray(unwritten((rows, *plan.row_shape), plan.wire))
    return slot, device.cupy.asarray(np.full((rows, SUMS), 7, np.uint64))


def test_rows_beyond_the_batch_stay_as_they_are(device: Device) -> None:
    plan = cases.plan(9, 7, "area")
    image = cases.image(np.random.default_rng(0), 30, 20)
    slot, sums = arrays(device, plan, 3)
    device.preprocess(plan)([device.there(image)], [cases.whole(image, plan)], slot, sums, device.stream)
    device.stream.synchronize()
    np.testing.assert_array_equal(slot.get()[0], reference.rows(plan, [image], [cases.whole(image, plan)])[0][0])
    assert (slot.get()[1:] == UNWRITTEN).all()
    assert (sums.get()[1:] == 7).all()


def test_a_contiguous_image_without_strides_is_taken(device: Device) -> None:
    plan = cases.plan(8, 8, "bilinear")
    image = np.ascontiguousarray(cases.image(np.random.default_rng(0), 8, 8))
    slot, _ = arrays(device, plan, 1)
    there = device.cupy.asarray(image)
    assert there.__cuda_array_interface__["strides"] is None
    device.preprocess(plan)([there], [cases.whole(image, plan)], slot, None, device.stream)
    device.stream.synchronize()
    np.testing.assert_array_equal(slot.get()[0], image)


def test_images_of_more_sizes_than_tables_are_kept_come_out_right(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocess, "MAX_TABLES", 3)
    plan = cases.plan(11, 6, "bilinear_antialias", pad_value=3)
    random = np.random.default_rng(4)
    for _ in range(3):
        images = [cases.image(random, int(width), int(height)) for width, height in random.integers(1, 60, (8, 2))]
        placements = [cases.whole(image, plan) for image in images]
        slot, sums = device(plan, images, placements)
        expected, expected_sums = reference.rows(plan, images, placements)
        np.testing.assert_array_equal(slot, expected)
        np.testing.assert_array_equal(sums, expected_sums)


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        (Placement(Rect(0, 0, 31, 20), Rect(0, 0, 9, 7)), "source .* leaves the upright image of 30x20"),
        (Placement(Rect(-1, 0, 5, 5), Rect(0, 0, 9, 7)), "source .* leaves"),
        (Placement(Rect(0, 0, 30, 20), Rect(5, 0, 5, 7)), "destination .* leaves the model's input of 9x7"),
        (Placement(Rect(0, 0, 30, 20), Rect(0, 0, 9, 7), 6), "leaves the upright image of 20x30"),
    ],
)
def test_a_placement_that_leaves_its_image_is_refused(device: Device, placement: Placement, words: str) -> None:
    plan = cases.plan(9, 7, "area")
    slot, _ = arrays(device, plan, 1)
    image = device.there(cases.image(np.random.default_rng(0), 30, 20))
    with pytest.raises(ValueError, match=words):
        device.preprocess(plan)([image], [placement], slot, None, device.stream)
    assert (slot.get() == UNWRITTEN).all()


def test_arrays_that_do_not_fit_are_refused_before_anything_is_launched(device: Device) -> None:
    plan = cases.plan(9, 7, "area", dtype="float32")
    image = cases.image(np.random.default_rng(0), 30, 20)
    there, placement = device.there(image), cases.whole(image, plan)
    slot, sums = arrays(device, plan, 1)
    run = device.preprocess(plan)
    of_bytes = device.cupy.asarray(np.zeros((1, 7, 9, 3), np.uint8))
    for images, placements, out, totals, words in (
        ([], [], slot, sums, "0 images"),
        ([there] * 65, [placement] * 65, slot, sums, "65 images"),
        ([there, there], [placement, placement], slot, sums, "`out`"),
        ([there], [placement], of_bytes, sums, "`out`"),
        ([there], [placement], slot, device.cupy.asarray(np.zeros((1, 3), np.uint64)), "`sums`"),
        ([slot], [placement], slot, sums, "uint8"),
        ([device.cupy.asarray(np.zeros((5, 5, 4), np.uint8))], [placement], slot, sums, "an image is"),
        ([there], [], slot, sums, "shorter"),
    ):
        with pytest.raises(ValueError, match=words):
            run(images, placements, out, totals, device.stream)
    assert (slot.get().view(np.uint8) == UNWRITTEN).all()


def test_features_of_an_even_image_have_no_contrast_and_no_sharpness(device: Device) -> None:
    plan = cases.plan(40, 20, "bilinear")
    image = np.full((9, 9, 3), 100, np.uint8)
    _, sums = device(plan, [image], [cases.whole(image, plan)])
    np.testing.assert_array_equal(features(sums, 800), [[100, 0, 0]])


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0},
        {"height": 8193},
        {"filter": "cubic"},
        {"dtype": "float64"},
        {"std": (1.0, 0.0, 1.0)},
        {"mean": (float("nan"), 0.0, 0.0)},
        {"pad_value": 256},
    ],
)
def test_a_plan_that_can_not_be_is_refused(changes: dict[str, Any]) -> None:
    keys = {"width": 4, "height": 4, "filter": "area", "colour": "rgb", "layout": "nhwc", "dtype": "uint8"}
    with pytest.raises(ValueError):
        Plan(**{**keys, "mean": cases.MEAN, "std": cases.STD, **changes})


def test_a_placement_without_pixels_or_with_an_unknown_orientation_is_refused() -> None:
    with pytest.raises(ValueError, match="without pixels"):
        Placement(Rect(0, 0, 0, 4), Rect(0, 0, 4, 4))
    with pytest.raises(ValueError, match="orientation 9"):
        Placement(Rect(0, 0, 4, 4), Rect(0, 0, 4, 4), 9)
