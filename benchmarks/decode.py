"""`decode`: CPU a frame of JPEG decoders over sizes from 10 KB to 5 MB, in one thread; no server is involved.

`worker` reads the header, refuses what is damaged, and decodes into a kept buffer. `worker_vs_simplejpeg_<size>` is that
against the bare decoder into such a buffer: what strictness costs. `opencv_vs_worker_<size>` is OpenCV's decoder, which tells
no damage, against it. Both with malloc as the worker tunes it; the rows also give malloc as it comes.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.corpus import SIZES, Corpus, load_corpus, sized, write_frames
from benchmarks.options import Options
from benchmarks.report import short
from benchmarks.rig import say
from benchmarks.sides import child
from benchmarks.sides.decoding import DecodingResult, DecodingSpec
from benchmarks.spread import paired_ratio, spread
from triton_models.build import data_dir

DECODERS = (
    "worker",
    "simplejpeg_reused_buffer",
    "simplejpeg",
    "simplejpeg_half",
    "simplejpeg_quarter",
    "opencv",
    "opencv_half",
    "pillow",
)
MALLOC_MATTERS = ("worker", "simplejpeg", "opencv", "pillow")
ROUNDS, ROUNDS_QUICK = 5, 3
SECONDS, SECONDS_QUICK = 1.0, 0.2
LEAST_FRAMES = 4  # of the largest, in case one takes longer than that
_TIMEOUT_S = 900.0
_STOP_S = 5.0

_number = itertools.count(1)


def measure(options: Options) -> dict[str, Any]:
    """Run it; ratios for each size and a row for each decoder at each size."""
    rounds = options.rounds or (ROUNDS_QUICK if options.quick else ROUNDS)
    seconds = 0.0 if options.frames else SECONDS_QUICK if options.quick else SECONDS
    least = options.frames or LEAST_FRAMES
    with tempfile.TemporaryDirectory(prefix="headrace-benchmark-") as name:
        folder, corpus = Path(name), load_corpus(data_dir())
        kib: dict[str, float] = {}
        tuned: dict[str, Mapping[str, Sequence[float]]] = {}
        plain: dict[str, Mapping[str, Sequence[float]]] = {}
        for size in SIZES:
            say(f"decoding {size}")
            frames = sized(corpus, size)
            kib[size] = round(frames.mean_kib, 1)
            tuned[size] = decoding_ms(folder, frames, DECODERS, least, seconds, rounds, tuned=True)
            plain[size] = decoding_ms(folder, frames, MALLOC_MATTERS, least, seconds, rounds, tuned=False)
        return {**figures(tuned, plain), "frame_kib": kib, "frames": corpus.source}


def decoding_ms(
    folder: Path, frames: Corpus, decoders: Sequence[str], least: int, seconds: float, rounds: int, tuned: bool
) -> dict[str, list[float]]:
    """CPU ms a frame of each decoder in each round, in a process of its own; see DecodingSpec. Raises DependencyError."""
    number = next(_number)
    file, result = folder / f"decode-{number}.msgpack", folder / f"decode-{number}.json"
    write_frames(file, frames)
    spec = DecodingSpec(str(file), list(decoders), least, seconds, rounds, tuned, str(result))
    process = child.start("decoding", spec, folder)
    try:
        return child.wait_result(process, result, DecodingResult, _TIMEOUT_S).cpu_ms
    finally:
        process.stop(_STOP_S)


def figures(
    tuned: Mapping[str, Mapping[str, Sequence[float]]], plain: Mapping[str, Mapping[str, Sequence[float]]]
) -> dict[str, Any]:
    """Ratios and rows; both by size, then decoder, then round."""
    ratios: dict[str, float] = {}
    for size, ms in tuned.items():
        ratios |= paired_ratio(ms["worker"], ms["simplejpeg_reused_buffer"]).keys(f"worker_vs_simplejpeg_{size}")
        ratios |= paired_ratio(ms["opencv"], ms["worker"]).keys(f"opencv_vs_worker_{size}")
    rows = {
        f"{size} {decoder}{suffix}": {"cpu_s_per_1000": {"decode": short(spread(values).value)}, "rounds": len(values)}
        for suffix, sizes in (("", tuned), (", malloc as it comes", plain))
        for size, by_decoder in sizes.items()
        for decoder, values in by_decoder.items()
    }
    return {**ratios, "sides": rows}
