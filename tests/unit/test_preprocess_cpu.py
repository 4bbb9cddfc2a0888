"""The CPU transform against an independent reference: filters written from their definitions in float64.

Every filter is separable and linear, so the reference is two matrices: rows x image x columns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.unit.test_preprocess_contract import contract
from worker.frames import AnyArray, UInt8Array
from worker.preprocess.antialias import FastTriangle, PillowTriangle, triangle
from worker.preprocess.contract import Contract
from worker.preprocess.cpu import CpuTransform, scaling

Float64Array = npt.NDArray[np.float64]


def area(size: int, target: int) -> Float64Array:
    """(target, size): how much of each target pixel's footprint each source pixel covers; bilinear when enlarging."""
    if target > size:
        return bilinear(size, target)
    step = size / target
    left, right = np.arange(target)[:, None] * step, (np.arange(target)[:, None] + 1) * step
    pixel = np.arange(size)[None]
    covered = np.clip(np.minimum(right, pixel + 1) - np.maximum(left, pixel), 0, None)
    return np.asarray(covered / covered.sum(axis=1, keepdims=True))


def bilinear(size: int, target: int) -> Float64Array:
    """(target, size): the two pixels whose centres enclose the target's centre, weighted by distance; edges repeat."""
    centre = (np.arange(target) + 0.5) * size / target - 0.5
    lower = np.floor(centre).astype(int)
    weights = np.zeros((target, size))
    rows = np.arange(target)
    np.add.at(weights, (rows, np.clip(lower, 0, size - 1)), 1 - (centre - lower))
    np.add.at(weights, (rows, np.clip(lower + 1, 0, size - 1)), centre - lower)
    return weights


def bilinear_antialias(size: int, target: int) -> Float64Array:
    """(target, size): a triangle two footprints wide (two pixels when enlarging), cut at the edges, summing to 1."""
    step = size / target
    centre = (np.arange(target)[:, None] + 0.5) * step
    distance = np.abs(np.arange(size)[None] + 0.5 - centre) / max(step, 1.0)
    weights = np.clip(1 - distance, 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


MATRICES: dict[str, Callable[[int, int], Float64Array]] = {
    "area": area,
    "bilinear": bilinear,
    "bilinear_antialias": bilinear_antialias,
}
# Grey levels between our uint8 and the unrounded reference. 0.5 is rounding; the rest is fixed-point weights (bilinear),
# and an intermediate picture in whole grey levels (bilinear_antialias; area where one axis grows and the other shrinks).
TOLERANCE = {"area": 1.25, "bilinear": 1.0, "bilinear_antialias": 1.25}
MEAN_TOLERANCE = {"area": 0.3, "bilinear": 0.35, "bilinear_antialias": 0.35}


def reference(model: Contract, pixels: UInt8Array) -> Float64Array:
    """(height, width, 3) grey levels, unrounded, RGB."""
    window = model.window(pixels.shape[1], pixels.shape[0])
    source, target = window.source, window.destination
    cut = pixels[source.y : source.y + source.height, source.x : source.x + source.width].astype(np.float64)
    rows = MATRICES[model.filter](source.height, target.height)
    columns = MATRICES[model.filter](source.width, target.width)
    scaled = np.moveaxis(np.tensordot(columns, np.tensordot(rows, cut, (1, 0)), (1, 1)), 0, 1)
    grid = np.full((model.height, model.width, 3), float(model.pad_value or 0))
    grid[target.y : target.y + target.height, target.x : target.x + target.width] = scaled
    return grid


def noise(width: int, height: int) -> UInt8Array:
    """The hardest picture for a filter: every pixel its own extreme."""
    generator = np.random.default_rng(width * 10_007 + height)
    return generator.choice(np.array([0, 255, 128, 7], np.uint8), (height, width, 3))


def transformed(model: Contract, pixels: UInt8Array) -> tuple[AnyArray, UInt8Array]:
    out = np.empty(model.tensor_shape, model.dtype)
    grid = CpuTransform(model)(pixels, out)
    return out, grid


MODES: dict[str, dict[str, Any]] = {
    "crop": {"crop_fraction": 0.875},
    "stretch": {"resize": "stretch", "crop_fraction": None},
    "letterbox": {"resize": "letterbox", "crop_fraction": None, "pad_value": 114},
}
SIZES = [(1, 1), (1, 7), (7, 1), (2, 3), (31, 17), (100, 300), (260, 260), (333, 501), (768, 576), (1920, 1080)]


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", [(260, 260), (97, 61)], ids=["square", "oblong"])
def test_every_filter_and_mode_equals_the_reference_from_one_pixel_to_1080p(
    name: str, mode: str, target: tuple[int, int]
) -> None:
    model = contract(filter=name, width=target[0], height=target[1], **MODES[mode])
    for width, height in SIZES:
        pixels = noise(width, height)
        out, _ = transformed(model, pixels)
        error = np.abs(out - reference(model, pixels))
        assert error.max() <= TOLERANCE[name], (width, height)
        assert error.mean() <= MEAN_TOLERANCE[name], (width, height)


@pytest.mark.skipif(find_spec("cykooz_resizer") is None, reason="fast_image_resize has no wheel for this machine")
def test_both_engines_of_the_antialiased_filter_are_within_a_grey_level_of_each_other() -> None:
    for width, height in SIZES:
        pixels = noise(width, height)
        fast, pillow = np.empty((61, 97, 3), np.uint8), np.empty((61, 97, 3), np.uint8)
        FastTriangle()(pixels, fast)
        PillowTriangle()(pixels, pillow)
        assert np.abs(fast.astype(int) - pillow).max() <= 1, (width, height)


@pytest.mark.skipif(find_spec("cykooz_resizer") is None, reason="fast_image_resize has no wheel for this machine")
def test_a_picture_that_goes_through_in_bands_looks_as_if_it_went_through_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for width, height in SIZES:
        pixels = noise(width, height)
        whole, banded = np.empty((61, 97, 3), np.uint8), np.empty((61, 97, 3), np.uint8)
        monkeypatch.setattr("worker.preprocess.antialias.BAND_BYTES", 1 << 30)
        FastTriangle()(pixels, whole)
        monkeypatch.setattr("worker.preprocess.antialias.BAND_BYTES", 16 * 1024)
        FastTriangle()(pixels, banded)
        difference = np.abs(banded.astype(int) - whole)
        assert difference.max() <= 1, (width, height)
        assert difference.mean() <= 0.01, (width, height)


@pytest.mark.parametrize("engine", [FastTriangle, PillowTriangle])
def test_a_box_may_begin_inside_a_pixel(engine: type[FastTriangle | PillowTriangle]) -> None:
    if engine is FastTriangle and find_spec("cykooz_resizer") is None:
        pytest.skip("fast_image_resize has no wheel for this machine")
    coarse = np.ascontiguousarray(np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (60, 200, 3)))
    moved, whole = np.empty((20, 30, 3), np.uint8), np.empty((20, 30, 3), np.uint8)
    engine()(coarse, moved, (40.75, 3.0, 90.0, 50.0))
    engine()(coarse, whole, (40.0, 3.0, 90.0, 50.0))
    inner = moved[:, 2:-2].astype(float) - whole[:, 2:-2]
    assert 0.5 < inner.mean() <= 1.0  # the ramp rises by 0.75 from one begin to the other
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.preprocess.antialias.BAND_BYTES", 8 * 1024)
        banded = np.empty_like(moved)
        engine()(coarse, banded, (40.75, 3.0, 90.0, 50.0))
    assert np.abs(banded.astype(int) - moved).max() <= 1


def test_without_fast_image_resize_pillow_does_the_antialiased_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.preprocess.antialias.fir", None)
    assert isinstance(triangle(), PillowTriangle)
    pixels, out = noise(333, 501), np.empty((61, 97, 3), np.uint8)
    scaling("bilinear_antialias")(pixels, out)
    assert np.array_equal(out, np.asarray(Image.fromarray(pixels).resize((97, 61), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize("name", MATRICES)
def test_nothing_outside_the_crop_reaches_the_model(name: str) -> None:
    model = contract(filter=name, crop_fraction=0.5)
    pixels = noise(400, 400)
    before, _ = transformed(model, pixels)
    around = np.full_like(pixels, 255)
    around[100:300, 100:300] = pixels[100:300, 100:300]
    after, _ = transformed(model, around)
    assert np.array_equal(before, after)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("colour", ["rgb", "bgr"])
@pytest.mark.parametrize("wire", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("mode", MODES)
def test_colour_normalisation_layout_and_type_of_the_wire_are_the_contracts(
    layout: str, colour: str, wire: str, mode: str
) -> None:
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    changes = {"width": 64, "height": 48, "mean": mean, "std": std, "filter": "bilinear", **MODES[mode]}
    pixels = noise(200, 130)
    plain, _ = transformed(contract(**changes), pixels)
    out, grid = transformed(contract(layout=layout, colour=colour, wire_dtype=wire, **changes), pixels)

    expected = plain if colour == "rgb" else plain[:, :, ::-1]
    assert np.array_equal(grid, expected)
    if wire != "uint8":
        expected = (expected.astype(np.float64) - mean) / std
    if layout == "nchw":
        expected = expected.transpose(2, 0, 1)
    assert out.dtype == np.dtype(wire)
    assert np.array_equal(out, expected.astype(wire))


def test_the_grid_of_the_default_wire_is_the_slot_itself() -> None:
    model = contract()
    slot = np.zeros((4, *model.tensor_shape), np.uint8)
    grid = CpuTransform(model)(noise(300, 300), slot[2])
    assert np.shares_memory(grid, slot[2])
    assert slot[2].any()
    assert not slot[[0, 1, 3]].any()


@pytest.mark.parametrize(
    "out",
    [
        np.empty((260, 260, 3), np.float32),
        np.empty((3, 260, 260), np.uint8),
        np.empty((260, 260, 4), np.uint8)[:, :, :3],
    ],
)
def test_a_slot_of_another_shape_type_or_stride_is_refused_not_left_unwritten(out: AnyArray) -> None:
    with pytest.raises(ValueError, match=r"the contract needs contiguous uint8 \(260, 260, 3\)"):
        CpuTransform(contract())(noise(300, 300), out)


def test_a_view_of_a_larger_image_is_transformed_like_its_copy() -> None:
    pixels = noise(640, 480)[10:400:1, 5:600]
    for name in MATRICES:
        view, _ = transformed(contract(filter=name), pixels)
        copy, _ = transformed(contract(filter=name), pixels.copy())
        assert np.array_equal(view, copy)


@pytest.mark.parametrize("name", MATRICES)
def test_threads_that_share_a_transform_do_not_disturb_each_other(name: str) -> None:
    model = contract(filter=name, colour="bgr", wire_dtype="float32", layout="nchw", **MODES["letterbox"])
    transform = CpuTransform(model)
    images = [noise(200 + 30 * index, 150) for index in range(6)]
    expected = [transformed(model, pixels)[0] for pixels in images]
    wrong: list[int] = []

    def work(index: int) -> None:
        out = np.empty(model.tensor_shape, model.dtype)
        for _ in range(30):
            transform(images[index], out)
            if not np.array_equal(out, expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_scaled_picture_gives_the_input_of_the_whole_one_where_its_window_lies_between_pixels() -> None:
    """1440 x 1080: the crop begins at 247 of the whole image's columns, which is 61.75 of a quarter's."""
    model = contract(scaled_decode=True, width=64, height=64)
    columns = (128 + 120 * np.sin(np.arange(1440) / 30))[None, :, None]
    whole = np.ascontiguousarray(np.broadcast_to(columns.round().astype(np.uint8), (1080, 1440, 3)))
    quarter = cv2.resize(whole, (360, 270), interpolation=cv2.INTER_AREA)
    expected, out = np.empty(model.tensor_shape, np.uint8), np.empty(model.tensor_shape, np.uint8)
    CpuTransform(model)(whole, expected)
    CpuTransform(model)(quarter, out, (1440, 1080))
    assert np.abs(out.astype(float) - expected).mean() < 0.5
    beside = np.empty(model.tensor_shape, np.uint8)
    CpuTransform(model)(quarter, beside)  # as an image of its own its window is rounded
    assert np.abs(beside.astype(float) - expected).mean() > 1
