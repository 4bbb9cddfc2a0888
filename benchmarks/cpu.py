"""CPU seconds of processes with all their descendants, sampled while a side runs and read off between two instants.

/proc/*/stat -> one total for each watched root -> a series over time; `CpuSeries.between` interpolates. Children that
ended and were reaped count through their parent's `cutime`.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
# A look at all of /proc costs about 2 ms: at 0.25 s under 1 % of one core, the same for every side.
SAMPLE_S = 0.25


class Stat(NamedTuple):
    """One process: `cpu_s` its own seconds, user and system, and those of its reaped children."""

    pid: int
    parent: int
    cpu_s: float


def parse_stat(text: str, tick_s: float = TICK_S) -> Stat:
    """A line of /proc/PID/stat. The name in it may hold spaces and parentheses, so fields count from the last `)`."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    ticks = sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime: fields 14 to 17 of proc(5)
    return Stat(int(head.split(" ", 1)[0]), int(fields[1]), ticks * tick_s)


def tree_seconds(stats: Iterable[Stat], roots: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds of each root and all its living descendants. A root that is gone counts 0."""
    by_pid: dict[int, Stat] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for stat in stats:
        by_pid[stat.pid] = stat
        children[stat.parent].append(stat.pid)
    totals = {}
    for role, root in roots.items():
        total, pending = 0.0, [root] if root in by_pid else []
        while pending:
            pid = pending.pop()
            total += by_pid[pid].cpu_s
            pending += children[pid]
        totals[role] = total
    return totals


def read_stats() -> list[Stat]:
    """All processes of the machine that can be read."""
    stats = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):  # it ended between the two looks
                stats.append(parse_stat(Path(f"/proc/{name}/stat").read_text(encoding="utf-8", errors="replace")))
    return stats


class CpuSeries:
    """Totals of each role over wall-clock time (seconds since the epoch); times only rise."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._totals: list[Mapping[str, float]] = []

    def add(self, at: float, totals: Mapping[str, float]) -> None:
        self._times.append(at)
        self._totals.append(totals)

    def between(self, start: float, end: float) -> dict[str, float]:
        """CPU seconds of each role from `start` to `end`, linear between samples.

        Raises ValueError if the samples don't reach around both: what was not watched is not guessed.
        """
        if not self._times or start < self._times[0] or end > self._times[-1]:
            raise ValueError("the CPU samples don't cover the measured window")
        roles = self._totals[-1]
        return {role: self._at(end, role) - self._at(start, role) for role in roles}

    def _at(self, instant: float, role: str) -> float:
        right = min(max(1, bisect.bisect_left(self._times, instant)), len(self._times) - 1)
        t0, t1 = self._times[right - 1], self._times[right]
        c0, c1 = self._totals[right - 1].get(role, 0.0), self._totals[right].get(role, 0.0)
        return c0 if t1 == t0 else c0 + (c1 - c0) * (instant - t0) / (t1 - t0)


class CpuSampler:
    """A thread that samples the trees under `roots` (role -> pid) from entering to leaving the `with` block."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self.series = CpuSeries()
        self._roots = dict(roots)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cpu-sampler", daemon=True)

    def __enter__(self) -> CpuSampler:
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self._sample()

    def _sample(self) -> None:
        self.series.add(time.time(), tree_seconds(read_stats(), self._roots))
