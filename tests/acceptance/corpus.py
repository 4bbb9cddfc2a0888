"""Frames for the acceptance scenarios: small ones that cost little, and a mix up to the largest that is let in."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Iterator

from tests.rig.images import encode, photo

Frame = tuple[bytes | None, bytes | None]

LARGEST_BYTES = 8 * 2**20  # the default of ingest.max_frame_bytes
LARGEST_PIXELS = (4000, 3000)
# Of a thousand frames: most as a camera sends them, some of full HD, and a few that hurt.
_SHARES = {"vga": 870, "hd": 105, "twelve_megapixels": 12, "progressive": 4, "png": 4, "eight_mebibytes": 5}


@functools.cache
def small_pictures() -> tuple[bytes, ...]:
    """JPEGs of 160x120, about 6 KiB: decoding and transport cost little, so that many go through."""
    return tuple(encode(photo(160, 120, seed), "jpeg", quality=85) for seed in range(8))


@functools.cache
def picture(kind: str) -> bytes:
    """A picture of one of the kinds in the mix; all but the first two have 12 megapixels."""
    match kind:
        case "vga":
            return encode(photo(640, 480, 1), "jpeg", quality=88)
        case "hd":
            return encode(photo(1920, 1080, 2), "jpeg", quality=88)
        case "twelve_megapixels":
            return encode(photo(*LARGEST_PIXELS, 3), "jpeg", quality=75)
        case "progressive":  # libjpeg keeps the coefficients of all scans: twice the memory of a baseline JPEG
            return encode(photo(*LARGEST_PIXELS, 5), "jpeg", quality=75, progressive=True)
        case "png":  # enlarged without smoothing, so that it compresses to a few MiB
            return encode(photo(500, 375, 6).repeat(8, axis=0).repeat(8, axis=1), "png", compress_level=1)
        case "eight_mebibytes":
            return _padded(encode(photo(*LARGEST_PIXELS, 4), "jpeg", quality=95), LARGEST_BYTES)
    raise ValueError(kind)


def _padded(jpeg: bytes, size: int) -> bytes:
    """The JPEG with comment segments behind its first marker, exactly `size` bytes in all."""
    missing = size - len(jpeg)
    filling = b""
    while missing:
        # A segment has 4 bytes of its own and 65,533 at most; what is left must have room for one, too.
        length = min(missing, 65_000) if missing < 65_000 or missing > 65_100 else 32_000
        filling += b"\xff\xfe" + (length - 2).to_bytes(2, "big") + bytes(length - 4)
        missing -= length
    return jpeg[:2] + filling + jpeg[2:]


def mixed(count: int, keys: int, seed: int = 1) -> Iterator[Frame]:
    """`count` frames of all kinds in their shares, in an order fixed by `seed`; at least one of each kind."""
    rng = random.Random(seed)
    kinds = list(_SHARES)
    chosen = rng.choices(kinds, weights=list(_SHARES.values()), k=count)
    for number, kind in zip(rng.sample(range(count), len(kinds)), kinds, strict=True):
        chosen[number] = kind
    for number, kind in enumerate(chosen):
        yield f"cam-{number % keys}".encode(), picture(kind)


def small(count: int, keys: int) -> Iterator[Frame]:
    """`count` small frames."""
    pictures = small_pictures()
    for number in range(count):
        yield f"cam-{number % keys}".encode(), pictures[number % len(pictures)]


def paced(frames: Iterator[Frame], per_s: float) -> Iterator[Frame]:
    """The same frames, handed out no faster than `per_s` a second; what came late is caught up with."""
    start = time.monotonic()
    for number, frame in enumerate(frames):
        ahead_s = start + number / per_s - time.monotonic()
        if ahead_s > 0:
            time.sleep(ahead_s)
        yield frame
