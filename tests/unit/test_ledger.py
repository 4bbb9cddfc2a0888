"""The offset ledger: what may be committed, whatever the order of completions, rewinds and hand-overs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.frames import SourcePartition
from worker.ingest.ledger import Ledger, Range

CAM = SourcePartition("frames", 0)
OTHER = SourcePartition("frames", 1)


def admitted(*offsets: int, start: int = 0) -> tuple[Ledger, int]:
    ledger = Ledger()
    epoch = ledger.assign(CAM, start)
    assert ledger.admit(CAM, epoch, offsets, offsets[-1] + 1)
    return ledger, epoch


def test_nothing_may_be_sealed_while_the_first_frame_is_outstanding() -> None:
    ledger, epoch = admitted(0, 1, 2)
    ledger.complete(CAM, epoch, [1, 2])
    assert ledger.sealable() == []
    ledger.complete(CAM, epoch, [0])
    assert ledger.sealable() == [Range(CAM, epoch, 0, 3)]


def test_gaps_between_offsets_do_not_hold_a_commit_back() -> None:
    ledger, epoch = admitted(5, 9, 20, start=2)
    ledger.complete(CAM, epoch, [5, 9])
    assert ledger.sealable() == [Range(CAM, epoch, 2, 20)]


def test_an_idle_partition_is_sealed_up_to_the_consumers_position() -> None:
    ledger, epoch = admitted(0)
    ledger.complete(CAM, epoch, [0])
    ledger.observe(CAM, 7)
    assert ledger.sealable() == [Range(CAM, epoch, 0, 7)]


def test_a_range_is_sealed_once_and_committed_until_the_broker_has_it() -> None:
    ledger, epoch = admitted(0, 1)
    ledger.complete(CAM, epoch, [0, 1])
    (done,) = ledger.sealable()
    assert ledger.sealable() == []
    assert ledger.commits() == []
    ledger.sealed(done)
    assert ledger.commits() == ledger.commits() == [Range(CAM, epoch, 0, 2)]
    ledger.committed(done)
    assert ledger.commits() == []


def test_after_a_rewind_late_outcomes_are_ignored_and_the_range_begins_at_the_committed_offset() -> None:
    ledger, epoch = admitted(0, 1, 2)
    ledger.complete(CAM, epoch, [0])
    (done,) = ledger.sealable()
    ledger.sealed(done)
    ledger.committed(done)
    ledger.invalidate([CAM])
    assert ledger.rewinds() == {CAM: 1}
    assert ledger.epoch(CAM) is None
    ledger.complete(CAM, epoch, [1, 2])
    assert ledger.sealable() == []
    ledger.rewound(CAM)
    again = ledger.epoch(CAM)
    assert again is not None
    assert again != epoch
    assert not ledger.admit(CAM, epoch, [1], 2)
    assert ledger.admit(CAM, again, [1, 2], 3)
    ledger.complete(CAM, again, [1, 2])
    assert ledger.sealable() == [Range(CAM, again, 1, 3)]


def test_frames_dropped_on_a_hand_over_are_left_to_the_next_owner() -> None:
    ledger, epoch = admitted(0, 1, 2, 3)
    ledger.closing([CAM])
    ledger.truncate(CAM, 2)
    assert not ledger.admit(CAM, epoch, [4], 5), "a later frame must not pass the dropped ones"
    ledger.complete(CAM, epoch, [0, 1])
    (done,) = ledger.sealable([CAM])
    assert done.end == 2
    ledger.sealed(done)
    assert ledger.settled([CAM])


def test_a_hand_over_in_the_middle_of_a_rewind_commits_nothing_that_was_not_processed() -> None:
    ledger, _ = admitted(100, 101, 102, start=100)
    ledger.invalidate([CAM])
    ledger.closing([CAM])
    ledger.truncate(CAM, 102)  # frames of the epoch before, still waiting in the queue
    ledger.rewound(CAM)
    assert ledger.sealable() == []


def test_offsets_that_go_back_are_refused() -> None:
    ledger, epoch = admitted(3, start=3)
    with pytest.raises(ValueError, match="admitted after"):
        ledger.admit(CAM, epoch, [3], 4)


def test_partitions_do_not_hold_each_other_back() -> None:
    ledger, epoch = admitted(0, 1)
    other = ledger.assign(OTHER, 10)
    assert ledger.admit(OTHER, other, [10], 11)
    ledger.complete(OTHER, other, [10])
    assert ledger.sealable() == [Range(OTHER, other, 10, 11)]
    assert ledger.outstanding() == 2
    ledger.revoke([CAM])
    assert ledger.outstanding() == 0
    ledger.complete(CAM, epoch, [0])
    assert ledger.sources == {OTHER}


@given(gaps=st.lists(st.integers(0, 3), min_size=1, max_size=40), data=st.data())
def test_the_sealed_end_is_always_the_lowest_outstanding_offset(gaps: list[int], data: st.DataObject) -> None:
    offsets, at = [], 0
    for gap in gaps:
        at += gap
        offsets.append(at)
        at += 1
    ledger, epoch = admitted(*offsets)
    outstanding = set(offsets)
    end = 0
    for offset in data.draw(st.permutations(offsets)):
        ledger.complete(CAM, epoch, [offset])
        outstanding.discard(offset)
        for done in ledger.sealable():
            assert done.start == end
            end = done.end
        assert end == (min(outstanding) if outstanding else at) or (end == 0 and min(outstanding) == 0)
        assert ledger.outstanding() == len(outstanding)
