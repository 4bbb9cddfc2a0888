"""Ranges for a profiler: nested on a thread, overlapping over threads, closed by errors, nothing without the package."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from worker.frames import Stage
from worker.observe.ranges import Ranges


class Recorder:
    """The part of `nvtx` that is used."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def get_domain(self, name: str) -> Recorder:
        self.calls.append(name)
        return self

    def get_event_attributes(self, message: str) -> str:
        return message

    def push_range(self, name: str) -> None:
        self.calls.append(("push", name))

    def pop_range(self) -> None:
        self.calls.append("pop")

    def start_range(self, name: str) -> int:
        self.calls.append(("start", name))
        return len(self.calls)

    def end_range(self, handle: int) -> None:
        self.calls.append(("end", handle))


def test_a_stage_of_a_thread_ends_with_an_error_too() -> None:
    nvtx = Recorder()
    ranges = Ranges(nvtx)
    with pytest.raises(ZeroDivisionError), ranges.of(Stage.DECODE):
        _ = 1 // 0
    assert nvtx.calls == ["headrace", ("push", "decode"), "pop"]


def test_stages_that_overlap_end_each_for_itself() -> None:
    nvtx = Recorder()
    ranges = Ranges(nvtx)
    first, second = ranges.begin(Stage.INFER), ranges.begin(Stage.INFER)
    first()
    second()
    assert nvtx.calls == ["headrace", ("start", "infer"), ("start", "infer"), ("end", 2), ("end", 3)]


def test_without_the_package_nothing_is_marked() -> None:
    ranges = Ranges(None)
    with ranges.of(Stage.PUBLISH):
        ranges.begin(Stage.INFER)()


def test_the_package_itself_takes_these_calls() -> None:
    ranges = Ranges(importlib.import_module("nvtx"))
    with ranges.of(Stage.PUBLISH):
        ranges.begin(Stage.INFER)()
