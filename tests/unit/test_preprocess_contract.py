"""The preprocessing contract: what it accepts, how it is hashed, and its geometry."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import triton_models
from triton_models.build.contract import read_contract
from worker.errors import ModelError
from worker.preprocess.contract import LEAST_COVER, Contract, Rect, denominator_of

REPOSITORY = Path(triton_models.__file__).parent / "repository"
LITE2 = """
# what the model was trained with
width = 260
height = 260
resize = "shorter_side_crop"
crop_fraction = 0.875
filter = "bilinear_antialias"
colour = "rgb"
mean = [127.0, 127.0, 127.0]
std = [128.0, 128.0, 128.0]
layout = "nhwc"
wire_dtype = "uint8"
scaled_decode = false
"""


def contract(**changes: Any) -> Contract:
    """LITE2 with some keys changed; None removes one."""
    lines = [line for line in LITE2.splitlines() if line.split(" = ")[0] not in changes]
    for key, value in changes.items():
        if value is not None:
            text = str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
            lines.append(f"{key} = {text}")
    return Contract.parse("\n".join(lines))


def test_a_contract_is_read_from_its_file_with_types_and_wire_shape(tmp_path: Path) -> None:
    path = tmp_path / "preprocess.toml"
    path.write_text(LITE2)
    loaded = Contract.load(path)
    assert (loaded.width, loaded.resize, loaded.mean) == (260, "shorter_side_crop", (127.0, 127.0, 127.0))
    assert (loaded.tensor_shape, loaded.dtype) == ((260, 260, 3), np.dtype(np.uint8))
    channels_first = contract(layout="nchw", wire_dtype="float16", width=320)
    assert (channels_first.tensor_shape, channels_first.dtype) == ((3, 260, 320), np.dtype(np.float16))


def test_the_digest_is_the_published_one_and_ignores_comments_and_the_order_of_keys() -> None:
    # Computed once with sha256sum over the canonical JSON: predictions already written carry it.
    expected = "sha256:389f79e1feefb9a024b3b44d77c229d0b6ea65dcde06fe4a6bdf042f23c4262e"
    assert contract().digest == expected
    assert Contract.parse("\n".join(reversed(LITE2.splitlines()))).digest == expected


@pytest.mark.parametrize(
    "change",
    [{"width": 261}, {"filter": "area"}, {"mean": [127.0, 127.0, 127.5]}, {"scaled_decode": True}, {"pad_value": 0}],
)
def test_changing_one_line_changes_the_digest(change: dict[str, Any]) -> None:
    assert contract(**change).digest != contract().digest


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"filtre": "area"}, "unknown key `filtre`; did you mean `filter`?"),
        ({"digest": "sha256:0"}, "unknown key `digest`"),
        ({"qqq": 1}, "known keys: width, height"),
        ({"width": 0}, "`int` >= 1 - at `$.width`"),
        ({"width": "260"}, "Expected `int`, got `str` - at `$.width`"),
        ({"resize": "fit"}, "'fit' - at `$.resize`"),
        ({"mean": [1.0, 2.0]}, "length 3"),
        ({"std": [1.0, 0.0, 1.0]}, "std above 0"),
        ({"height": None}, "missing required field `height`"),
        ({"crop_fraction": None}, "needs the key `crop_fraction`"),
        ({"crop_fraction": 1.5}, "<= 1"),
        ({"resize": "letterbox", "crop_fraction": None}, "needs the key `pad_value`"),
        ({"resize": "stretch"}, "has no effect"),
        ({"pad_value": 256}, "<= 255"),
    ],
)
def test_a_wrong_contract_is_refused_with_a_sentence_that_names_the_key(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ModelError) as caught:
        contract(**change)
    assert expected in str(caught.value)


def test_a_missing_or_unreadable_file_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"every model needs a preprocess\.toml"):
        Contract.load(tmp_path / "preprocess.toml")
    (tmp_path / "broken.toml").write_text("width = ")
    with pytest.raises(ModelError, match=r"broken\.toml is not valid TOML"):
        Contract.load(tmp_path / "broken.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(ModelError, match="not UTF-8"):
        Contract.load(tmp_path / "latin.toml")


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("*/preprocess.toml")), ids=lambda path: path.parent.name)
def test_the_shipped_contracts_are_valid_and_hash_as_the_build_of_their_models_does(path: Path) -> None:
    assert Contract.load(path).digest == read_contract(path)[1]


def test_the_shorter_side_crop_is_centred_and_its_side_is_the_fraction_of_the_shorter_side() -> None:
    window = contract().window(768, 576)
    assert window.source == Rect(132, 36, 504, 504)
    assert window.destination == Rect(0, 0, 260, 260)
    assert contract().window(576, 768).source == Rect(36, 132, 504, 504)


def test_the_crop_has_the_aspect_ratio_of_a_model_that_is_not_square() -> None:
    wide = contract(width=320, height=160, crop_fraction=1.0)
    assert wide.window(1000, 1000).source == Rect(0, 250, 1000, 500)
    assert wide.window(1000, 250).source == Rect(250, 0, 500, 250)


def test_letterbox_keeps_the_aspect_ratio_and_centres_the_image() -> None:
    boxed = contract(resize="letterbox", crop_fraction=None, pad_value=114, width=416, height=416)
    window = boxed.window(768, 576)
    assert window.source == Rect(0, 0, 768, 576)
    assert window.destination == Rect(0, 52, 416, 312)
    assert boxed.window(1, 5000).destination.width == 1


sides = st.integers(1, 5000)
models = st.integers(1, 700)


@given(sides, sides, models, models, st.sampled_from([1.0, 0.875, 0.5, 0.1, 0.333]))
def test_the_crop_lies_inside_the_image_centred_and_within_a_pixel_of_the_exact_rectangle(
    width: int, height: int, model_width: int, model_height: int, fraction: float
) -> None:
    crop = contract(width=model_width, height=model_height, crop_fraction=fraction).window(width, height).source
    assert crop.x >= 0
    assert crop.y >= 0
    assert crop.x + crop.width <= width
    assert crop.y + crop.height <= height
    assert abs(2 * crop.x + crop.width - width) <= 1
    assert abs(2 * crop.y + crop.height - height) <= 1
    aspect = Fraction(model_width, model_height)
    exact_width = min(Fraction(width), height * aspect) * Fraction(fraction)
    assert crop.width == 1 or abs(crop.width - exact_width) <= Fraction(501, 1000)
    assert crop.height == 1 or abs(crop.height - exact_width / aspect) <= Fraction(501, 1000)


@given(sides, sides, models, models)
def test_the_letterboxed_image_touches_two_sides_of_the_input_and_fits_the_others(
    width: int, height: int, model_width: int, model_height: int
) -> None:
    boxed = contract(resize="letterbox", crop_fraction=None, pad_value=0, width=model_width, height=model_height)
    inner = boxed.window(width, height).destination
    assert inner.width == model_width or inner.height == model_height
    assert inner.x + inner.width <= model_width
    assert inner.y + inner.height <= model_height
    scale = min(Fraction(model_width, width), Fraction(model_height, height))
    assert inner.width == 1 or abs(inner.width - width * scale) <= Fraction(501, 1000)
    assert inner.height == 1 or abs(inner.height - height * scale) <= Fraction(501, 1000)


def test_scaled_decoding_is_never_asked_for_where_the_contract_forbids_it() -> None:
    assert contract().decode_target(10_000, 10_000) is None


def test_a_large_photo_is_decoded_to_the_smallest_scale_that_has_the_crops_pixels() -> None:
    scaled = contract(scaled_decode=True)
    assert scaled.decode_target(1920, 1080) == (960, 540)  # 945 pixels of crop; a quarter would be 236 for 260
    assert scaled.decode_target(1080, 1920) == (540, 960)
    assert scaled.decode_target(4000, 3000) == (500, 375)
    assert scaled.decode_target(1001, 1001) == (501, 501)
    assert scaled.decode_target(768, 576) is None  # 252 for 260


def test_no_scale_is_taken_at_which_the_filter_would_leave_single_pixels_as_they_are() -> None:
    scaled = contract(scaled_decode=True, width=224, height=224)
    assert scaled.decode_target(512, 512) is None  # 448 pixels of crop, at 1/2 one for one
    assert scaled.decode_target(1024, 1024) == (512, 512)  # at 1/4 one for one, so 1/2
    assert scaled.decode_target(768, 576) == (384, 288)  # 252 for 224


@pytest.mark.parametrize("name", ["bilinear", "area"])
def test_scaled_decoding_is_refused_with_a_filter_that_would_give_other_predictions(name: str) -> None:
    with pytest.raises(ModelError, match='scaled_decode = true needs filter = "bilinear_antialias"'):
        contract(scaled_decode=True, filter=name)


@given(sides, sides, st.sampled_from([1, 2, 4, 8]))
def test_the_scale_of_a_decoded_picture_is_told_from_its_size(width: int, height: int, denominator: int) -> None:
    decoded = (-(-width // denominator), -(-height // denominator))
    told = denominator_of(decoded, (width, height))
    assert told == denominator or max(width, height) <= 8
    assert decoded == (-(-width // told), -(-height // told))


def test_a_size_that_is_no_scale_of_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="no scale"):
        denominator_of((300, 200), (768, 576))


MODES: list[dict[str, Any]] = [
    {},
    {"resize": "stretch", "crop_fraction": None},
    {"resize": "letterbox", "crop_fraction": None, "pad_value": 0},
]


@given(sides, sides, models, models, st.sampled_from(MODES))
def test_an_image_decoded_to_its_target_is_a_scale_of_itself_with_pixels_enough_for_the_input(
    width: int, height: int, model_width: int, model_height: int, mode: dict[str, Any]
) -> None:
    scaled = contract(scaled_decode=True, width=model_width, height=model_height, **mode)
    target = scaled.decode_target(width, height)
    if target is None:
        return
    denominator = denominator_of(target, (width, height))
    window = scaled.window(width, height)
    assert window.source.width / window.destination.width >= LEAST_COVER * denominator
    assert window.source.height / window.destination.height >= LEAST_COVER * denominator
