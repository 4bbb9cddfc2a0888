"""Good, odd and damaged images for tests, generated: nothing here is read from a file.

`photo` makes pixels, `encode` and `with_orientation` make good bytes of them, `odd_jpegs` and `odd_pictures` make sound
but unusual ones, `bad_frames` makes those that no prediction may come from.
"""

from __future__ import annotations

import base64
import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

from worker.frames import Float32Array, UInt8Array

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 274
# How pixels must be stored for a reader that applies orientation n to see the original: the inverse of n.
_STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def photo(width: int, height: int, seed: int = 0) -> UInt8Array:
    """(height, width, 3) uint8 RGB: smooth light, edges of objects and sensor noise; its JPEG is as large as a photo's."""
    rng = np.random.default_rng(seed)
    coarse = _muted(rng, (max(2, height // 64 + 2), max(2, width // 64 + 2)))
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for colour in _muted(rng, (24,)):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        size = (int(rng.integers(1, max(2, width // 5))), int(rng.integers(1, max(2, height // 5))))
        cv2.ellipse(picture, centre, size, float(rng.uniform(0, 180)), 0, 360, colour.tolist(), -1, cv2.LINE_AA)
    # Noise of brightness alone: colour noise would be lost to chroma subsampling, as a camera's mostly is before it.
    picture += rng.normal(0, 4, (height, width, 1)).astype(np.float32)
    pixels: UInt8Array = picture.clip(0, 255).astype(np.uint8)
    return pixels


def _muted(rng: np.random.Generator, shape: tuple[int, ...]) -> Float32Array:
    """(*shape, 3) float32 colours as most things have them: any brightness, little saturation."""
    colours: Float32Array = (rng.uniform(30, 225, (*shape, 1)) + rng.normal(0, 18, (*shape, 3))).astype(np.float32)
    return colours


def encode(rgb: UInt8Array, kind: str, **params: object) -> bytes:
    """Encode (H, W, 3) RGB, or (H, W) grey, or (H, W, 4) RGBA, as Pillow's format `kind` with its `params`."""
    return save(Image.fromarray(rgb), kind, **params)


def save(picture: Image.Image, kind: str, **params: object) -> bytes:
    """Encode a Pillow picture of any mode."""
    out = io.BytesIO()
    picture.save(out, kind.upper(), **params)
    return out.getvalue()


def stored_for(rgb: UInt8Array, orientation: int) -> UInt8Array:
    """Pixels as a camera held in that orientation stores the picture `rgb`."""
    return np.ascontiguousarray(_STORED[orientation](rgb))


def exif(orientation: int) -> Image.Exif:
    """An EXIF block with this orientation amid other tags."""
    block = Image.Exif()
    block[271], block[ORIENTATION], block[305] = "Headrace", orientation, "rig"
    return block


def with_orientation(picture: bytes | UInt8Array, orientation: int, quality: int = 95) -> bytes:
    """A JPEG stored so that applying its EXIF orientation (1..8) gives `picture` (an encoded image or RGB) upright."""
    rgb = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) if isinstance(picture, bytes) else picture
    return encode(stored_for(rgb, orientation), "jpeg", quality=quality, exif=exif(orientation))


def segments(jpeg: bytes) -> list[tuple[int, int, int]]:
    """(marker, start, end) of each segment of a JPEG's header; the last is the first scan's, its data follow."""
    found: list[tuple[int, int, int]] = []
    position = 2
    while not found or found[-1][0] != 0xDA:
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        found.append((jpeg[position + 1], position, end))
        position = end
    return found


def without_segments(jpeg: bytes, marker: int) -> bytes:
    """The JPEG less its header segments of this marker: 0xC4 gives a Motion-JPEG frame, 0xEE CMYK without Adobe's mark."""
    kept = b"".join(jpeg[start:end] for code, start, end in segments(jpeg) if code != marker)
    return jpeg[:2] + kept + jpeg[segments(jpeg)[-1][2] :]


def frame_header(jpeg: bytes) -> int:
    """Offset of the frame header (SOF) of a JPEG."""
    return next(start for code, start, _ in segments(jpeg) if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC))


def patched(value: bytes, offset: int, replacement: bytes) -> bytes:
    """`value` with the bytes at `offset` replaced."""
    return value[:offset] + replacement + value[offset + len(replacement) :]


def with_jpeg_size(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG whose frame header claims another size."""
    return patched(jpeg, frame_header(jpeg) + 5, struct.pack(">HH", height, width))


def png_chunk(name: bytes, data: bytes) -> bytes:
    """A PNG chunk with its right checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, data: bytes, depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """A PNG with this header and this zlib stream, whether they fit or not; `extra` are chunks before the picture."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return PNG_SIGNATURE + header + extra + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def patched_checksums(value: bytes) -> bytes:
    """A PNG, whole or not, whose whole chunks have their right checksums again."""
    out, position = [value[:8]], 8
    while position + 12 <= len(value):
        end = position + 12 + int.from_bytes(value[position : position + 4], "big")
        if end > len(value):
            break
        out.append(png_chunk(value[position + 4 : position + 8], value[position + 8 : end - 4]))
        position = end
    return b"".join(out) + value[position:]


def png_bomb() -> bytes:
    """60,000 x 60,000 pixels in a few bytes."""
    return png(60_000, 60_000, zlib.compress(bytes(1 << 20), 9))


def gif_bomb() -> bytes:
    """A small screen with a first frame of 65,535 x 65,535."""
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", 8, 8, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
        + b"\x08\x01\x00\x00;"
    )


def tiff(tags: dict[int, tuple[int, int]], data: bytes = b"", order: str = "<") -> bytes:
    """A TIFF of one directory at byte 8 and `data` behind it; `tags` maps tag -> (type 3 SHORT or 4 LONG, value)."""
    entries = b"".join(
        struct.pack(order + "HHI", tag, kind, 1)
        + (struct.pack(order + "I", number) if kind == 4 else struct.pack(order + "HH", number, 0))
        for tag, (kind, number) in sorted(tags.items())
    )
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(order + "IH", 8, len(tags)) + entries + bytes(4) + data


def tiff_tags(width: int, height: int, **more: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """Tags of a grey, uncompressed TIFF in one strip for `tiff`; `more` are t259=(3, 5) and the like."""
    tags = {256: (4, width), 257: (4, height), 258: (3, 8), 259: (3, 1), 262: (3, 1), 277: (3, 1), 278: (4, height)}
    tags |= {int(name[1:]): number for name, number in more.items()}
    at = 8 + 2 + 12 * (len(tags) + 2) + 4
    return tags | {273: (4, at), 279: (4, width * height)}


def bmp(rows: list[bytes], width: int, height: int, bits: int, compression: int = 0, extra: bytes = b"") -> bytes:
    """A BMP with a 40-byte header; `extra` are masks or a palette, `height` may be negative."""
    data = b"".join(row + bytes(-len(row) % 4) for row in rows)
    offset = 54 + len(extra)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + extra + data


def odd_jpegs(rgb: UInt8Array) -> dict[str, bytes]:
    """Sound but unusual JPEGs of `rgb`, by what is unusual."""
    picture = Image.fromarray(rgb)
    cmyk = save(picture.convert("CMYK"), "jpeg", quality=95)
    adobe = cmyk.find(b"Adobe")
    plain = encode(rgb, "jpeg", quality=95)
    huge = b"".join(b"\xff\xe5" + struct.pack(">H", 65_535) + bytes(65_533) for _ in range(40))
    return {
        "motion JPEG without Huffman tables": without_segments(encode(rgb, "jpeg", quality=95), 0xC4),
        "progressive": encode(rgb, "jpeg", quality=95, progressive=True),
        "restart markers": encode(rgb, "jpeg", quality=95, restart_marker_rows=1),
        "4:4:4": encode(rgb, "jpeg", quality=95, subsampling="4:4:4"),
        "4:1:1": encode(rgb, "jpeg", quality=95, subsampling="4:1:1"),
        "RGB": encode(rgb, "jpeg", quality=95, keep_rgb=True, subsampling=0),
        "grey": encode(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), "jpeg", quality=95),
        "CMYK with Adobe marker": cmyk,
        "CMYK without Adobe marker": without_segments(cmyk, 0xEE),
        "YCCK": patched(cmyk, adobe + 11, b"\x02"),
        "padding of zeros": plain + bytes(1000),
        "padding of 0xff": plain + b"\xff" * 1000,
        "a maker's trailer": plain + b"SEFT trailer of a phone",
        "polyglot with ZIP": plain + b"PK\x03\x04" + bytes(30),
        "huge metadata": plain[:2] + huge + plain[2:],
        "fill bytes": plain[:2] + b"\xff\xff\xff" + plain[2:],
        "thumbnail in EXIF": with_thumbnail(rgb),
        "a scan for each colour": scan_by_scan(rgb),
    }


def scan_by_scan(rgb: UInt8Array) -> bytes:
    """A baseline JPEG whose three colours come one after the other, each as the only scan of a grey JPEG."""
    luma, red, blue = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb))
    scans = [encode(np.asarray(plane, np.uint8), "jpeg", quality=95) for plane in (luma, blue, red)]
    at = frame_header(scans[0])
    size = scans[0][at + 5 : at + 9]
    header = b"\xff\xc0" + struct.pack(">HB", 17, 8) + size + b"\x03" + b"".join(bytes((n, 0x11, 0)) for n in (1, 2, 3))
    tables = b"".join(scans[0][start:end] for code, start, end in segments(scans[0]) if code in (0xDB, 0xC4))
    coded = b"".join(
        b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, n, 0, 0, 63, 0) + scan[segments(scan)[-1][2] : -2]
        for n, scan in enumerate(scans, 1)
    )
    return b"\xff\xd8" + tables + header + coded + b"\xff\xd9"


def with_thumbnail(rgb: UInt8Array) -> bytes:
    """A JPEG whose EXIF segment carries a whole small JPEG, as phones' do."""
    thumbnail = encode(cv2.resize(rgb, (80, 60)), "jpeg")
    block = b"Exif\0\0" + tiff({ORIENTATION: (3, 1)}, thumbnail)
    plain = encode(rgb, "jpeg", quality=95)
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]


def sixteen_bit(rgb: UInt8Array) -> dict[str, bytes]:
    """Pictures of 16 bits a channel that equal `rgb` after v / 257, by format and kind."""
    wide = rgb.astype(np.uint16) * 257
    alpha = np.dstack([wide[:, :, ::-1], np.full(rgb.shape[:2], 40_000, np.uint16)])
    grey = np.ascontiguousarray(wide[:, :, 0])
    return {
        "png rgb": _opencv(".png", wide[:, :, ::-1]),
        "png rgba": _opencv(".png", alpha),
        "png grey": _opencv(".png", grey),
        "tiff rgb": _opencv(".tiff", wide[:, :, ::-1]),
        "tiff grey": save(Image.fromarray(grey), "tiff"),
        "tiff grey, white is zero": patched_tiff_photometric(save(Image.fromarray(~grey), "tiff"), 0),
    }


def patched_tiff_photometric(value: bytes, photometric: int) -> bytes:
    """A little-endian TIFF whose tag 262 says otherwise."""
    at = value.find(struct.pack("<HHI", 262, 3, 1))
    return patched(value, at + 8, struct.pack("<H", photometric))


def _opencv(extension: str, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint16]]) -> bytes:
    _, out = cv2.imencode(extension, np.ascontiguousarray(pixels))
    return bytes(out.tobytes())


def bad_frames(max_frame_bytes: int = 8 << 20) -> dict[str, bytes | None]:
    """One or more frames for each reason that validate and decode give, keyed `reason` or `reason: what`."""
    rgb = photo(160, 120, 7)
    jpeg, picture, webp = encode(rgb, "jpeg", quality=90), encode(rgb, "png"), encode(rgb, "webp")
    scan = segments(jpeg)[-1][2]
    return {
        "empty": b"",
        "empty: null": None,
        "too_large": jpeg + bytes(max_frame_bytes + 1 - len(jpeg)),
        "not_an_image": b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>",
        "not_an_image: base64": base64.b64encode(jpeg),
        "not_an_image: random": np.random.default_rng(1).bytes(5000),
        "unsupported_format": b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heicmiaf" + bytes(200),
        "unsupported_format: arithmetic JPEG": patched(jpeg, frame_header(jpeg) + 1, b"\xc9"),
        "unsupported_format: 12-bit JPEG": patched(jpeg, frame_header(jpeg) + 4, b"\x0c"),
        "too_many_pixels": png_bomb(),
        "too_many_pixels: JPEG": with_jpeg_size(jpeg, 65_535, 65_535),
        "zero_dimension": with_jpeg_size(jpeg, 0, 120),
        "zero_dimension: PNG": png(0, 0, zlib.compress(b"")),
        "truncated": jpeg[: len(jpeg) // 2],
        "truncated: header": jpeg[:100],
        "truncated: PNG": picture[: len(picture) // 2],
        "truncated: WebP": webp[: len(webp) // 2],
        "corrupt": jpeg[: scan + 500] + jpeg[scan + 700 :],
        "corrupt: PNG": patched(picture, len(picture) // 2, b"\x55\xaa\x55\xaa"),
        "corrupt: two images": jpeg + jpeg,
    }


def scan_bomb(scans: int = 5000) -> bytes:
    """A progressive JPEG of 3,000 x 3,000 whose last scan is repeated again and again."""
    jpeg = encode(np.zeros((3000, 3000, 3), np.uint8), "jpeg", progressive=True, quality=30)
    scan = jpeg[jpeg.rfind(b"\xff\xda") : -2]
    return jpeg[:-2] + scan[:10] * scans + b"\xff\xd9"
