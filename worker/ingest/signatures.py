"""What bytes are by their first few, and what they look like when they are nothing we know.

`known_format` names the formats that a sender may well mean as a picture; `appearance` describes the rest, for the
sentence in the dead letter.
"""

from __future__ import annotations

import re

# The start of a value -> the reader's name for it. ISO media files are told apart by their brand, see `_iso_media`.
_PICTURES: tuple[tuple[bytes, str], ...] = (
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000 (bare codestream)"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"%PDF-", "PDF"),
    (b"\x1aE\xdf\xa3", "Matroska or WebM video"),
    (b"8BPS", "Photoshop"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"\x00\x00\x01\x00", "Windows icon"),
    (b"\x00\x00\x01\xba", "MPEG video"),
    (b"\x00\x00\x01\xb3", "MPEG video"),
    (b"\x00\x00\x00\x01\x67", "H.264 video"),
    (b"qoif", "QOI"),
    (b"gimp xcf", "GIMP"),
    (b"DDS ", "DirectDraw surface"),
    (b"\x93NUMPY", "NumPy array"),
    (b"FLIF", "FLIF"),
    (b"BPG\xfb", "BPG"),
    (b"\x8aMNG\r\n\x1a\n", "MNG"),
    (b"\xd7\xcd\xc6\x9a", "Windows metafile"),
)
_NOT_PICTURES: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip-compressed data"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
    (b"\x7fELF", "an executable program"),
    (b"MZ", "an executable program"),
    (b"RIFF", "a RIFF file that holds no picture (sound?)"),
    (b"OggS", "an Ogg file (sound or video)"),
)
_ISO_BRANDS = {
    b"heic": "HEIC", b"heix": "HEIC", b"heim": "HEIC", b"heis": "HEIC", b"hevc": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF",
    b"avif": "AVIF", b"avis": "AVIF", b"crx ": "Canon raw", b"qt  ": "QuickTime video",
}  # fmt: skip
_PORTABLE_ANYMAP = re.compile(rb"P[1-7][\s#]")
_SVG = re.compile(rb"<svg[\s>]")
# The start of the signatures of JPEG, PNG, GIF, WebP, BMP and TIFF after base64 encoding.
_BASE64_PICTURE = re.compile(rb"(?:data:image/[^,]{1,80},)?(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk[0-3]|SUkqA|TU0AK)")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_\-\s]{16,}={0,2}\s*")
_TEXT_BYTES = bytes(range(0x20, 0x7F)) + b"\t\n\v\f\r"
_SAMPLE_BYTES = 512  # enough to tell text from other bytes


def known_format(value: bytes) -> str | None:
    """Name of a picture, document or video format that is not among those decoded here, or None."""
    if value[4:8] == b"ftyp":
        return _ISO_BRANDS.get(value[8:12], "MP4 video")
    if value[:4] == b"RIFF" and value[8:12] == b"AVI ":
        return "AVI video"
    for start, name in _PICTURES:
        if value.startswith(start):
            return name
    if value[128:132] == b"DICM":
        return "DICOM"
    if _PORTABLE_ANYMAP.match(value):
        return "portable anymap (PNM)"
    if _SVG.search(value[:_SAMPLE_BYTES]):
        return "SVG"
    return None


def appearance(value: bytes) -> str:
    """What the bytes look like, as the end of a sentence: "HTML", "base64 text of a picture", "all zeros" ..."""
    for start, name in _NOT_PICTURES:
        if value.startswith(start):
            return name
    sample = value[:_SAMPLE_BYTES]
    if not sample.strip(b"\0"):
        return "zeros"
    text = sample.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _BASE64_PICTURE.match(text):
        return "base64 text of a picture: send the bytes themselves"
    try:
        printable = not sample.translate(None, _TEXT_BYTES) or text.decode().isprintable()
    except UnicodeDecodeError:
        printable = False
    if not printable or not text:
        return f"unknown binary data that begins {sample[:8].hex(' ')}"
    lowered = text[:16].lower()
    if lowered.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "HTML (an error page?)"
    if lowered.startswith(b"<"):
        return "XML"
    if lowered.startswith((b"{", b"[")):
        return "JSON"
    if lowered.startswith((b"http://", b"https://", b"s3://", b"file:")):
        return "an address: send the picture's bytes, not where it lies"
    return "base64 text" if _BASE64.fullmatch(text) else "text"
