"""The one clock of all sides: completion times of frames in, frames a second between warm-up and end out. Pure.

For a side that reads and writes the broker a frame is complete when its prediction is appended, by the broker's own
record timestamp; for the ideal, when its batch's scores lie in memory. The first tenth of the frames is left out: joining
the group, connecting and first calls are not what is compared. The end is the very last frame, draining included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WARM_UP_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Window:
    """What is measured: `frames` completed after `start` up to and with `end`, seconds since the epoch."""

    start: float
    end: float
    frames: int

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.seconds


def window(completions: Sequence[float]) -> Window:
    """The window over completion times, in any order, seconds since the epoch.

    Frames that share the warm-up's last instant belong to it (a batch completes at once), so no frame counts whose
    time does not. Raises ValueError if nothing remains.
    """
    times = sorted(completions)
    if not times:
        raise ValueError("no frame was completed")
    start, end = times[max(1, math.ceil(len(times) * WARM_UP_SHARE)) - 1], times[-1]
    frames = sum(time > start for time in times)
    if frames == 0:
        raise ValueError(f"all {len(times)} frames were completed at one instant: too few to measure a rate")
    return Window(start, end, frames)


@dataclass(frozen=True, slots=True)
class Run:
    """One side, measured once. `cpu_s` maps each process's role to its CPU seconds inside the window."""

    window: Window
    cpu_s: Mapping[str, float]

    @property
    def cpu_s_per_1000(self) -> dict[str, float]:
        return {role: 1000 * seconds / self.window.frames for role, seconds in self.cpu_s.items()}
