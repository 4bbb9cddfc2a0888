"""Partitions come and go while the broker is being asked where they begin: an answer out of date begins nothing."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, cast

import pytest

from worker.batching import BatchRule, FrameQueue
from worker.frames import SourcePartition
from worker.ingest.budget import Budget
from worker.observe.metrics import Metrics
from worker.pipeline.books import Books
from worker.pipeline.handover import HandOver

HERE = SourcePartition("frames", 0)
THERE = SourcePartition("frames", 1)


class NothingPublished:
    def refresh(self) -> None: ...
    def forget(self, sources: Collection[SourcePartition]) -> None: ...


@pytest.fixture
def books() -> Books:
    return Books(Budget(2**20))


@pytest.fixture
def handover(books: Books) -> HandOver:
    return HandOver(FrameQueue(BatchRule(16, 0.01), time.monotonic), books, cast(Any, NothingPublished()), Metrics())


def test_a_partition_that_stayed_begins_once_where_the_broker_said(handover: HandOver, books: Books) -> None:
    handover.assigned([HERE])
    asked = handover.new()[HERE]
    assert handover.begun(HERE, asked, 7)
    assert not handover.new()
    assert not handover.begun(HERE, asked, 7)
    with books.ledger() as ledger:
        assert ledger.sources == {HERE}


def test_a_partition_lost_and_given_back_meanwhile_is_asked_for_again(handover: HandOver, books: Books) -> None:
    handover.assigned([HERE])
    asked = handover.new()[HERE]
    handover.lost([HERE])
    handover.assigned([HERE])  # its owner meanwhile may have committed
    assert not handover.begun(HERE, asked, 7)
    assert handover.epoch(HERE) == -1
    assert handover.begun(HERE, handover.new()[HERE], 23)


def test_a_partition_taken_away_meanwhile_is_asked_for_no_more(handover: HandOver) -> None:
    handover.assigned([HERE, THERE])
    asked = handover.new()
    handover.revoked([HERE])
    assert not handover.begun(HERE, asked[HERE], 7)
    assert handover.begun(THERE, asked[THERE], 7)
    assert not handover.new()


def test_what_is_to_begin_again_is_in_no_ledger_until_then(handover: HandOver, books: Books) -> None:
    handover.assigned([HERE])
    handover.begun(HERE, handover.new()[HERE], 7)
    before = handover.epoch(HERE)
    handover.begin_again([HERE, THERE])  # the second went away just before
    assert list(handover.new()) == [HERE]
    assert handover.epoch(HERE) == -1
    assert handover.begun(HERE, handover.new()[HERE], 7)
    assert handover.epoch(HERE) > before
