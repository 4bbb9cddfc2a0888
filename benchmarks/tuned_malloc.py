"""glibc's malloc told to keep frame-sized buffers, by environment: what the worker tells it by mallopt at its start.

Given to the bare sides, so that a ratio to them shows what the worker adds and not what a tuned allocator saves.
"""

from __future__ import annotations

import os

_KEEP_BYTES = 32 * 2**20  # the most that glibc takes for M_MMAP_THRESHOLD; frames, encoded and decoded, are below it
_TOP_PAD_BYTES = 64 * 2**20


def tuned_environment() -> dict[str, str]:
    """This process's environment with malloc(3)'s variables set."""
    return os.environ | {
        "MALLOC_MMAP_THRESHOLD_": str(_KEEP_BYTES),
        "MALLOC_TRIM_THRESHOLD_": str(2**30),
        "MALLOC_TOP_PAD_": str(_TOP_PAD_BYTES),
        "MALLOC_ARENA_MAX": "1",
    }
