"""Damaged, contradictory and hostile pictures are rejected with their reason, quickly, and never crash the process."""

from __future__ import annotations

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.rig import images
from worker.decode import decode
from worker.decode.structure import check_structure
from worker.frames import Reason, Rejected
from worker.ingest.validate import FORMATS, ImageLimits, inspect

LIMITS = ImageLimits()
RGB = images.photo(160, 120)
JPEGS = {
    "baseline": images.encode(RGB, "jpeg", quality=90),
    "progressive": images.encode(RGB, "jpeg", quality=90, progressive=True),
    "restart markers": images.encode(RGB, "jpeg", quality=90, restart_marker_rows=1),
    "motion JPEG": images.odd_jpegs(RGB)["motion JPEG without Huffman tables"],
}
OTHERS = {kind: images.encode(RGB, kind) for kind in sorted(FORMATS - {"jpeg"})} | {
    "lossless webp": images.encode(RGB, "webp", lossless=True),
    "lzw tiff": images.encode(RGB, "tiff", compression="tiff_lzw"),
    "deflated tiff": images.encode(RGB, "tiff", compression="tiff_adobe_deflate"),
}


def outcome(value: bytes | None, target: tuple[int, int] | None = None) -> Reason | None:
    """The reason of the rejection, None for a picture."""
    try:
        facts = inspect(value, LIMITS)
        assert value is not None
        image = decode(value, facts, target)
    except Rejected as refusal:
        return refusal.rejection.reason
    height, width = image.pixels.shape[:2]
    assert target is not None or (width, height) == facts.upright_size
    return None


def pillow_refuses(value: bytes) -> bool:
    try:
        Image.open(io.BytesIO(value)).load()
    except Exception:
        return True
    return False


@pytest.mark.parametrize("name", sorted(images.bad_frames()))
def test_a_bad_frame_gets_its_reason(name: str) -> None:
    assert outcome(images.bad_frames()[name]) == name.split(":")[0]


@pytest.mark.parametrize("target", [None, (20, 15)])
@pytest.mark.parametrize("name", sorted(JPEGS))
def test_a_jpeg_cut_anywhere_is_rejected_as_truncated(name: str, target: tuple[int, int] | None) -> None:
    value = JPEGS[name]
    cuts = [len(value) * eighth // 8 for eighth in range(1, 8)] + [len(value) - 1, len(value) - 2, len(value) - 10]
    assert {cut: outcome(value[:cut], target) for cut in cuts} == dict.fromkeys(cuts, Reason.TRUNCATED)


@pytest.mark.parametrize("name", sorted(JPEGS))
def test_a_damaged_jpeg_that_is_also_cut_is_truncated(name: str) -> None:
    value = JPEGS[name]
    third = len(value) // 3
    damaged = value[:third] + value[third + 400 :]
    assert outcome(damaged[: len(damaged) * 3 // 4]) is Reason.TRUNCATED
    assert outcome(damaged[:-2]) is Reason.TRUNCATED


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_another_format_cut_anywhere_is_rejected_as_truncated(name: str) -> None:
    value = OTHERS[name]
    cuts = [len(value) * eighth // 8 for eighth in range(1, 8)] + [len(value) - 1, len(value) - 13]
    assert {cut: outcome(value[:cut]) for cut in cuts} == dict.fromkeys(cuts, Reason.TRUNCATED)


@pytest.mark.parametrize("name", sorted(JPEGS))
def test_a_jpeg_that_lost_bytes_from_its_middle_is_corrupt(name: str) -> None:
    value = JPEGS[name]
    middle = len(value) // 2
    assert outcome(value[:middle] + value[middle + 400 :]) is Reason.CORRUPT
    assert outcome(value[:middle] + b"\xff\xd9") is Reason.CORRUPT
    assert outcome(value[:-2] + b"\x12\x34\x56\x78" * 10 + value[-2:]) is Reason.CORRUPT


def test_whatever_damage_pillow_refuses_is_refused() -> None:
    """Pillow raises for less than libjpeg warns of, so its refusals are a lower bound."""
    rng = random.Random(11)
    refused = 0
    for value in [*JPEGS.values(), *OTHERS.values()]:
        for _ in range(60):
            at = rng.randrange(len(value))
            damaged = images.patched(value, at, rng.randbytes(rng.choice((1, 1, 8, 64))))[: len(value)]
            if pillow_refuses(damaged):
                refused += 1
                assert outcome(damaged) is not None, (value[:12], at)
    assert refused > 50


def test_damage_to_a_progressive_jpeg_is_mostly_seen() -> None:
    rng = random.Random(3)
    value = JPEGS["progressive"]
    first = images.segments(value)[-1][2]
    seen = sum(
        outcome(images.patched(value, rng.randrange(first, len(value) - 70), rng.randbytes(64))) is not None
        for _ in range(40)
    )
    assert seen >= 36


@pytest.mark.parametrize("name", ["png", "deflated tiff"])
def test_a_flipped_bit_under_a_checksum_is_always_seen(name: str) -> None:
    value = OTHERS[name]
    rng = random.Random(5)
    start, end = (41, len(value) - 16) if name == "png" else (8, len(value) - 300)
    for _ in range(100):
        at = rng.randrange(start, end)
        flipped = images.patched(value, at, bytes([value[at] ^ 1 << rng.randrange(8)]))
        assert outcome(flipped) in (Reason.CORRUPT, Reason.TRUNCATED), at


def filtered_rows(width: int, height: int) -> bytes:
    return (b"\0" + bytes(3 * width)) * height


@pytest.mark.parametrize(
    "data",
    [
        zlib.compress(filtered_rows(8, 8))[:-4],
        zlib.compress(filtered_rows(8, 7)),
        zlib.compress(filtered_rows(8, 8))[:-4] + b"\1\2\3\4",
        zlib.compress(b"\x09" + filtered_rows(8, 8)[1:]),
        b"",
    ],
)
def test_a_png_whose_chunks_are_sound_but_whose_zlib_stream_is_not_is_corrupt(data: bytes) -> None:
    assert outcome(images.png(8, 8, zlib.compress(filtered_rows(8, 8)))) is None
    assert outcome(images.png(8, 8, data)) in (Reason.CORRUPT, Reason.TRUNCATED)


def test_a_png_without_picture_data_is_corrupt() -> None:
    header = images.png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    assert outcome(images.PNG_SIGNATURE + header + images.png_chunk(b"IEND", b"")) is Reason.CORRUPT


def test_png_chunks_out_of_order_or_unknown_are_corrupt() -> None:
    value = images.png(8, 8, zlib.compress(filtered_rows(8, 8)))
    picture = value[33:-12]
    assert outcome(value[:33] + images.png_chunk(b"ABCD", b"") + value[33:]) is Reason.CORRUPT
    assert outcome(value[:33] + images.png_chunk(b"a1CD", b"") + value[33:]) is Reason.CORRUPT
    assert outcome(value[:33] + value[8:33] + value[33:]) is Reason.CORRUPT
    assert outcome(value[:33] + picture + images.png_chunk(b"tEXt", b"a\0b") + picture + value[-12:]) is Reason.CORRUPT


def test_only_the_chunks_that_make_pixels_of_a_png_reach_its_decoder() -> None:
    """OpenCV 5.0 dies of a segmentation fault on some damaged animations (found by mutation)."""
    value = images.save(Image.fromarray(RGB), "png", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    assert b"acTL" in value
    seen = check_structure(value, inspect(value, LIMITS))
    names, position = [], 8
    while position < len(seen):
        names.append(seen[position + 4 : position + 8])
        position += 12 + int.from_bytes(seen[position : position + 4], "big")
    assert names == [b"IHDR", *[b"IDAT"] * (len(names) - 2), b"IEND"]


def test_a_png_with_text_that_libpng_would_complain_of_decodes_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    text = images.png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20))[:100])
    assert outcome(images.png(8, 8, zlib.compress(filtered_rows(8, 8)), extra=text)) is None
    assert capfd.readouterr().err == ""


def test_a_webp_whose_canvas_is_not_its_pictures_is_corrupt() -> None:
    rgba = np.dstack([RGB, RGB[:, :, 0]])
    value = images.encode(rgba, "webp")
    assert value[12:16] == b"VP8X"
    assert outcome(value) is None
    assert outcome(images.patched(value, 24, b"\xff\x0f")) is Reason.CORRUPT


def test_a_webp_whose_chunk_is_longer_than_the_file_is_corrupt() -> None:
    value = OTHERS["webp"]
    assert outcome(images.patched(value, 16, struct.pack("<I", len(value)))) is Reason.CORRUPT


def test_a_gif_without_a_frame_on_its_screen_is_corrupt() -> None:
    value = images.gif_bomb()
    with pytest.raises(Rejected, match=r"65535 x 65535 at .* is not on its screen of 8 x 8"):
        decode(value, inspect(value, LIMITS))
    assert outcome(b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b";") is Reason.CORRUPT
    assert outcome(b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b"\x99;") is Reason.CORRUPT


def test_a_bmp_whose_pixels_begin_in_its_header_is_corrupt() -> None:
    assert outcome(images.patched(OTHERS["bmp"], 10, b"\x20")) is Reason.CORRUPT


def test_a_tiff_strip_that_inflates_beyond_its_picture_is_refused() -> None:
    bomb = zlib.compress(bytes(40 << 20), 9)
    tags = images.tiff_tags(8, 8, t259=(3, 8)) | {279: (4, len(bomb))}
    assert outcome(images.tiff(tags, bomb)) is Reason.CORRUPT


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "bmp"])
@pytest.mark.parametrize("between", [b"", b"\0\0\0", b"\xff\xff"])
def test_two_pictures_in_one_value_are_refused(kind: str, between: bytes) -> None:
    value = images.encode(RGB, kind)
    assert outcome(value + between + JPEGS["baseline"]) is Reason.CORRUPT
    assert outcome(value + between + value) is Reason.CORRUPT


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "bmp", "tiff"])
@pytest.mark.parametrize("tail", [bytes(500), b"\xff" * 500, b"a maker's note"])
def test_padding_and_foreign_bytes_after_a_picture_pass(kind: str, tail: bytes) -> None:
    assert outcome(images.encode(RGB, kind) + tail) is None


def test_an_unknown_chroma_sampling_is_unsupported() -> None:
    value = JPEGS["baseline"]
    assert outcome(images.patched(value, images.frame_header(value) + 11, b"\x31")) is Reason.UNSUPPORTED_FORMAT


def test_a_jpeg_that_is_nothing_but_scans_is_refused_before_it_is_decoded() -> None:
    assert outcome(images.scan_bomb()) is Reason.TOO_MANY_PIXELS


def test_no_flip_of_bits_crashes_a_decoder() -> None:
    rng = random.Random(23)
    for value in [*JPEGS.values(), *OTHERS.values(), *images.sixteen_bit(RGB).values()]:
        for _ in range(40):
            damaged = bytearray(value)
            for _ in range(rng.choice((1, 3, 20))):
                damaged[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
            outcome(bytes(damaged), rng.choice((None, (40, 30))))
