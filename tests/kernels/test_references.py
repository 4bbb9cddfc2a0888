"""The NumPy reference and the kernels against OpenCV, Pillow and the worker's CPU path."""

from __future__ import annotations

from typing import Any, get_args

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from kernels import Placement, Plan, Rect, features
from kernels.plan import Filter
from tests.kernels import cases, reference
from tests.kernels.devices import Device
from worker.preprocess.contract import Contract
from worker.preprocess.cpu import CpuTransform, scaling
from worker.statistics.features import features as worker_features

# OpenCV adds a row's products in another order on some processors: where the mean is a half, a level may go the other way.
AREA_TOLERANCE, AREA_SHARE = 1, 0.01


def sizes(seed: int) -> tuple[np.random.Generator, tuple[int, int], tuple[int, int]]:
    random = np.random.default_rng(seed)
    drawn = [int(side) for side in np.exp(random.uniform(0, 5.5, 4))]
    return random, (drawn[0], drawn[1]), (drawn[2], drawn[3])


@pytest.mark.parametrize("seed", range(40))
def test_bilinear_is_opencvs_bit_for_bit(seed: int) -> None:
    random, source, target = sizes(seed)
    image = cases.image(random, *source)
    expected = cv2.resize(np.ascontiguousarray(image), target, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(reference.resized("bilinear", image, *target), expected)


@pytest.mark.parametrize("seed", range(40))
def test_antialias_is_pillows_bit_for_bit_and_in_either_order_of_passes_within_a_grey_level(seed: int) -> None:
    random, source, target = sizes(seed)
    image = np.ascontiguousarray(cases.image(random, *source))
    made = reference.resized("bilinear_antialias", image, *target)
    # From 13 on Pillow takes the rows first where that is less work; one axis at a time the order is ours.
    columns = Image.fromarray(image).resize((target[0], source[1]), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(made, np.asarray(columns.resize(target, Image.Resampling.BILINEAR)))
    at_once = np.asarray(Image.fromarray(image).resize(target, Image.Resampling.BILINEAR))
    assert np.abs(made.astype(int) - at_once).max() <= 1


@pytest.mark.parametrize("seed", range(40))
def test_area_is_the_workers_within_a_grey_level(seed: int) -> None:
    random, source, target = sizes(seed)
    image = cases.image(random, *source)
    expected = np.empty((target[1], target[0], 3), np.uint8)
    scaling("area")(np.ascontiguousarray(image), expected)
    difference = np.abs(reference.resized("area", image, *target).astype(int) - expected)
    assert difference.max() <= AREA_TOLERANCE
    assert (difference > 0).sum() <= max(2, AREA_SHARE * difference.size)


@pytest.mark.parametrize(("source", "target"), [((64, 48), (32, 24)), ((96, 72), (32, 24)), ((256, 96), (32, 24))])
def test_area_by_a_whole_ratio_is_opencvs_bit_for_bit(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = cases.image(np.random.default_rng(0), *source)
    expected = cv2.resize(np.ascontiguousarray(image), target, interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(reference.resized("area", image, *target), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_pillows(orientation: int) -> None:
    image = cases.image(np.random.default_rng(1), 9, 5)
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(reference.upright(image, orientation), expected)


CONTRACTS: list[dict[str, Any]] = [
    {"resize": "stretch", "wire_dtype": "uint8", "layout": "nhwc", "colour": "rgb"},
    {"resize": "letterbox", "pad_value": 114, "wire_dtype": "float16", "layout": "nchw", "colour": "rgb"},
    {"resize": "letterbox", "pad_value": 0, "wire_dtype": "float32", "layout": "nhwc", "colour": "bgr"},
    {"resize": "shorter_side_crop", "crop_fraction": 0.875, "wire_dtype": "float16", "layout": "nhwc", "colour": "bgr"},
]


@pytest.mark.parametrize("filter_name", get_args(Filter))
@pytest.mark.parametrize("keys", CONTRACTS, ids=lambda keys: f"{keys['resize']}-{keys['wire_dtype']}")
@pytest.mark.parametrize("size", [(161, 90), (50, 120), (20, 15)])
def test_the_kernels_make_the_model_input_and_the_features_of_the_workers_cpu_path(
    device: Device, filter_name: Filter, keys: dict[str, Any], size: tuple[int, int]
) -> None:
    contract = Contract(
        width=56, height=40, filter=filter_name, mean=cases.MEAN, std=cases.STD, scaled_decode=False, digest="", **keys
    )
    image = cases.image(np.random.default_rng(sum(size)), *size)
    expected = np.empty(contract.tensor_shape, contract.dtype)
    grid = CpuTransform(contract)(np.ascontiguousarray(image), expected)
    numbers = np.empty(3, np.float32)
    worker_features(grid, numbers, contract.colour)

    window = contract.window(*size)
    source, target = window.source, window.destination
    placement = Placement(
        Rect(source.x, source.y, source.width, source.height), Rect(target.x, target.y, target.width, target.height)
    )
    plan = Plan(
        contract.width, contract.height, contract.filter, contract.colour, contract.layout, contract.wire_dtype,
        contract.mean, contract.std, contract.pad_value or 0,
    )  # fmt: skip
    slot, sums = device(plan, [image], [placement])

    if filter_name == "bilinear":
        assert slot[0].tobytes() == expected.tobytes()
        np.testing.assert_allclose(features(sums, 56 * 40)[0], numbers, rtol=1e-6)
        return
    # The worker's antialiasing engine keeps fewer bits of its weights than Pillow does.
    step = 1.0 if contract.wire_dtype == "uint8" else 1.01 / min(contract.std)
    assert np.abs(slot[0].astype(np.float64) - expected.astype(np.float64)).max() <= step
    np.testing.assert_allclose(features(sums, 56 * 40)[0], numbers, rtol=0.02, atol=0.5)
