"""Sound pictures of every kind come out as the right upright RGB pixels."""

from __future__ import annotations

import io
import struct
import sys
import threading
import time
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.rig import images
from worker.decode import decode
from worker.decode.upright import KEPT_BYTES
from worker.frames import UInt8Array
from worker.ingest.validate import ImageLimits, inspect

LIMITS = ImageLimits()
RGB = images.photo(160, 120)
ODD = images.odd_jpegs(RGB)
SIXTEEN = images.sixteen_bit(RGB)


def decoded(value: bytes, target: tuple[int, int] | None = None) -> UInt8Array:
    """A copy, because the next call reuses the buffer."""
    pixels = decode(value, inspect(value, LIMITS), target).pixels
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.flags.c_contiguous
    return pixels.copy()


def difference(pixels: UInt8Array, expected: UInt8Array) -> float:
    """Mean absolute difference in grey levels."""
    assert pixels.shape == expected.shape
    return float(np.abs(pixels.astype(np.int16) - expected).mean())


def pillow(value: bytes) -> UInt8Array:
    return np.asarray(Image.open(io.BytesIO(value)).convert("RGB"))


@pytest.mark.parametrize(
    ("kind", "params", "decoder"),
    [
        ("png", {}, "opencv"),
        ("webp", {"lossless": True}, "opencv"),
        ("bmp", {}, "opencv"),
        ("tiff", {}, "pillow"),
        ("tiff", {"compression": "tiff_lzw"}, "pillow"),
        ("tiff", {"compression": "tiff_adobe_deflate"}, "pillow"),
        ("tiff", {"compression": "packbits"}, "pillow"),
    ],
)
def test_a_lossless_picture_comes_out_as_it_went_in(kind: str, params: dict[str, object], decoder: str) -> None:
    value = images.encode(RGB, kind, **params)
    assert decode(value, inspect(value, LIMITS)).decoder == decoder
    np.testing.assert_array_equal(decoded(value), RGB)


def test_a_jpeg_comes_out_as_its_reference_decoder_has_it() -> None:
    value = images.encode(RGB, "jpeg", quality=95)
    assert decode(value, inspect(value, LIMITS)).decoder == "simplejpeg"
    assert difference(decoded(value), pillow(value)) < 0.5
    assert difference(decoded(value), RGB) < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "lzw tiff", "16-bit tiff", "16-bit png"])
def test_every_orientation_gives_the_same_upright_picture(kind: str, orientation: int) -> None:
    stored = images.stored_for(RGB, orientation)
    if kind == "jpeg":
        value = images.with_orientation(RGB, orientation)
    elif kind == "16-bit png":
        value = images.sixteen_bit(stored)["png rgb"]
        exif = images.png_chunk(b"eXIf", images.tiff({images.ORIENTATION: (3, orientation)}))
        value = value[:33] + exif + value[33:]
    elif kind == "16-bit tiff":
        wide = Image.fromarray(np.ascontiguousarray(stored[:, :, 0]).astype(np.uint16) * 257)
        value = images.save(wide, "tiff", tiffinfo={images.ORIENTATION: orientation})
    elif "tiff" in kind:
        lzw = {"compression": "tiff_lzw"} if kind == "lzw tiff" else {}
        value = images.encode(stored, "tiff", tiffinfo={images.ORIENTATION: orientation}, **lzw)
    else:
        value = images.encode(stored, kind, exif=images.exif(orientation), lossless=True)
    pixels = decoded(value)
    expected = np.repeat(RGB[:, :, :1], 3, axis=2) if kind == "16-bit tiff" else RGB
    assert difference(pixels, expected) < (3 if kind == "jpeg" else 0.01)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_scaled_jpeg_is_upright_and_covers_its_target(orientation: int) -> None:
    value = images.with_orientation(images.photo(640, 480), orientation)
    pixels = decoded(value, target=(300, 100))
    assert pixels.shape == (240, 320, 3)
    assert difference(pixels, cv2.resize(images.photo(640, 480), (320, 240), interpolation=cv2.INTER_AREA)) < 4


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        ((82, 1), (120, 161)),
        ((80, 60), (60, 81)),
        ((41, 30), (30, 41)),
        ((21, 15), (15, 21)),
        ((1, 1), (15, 21)),
        ((22, 1), (30, 41)),
        ((5000, 5000), (120, 161)),
    ],
)
def test_the_scale_is_the_smallest_power_of_two_that_covers_the_target(
    target: tuple[int, int], shape: tuple[int, int]
) -> None:
    assert decoded(images.encode(images.photo(161, 120), "jpeg"), target).shape[:2] == shape


@pytest.mark.parametrize(("orientation", "shape"), [(1, (120, 161)), (2, (239, 322)), (5, (120, 161)), (6, (239, 322))])
def test_a_jpeg_to_be_turned_is_scaled_only_by_what_divides_its_sides(orientation: int, shape: tuple[int, int]) -> None:
    """Else its last column, which stands for a part of a pixel, would come first and shift the picture."""
    value = images.with_orientation(images.photo(322, 239), orientation)
    assert decoded(value, target=(120, 120)).shape[:2] in (shape, shape[::-1])


def test_a_target_leaves_other_formats_at_full_size() -> None:
    assert decoded(images.encode(RGB, "png"), target=(16, 16)).shape == RGB.shape


@pytest.mark.parametrize("name", [name for name in ODD if "CMYK" not in name and name not in ("YCCK", "grey")])
def test_an_odd_but_sound_jpeg_decodes(name: str) -> None:
    assert difference(decoded(ODD[name]), RGB) < 4


def test_a_grey_jpeg_has_three_equal_channels() -> None:
    pixels = decoded(ODD["grey"])
    assert (pixels == pixels[:, :, :1]).all()
    assert difference(pixels, np.repeat(cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)) < 3


@pytest.mark.parametrize("name", ["CMYK with Adobe marker", "CMYK without Adobe marker"])
def test_cmyk_is_inverted_with_and_without_its_marker(name: str) -> None:
    assert difference(decoded(ODD[name]), RGB) < 5


def test_ycck_is_read_as_pillow_reads_it() -> None:
    assert difference(decoded(ODD["YCCK"]), pillow(ODD["YCCK"])) < 2


def test_a_jpeg_that_announces_further_views_may_carry_them() -> None:
    plain = images.encode(RGB, "jpeg")
    announced = plain[:2] + b"\xff\xe2" + struct.pack(">H", 6) + b"MPF\0" + plain[2:]
    assert difference(decoded(announced + plain), decoded(plain)) == 0


@pytest.mark.parametrize("name", sorted(SIXTEEN))
def test_sixteen_bits_become_eight_by_rounding(name: str) -> None:
    expected = np.repeat(RGB[:, :, :1], 3, axis=2) if "grey" in name else RGB
    np.testing.assert_array_equal(decoded(SIXTEEN[name]), expected)


def test_sixteen_bits_are_rounded_not_cut() -> None:
    grey = np.array([[0, 128, 129, 65406, 65407, 65535]], np.uint16)
    for value in (images.save(Image.fromarray(grey), "tiff"), images.save(Image.fromarray(grey), "png")):
        assert decoded(value)[0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]


@pytest.mark.parametrize("kind", ["png", "webp", "bmp", "tiff"])
def test_alpha_is_dropped_and_the_stored_colour_kept(kind: str) -> None:
    rgba = np.dstack([RGB, np.zeros((120, 160), np.uint8)])
    params = {"lossless": True, "exact": True} if kind == "webp" else {}
    np.testing.assert_array_equal(decoded(images.encode(rgba, kind, **params)), RGB)


@pytest.mark.parametrize("kind", ["png", "gif", "bmp", "tiff"])
@pytest.mark.parametrize("mode", ["P", "1", "L"])
def test_palettes_bits_and_grey_become_rgb(kind: str, mode: str) -> None:
    picture = Image.fromarray(RGB).quantize(31) if mode == "P" else Image.fromarray(RGB).convert(mode)
    np.testing.assert_array_equal(decoded(images.save(picture, kind)), np.asarray(picture.convert("RGB")))


def test_a_cmyk_tiff_becomes_rgb() -> None:
    picture = Image.fromarray(RGB).convert("CMYK")
    np.testing.assert_array_equal(decoded(images.save(picture, "tiff")), np.asarray(picture.convert("RGB")))


def test_an_interlaced_png_decodes() -> None:
    # Adam7 of a 1 x 1 picture has one pass of one pixel.
    header = images.png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 1))
    data = images.png_chunk(b"IDAT", zlib.compress(b"\0\x10\x20\x30"))
    assert decoded(images.PNG_SIGNATURE + header + data + images.png_chunk(b"IEND", b"")).tolist() == [[[16, 32, 48]]]


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    first = Image.fromarray(RGB).quantize(64).convert("RGB")
    other = Image.fromarray(255 - RGB)
    value = images.save(first, kind, save_all=True, append_images=[other, other], lossless=True)
    assert difference(decoded(value), np.asarray(first)) < 0.01


def test_a_gif_frame_smaller_than_its_screen_keeps_its_place() -> None:
    value = images.encode(np.full((4, 4, 3), 200, np.uint8), "gif")
    at = value.index(b",\0\0\0\0\x04\0\x04\0")
    value = images.patched(images.patched(value, at + 1, b"\x02\0\x01\0"), 6, b"\x08\0\x06\0")
    pixels = decoded(value)
    assert pixels.shape == (6, 8, 3)
    assert (pixels[1:5, 2:6] == 200).all()


@pytest.mark.parametrize("height", [4, -4])
def test_bmp_rows_are_taken_from_the_right_end(height: int) -> None:
    rows = [bytes([shade] * 24) for shade in (10, 20, 30, 40)]
    pixels = decoded(images.bmp(rows if height < 0 else rows[::-1], 8, height, 24))
    assert pixels[:, 0, 0].tolist() == [10, 20, 30, 40]


def test_a_bmp_of_sixteen_bits_with_masks_decodes() -> None:
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    value = images.bmp([struct.pack("<4H", 0xF800, 0x07E0, 0x001F, 0xFFFF)], 4, 1, 16, 3, masks)
    assert (decoded(value)[0] > 240).tolist() == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
        [True] * 3,
    ]


def test_a_tiled_tiff_decodes() -> None:
    value = images.tiff(
        images.tiff_tags(16, 16, t322=(4, 16), t323=(4, 16), t324=(4, 0), t325=(4, 256)), bytes(range(256))
    )
    tags = images.tiff_tags(16, 16, t322=(4, 16), t323=(4, 16), t325=(4, 256))
    for strip_tag in (273, 278, 279):
        tags.pop(strip_tag)
    tags[324] = (4, 8 + 2 + 12 * (len(tags) + 1) + 4)
    value = images.tiff(tags, bytes(range(256)))
    np.testing.assert_array_equal(decoded(value)[:, :, 0], np.arange(256, dtype=np.uint8).reshape(16, 16))


def test_pixels_live_until_the_threads_next_decode_and_other_threads_have_their_own() -> None:
    one, two = images.encode(RGB, "jpeg"), images.encode(255 - RGB, "jpeg")
    first = decode(one, inspect(one, LIMITS)).pixels
    kept = first.copy()
    other: list[UInt8Array] = []
    thread = threading.Thread(target=lambda: other.append(decode(two, inspect(two, LIMITS)).pixels.copy()))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(first, kept)
    assert difference(other[0], kept) > 20
    assert np.shares_memory(decode(two, inspect(two, LIMITS)).pixels, first)


def test_a_picture_too_large_to_keep_has_memory_of_its_own() -> None:
    height = KEPT_BYTES // (3 * 2000) + 1
    value = images.encode(np.zeros((height, 2000, 3), np.uint8), "jpeg")
    first = decode(value, inspect(value, LIMITS)).pixels
    assert not np.shares_memory(first, decode(value, inspect(value, LIMITS)).pixels)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "lzw tiff"])
def test_decoding_leaves_other_threads_running(kind: str) -> None:
    """With a switch interval of minutes a thread runs only while another gives up the GIL of its own accord."""
    params = {"compression": "tiff_lzw"} if kind == "lzw tiff" else {}
    tiles = (4, 4, 1) if kind == "jpeg" else (1, 1, 1)  # some tens of milliseconds of decoding each
    value = images.encode(np.tile(images.photo(1000, 750), tiles), kind.removeprefix("lzw "), **params)
    facts = inspect(value, LIMITS)
    beats, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            beats[0] += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    thread.start()
    try:
        sys.setswitchinterval(600)
        during = 0
        for _ in range(5):  # on a machine that is busy the other thread may not have run in time
            before = beats[0]
            decode(value, facts)
            during = max(during, beats[0] - before)
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
    # Held throughout it is 0; numpy's search for markers alone gives up to 20 on this JPEG, decoding it about 1,000.
    assert during > (100 if kind == "jpeg" else 15)
