"""What the fuzzer runs: any bytes through validate and decode, as the worker calls them. For libFuzzer's arguments, or files to try.

Any outcome but Rejected or RGB pixels of the announced size is a finding, and so is a second of CPU. The memory limit and
the alarm for what never comes back are libFuzzer's. Only Python code is instrumented (the worker's and Pillow's): the
native decoders are driven by what their callers do with their answers.
"""

from __future__ import annotations

import random
import sys
import time
import zlib

import atheris
import numpy as np

with atheris.instrument_imports(include=["worker.ingest", "worker.decode", "PIL"]):
    from PIL import GifImagePlugin, TiffImagePlugin  # noqa: F401  # else Pillow imports them later, uninstrumented

    from worker.decode import decode
    from worker.frames import Rejected
    from worker.ingest.validate import ImageLimits, inspect

from tests.rig.images import PNG_SIGNATURE, patched_checksums

LIMITS = ImageLimits()
HANG_CPU_S = 1.0
# Of mutated PNGs: with wrong checksums nothing but the checksum is tried.
REPAIRED = 0.9


class Finding(AssertionError):
    """An outcome that no value may have."""


def try_value(value: bytes) -> None:
    """Raises Finding, or whatever escapes from the stages."""
    spent = _tried(value)
    if spent > HANG_CPU_S:
        spent = min(spent, _tried(value))  # a neighbour may have had the caches; a hang is one twice
    if spent > HANG_CPU_S:
        raise Finding(f"{spent:.2f} CPU seconds; at most {HANG_CPU_S} are allowed")


def _tried(value: bytes) -> float:
    """CPU seconds that validate and decode spent on it."""
    started = time.thread_time()
    target = (224, 224) if zlib.crc32(value) & 1 else None
    try:
        facts = inspect(value, LIMITS)
        pixels = decode(value, facts, target).pixels
    except Rejected as refusal:
        if not refusal.rejection.detail.endswith("."):
            raise Finding(f"no sentence for the sender: {refusal.rejection.detail!r}") from refusal
    else:
        size = (pixels.shape[1], pixels.shape[0])
        is_scaled = target is not None and facts.format == "jpeg"
        if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,) or not (is_scaled or size == facts.upright_size):
            raise Finding(f"{facts} became {pixels.dtype} {pixels.shape}")
    return time.thread_time() - started


def mutate(value: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's own mutation; a PNG mostly gets right checksums again."""
    mutated: bytes = atheris.Mutate(value, max_size)
    if mutated.startswith(PNG_SIGNATURE) and random.Random(seed).random() < REPAIRED:
        return patched_checksums(mutated)[:max_size]
    return mutated


if __name__ == "__main__":
    atheris.Setup(sys.argv, try_value, custom_mutator=mutate)
    atheris.Fuzz()
