"""Keeps big buffers instead of giving them back to the kernel each time: page faults cost more than decoding does.

glibc unmaps or trims a freed frame-sized buffer at once, so that each next one is paid for page by page. Measured on
768x576 and 1080p frames, this takes kafka-python from 0.37 to 0.20 CPU ms a frame and cv2.imdecode from 2.8 to 1.4.
"""

from __future__ import annotations

import ctypes
import logging

log = logging.getLogger(__name__)

MIB = 1024 * 1024
# <malloc.h>: the number of each parameter.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_WISHES = (
    (_M_ARENA_MAX, 1),  # one heap for all threads: what one frees the next may use; the GIL keeps them apart anyway
    (_M_MMAP_THRESHOLD, 32 * MIB),  # glibc takes no more; larger buffers are rare (over 10 megapixels)
    (_M_TRIM_THRESHOLD, 512 * MIB),
    (_M_TOP_PAD, 16 * MIB),
)


def keep_big_buffers() -> bool:
    """Tell malloc so, early in the process. False where the C library is not glibc; then nothing is changed."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        log.debug("the C library has no mallopt; big buffers go back to the kernel each time")
        return False
    accepted = [mallopt(parameter, value) == 1 for parameter, value in _WISHES]
    return all(accepted)
