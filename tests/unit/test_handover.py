"""Partitions come and go while the broker is being asked where they begin: an answer out of date begins nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from typing import Any, cast

import pytest

from worker.batching import BatchRule, FrameQueue
from worker.frames import SourcePartition
from worker.ingest.budget import Budget
from worker.observe.metrics import Metrics
from worker.pipeline.books import Books
from worker.pipeline.core import Failure
from worker.pipeline.handover import Beginning, Grace, HandOver

HERE = SourcePartition("frames", 0)
THERE = SourcePartition("frames", 1)
LAST = SourcePartition("frames", 2)


class NothingPublished:
    def refresh(self) -> None: ...
    def forget(self, sources: Collection[SourcePartition]) -> None: ...


@pytest.fixture
def books() -> Books:
    return Books(Budget(2**20))


@pytest.fixture
def handover(books: Books) -> HandOver:
    grace = Grace(threading.Event(), Failure(), 1000)
    queue = FrameQueue(BatchRule(16, 0.01), time.monotonic)
    return HandOver(queue, books, cast(Any, NothingPublished()), Metrics(), grace)


def asked_of(handover: HandOver) -> dict[SourcePartition, Beginning]:
    return dict(handover.new())


def test_a_partition_that_stayed_begins_once_where_the_broker_said(handover: HandOver, books: Books) -> None:
    handover.assigned([HERE])
    asked = asked_of(handover)[HERE]
    assert handover.begun(HERE, asked, 7)
    assert not handover.new()
    assert not handover.begun(HERE, asked, 7)
    with books.ledger() as ledger:
        assert ledger.sources == {HERE}


def test_a_partition_lost_and_given_back_meanwhile_is_asked_for_again(handover: HandOver, books: Books) -> None:
    handover.assigned([HERE])
    asked = asked_of(handover)[HERE]
    handover.lost([HERE])
    handover.assigned([HERE])  # its owner meanwhile may have committed
    assert not handover.begun(HERE, asked, 7)
    assert handover.epoch(HERE) == -1
    assert handover.begun(HERE, asked_of(handover)[HERE], 23)


def test_a_partition_taken_away_meanwhile_is_asked_for_no_more(handover: HandOver) -> None:
    handover.assigned([HERE, THERE])
    asked = asked_of(handover)
    handover.revoked([HERE])
    assert not handover.begun(HERE, asked[HERE], 7)
    assert handover.begun(THERE, asked[THERE], 7)
    assert not handover.new()


def test_what_is_to_begin_again_is_in_no_ledger_until_then(handover: HandOver, books: Books) -> None:
    handover.assigned([HERE])
    handover.begun(HERE, asked_of(handover)[HERE], 7)
    before = handover.epoch(HERE)
    handover.begin_again([HERE, THERE])  # the second went away just before
    assert list(asked_of(handover)) == [HERE]
    assert handover.epoch(HERE) == -1
    assert handover.begun(HERE, asked_of(handover)[HERE], 7)
    assert handover.epoch(HERE) > before


def test_one_that_can_not_begin_is_asked_again_after_all_others(handover: HandOver) -> None:
    handover.assigned([HERE, THERE, LAST])
    asked_of(handover)[HERE].tried_at = 2.0
    asked_of(handover)[THERE].tried_at = 1.0
    assert list(asked_of(handover)) == [LAST, THERE, HERE]


def test_a_drain_is_over_its_grace_after_the_stop_and_at_once_after_a_failure() -> None:
    stop, failure = threading.Event(), Failure()
    grace = Grace(stop, failure, 20)  # ms
    time.sleep(0.03)
    assert not grace.over()
    stop.set()
    assert not grace.over()  # it begins now
    time.sleep(0.03)
    assert grace.over()
    other = Grace(threading.Event(), failure, 20_000)
    assert not other.over()
    failure.report(OSError())
    assert other.over()
