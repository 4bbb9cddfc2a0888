"""The poll thread and partitions that can't begin: the others don't wait for them."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from worker.batching import BatchRule, FrameQueue
from worker.frames import SourcePartition
from worker.ingest.budget import Budget
from worker.observe.health import Health
from worker.observe.metrics import Metrics
from worker.pipeline.books import Books
from worker.pipeline.core import Failure
from worker.pipeline.handover import Grace, HandOver
from worker.pipeline.intake import Intake
from worker.settings import Settings

BROKEN, ALSO_BROKEN, GOOD = (SourcePartition("frames", number) for number in range(3))
TAKES_S = 5.0


class Asked:
    """A consumer whose broker has no leader for two partitions: a question there takes its time and has no answer."""

    assignment = frozenset({BROKEN, ALSO_BROKEN, GOOD})

    def __init__(self) -> None:
        self.now = 100.0
        self.questions: list[SourcePartition] = []

    def begin(self, source: SourcePartition) -> tuple[int, None] | None:
        self.questions.append(source)
        if source == GOOD:
            return 0, None
        self.now += TAKES_S
        return None

    def resume(self, sources: object) -> None: ...


def test_a_partition_that_can_not_begin_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    books, consumer = Books(Budget(2**20)), Asked()
    grace = Grace(threading.Event(), Failure(), 1000)
    queue = FrameQueue(BatchRule(16, 0.01), time.monotonic)
    published = SimpleNamespace(refresh=lambda: None)
    handover = HandOver(queue, books, cast(Any, published), Metrics(), grace)
    core = cast(Any, SimpleNamespace(queue=queue))
    intake = Intake(Settings(), core, books, handover, cast(Any, published), Metrics(), Health(), grace)
    monkeypatch.setattr(time, "monotonic", lambda: consumer.now)
    handover.assigned([BROKEN, ALSO_BROKEN, GOOD])
    turns = 0
    while consumer.now < 100.0 + 12 * TAKES_S:
        intake._begin_new(cast(Any, consumer))
        consumer.now += 0.05  # the poll
        turns += 1
    assert handover.epoch(GOOD) >= 0
    assert consumer.questions[:3] == [BROKEN, ALSO_BROKEN, GOOD]
    assert {BROKEN, ALSO_BROKEN} <= set(consumer.questions[3:])  # by turns
    asking_s = TAKES_S * (len(consumer.questions) - 1)
    assert asking_s <= TAKES_S + (consumer.now - 100.0) / 2, "the polls have half of the time"
    assert turns > 100
