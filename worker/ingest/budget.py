"""The byte budget: everything that waits is inside one number, and reading pauses when it is used up.

Pure arithmetic behind one lock; the shares below say how the one setting divides.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

MIB = 1024 * 1024
# Reading goes on only when this share is free again, so that pauses do not flutter around the limit.
RESUME_BELOW = 0.75


@dataclass(frozen=True, slots=True)
class Shares:
    """How `max_in_flight_bytes` is divided, all in bytes.

    The client holds one parsed fetch while the next arrives, and copies that on its way from the socket to the parser,
    so `fetch_bytes` counts four times. `pixel_bytes` is what decoding may take at once. `hole_bytes` is what the heap keeps
    free between the others, and `frame_bytes` holds encoded frames and unacknowledged output.
    """

    fetch_bytes: int
    pixel_bytes: int
    hole_bytes: int
    frame_bytes: int

    @classmethod
    def of(cls, max_in_flight_bytes: int) -> Shares:
        """An eighth for fetches in four copies, a quarter for pixels, a quarter for holes, the rest for frames."""
        fetch = max_in_flight_bytes // 32
        pixels = holes = max_in_flight_bytes // 4
        return cls(fetch, pixels, holes, max_in_flight_bytes - 4 * fetch - pixels - holes)


class Budget:
    """Bytes in flight. `add` never refuses (what was read is read): `exhausted` says when to stop reading."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        """Bytes came in."""
        with self._lock:
            self._used += size

    def release(self, size: int) -> None:
        """Bytes left; the same number that was added."""
        with self._lock:
            self._used -= size

    @property
    def used(self) -> int:
        """Bytes in flight now."""
        return self._used

    @property
    def exhausted(self) -> bool:
        """Stop reading."""
        return self._used >= self._limit

    @property
    def relieved(self) -> bool:
        """Reading may go on."""
        return self._used < self._limit * RESUME_BELOW


class PixelGate:
    """Bounds the bytes of images being decoded at the same time; one larger than the whole bound goes alone.

    A thread has at most one image inside.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._inside: dict[int, float] = {}
        self._freed = threading.Condition()

    def inside(self) -> dict[int, float]:
        """Which threads are decoding an image inside, by their ident, and since when (monotonic seconds)."""
        with self._freed:
            return dict(self._inside)

    def exceeded_by(self, size: int) -> bool:
        """Whether `size` bytes are more than the whole bound, so that they go alone."""
        return size > self._limit

    def enter(self, size: int) -> None:
        """Wait until `size` bytes fit, or until nothing else is being decoded."""
        with self._freed:
            while self._used and self._used + size > self._limit:
                self._freed.wait()
            self._used += size
            self._inside[threading.get_ident()] = time.monotonic()

    def decoded(self) -> None:
        """The decoder is through with this thread's image, whose bytes stay inside."""
        self._inside.pop(threading.get_ident(), None)

    def leave(self, size: int) -> None:
        """The image is done with."""
        with self._freed:
            self._used -= size
            self._inside.pop(threading.get_ident(), None)
            self._freed.notify_all()
