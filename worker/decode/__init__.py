"""Encoded bytes and their header facts -> upright RGB pixels, strict about damage.

`decode` chooses the decoder by format: simplejpeg for JPEG, OpenCV for PNG, WebP and BMP, Pillow for GIF and TIFF.
A frame that a strict reading of its format calls damaged is Rejected, never turned into a plausible picture. Whatever
its source, a picture becomes 8-bit RGB the way training pipelines read it (Pillow's `convert("RGB")`): grey is
repeated, palettes are looked up, 16 bits are divided by 257 and rounded, and alpha is dropped, which leaves the stored
colours as they are. Of several frames or pages the first is taken. All decoders release the GIL.
"""

from __future__ import annotations

from worker.decode.jpeg import decode_jpeg
from worker.decode.memory import decode_bytes
from worker.decode.opencv import decode_opencv
from worker.decode.pillow import decode_gif, decode_tiff
from worker.decode.refusals import corrupt
from worker.decode.upright import turn_upright
from worker.frames import Image, ImageFacts

__all__ = ["decode", "decode_bytes"]


def decode(value: bytes, facts: ImageFacts, target: tuple[int, int] | None = None) -> Image:
    """Pixels of an encoded image whose `facts` were read, and found within the limits, by `worker.ingest.validate`.

    `target` (min width, min height in upright pixels) lets a JPEG be decoded at the smallest of 1, 1/2, 1/4, 1/8 of its
    size that still covers it; None means full size. The pixels may lie in a buffer of the calling thread: they are
    valid until this thread's next call. Raises Rejected: truncated, corrupt, unsupported_format, too_many_pixels.
    """
    if facts.format == "jpeg":
        if target is not None and facts.orientation >= 5:
            target = (target[1], target[0])
        return Image(turn_upright(decode_jpeg(value, facts, target), facts.orientation), facts, "simplejpeg")
    if facts.format == "tiff":
        pixels, expected, decoder = decode_tiff(value, facts), facts.upright_size, "pillow"
    elif facts.format == "gif":
        pixels, expected, decoder = decode_gif(value, facts), (facts.width, facts.height), "pillow"
    else:
        pixels, expected, decoder = decode_opencv(value, facts), (facts.width, facts.height), "opencv"
    if (pixels.shape[1], pixels.shape[0]) != expected:
        raise corrupt(
            f"The {facts.format.upper()} decodes to {pixels.shape[1]} x {pixels.shape[0]}; its header gives "
            f"{expected[0]} x {expected[1]}."
        )
    return Image(pixels if facts.format == "tiff" else turn_upright(pixels, facts.orientation), facts, decoder)
