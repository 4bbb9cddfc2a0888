"""CPU time of decoders in one thread: encoded frames that lie in memory -> RGB pixels, thrown away.

The decoders take turns, so that what slows the machine slows them all. `tuned` says whether malloc keeps big buffers, as
the worker tells it to.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.corpus import read_frames
from benchmarks.sides.child import specification, write_result
from worker.decode import decode
from worker.ingest.validate import ImageLimits, inspect
from worker.malloc import keep_big_buffers

Decoder = Callable[[bytes], object]


class DecodingSpec(msgspec.Struct, frozen=True):
    """What the side is told: each decoder gets `frames` frames a round, and more until `seconds` of CPU are over.

    All frames of a file have one size.
    """

    frames_file: str
    decoders: list[str]
    frames: int
    seconds: float
    rounds: int
    tuned: bool
    result: str


class DecodingResult(msgspec.Struct, frozen=True):
    """Decoder -> CPU ms a frame in each round."""

    cpu_ms: dict[str, list[float]]


def main() -> None:
    """Measure all decoders in turn, after one frame each to warm up."""
    spec = specification(DecodingSpec)
    if spec.tuned:
        keep_big_buffers()
    cv2.setNumThreads(1)
    frames = read_frames(Path(spec.frames_file))
    height, width = simplejpeg.decode_jpeg_header(frames[0])[:2]
    known = decoders(width, height)
    cpu_ms: dict[str, list[float]] = {name: [] for name in spec.decoders}
    for name in spec.decoders:
        known[name](frames[0])
    for _ in range(spec.rounds):
        for name in spec.decoders:
            cpu_ms[name].append(_cpu_ms(known[name], frames, spec.frames, spec.seconds))
    write_result(spec.result, DecodingResult(cpu_ms))


def decoders(width: int, height: int) -> dict[str, Decoder]:
    """Each way to pixels by its name. `worker` is everything that the worker does up to there: header, verdict, pixels."""
    buffer = np.empty((height, width, 3), np.uint8)
    limits = ImageLimits()
    return {
        "worker": lambda frame: decode(frame, inspect(frame, limits)),
        "simplejpeg": lambda frame: simplejpeg.decode_jpeg(frame, "RGB"),
        "simplejpeg_reused_buffer": lambda frame: simplejpeg.decode_jpeg(frame, "RGB", buffer=buffer),
        "simplejpeg_half": lambda frame: simplejpeg.decode_jpeg(
            frame, "RGB", min_width=-(-width // 2), min_height=-(-height // 2)
        ),
        "simplejpeg_quarter": lambda frame: simplejpeg.decode_jpeg(
            frame, "RGB", min_width=-(-width // 4), min_height=-(-height // 4)
        ),
        "opencv": lambda frame: cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_COLOR),
        "opencv_half": lambda frame: cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_REDUCED_COLOR_2),
        "pillow": lambda frame: np.asarray(Image.open(io.BytesIO(frame)).convert("RGB")),
    }


def _cpu_ms(decoder: Decoder, frames: tuple[bytes, ...], least: int, seconds: float) -> float:
    done, start = 0, time.process_time()
    while done < least or time.process_time() - start < seconds:
        decoder(frames[done % len(frames)])
        done += 1
    return 1000 * (time.process_time() - start) / done


if __name__ == "__main__":
    main()
