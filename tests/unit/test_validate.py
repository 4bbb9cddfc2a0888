"""Header facts and verdicts: every format's facts, every reason, and nothing but Rejected whatever the bytes."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.rig import images
from worker.errors import ConfigurationError
from worker.frames import ImageFacts, Reason, Rejected, Stage, UInt8Array
from worker.ingest.validate import FORMATS, ImageLimits, inspect

LIMITS = ImageLimits()
RGB = images.photo(96, 64)
GREY = np.ascontiguousarray(RGB[:, :, 0])
RGBA = np.dstack([RGB, GREY])
BAD = images.bad_frames(LIMITS.max_frame_bytes)
GOOD = {kind: images.encode(RGB, kind) for kind in sorted(FORMATS)}


def reason_of(value: bytes | None, limits: ImageLimits = LIMITS) -> Reason:
    with pytest.raises(Rejected) as refusal:
        inspect(value, limits)
    rejection = refusal.value.rejection
    assert rejection.stage is Stage.VALIDATE
    assert rejection.detail.endswith(".")
    return rejection.reason


@pytest.mark.parametrize(
    ("kind", "pixels", "params", "channels"),
    [
        ("jpeg", RGB, {}, 3),
        ("jpeg", RGB, {"progressive": True}, 3),
        ("jpeg", GREY, {}, 1),
        ("png", RGB, {}, 3),
        ("png", GREY, {}, 1),
        ("png", RGBA, {}, 4),
        ("webp", RGB, {}, 3),
        ("webp", RGB, {"lossless": True}, 3),
        ("webp", RGBA, {}, 4),
        ("webp", RGBA, {"lossless": True}, 4),
        ("gif", RGB, {}, 3),
        ("bmp", RGB, {}, 3),
        ("bmp", RGBA, {}, 4),
        ("bmp", GREY, {}, 3),
        ("tiff", RGB, {}, 3),
        ("tiff", GREY, {"compression": "tiff_lzw"}, 1),
    ],
)
def test_facts_agree_with_what_was_encoded(
    kind: str, pixels: UInt8Array, params: dict[str, object], channels: int
) -> None:
    facts = ImageFacts(kind, 96, 64, channels, is_buffered=bool(params.get("progressive")))
    assert inspect(images.encode(pixels, kind, **params), LIMITS) == facts


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_the_orientation_is_read_from_exif(kind: str, orientation: int) -> None:
    where = {"tiffinfo": {274: orientation}} if kind == "tiff" else {"exif": images.exif(orientation)}
    facts = inspect(images.encode(images.stored_for(RGB, orientation), kind, **where), LIMITS)
    assert facts.orientation == orientation
    assert facts.upright_size == (96, 64)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_is_read_in_either_byte_order(order: str) -> None:
    value = images.tiff(images.tiff_tags(7, 5, t274=(3, 6)), bytes(35), order)
    assert inspect(value, LIMITS) == ImageFacts("tiff", 7, 5, 1, 8, 6)


def test_sixteen_bits_a_channel_are_reported() -> None:
    depths = {name: inspect(value, LIMITS).bit_depth for name, value in images.sixteen_bit(RGB).items()}
    assert set(depths.values()) == {16}, depths


def test_a_pixel_of_sixteen_bits_counts_as_two() -> None:
    value = images.sixteen_bit(RGB)["png rgb"]
    assert inspect(value, ImageLimits(max_pixels=2 * 96 * 64)).bit_depth == 16
    assert reason_of(value, ImageLimits(max_pixels=2 * 96 * 64 - 1)) is Reason.TOO_MANY_PIXELS


def test_a_picture_whose_decoder_must_keep_a_second_form_of_it_is_told_apart() -> None:
    still, other = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    animated = images.save(still, "webp", save_all=True, append_images=[other])
    scan_by_scan = images.odd_jpegs(RGB)["a scan for each colour"]
    for value, is_buffered in (
        (GOOD["jpeg"], False),
        (images.encode(RGB, "jpeg", progressive=True), True),
        (scan_by_scan, True),
        (GOOD["webp"], False),
        (animated, True),
    ):
        assert inspect(value, LIMITS).is_buffered is is_buffered


def test_a_bmp_with_rows_from_the_top_has_a_positive_height() -> None:
    assert inspect(images.bmp([bytes(24)] * 4, 8, -4, 24), LIMITS).height == 4


def test_unreadable_exif_leaves_the_picture_as_stored() -> None:
    plain = GOOD["jpeg"]
    for block in (
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"XX*\0\x08\0\0\0",
        images.tiff({274: (3, 99)}),
        images.tiff({274: (4, 6)}),
    ):
        segment = b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block
        assert inspect(plain[:2] + segment + plain[2:], LIMITS).orientation == 1


def test_the_first_exif_segment_of_a_jpeg_counts() -> None:
    one, two = (
        b"\xff\xe1" + struct.pack(">H", len(b) + 8) + b"Exif\0\0" + b
        for b in (images.tiff({274: (3, n)}) for n in (3, 8))
    )
    assert inspect(GOOD["jpeg"][:2] + one + two + GOOD["jpeg"][2:], LIMITS).orientation == 3


@pytest.mark.parametrize(
    "name", [n for n in BAD if not n.startswith(("truncated: WebP", "corrupt")) and n != "truncated"]
)
def test_a_bad_frame_gets_its_reason_from_the_header(name: str) -> None:
    assert reason_of(BAD[name]) == name.split(":")[0]


def test_there_is_a_bad_frame_for_every_reason_of_validate_and_decode() -> None:
    later = {Reason.INFERENCE_REJECTED, Reason.INFERENCE_FAILED, Reason.OUTPUT_TOO_LARGE, Reason.CRASHED_WORKER}
    assert {name.split(":")[0] for name in BAD} == set(Reason) - later


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"\0\0\0\x1cftypavif" + bytes(40), "AVIF"),
        (b"\0\0\0\x1cftypheic" + bytes(40), "HEIC"),
        (b"\0\0\0\x1cftypisom" + bytes(40), "MP4"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "JPEG 2000"),
        (b"\xff\x4f\xff\x51" + bytes(40), "JPEG 2000"),
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"%PDF-1.7\n", "PDF"),
        (b"RIFF\0\0\0\0AVI LIST", "AVI"),
        (b"P6\n8 8\n255\n" + bytes(192), "PNM"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"II+\0\x08\0\0\0" + bytes(40), "BigTIFF"),
        (images.patched(GOOD["jpeg"], images.frame_header(GOOD["jpeg"]) + 1, b"\xc3"), "lossless"),
        (images.patched(GOOD["jpeg"], images.frame_header(GOOD["jpeg"]) + 1, b"\xca"), "arithmetic"),
        (images.bmp([bytes(8)] * 4, 8, 4, 8, compression=1), "RLE8"),
        (images.tiff(images.tiff_tags(8, 8, t259=(3, 7)), bytes(64)), "compression is 7"),
        (images.tiff(images.tiff_tags(8, 8, t254=(4, 1)), bytes(64)), "preview"),
        (images.tiff(images.tiff_tags(8, 8, t339=(3, 3)), bytes(64)), "sample format 3"),
    ],
)
def test_a_known_format_that_is_not_decoded_is_named(value: bytes, name: str) -> None:
    with pytest.raises(Rejected, match=name) as refusal:
        inspect(value, LIMITS)
    assert refusal.value.rejection.reason is Reason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize(
    ("value", "appearance"),
    [
        (b"<html><body>404</body></html>", "HTML"),
        (b'{"image": "/9j/4AAQ"}', "JSON"),
        (b"/9j/4AAQSkZJRgABAQAAAQABAAD/", "base64 text of a picture"),
        (b"data:image/png;base64,iVBORw0KGgoAAAANSUhEUg", "base64 text of a picture"),
        (b"VGhlIHF1aWNrIGJyb3duIGZveA==", "base64 text"),
        (b"https://example.org/cat.jpg", "an address"),
        ("Grüße, ein Text.".encode(), "text"),
        (b"BMW makes cars.", "text"),
        (b"PK\x03\x04" + bytes(40), "ZIP"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip"),
        (bytes(500), "zeros"),
        (b"\x07\x9c\xff\x81\x02", "unknown binary data that begins 07 9c ff 81 02"),
        (b"\r\n", "unknown binary data"),
    ],
)
def test_what_is_no_image_is_described(value: bytes, appearance: str) -> None:
    with pytest.raises(Rejected, match=appearance) as refusal:
        inspect(value, LIMITS)
    assert refusal.value.rejection.reason is Reason.NOT_AN_IMAGE


def test_limits_are_the_largest_values_that_pass() -> None:
    value = GOOD["jpeg"]
    fitting = ImageLimits(max_frame_bytes=len(value), max_pixels=96 * 64)
    assert inspect(value, fitting).width == 96
    assert reason_of(value, ImageLimits(max_frame_bytes=len(value) - 1)) is Reason.TOO_LARGE
    assert reason_of(value, ImageLimits(max_pixels=96 * 64 - 1)) is Reason.TOO_MANY_PIXELS


def test_a_format_off_the_allow_list_is_refused() -> None:
    limits = ImageLimits(formats=frozenset(("jpeg", "png")))
    assert inspect(GOOD["png"], limits).format == "png"
    assert reason_of(GOOD["webp"], limits) is Reason.UNSUPPORTED_FORMAT


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="jpg"):
        ImageLimits(formats=frozenset(("jpg",)))
    with pytest.raises(ConfigurationError, match="max_pixels"):
        ImageLimits(max_pixels=0)


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_a_header_cut_at_any_byte_is_truncated_or_unknown(kind: str) -> None:
    allowed = {Reason.TRUNCATED, Reason.NOT_AN_IMAGE, Reason.EMPTY}
    for end in range(11 if kind == "gif" else 26):  # a GIF's facts lie in its first 11 bytes
        assert reason_of(GOOD[kind][:end]) in allowed


@pytest.mark.parametrize(
    "value",
    [
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8hello",
        b"\xff\xd8\xff\xe0\x00\x01",
        GOOD["jpeg"][:2] + b"\xff\xe5\0\x02" * 2000 + GOOD["jpeg"][2:],
        images.without_segments(GOOD["jpeg"], 0xC0),
        GOOD["jpeg"][:2] + GOOD["jpeg"],
        images.png(8, 8, b"", depth=3),
        images.patched(GOOD["png"], 12, b"IDAT"),
        images.patched(GOOD["webp"], 23, b"\0\0\0"),
        images.patched(GOOD["webp"], 12, b"ALPH"),
        images.patched(GOOD["bmp"], 14, b"\x29"),
        images.patched(GOOD["bmp"], 28, b"\x07"),
        images.tiff({256: (4, 5)}),
        images.tiff(images.tiff_tags(8, 1000, t322=(4, 65_520), t323=(4, 16))),
    ],
)
def test_a_header_that_its_format_does_not_allow_is_corrupt(value: bytes) -> None:
    assert reason_of(value) is Reason.CORRUPT


def test_a_tiff_whose_directory_points_beyond_the_value_is_truncated() -> None:
    assert reason_of(images.patched(GOOD["tiff"], 4, b"\xff\xff\xff\x7f")) is Reason.TRUNCATED


def test_a_png_without_its_end_chunk_is_truncated() -> None:
    assert reason_of(GOOD["png"][:-12]) is Reason.TRUNCATED


def test_millions_of_tiny_png_chunks_are_refused() -> None:
    extra = images.png_chunk(b"teXt", b"") * 100_000
    assert reason_of(images.png(8, 8, zlib.compress(bytes(200)), extra=extra)) is Reason.CORRUPT


def result_of(value: bytes) -> ImageFacts | None:
    try:
        return inspect(value, LIMITS)
    except Rejected:
        return None


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_give_facts_or_a_rejection(value: bytes) -> None:
    result_of(value)


MAGICS = [value[:12] for value in GOOD.values()] + [b"MM\0*\0\0\0\x08", b"\xff\xd8\xff\xe1", b"RIFF\0\0\0\0WEBPVP8X"]


@given(st.sampled_from(MAGICS), st.binary(max_size=300))
@settings(max_examples=500, deadline=None)
def test_a_right_magic_with_rubbish_gives_facts_or_a_rejection(magic: bytes, rest: bytes) -> None:
    result_of(magic + rest)


EDITS = st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4)
ORIENTED = [images.encode(RGB, kind, exif=images.exif(6)) for kind in ("jpeg", "png", "webp")]


@given(st.sampled_from([*GOOD.values(), *ORIENTED]), EDITS)
@settings(max_examples=500, deadline=None)
def test_a_mutated_header_gives_facts_within_the_limits_or_a_rejection(
    value: bytes, edits: list[tuple[int, bytes]]
) -> None:
    for at, replacement in edits:
        value = images.patched(value, at % len(value), replacement)
    facts = result_of(value)
    if facts:
        assert 0 < facts.width * facts.height <= LIMITS.max_pixels
        assert 1 <= facts.orientation <= 8
        assert facts.format in FORMATS


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(sorted(FORMATS)))
@settings(max_examples=60, deadline=None)
def test_the_size_is_the_one_that_pillow_reads(width: int, height: int, kind: str) -> None:
    value = images.encode(np.zeros((height, width, 3), np.uint8), kind)
    facts = inspect(value, LIMITS)
    assert (facts.width, facts.height) == Image.open(io.BytesIO(value)).size == (width, height)
