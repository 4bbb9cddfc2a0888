"""Stages as ranges on the timeline of NVIDIA Nsight Systems, where the `nvtx` package is installed (extra `gpu`).

Elsewhere, and while no profiler is attached, marking costs next to nothing: a batch has a handful of ranges.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from worker.frames import Stage

DOMAIN = "headrace"


def _no_end() -> None: ...


class Ranges:
    """Marks what it is told; `nvtx` is the package, None where there is none."""

    def __init__(self, nvtx: Any) -> None:
        self._domain = nvtx and nvtx.get_domain(DOMAIN)
        self._names = {stage: self._domain.get_event_attributes(message=stage.value) for stage in Stage} if nvtx else {}

    def of(self, stage: Stage) -> AbstractContextManager[None]:
        """What this thread does inside `with` is the stage's."""
        return self._pushed(stage) if self._domain else nullcontext()

    @contextmanager
    def _pushed(self, stage: Stage) -> Any:
        self._domain.push_range(self._names[stage])
        try:
            yield
        finally:
            self._domain.pop_range()

    def begin(self, stage: Stage) -> Callable[[], None]:
        """The stage begins; it ends when what is returned is called, from any thread. Several may overlap."""
        if not self._domain:
            return _no_end
        handle = self._domain.start_range(self._names[stage])
        return lambda: self._domain.end_range(handle)


def _installed() -> Any:
    try:
        import nvtx
    except ImportError:
        return None
    return nvtx


RANGES = Ranges(_installed())
