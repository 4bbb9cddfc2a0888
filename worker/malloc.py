"""Keeps big buffers instead of giving them back to the kernel each time: page faults cost more than decoding does.

glibc unmaps or trims a freed frame-sized buffer at once, so that each next one is paid for page by page. Measured on
768x576 and 1080p frames, this takes kafka-python from 0.37 to 0.20 CPU ms a frame and cv2.imdecode from 2.8 to 1.4.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache

log = logging.getLogger(__name__)

MIB = 1024 * 1024
# <malloc.h>: the number of each parameter.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_WISHES = (
    (_M_ARENA_MAX, 1),  # one heap for all threads: what one frees the next may use; the GIL keeps them apart anyway
    # Fetches and the largest frames get memory of their own, which leaves no holes behind: at 32 MiB, all that glibc takes,
    # a 64 MiB budget had 130 MiB of holes after 3,000 mixed frames. JPEGs are decoded into kept buffers either way.
    (_M_MMAP_THRESHOLD, 4 * MIB),
    (_M_TRIM_THRESHOLD, 512 * MIB),
    (_M_TOP_PAD, 16 * MIB),
)


class _HeapFacts(ctypes.Structure):
    """struct mallinfo2 of <malloc.h>; sizes in bytes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    )  # fmt: skip


def give_back_holes(above_bytes: int) -> None:
    """Give the heap's free pages back to the kernel if there are more than `above_bytes` of them: call it once a second,
    and before something large.

    Keeping buffers makes holes; this bounds them. 10 ms at most, and the page faults of what is taken again.
    """
    libc = _libc()
    if libc is not None and libc.mallinfo2().fordblks > above_bytes:
        libc.malloc_trim(0)


@cache
def _libc() -> ctypes.CDLL | None:
    """glibc from 2.33 on; made once, since each leaves kilobytes to Python's search for circles."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallinfo2.restype = _HeapFacts
    except (OSError, AttributeError):
        return None
    return libc


def keep_big_buffers() -> bool:
    """Tell malloc so, early in the process. False where the C library is not glibc; then nothing is changed."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        log.debug("the C library has no mallopt; big buffers go back to the kernel each time")
        return False
    accepted = [mallopt(parameter, value) == 1 for parameter, value in _WISHES]
    return all(accepted)
